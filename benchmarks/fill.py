"""A store of any size, filled as operators fill one.

Services are registered over HTTP, each with one grant (``scale.gNNNNN.**``) and one token; the keys
come from files through ``doxstore key import``, at most 100,000 in a file, which is well below the
size that the command reads. Values are derived from the key's number, so they are no secrets.

By itself it fills a running store: ``KEY_SERVICE_URL=… ADMIN_TOKEN=… python -m benchmarks.fill
SERVICES``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx2

from benchmarks.doxstore import EXECUTABLE, call
from benchmarks.process import BenchError

__all__ = ["KEYS_PER_SERVICE", "Plan", "import_file", "register", "write_files", "write_services"]

KEYS_PER_SERVICE = 100

_KEYS_PER_FILE = 100_000
_VALUE_CHARACTERS = 40  # the length of common API keys
_CALLERS = 4
_LIMIT = "1000000/s"


class Plan(NamedTuple):
    """How many services, each with `KEYS_PER_SERVICE` keys of its own."""

    services: int

    @property
    def keys(self) -> int:
        return self.services * KEYS_PER_SERVICE

    def group(self, service: int) -> str:
        """The path above all keys of ``service``."""
        return f"scale.g{service:05d}"


def write_files(folder: Path, plan: Plan, *, at_least: int = 1) -> list[Path]:
    """The files to import, in the order of the keys' paths."""
    per_file = min(_KEYS_PER_FILE // KEYS_PER_SERVICE, max(1, plan.services // at_least))
    files = []
    for first in range(0, plan.services, per_file):
        file = folder / f"keys-{first:05d}.yaml"
        with file.open("w", encoding="ascii") as out:
            out.writelines(_lines(plan, range(first, min(first + per_file, plan.services))))
        files.append(file)
    return files


def _lines(plan: Plan, services: Sequence[int]) -> Iterator[str]:
    for service in services:
        yield f"{plan.group(service)}:\n"
        for number in range(KEYS_PER_SERVICE):
            yield f"  key{number}: {_value(f'{service}/{number}')}\n"


def register(http: httpx2.Client, plan: Plan) -> list[str]:
    """Register every service; their tokens, in order. What it may read is all it is granted, and
    its limit is out of the way: the bench measures the door."""

    def one(service: int) -> str:
        name = f"scale-{service:05d}"
        wanted = {"service_name": name, "required_keys": [f"{plan.group(service)}.**"]}
        call(http, "POST", "/v1/services", wanted)
        if plan.services < _CALLERS * KEYS_PER_SERVICE:  # few services share the whole load
            call(http, "PUT", f"/v1/services/{name}/limit", {"limit": _LIMIT})
        issued = call(http, "POST", "/tokens", {"service_name": name, "expires_in": "12h"})
        return str(issued["token"])

    with ThreadPoolExecutor(_CALLERS) as callers:
        return list(callers.map(one, range(plan.services)))


def write_services(file: Path, plan: Plan, tokens: Sequence[str]) -> None:
    """Write what `uniform.lua` reads, for its owner alone: it holds tokens."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        out.writelines(
            f"/v1/keys/{plan.group(service)}.key\t{token}\n" for service, token in enumerate(tokens)
        )


def import_file(file: Path, url: str, operator: str) -> float:
    """``doxstore key import``, from its start to its end: seconds."""
    began = time.monotonic()
    done = subprocess.run(
        [EXECUTABLE, "key", "import", str(file)],
        env={**os.environ, "KEY_SERVICE_URL": url, "ADMIN_TOKEN": operator},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"doxstore key import ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.monotonic() - began


def _value(seed: str) -> str:
    return hashlib.sha256(seed.encode()).hexdigest()[:_VALUE_CHARACTERS]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fill", description=__doc__)
    parser.add_argument("services", type=int, help=f"each has {KEYS_PER_SERVICE} keys")
    plan = Plan(parser.parse_args(arguments).services)
    url, operator = os.environ["KEY_SERVICE_URL"], os.environ["ADMIN_TOKEN"]
    with httpx2.Client(base_url=url, trust_env=False, timeout=30) as http:
        http.headers["Authorization"] = f"Bearer {operator}"
        register(http, plan)
    with tempfile.TemporaryDirectory() as folder:
        for file in write_files(Path(folder), plan):
            print(f"{file.name}: {import_file(file, url, operator):.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
