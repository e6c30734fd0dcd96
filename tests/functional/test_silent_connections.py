"""Connections that say nothing, or little, or never listen, keep nobody else out."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.kept_connection import connected
from tests.functional.running import RunningStore

SILENT = 10_000
HALF = 200
SLOW_HEADERS = 200
SLOW_BODIES = 100
DEAF = 50
DEAF_REQUESTS = 500
DRIP_SECONDS = 0.05
HALF_A_REQUEST = b"GET /v1/keys/quiet.key HTTP/1.1\r\nHost: store\r\nAuthorization: Bea"
READS = 200
READERS = 8
SLOWEST_SECONDS = 2.0
"""Far above what a read takes even on a busy machine, far below the server's header timeout."""

MEDIAN_SECONDS = 0.25
MEMORY_MIB = 300
"""What ten thousand connections may cost; measured: a tenth of that."""

DEAF_MIB = 100
RECOVERY_SECONDS = 20
SPARE_FILES = 100


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


def resident_mib(store: RunningStore) -> float:
    pages = int(Path(f"/proc/{store.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def open_files(store: RunningStore) -> int:
    return len(list(Path(f"/proc/{store.pid}/fd").iterdir()))


def check_recovers(store: RunningStore, token: str, files: int) -> None:
    """Connections that are gone hold nothing any more, and everything works."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while open_files(store) > files + SPARE_FILES:
        assert time.monotonic() < deadline, "connections are kept that are gone"
        time.sleep(0.05)
    assert store.get("quiet.key", token).json["value"] == "heard"
    assert store.put("quiet.after", "heard")["version"] == 1


@pytest.mark.usefixtures("many_files")
def test_ten_thousand_silent_connections_disturb_nobody(store: RunningStore) -> None:
    store.put("quiet.key", "heard")
    token = store.issue("listener", "quiet.key")
    memory, files = resident_mib(store), open_files(store)
    with contextlib.ExitStack() as connections:
        held = [
            connections.enter_context(socket.create_connection((store.host, store.port), 10))
            for _ in range(SILENT + HALF)
        ]
        for connection in held[:HALF]:
            connection.sendall(HALF_A_REQUEST)
        seconds = asyncio.run(read_at_once(store, token))
        assert all(is_still_open(connection) for connection in held), "they left before the reads"
        assert open_files(store) > SILENT
        assert resident_mib(store) - memory < MEMORY_MIB
    assert len(seconds) == READS
    assert max(seconds) < SLOWEST_SECONDS
    check_recovers(store, token, files)


async def drip(store: RunningStore, head: bytes, piece: bytes) -> None:
    """Begin a request and send the rest of it, which has no end, byte by byte."""
    _reader, writer = await asyncio.open_connection(store.host, store.port)
    try:
        writer.write(head)
        while True:
            await asyncio.sleep(DRIP_SECONDS)
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()


async def never_listen(store: RunningStore, request: bytes) -> None:
    """Ask again and again, and read no answer."""
    reader, writer = await asyncio.open_connection(store.host, store.port, limit=1)
    try:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(DEAF_REQUESTS):
            writer.write(request)
            await writer.drain()
        await asyncio.Event().wait()
    finally:
        writer.transport.abort()


async def read_among_the_slow(store: RunningStore, token: str) -> list[float]:
    auth = f"Host: store\r\nAuthorization: Bearer {token}\r\n"
    put = f"PUT /v1/keys/quiet.slow HTTP/1.1\r\n{auth}Content-Length: 100000\r\n\r\n"
    ask = f"GET /openapi.json HTTP/1.1\r\n{auth}\r\n"
    tasks = [
        *(drip(store, HALF_A_REQUEST, b"r") for _ in range(SLOW_HEADERS)),
        *(drip(store, put.encode(), b" ") for _ in range(SLOW_BODIES)),
        *(never_listen(store, ask.encode()) for _ in range(DEAF)),
    ]
    slow = [asyncio.create_task(each) for each in tasks]
    await asyncio.sleep(20 * DRIP_SECONDS)
    seconds = await read_at_once(store, token)
    ended = [task for task in slow if task.done()]
    assert ended == [], "they left before the reads"
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    return seconds


@pytest.mark.usefixtures("many_files")
def test_slow_senders_and_those_who_never_listen_disturb_nobody(store: RunningStore) -> None:
    store.put("quiet.key", "heard")
    token = store.issue("listener", "quiet.key")
    memory, files = resident_mib(store), open_files(store)
    seconds = asyncio.run(read_among_the_slow(store, token))
    assert resident_mib(store) - memory < DEAF_MIB, "answers pile up for who does not take them"
    assert statistics.median(seconds) < MEDIAN_SECONDS
    assert max(seconds) < SLOWEST_SECONDS
    check_recovers(store, token, files)
