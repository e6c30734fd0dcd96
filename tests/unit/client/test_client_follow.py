"""What the client does by itself: it follows the store, and keeps what is held current."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator

import pytest
from scripted_store import Request, Response, ScriptedStore, token

from dox_core_store import ConnectionFailedError, GoneError, KeyClient, SyncKeyClient
from dox_core_store.client import follow

JULES = "service_keys.jules_api"
POSTGRES = "database_connections.postgres_main"
ID = {"key_path": JULES, "environment": "production"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_START_SECONDS", 0.0)
    monkeypatch.setattr(follow, "_POLL_SECONDS", 0.5)
    monkeypatch.setattr(follow, "_RETRY_SECONDS", 0.3)


@pytest.fixture
def streaming(store: ScriptedStore) -> ScriptedStore:
    store.has_events = True
    return store


@pytest.fixture
def sync(store: ScriptedStore) -> Iterator[SyncKeyClient]:
    with SyncKeyClient("jules-mcp", token(), store.url, timeout_ms=1000) as client:
        yield client


def followed(client: SyncKeyClient) -> Callable[[], bool]:
    """By a stream that has told all that there was, and what was under way then was asked again."""
    cache = client._reader._cache
    return lambda: (
        client.health_check().changes == "stream"
        and time.monotonic() > 0
        and (cache._elapsed() < cache.trusted_until)
        and all(math.isinf(each.superseded_at) for each in cache.all_held())
    )


def test_a_changed_key_is_replaced_within_a_second(
    streaming: ScriptedStore, sync: SyncKeyClient
) -> None:
    assert sync.get_key(JULES, 3600).version == 1
    streaming.until(followed(sync))
    streaming.values[JULES, "production"] = (2, "value-two")
    streaming.tell("changed", **ID, version_id=f"{2:032x}")
    streaming.until(lambda: sync.get_key(JULES, 3600).value == "value-two", 1.0)
    assert sync.get_key(JULES, 3600).source == "cache"
    asked = streaming.asked("/v1/keys/batch-get")[-1]
    assert asked.headers["x-read-reason"] == "refresh"
    assert asked.json["known"] == {JULES: f"{1:032x}"}


def test_a_revoked_version_is_erased_at_once(streaming: ScriptedStore, sync: SyncKeyClient) -> None:
    sync.get_key(JULES)
    streaming.until(followed(sync))
    gone = streaming.problem(410, "version_revoked")
    streaming.on("GET", f"/v1/keys/{JULES}", gone)
    streaming.on("POST", "/v1/keys/batch-get", lambda _: Response(200, {"keys": [
        {"asked": JULES, "problem": streaming.problem_body(410, "version_revoked")}
    ]}))  # fmt: skip
    streaming.tell("revoked", **ID, version_id=f"{1:032x}")
    streaming.until(lambda: sync._reader.lookup(JULES, 3600) is None, 0.3)
    with pytest.raises(GoneError):
        sync.get_key(JULES)


def test_another_version_that_is_revoked_disturbs_nobody(
    streaming: ScriptedStore, sync: SyncKeyClient
) -> None:
    sync.get_key(JULES)
    streaming.until(followed(sync))
    before = len(streaming.requests)
    streaming.tell("revoked", **ID, version_id="f" * 32)
    streaming.tell("changed", **ID, version_id=f"{1:032x}")
    time.sleep(0.5)
    assert sync.get_key(JULES).source == "cache"
    assert [each.path for each in streaming.requests[before:]] == []


@pytest.mark.parametrize("kind", ["reset", "access", "a-kind-of-a-later-release"])
def test_where_it_cannot_be_told_what_happened_everything_is_asked_for(
    streaming: ScriptedStore, sync: SyncKeyClient, kind: str
) -> None:
    sync.get_keys([JULES, POSTGRES], 3600)
    streaming.until(followed(sync))
    streaming.values[JULES, "production"] = (2, "value-two")
    before = len(streaming.asked("/v1/keys/batch-get"))
    streaming.tell(kind)
    streaming.until(lambda: sync.get_key(JULES, 3600).version == 2, 1.0)
    (asked,) = streaming.asked("/v1/keys/batch-get")[before:]
    assert sorted(asked.json["known"]) == sorted([JULES, POSTGRES])
    streaming.until(followed(sync))


def test_a_silent_stream_is_noticed_in_three_seconds_and_polling_takes_over(
    streaming: ScriptedStore, sync: SyncKeyClient
) -> None:
    sync.get_key(JULES, 3600)
    streaming.until(followed(sync))
    streaming.is_beating = False
    began = time.monotonic()
    streaming.until(lambda: sync.health_check().changes == "polling", 6.0)
    assert time.monotonic() - began < 4.0
    assert "said nothing" in sync.health_check().detail
    streaming.values[JULES, "production"] = (2, "value-two")
    streaming.until(lambda: sync.get_key(JULES, 3600).version == 2, 3.0)
    streaming.is_beating = True
    streaming.until(lambda: sync.health_check().changes == "stream", 15.0)


def test_without_a_stream_what_is_held_is_asked_for_by_its_version(
    store: ScriptedStore, sync: SyncKeyClient
) -> None:
    sync.get_keys([JULES, POSTGRES], 3600)
    store.until(lambda: len(store.asked("/v1/keys/batch-get")) > 3)
    assert sync.health_check().changes == "polling"
    asked = store.asked("/v1/keys/batch-get")[-1]
    assert len(asked.json["known"]) == 2
    key = sync.get_key(JULES, 3600)
    assert key.source == "cache"
    assert key.age_seconds < 2
    store.values[JULES, "production"] = (2, "value-two")
    store.until(lambda: sync.get_key(JULES, 3600).version == 2, 3.0)


def test_a_304_of_another_store_or_of_none_confirms_nothing(
    store: ScriptedStore, client: KeyClient
) -> None:
    async def scenario() -> None:
        first = await client.get_key(JULES)
        for headers in ({}, {"X-Store-Id": "st_other"}, {"X-Store-Id": ""}):
            store.then(Response(304, b"", "", headers))
            stale = await client.get_key(JULES, cache_ttl=0)
            assert stale.source == "outage"
            assert stale.age_seconds >= first.age_seconds - 0.01
        assert (await client.get_key(JULES, cache_ttl=0)).source == "service"

    asyncio.run(scenario())


def test_cached_reads_are_reported_at_the_end(store: ScriptedStore) -> None:
    with SyncKeyClient("jules-mcp", token(), store.url) as client:
        for _ in range(11):
            client.get_key(JULES)
    (read,) = store.reports
    assert (read["key_path"], read["environment"], read["version"]) == (JULES, "production", 1)
    assert (read["source"], read["count"]) == ("cache", 10)


def test_reads_during_an_outage_are_reported_once_it_is_over(
    store: ScriptedStore, sync: SyncKeyClient
) -> None:
    sync.get_key(JULES)
    away = store.problem(503, "ledger_unavailable")
    for address in (f"/v1/keys/{JULES}", "/v1/keys/batch-get", "/v1/reports"):
        store.on("GET" if JULES in address else "POST", address, away)
    keys = [sync.get_key(JULES, 0) for _ in range(5)]
    assert {(key.source, key.version) for key in keys} == {("outage", 1)}
    store._routes.clear()
    store.until(lambda: store.reports, 5.0)
    assert [(each["source"], each["count"]) for each in store.reports if
            each["source"] == "outage"] == [("outage", 5)]  # fmt: skip


def test_an_unreachable_store_costs_one_caller_the_wait(store: ScriptedStore) -> None:
    with SyncKeyClient("jules-mcp", token(), store.url, timeout_ms=700) as client:
        store.hold()
        took = []
        for _ in range(4):
            began = time.monotonic()
            with pytest.raises(ConnectionFailedError):
                client.get_key(JULES)
            took.append(time.monotonic() - began)
        assert 0.6 < took[0] < 1.5
        assert max(took[1:]) < 0.1
        store.release()
        store.until(lambda: _is_served(client), 5.0)


def _is_served(client: SyncKeyClient) -> bool:
    try:
        return client.get_key(JULES).source == "service"
    except ConnectionFailedError:
        return False


def test_nothing_is_served_beyond_the_grace(store: ScriptedStore) -> None:
    store.grace_seconds, store.ceiling_seconds = 1, 1
    with SyncKeyClient("jules-mcp", token(), store.url, timeout_ms=300) as client:
        client.get_key(JULES)
        store.stop_serving()
        assert client.get_key(JULES, 0).source == "outage"
        time.sleep(1.1)
        with pytest.raises(ConnectionFailedError):
            client.get_key(JULES)


def test_a_token_that_is_refused_ends_what_an_outage_would_allow(
    store: ScriptedStore, client: KeyClient
) -> None:
    async def scenario() -> None:
        await client.get_key(JULES)
        store.then(store.problem(401, "token_revoked"))
        with pytest.raises(Exception, match="It is so"):
            await client.get_key(JULES, cache_ttl=0)
        store.then(Response(None), Response(None))
        with pytest.raises(ConnectionFailedError):
            await client.get_key(JULES)

    asyncio.run(scenario())


def test_a_key_in_use_is_asked_for_ahead_of_its_end(
    streaming: ScriptedStore, sync: SyncKeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_LEAST_REFRESHED_SECONDS", 0.0)
    sync.get_keys([JULES, POSTGRES], 2.0)
    streaming.until(followed(sync))
    until = time.monotonic() + 3.0
    while time.monotonic() < until:
        assert sync.get_key(JULES, 2.0).source == "cache"
        time.sleep(0.05)
    refreshed = [
        each.json["key_paths"]
        for each in streaming.asked("/v1/keys/batch-get")
        if each.headers.get("x-read-reason") == "refresh"
    ]
    assert [JULES] in refreshed  # and not the one that nobody reads


def test_changes_are_told_as_they_come(streaming: ScriptedStore) -> None:
    async def scenario() -> list[tuple[str, int | str]]:
        told: list[tuple[str, int | str]] = []
        async with KeyClient("jules-mcp", token(), streaming.url) as client:
            async for change in client.changes([JULES, "no.such.key"]):
                now = change.key.version if change.key else change.error.code  # type: ignore[union-attr]
                told.append((change.asked, now))
                if len(told) == 2:
                    await asyncio.to_thread(streaming.until, lambda: streaming.streams)
                    streaming.values[JULES, "production"] = (2, "value-two")
                    streaming.tell("changed", **ID, version_id=f"{2:032x}")
                if len(told) == 3:
                    break
        return told

    assert asyncio.run(scenario()) == [(JULES, 1), ("no.such.key", "key_not_found"), (JULES, 2)]


def test_a_refused_value_is_told_once_and_replaced(store: ScriptedStore) -> None:
    def rejected(request: Request) -> Response:
        assert request.json == {"version_id": f"{1:032x}", "reason": "401 of Jules"}
        return Response(200, {**ID, "rejected_version": 1, "other_version": 7})

    store.on("POST", f"/v1/keys/{JULES}.production/rejected", rejected)
    other = store.key(JULES, version=7, version_id=f"{7:032x}", value="the-other-value")
    answer: Callable[[Request], Response] = lambda request: (  # noqa: E731
        Response(200, other) if "version=7" in request.target else store.unchanged()
    )

    async def scenario() -> None:
        async with KeyClient("jules-mcp", token(), store.url) as client:
            key = await client.get_key(JULES)
            store.on("GET", f"/v1/keys/{JULES}.production", answer)
            instead = await asyncio.gather(*(key.rejected("401 of Jules") for _ in range(50)))
            assert {each.value for each in instead} == {"the-other-value"}
            assert (await client.get_key(JULES)).version == 1

    asyncio.run(scenario())
    assert len(store.asked(f"/v1/keys/{JULES}.production/rejected")) == 1


def test_the_current_version_takes_the_place_of_a_refused_one(store: ScriptedStore) -> None:
    store.on(
        "POST",
        f"/v1/keys/{JULES}.production/rejected",
        Response(200, {**ID, "rejected_version": 1, "other_version": None}),
    )
    with SyncKeyClient("jules-mcp", token(), store.url) as client:
        key = client.get_key(JULES)
        with pytest.raises(Exception, match="no other version"):
            key.rejected("401")
        store.values[JULES, "production"] = (2, "value-two")
        client._reader._refusals._asked.clear()
        assert key.rejected("401").value == "value-two"
        assert client.get_key(JULES).version == 2
