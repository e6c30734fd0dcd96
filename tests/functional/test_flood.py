"""A flood of bad tokens from thousands of addresses, over real HTTP, and what it leaves on record.

It comes through proxies that the server trusts, each request with an address of its own. It must
not fill the disk, lose a single refusal, or hide what a real service was refused meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.running import RunningStore

REQUESTS = 20_000
ADDRESSES = 5_000
CONNECTIONS = 20
AT_ONCE = 25
"""Requests sent on a connection before their answers are read."""

Flood = Iterator[tuple[str, str]]


@pytest.fixture
def flooded(tmp_path: Path, made_store: RunningStore) -> Iterator[RunningStore]:
    store = RunningStore(
        tmp_path / "store", environment={"DOXSTORE_TRUSTED_PROXIES": "127.0.9.0/24"}
    )
    store.copy_of(made_store)
    store.start()
    yield store
    store.dispose()


def bad_tokens(halfway: asyncio.Event) -> Flood:
    """Ever new tokens: most from thousands of addresses, some from one that does not stop."""
    for number in range(REQUESTS):
        if number == REQUESTS // 2:
            halfway.set()
        spread = f"10.{number % ADDRESSES // 250}.{number % 250}.1"
        address = "203.0.113.9" if number % 10 == 0 else spread
        yield f"bad.{number:x}.token", f"192.0.2.1, {address}"


async def connection(store: RunningStore, proxy: str, flood: Flood) -> Counter[int]:
    """Send what ``flood`` has, together with the other connections; how often each status came."""
    reader, writer = await asyncio.open_connection(store.host, store.port, local_addr=(proxy, 0))
    statuses: Counter[int] = Counter()
    try:
        while batch := list(itertools.islice(flood, AT_ONCE)):
            for token, said in batch:
                writer.write(
                    f"GET /v1/keys/flood.key HTTP/1.1\r\nHost: store\r\n"
                    f"X-Forwarded-For: {said}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
                )
            await writer.drain()
            for _ in batch:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                await reader.readexactly(length)
                statuses[int(head.split()[1])] += 1
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return statuses


def ledger_bytes(store: RunningStore) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{store.data}/store.db?mode=ro", uri=True)) as db:
        (size,) = db.execute("SELECT sum(length(body)) FROM ledger_block").fetchone()
    return int(size)


def test_a_flood_of_bad_tokens_neither_fills_the_disk_nor_hides_a_denial(
    flooded: RunningStore,
) -> None:
    store = flooded
    store.put("flood.key", "x")
    service = store.issue("flood-service", "flood.key")
    revoked = store.request("POST", "/tokens", json={"service_name": "flood-service"}).json
    path = f"/v1/tokens/{revoked['token_id']}/revoke"
    assert store.request("POST", path, json={}).status == 204
    before = ledger_bytes(store)

    async def all_at_once() -> tuple[Counter[int], list[int]]:
        halfway = asyncio.Event()
        flood = bad_tokens(halfway)
        floods = [
            asyncio.create_task(connection(store, f"127.0.9.{1 + number % 3}", flood))
            for number in range(CONNECTIONS)
        ]
        await halfway.wait()
        told = []
        for key, token in (("flood.forbidden", service), ("flood.key", revoked["token"])):
            told.append((await asyncio.to_thread(store.get, key, token)).status)
        told.append((await asyncio.to_thread(store.get, "flood.key", service)).status)
        return sum([await each for each in floods], Counter()), told

    statuses, told = asyncio.run(all_at_once())
    assert told == [403, 401, 200]
    assert statuses.total() == REQUESTS
    assert statuses.keys() == {401, 429}
    assert store.stop() == 0  # writes what was folded

    grown = ledger_bytes(store) - before
    assert grown < 2_000_000, f"{grown} bytes for {REQUESTS} bad tokens"
    store.start()
    entries = store.verified_export()
    strangers = [each for each in entries if each["service_name"] == "anonymous"]
    assert len(strangers) < REQUESTS / 4
    counted: Counter[str] = Counter()
    for each in strangers:
        counted[each["reason"]] += each["count"]
    assert counted == {
        "token_invalid": statuses[401],
        "rate_limited": statuses[429],
        "token_revoked": 1,
    }
    (denied,) = (each for each in entries if each["key_path"] == "flood.forbidden.production")
    assert (denied["service_name"], denied["status"]) == ("flood-service", "DENIED")
    assert (denied["count"], denied["reason"]) == (1, "not_authorized")
    (ended,) = (each for each in strangers if each["reason"] == "token_revoked")
    assert (ended["ip_address"], ended["count"]) == ("127.0.0.1", 1)
    alone = Counter(each["ip_address"] for each in strangers if each["count"] == 1)
    assert "203.0.113.9" in alone
    assert len(alone) > 500, "as many as can be told apart are"
    folded = [each for each in strangers if each["count"] > 1]
    assert any(each["ip_address"] == "*" for each in folded)
    assert "192.0.2.1" not in {each["ip_address"] for each in entries}
