"""Clients that are connected, many in one process, and when each of them has a change.

Run as ``python -m benchmarks.clients_followers KIND SITE REPORTS`` where ``SITE`` is a file with a
`Site`. Kinds:

real
    `KeyClient`, each with the thread and the connections of its own.
raw
    `RawFollower`, which does the same on bare sockets.

To the file ``REPORTS`` goes a `Report` a line, for each state in which all of them were, with the
time at which each came to it by the machine's monotonic clock. A state is `CONNECTED`, the number
of a version that is held, or the negative number of one that was let go, as it was revoked.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections import defaultdict
from pathlib import Path

import msgspec

from benchmarks.clients_raw import CONNECTED, RawFollower
from benchmarks.process import BenchError
from dox_core_store import KeyClient
from dox_core_store.errors import GoneError, NotFoundError

__all__ = ["Report", "Site"]

_AT_ONCE = 50  # connections that are being made
_LOOK_SECONDS = 0.25


class Site(msgspec.Struct):
    """``clients`` are service and token of each."""

    url: str
    key_path: str
    clients: list[tuple[str, str]]


class Report(msgspec.Struct):
    """When each client came to be in ``state``, in nanoseconds."""

    state: int
    at: list[int]


class Board:
    """Notes who reached what, and reports it once all have."""

    def __init__(self, file: Path, clients: int) -> None:
        self._file = file
        self._clients = clients
        self._reached: defaultdict[int, list[int]] = defaultdict(list)

    def reached(self, state: int) -> None:
        at = self._reached[state]
        at.append(time.monotonic_ns())
        if len(at) == self._clients:
            with self._file.open("ab") as out:
                out.write(msgspec.json.encode(Report(state, at)) + b"\n")


async def _follow_raw(site: Site, board: Board) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for _service, token in site.clients:
            follower = RawFollower(
                url=site.url,
                key_path=site.key_path,
                token=token,
                reached=board.reached,
                group=group,
            )
            group.create_task(follower.run(gate))


async def _follow(site: Site, board: Board) -> None:
    async with asyncio.TaskGroup() as group:
        for service, token in site.clients:
            group.create_task(_follow_one(site, service, token, board))


async def _follow_one(site: Site, service: str, token: str, board: Board) -> None:
    async with KeyClient(service, token, site.url) as client, asyncio.TaskGroup() as group:
        group.create_task(_note_connected(client, board))
        held = 0
        async for change in client.changes([site.key_path]):
            if change.key is not None:
                held = change.key.version
                board.reached(held)
            elif isinstance(change.error, GoneError | NotFoundError):
                board.reached(-held)
            else:
                raise BenchError("a client lost its key") from change.error


async def _note_connected(client: KeyClient, board: Board) -> None:
    heard_by = ""
    while heard_by != "stream":
        await asyncio.sleep(_LOOK_SECONDS)
        heard_by = (await client.health_check()).changes
    board.reached(CONNECTED)


def main(kind: str, site: Site, reports: Path) -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    board = Board(reports, len(site.clients))
    asyncio.run({"raw": _follow_raw, "real": _follow}[kind](site, board))


if __name__ == "__main__":
    given = msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=Site)
    main(sys.argv[1], given, Path(sys.argv[3]))
