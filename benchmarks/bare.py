"""Bare Granian as a process: what the HTTP server alone can do on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx2

from benchmarks.process import free_port, serving, wait_until
from benchmarks.target import Target
from benchmarks.workload import Request, write_requests

__all__ = ["BARE", "TYPICAL", "Answer", "bare_granian"]

BARE = "bare Granian"

_START_SECONDS = 30.0
_ROOT = Path(__file__).resolve().parent.parent


class Answer(NamedTuple):
    """What the application answers, whatever it is asked."""

    headers: list[tuple[str, str]]
    body: str


# Stands in for the store's own answer where the store is not part of the run.
TYPICAL = Answer(
    headers=[
        ("content-type", "application/json"),
        ("content-length", "330"),
        ("cache-control", "no-store"),
        ("etag", '"' + "0" * 32 + '"'),
        ("x-request-id", "req_" + "0" * 22),
    ],
    body=json.dumps({"fill": "x" * 318}),
)


@contextlib.contextmanager
def bare_granian(*, folder: Path, answer: Answer, request: Request) -> Iterator[Target]:
    """Bare Granian that answers ``answer``; ``request`` is one of the store's, for its size."""
    folder.mkdir(mode=0o700)
    port = free_port()
    log = folder / "server.log"
    shown = folder / "answer.json"
    shown.write_text(json.dumps(answer._asdict()))
    command = [sys.executable, "-m", "benchmarks.bare_app", str(port), str(shown)]
    requests = folder / "requests.tsv"
    write_requests(requests, [request])
    with serving(command, folder=_ROOT, log=log, environment=os.environ) as child:
        wait_until(lambda: _answers(port), child=child, log=log, seconds=_START_SECONDS)
        yield Target(name=BARE, port=port, requests=requests)


def _answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False
