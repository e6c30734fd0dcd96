"""Connections that say nothing, or only half of something, keep nobody else out."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Iterator

import pytest
from tests.functional.kept_connection import connected
from tests.functional.running import RunningStore

SILENT = 2_000
HALF = 200
HALF_A_REQUEST = b"GET /v1/keys/quiet.key HTTP/1.1\r\nHost: store\r\nAuthorization: Bea"
READS = 200
READERS = 8
SLOWEST_SECONDS = 2.0
"""Far above what a read takes even on a busy machine, far below the server's header timeout."""


@pytest.fixture
def many_files() -> Iterator[None]:
    """A file per connection, and some to spare."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SILENT + HALF + 1_000
    assert hard == resource.RLIM_INFINITY or hard >= wanted, "the hard file limit is too low"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def read_often(store: RunningStore, token: str, count: int) -> list[float]:
    """Seconds of each read; every second one on a connection of its own."""
    seconds = []
    async with connected(store, token) as kept:
        for number in range(count):
            started = time.monotonic()
            if number % 2:
                async with connected(store, token) as fresh:
                    answer = await fresh.get("quiet.key")
            else:
                answer = await kept.get("quiet.key")
            seconds.append(time.monotonic() - started)
            assert answer.status == 200, answer.body
            assert answer.json["value"] == "heard"
    return seconds


async def read_at_once(store: RunningStore, token: str) -> list[float]:
    async with asyncio.timeout(60):
        shares = [read_often(store, token, READS // READERS) for _ in range(READERS)]
        return [each for share in await asyncio.gather(*shares) for each in share]


def is_still_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True


@pytest.mark.usefixtures("many_files")
def test_two_thousand_silent_connections_disturb_nobody(shared_store: RunningStore) -> None:
    store = shared_store
    store.put("quiet.key", "heard")
    token = store.issue("listener", "quiet.key")
    with contextlib.ExitStack() as connections:
        held = [
            connections.enter_context(socket.create_connection((store.host, store.port), 10))
            for _ in range(SILENT + HALF)
        ]
        for connection in held[:HALF]:
            connection.sendall(HALF_A_REQUEST)
        seconds = asyncio.run(read_at_once(store, token))
        assert all(is_still_open(connection) for connection in held), "they left before the reads"
    assert len(seconds) == READS
    assert max(seconds) < SLOWEST_SECONDS
