"""1,000 connected clients of one node: a rotation, a revocation, and when the last of them has it.

Most are bare sockets that do what the client does, in a few processes, and some among them are the
real client (`clients_followers`): a thousand processes would measure this machine. Time counts from
the moment at which the operator has the store's answer to the change, to the moment at which a
client has the new value in its hands, or has let go of the revoked one. All of them share the cores
with the node.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import msgspec

from benchmarks.clients_followers import Report, Site
from benchmarks.clients_raw import CONNECTED
from benchmarks.clients_servers import clean_environment, registered
from benchmarks.doxstore import call, made_store, served_store
from benchmarks.process import BenchError, serving, wait_until

__all__ = ["CLIENTS", "REAL", "SERVICES", "Push", "measure_push"]

CLIENTS = 1_000
REAL = 20
"""Of those."""

SERVICES = 20

_RAW_PROCESSES = 2
_KEY = "bench.shared.key"
_ENVIRONMENT = "production"
_CONNECT_SECONDS = 60.0
_ALL_HAVE_IT_SECONDS = 15.0
_REST_SECONDS = 1.5  # of the clients between two changes; longer than a beat
_ROOT = Path(__file__).resolve().parent.parent


class Push(NamedTuple):
    """Milliseconds by change, then by client in order; the node's resident bytes."""

    rotations: Sequence[Sequence[float]]
    revocations: Sequence[Sequence[float]]
    bytes_alone: int
    bytes_connected: int
    bytes_after: int


class Crowd(NamedTuple):
    """A process of clients."""

    child: subprocess.Popen[bytes]
    log: Path
    reports: Path

    def reported(self, state: int, *, seconds: float) -> list[int]:
        """When each of its clients reached ``state``, once all have."""
        found: list[Report] = []

        def is_there() -> bool:
            lines = self.reports.read_bytes().split(b"\n")[:-1] if self.reports.exists() else []
            every = (msgspec.json.decode(line, type=Report) for line in lines)
            found[:] = [one for one in every if one.state == state]
            return bool(found)

        wait_until(is_there, child=self.child, log=self.log, seconds=seconds)
        return found[0].at


def measure_push(folder: Path, *, rotations: int) -> Push:
    """Measure in ``folder``."""
    home = folder / "push"
    operator = made_store(home)
    with (
        contextlib.ExitStack() as stack,
        served_store(home, operator) as (http, _port, node),
    ):
        version = _put(http)
        names = [f"bench-client-{number:02d}" for number in range(SERVICES)]
        tokens = [(name, registered(http, name, reads="bench.shared.*")) for name in names]
        alone = _resident(node)
        print(f"bench: connecting {CLIENTS:,} clients", flush=True)
        crowds = [
            stack.enter_context(_crowd(home, kind, number, str(http.base_url), each))
            for number, (kind, each) in enumerate(_shares(tokens))
        ]
        for crowd in crowds:
            crowd.reported(CONNECTED, seconds=_CONNECT_SECONDS)
        time.sleep(_REST_SECONDS)
        connected = _resident(node)
        rotated, revoked = [], []
        for number in range(rotations):
            version, at = _put(http), time.monotonic_ns()
            rotated.append(_since(at, crowds, version))
            _say("rotation", number, rotations, rotated[-1])
            time.sleep(_REST_SECONDS)
        for number in range(rotations):
            call(http, "POST", f"/v1/keys/{_KEY}/revoke", {"environment": _ENVIRONMENT})
            at = time.monotonic_ns()
            revoked.append(_since(at, crowds, -version))
            _say("revocation", number, rotations, revoked[-1])
            version = _put(http)
            _since(at, crowds, version)
            time.sleep(_REST_SECONDS)
        return Push(rotated, revoked, alone, connected, _resident(node))


def _shares(tokens: Sequence[tuple[str, str]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Which clients go into which process: their kind, service and token of each."""
    everyone = [tokens[number % len(tokens)] for number in range(CLIENTS)]
    yield "real", everyone[:REAL]
    for number in range(_RAW_PROCESSES):
        yield "raw", everyone[REAL + number :: _RAW_PROCESSES]


@contextlib.contextmanager
def _crowd(
    folder: Path, kind: str, number: int, url: str, clients: list[tuple[str, str]]
) -> Iterator[Crowd]:
    site, reports, log = (folder / f"crowd{number}.{what}" for what in ("json", "reports", "log"))
    site.touch(mode=0o600)  # it holds tokens
    site.write_bytes(msgspec.json.encode(Site(url.rstrip("/"), _KEY, clients)))
    module = "benchmarks.clients_followers"
    command = [sys.executable, "-m", module, kind, str(site), str(reports)]
    environment = clean_environment(folder)
    with serving(command, folder=_ROOT, log=log, environment=environment) as child:
        yield Crowd(child, log, reports)


def _put(http: httpx2.Client) -> int:
    """The number of a new version."""
    body: dict[str, Any] = {"value": os.urandom(20).hex(), "environment": _ENVIRONMENT}
    return int(call(http, "PUT", f"/v1/keys/{_KEY}", body)["version"])


def _since(at: int, crowds: Sequence[Crowd], state: int) -> list[float]:
    """Milliseconds from ``at`` on, of every client in order, until it was in ``state``."""
    reached: list[int] = []
    for crowd in crowds:
        reached += crowd.reported(state, seconds=_ALL_HAVE_IT_SECONDS)
    if len(reached) != CLIENTS:
        raise BenchError(f"{len(reached):,} of {CLIENTS:,} clients had the change")
    return sorted((each - at) / 1e6 for each in reached)


def _resident(child: subprocess.Popen[bytes]) -> int:
    lines = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii").splitlines()
    (resident,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(resident) * 1024


def _say(what: str, number: int, of: int, taken: Sequence[float]) -> None:
    print(
        f"bench: {what} {number + 1} of {of}: the last of {len(taken):,} clients"
        f" had it after {taken[-1]:,.0f} ms",
        flush=True,
    )
