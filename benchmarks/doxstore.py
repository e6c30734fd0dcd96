"""This store as operators run it: a process of its own, made by ``init``, filled over HTTP.

Every step is the public interface: the command line to make and serve the store, the HTTP API to
register 100 services with a grant on their own keys, raise their limit (the bench measures the
door, not the limit), issue their tokens and import the keys.

It runs on a file, or on PostgreSQL, or in front of a vault, as ``settings`` say: those of the
server, by their names.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx2

from benchmarks.bare import Answer
from benchmarks.process import BenchError, free_port, serving, wait_until
from benchmarks.target import Target
from benchmarks.workload import BenchKey, Request, write_requests

__all__ = [
    "DATABASE_FILE",
    "DOXSTORE",
    "EXECUTABLE",
    "NONE",
    "ON_POSTGRES",
    "SYNC",
    "Store",
    "call",
    "doxstore",
    "made_store",
    "served_store",
]

DOXSTORE = "dox-core-store"
ON_POSTGRES = f"{DOXSTORE} on PostgreSQL"
SYNC = (
    "SQLite WAL with synchronous=FULL; the ledger entry of every read is synced (one fsync for "
    "each group of concurrent reads) before its value leaves: a power cut loses no entry of a "
    "revealed value"
)

EXECUTABLE = str(Path(sys.executable).with_name("doxstore"))
DATABASE_FILE = "store.db"
NONE: Mapping[str, str] = MappingProxyType({})
"""No settings: a store in a file."""

_DATA = "data"
_START_SECONDS = 60.0
# Of a minute, as the default is: where nodes share a limit, what one may hold ahead depends on it.
_LIMIT = "60000000/min"
_ENVIRONMENT = "production"
_IMPORT_SLICE = 200

_MADE_BY_THE_HTTP_SERVER = {"date", "server", "connection", "transfer-encoding"}


class Store(NamedTuple):
    """The running store. ``sample`` is one answer of its, for bare Granian to imitate."""

    target: Target
    url: str
    data: Path
    database: str
    sample: Answer
    reads: Sequence[Request]
    key_path: str
    service: str
    token: str
    operator: str

    def __repr__(self) -> str:
        return f"<Store {self.url}>"  # never the token


@contextlib.contextmanager
def doxstore(
    *,
    folder: Path,
    keys: list[BenchKey],
    name: str = DOXSTORE,
    settings: Mapping[str, str] = NONE,
) -> Iterator[Store]:
    """A running store that holds ``keys``, until the block ends."""
    operator = made_store(folder, settings)
    with served_store(folder, operator, settings) as (http, port, _child):
        tokens = _register(http, keys)
        _import(http, keys)
        requests = folder / "requests.tsv"
        made = [
            Request(f"/v1/keys/{_path(key)}", "Authorization", f"Bearer {tokens[key.service]}")
            for key in keys
        ]
        write_requests(requests, made)
        sample = _compare(http, keys, made)
        yield Store(
            target=Target(name=name, port=port, requests=requests),
            url=str(http.base_url),
            data=folder / _DATA,
            database=settings.get("database", ""),
            sample=sample,
            reads=made,
            key_path=_path(keys[0]),
            service=keys[0].service,
            token=tokens[keys[0].service],
            operator=operator,
        )


def made_store(folder: Path, settings: Mapping[str, str] = NONE) -> str:
    """Make ``folder`` with an empty store in it; the token of its operator."""
    folder.mkdir(mode=0o700)
    done = subprocess.run(
        [EXECUTABLE, "init", *_where(folder, _DATA), "--json"],
        env=_environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"doxstore init ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return str(json.loads(done.stdout)["operator_token"])


@contextlib.contextmanager
def served_store(
    folder: Path, operator: str, settings: Mapping[str, str] = NONE, *, data: str = _DATA
) -> Iterator[tuple[httpx2.Client, int, subprocess.Popen[bytes]]]:
    """A server on the store in ``folder`` until the block ends: a client with the operator's token,
    the port and the process, as soon as it says that it is ready. Nodes of one store differ in
    ``data``, their folders' name."""
    port = free_port()
    log = folder / f"{data}.log"
    where = _where(folder, data)
    command = [EXECUTABLE, "serve", *where, "--host", "127.0.0.1", "--port", str(port)]
    with (
        serving(command, folder=folder, log=log, environment=_environment(settings)) as child,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http,
    ):
        wait_until(lambda: _ready(http), child=child, log=log, seconds=_START_SECONDS)
        http.headers["Authorization"] = f"Bearer {operator}"
        yield http, port, child


def _where(folder: Path, data: str) -> list[str]:
    return ["--data", str(folder / data), "--key-file", str(folder / "root.key")]


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, **{f"DOXSTORE_{name.upper()}": each for name, each in settings.items()}}


def _ready(http: httpx2.Client) -> bool:
    try:
        return http.get("/v1/ready").status_code == 200
    except httpx2.TransportError:
        return False


def call(http: httpx2.Client, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request as operators send it. Raises `BenchError` where it is refused."""
    answer = http.request(method, path, json=body)
    if not answer.is_success:
        raise BenchError(f"{DOXSTORE}: {method} {path}: {answer.status_code} {answer.text}")
    return dict(answer.json())


def _register(http: httpx2.Client, keys: list[BenchKey]) -> dict[str, str]:
    """Register every service with a grant on its own group; their tokens by name."""
    tokens = {}
    for service, group in sorted({(key.service, key.segments[1]) for key in keys}):
        body = {"service_name": service, "required_keys": [f"bench.{group}.*"]}
        call(http, "POST", "/v1/services", body)
        call(http, "PUT", f"/v1/services/{service}/limit", {"limit": _LIMIT})
        issued = call(http, "POST", "/tokens", {"service_name": service, "expires_in": "12h"})
        tokens[service] = str(issued["token"])
    return tokens


def _import(http: httpx2.Client, keys: list[BenchKey]) -> None:
    one = f"/v1/imports/{call(http, 'POST', '/v1/imports', {})['import_id']}"
    entries = [
        {"key_path": _path(key), "environment": _ENVIRONMENT, "value": key.value} for key in keys
    ]
    for sequence, start in enumerate(range(0, len(entries), _IMPORT_SLICE)):
        part = entries[start : start + _IMPORT_SLICE]
        call(http, "POST", f"{one}/entries", {"sequence": sequence, "entries": part})
    call(http, "POST", f"{one}/commit", {})


def _compare(http: httpx2.Client, keys: list[BenchKey], made: list[Request]) -> Answer:
    """Read every key once as the load will, compare it, and return the last answer."""
    answer = None
    for key, request in zip(keys, made, strict=True):
        answer = http.get(request.path, headers={request.header: request.credential})
        if not answer.is_success or answer.json()["value"] != key.value:
            raise BenchError(f"{DOXSTORE} does not give {_path(key)} back: {answer.status_code}")
    assert answer is not None, "no keys"
    headers = [
        (name, value)
        for name, value in answer.headers.items()
        if name.lower() not in _MADE_BY_THE_HTTP_SERVER
    ]
    return Answer(headers=headers, body=answer.text)


def _path(key: BenchKey) -> str:
    return ".".join(key.segments)
