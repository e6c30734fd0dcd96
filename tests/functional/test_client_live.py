"""The client against a real server: one request for many, an outage under load, a silent stream."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.functional.running import RunningStore
from tests.functional.wire_proxy import WireProxy

from dox_core_store import Key, KeyClient, SyncKeyClient

KEY = "live.key"
NAME = "live-service"
READS = 10_000
READERS = 20
AWAY_SECONDS = 10.0
TRUSTED_SECONDS = 6.0
"""After this nothing can be served any more as if the store had been asked: the stream was heard of
last, and a value asked for, that long ago."""


@pytest.fixture
def token(store: RunningStore) -> str:
    store.put(KEY, "value-one")
    return store.issue(NAME, f"{KEY}.production")


def reads_of(store: RunningStore) -> list[dict[str, Any]]:
    return [
        each
        for each in store.verified_export()
        if each["action"] == "GET" and each["service_name"] == NAME
    ]


def counted(entries: list[dict[str, Any]], status: str, reason: str) -> int:
    return sum(
        each["count"]
        for each in entries
        if each["status"] == status and (each["reason"] or "").split()[0] == reason
    )


def until(holds: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)


def test_fifty_tasks_on_one_cold_key_make_one_request(store: RunningStore, token: str) -> None:
    async def scenario() -> list[Key]:
        async with KeyClient(NAME, token, store.url) as client:
            return await asyncio.gather(*(client.get_key(KEY) for _ in range(50)))

    keys = asyncio.run(scenario())
    assert {(key.value, key.version) for key in keys} == {("value-one", 1)}
    assert counted(reads_of(store), "GRANTED", "call") == 1


def test_an_outage_amid_ten_thousand_reads_is_served_and_reported(
    store: RunningStore, token: str
) -> None:
    """Killed for ten seconds: no error, each value says where it comes from, and the ledger has
    every read that the store did not answer itself."""
    told: list[tuple[float, str]] = []
    under_way = asyncio.Event()

    async def read(client: KeyClient, left: Iterator[int]) -> None:
        for _ in left:
            key = await client.get_key(KEY)
            assert key.value == "value-one"
            told.append((time.monotonic(), key.source))
            if len(told) == READS // 5:
                under_way.set()
            await asyncio.sleep(READERS * 1.7 * AWAY_SECONDS / READS)

    async def scenario() -> tuple[float, float]:
        async with KeyClient(NAME, token, store.url, timeout_ms=1000) as client:
            left = iter(range(READS))
            readers = [asyncio.create_task(read(client, left)) for _ in range(READERS)]
            await under_way.wait()
            await asyncio.to_thread(store.kill)
            gone_at = time.monotonic()
            await asyncio.sleep(AWAY_SECONDS)
            back_at = time.monotonic()
            await asyncio.to_thread(store.start)
            await asyncio.gather(*readers)
            for _ in range(200):  # the client's thread finds out within about a second
                key = await client.get_key(KEY, cache_ttl=0)
                told.append((time.monotonic(), key.source))
                if key.source == "service":
                    return gone_at, back_at
                await asyncio.sleep(0.05)
            raise AssertionError("it was not found out that the store is back")

    gone_at, back_at = asyncio.run(scenario())
    sources = Counter(source for _, source in told)
    assert sum(sources.values()) >= READS
    assert {s for at, s in told if gone_at + TRUSTED_SECONDS < at < back_at} == {"outage"}
    assert {s for at, s in told if at < gone_at} <= {"service", "cache"}
    entries = reads_of(store)
    assert counted(entries, "REPORTED", "outage") == sources["outage"]
    assert counted(entries, "REPORTED", "cache") == sources["cache"]
    # Several readers may share a request; what is asked in the background has another reason.
    assert 0 < counted(entries, "GRANTED", "call") <= sources["service"]


def test_a_silent_stream_is_noticed_in_three_seconds_and_polled_around(
    store: RunningStore, token: str
) -> None:
    """What is open passes nothing from one moment on; new connections are carried."""
    port = int(store.url.rpartition(":")[2])
    with (
        WireProxy(port) as proxy,
        SyncKeyClient(NAME, token, f"http://127.0.0.1:{proxy.port}", timeout_ms=1000) as client,
    ):
        client.get_key(KEY)
        until(lambda: client.health_check().changes == "stream", 10)
        proxy.swallow()
        store.put(KEY, "value-two")
        until(lambda: client._reader._follow.mode != "stream", 4.0)
        until(lambda: client.get_key(KEY, cache_ttl=3600).value == "value-two", 10)
        until(lambda: client.health_check().changes == "stream", 20)


def test_a_revocation_reaches_who_holds_the_key_within_a_second(
    store: RunningStore, token: str
) -> None:
    with SyncKeyClient(NAME, token, store.url) as client:
        client.get_key(KEY, cache_ttl=3600)
        until(lambda: client.health_check().changes == "stream", 10)
        store.put(KEY, "value-two")
        until(lambda: client.get_key(KEY, cache_ttl=3600).value == "value-two", 1.5)
        assert store.request("POST", f"/v1/keys/{KEY}/revoke", json={}).status == 200
        until(lambda: client._reader.lookup(KEY, 3600) is None, 1.0)


def test_a_shortened_life_is_known_at_once(store: RunningStore, token: str) -> None:
    """Its version is the same, so only its end tells it from what is held."""
    with SyncKeyClient(NAME, token, store.url) as client:
        client.get_key(KEY, cache_ttl=3600)
        until(lambda: client.health_check().changes == "stream", 10)
        body = {"expires_at": "2099-01-01T00:00:00Z"}
        assert store.request("POST", f"/v1/keys/{KEY}/extend", json=body).status == 200

        def year() -> int:
            expires_at = client.get_key(KEY, cache_ttl=3600).expires_at
            assert expires_at is not None
            return expires_at.year

        until(lambda: year() == 2099, 1.5)


def test_an_upstream_that_refuses_a_value_is_told_of_once(store: RunningStore, token: str) -> None:
    store.put(KEY, "value-two")
    with SyncKeyClient(NAME, token, store.url) as client:
        key = client.get_key(KEY)
        instead = [key.rejected(f"401 for {key.value}") for _ in range(20)]
        assert {each.value for each in instead} == {"value-one"}
        assert client.get_key(KEY).value == "value-two"
    (rejected,) = [each for each in store.verified_export() if each["action"] == "REJECT"]
    assert (rejected["version"], rejected["status"]) == (2, "REPORTED")
    assert "value-two" not in rejected["reason"]
