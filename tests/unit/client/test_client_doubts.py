"""What the client must not believe, must not serve, and must not ask for again and again."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_store import Response, ScriptedStore, token

from dox_core_store import ConnectionFailedError, GoneError, KeyClient, SyncKey, SyncKeyClient
from dox_core_store.client import follow
from dox_core_store.client.event_stream import EventReader, Kind

JULES = "service_keys.jules_api"
POSTGRES = "database_connections.postgres_main"
ID = {"key_path": JULES, "environment": "production"}
BATCH = "/v1/keys/batch-get"


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
    with SyncKeyClient("jules-mcp", token(), store.url, timeout_ms=5000) as client:
        yield client


def followed(client: SyncKeyClient) -> Callable[[], bool]:
    cache = client._reader._cache
    return lambda: (
        cache._elapsed() < cache.trusted_until
        and all(math.isinf(each.superseded_at) for each in cache.all_held())
    )


def in_flight(
    store: ScriptedStore, client: SyncKeyClient, answer: Response
) -> tuple[threading.Thread, list[SyncKey | Exception]]:
    """A call for a key that waits for ``answer``, which the store is made to hold back."""
    got: list[SyncKey | Exception] = []

    def call() -> None:
        try:
            got.append(client.get_key(JULES, 3600))
        except Exception as error:  # noqa: BLE001 - told to the test
            got.append(error)

    store.then(answer)
    store.hold()
    thread = threading.Thread(target=call)
    thread.start()
    store.until(lambda: store.asked(f"/v1/keys/{JULES}"))
    return thread, got


def heard(client: SyncKeyClient) -> Callable[[], bool]:
    """A beat that came after now, so what was told before it was heard, too."""
    cache, now = client._reader._cache, client._reader.elapsed()
    return lambda: cache.heard_at > now + 0.15


@pytest.mark.parametrize("kind", ["changed", "reset", "access"])
def test_an_answer_that_was_under_way_when_something_changed_is_not_trusted(
    streaming: ScriptedStore, sync: SyncKeyClient, kind: str
) -> None:
    sync.get_key(POSTGRES)
    streaming.until(followed(sync))
    thread, got = in_flight(streaming, sync, Response(200, streaming.key(JULES)))
    streaming.values[JULES, "production"] = (2, "value-two")
    streaming.tell(kind, **({**ID, "version_id": f"{2:032x}"} if kind == "changed" else {}))
    time.sleep(0.3)  # it is heard meanwhile
    streaming.release()
    thread.join()
    assert len(got) == 1
    streaming.until(followed(sync))
    streaming.until(lambda: sync.get_key(JULES, 3600).version == 2, 1.3)


def test_a_version_that_was_revoked_while_it_was_under_way_reaches_nobody(
    streaming: ScriptedStore, sync: SyncKeyClient
) -> None:
    sync.get_key(POSTGRES)
    streaming.until(followed(sync))
    thread, got = in_flight(streaming, sync, Response(200, streaming.key(JULES)))
    streaming.on("GET", f"/v1/keys/{JULES}", streaming.problem(410, "version_revoked"))
    streaming.tell("revoked", **ID, version_id=f"{1:032x}")
    streaming.until(heard(sync))
    later: list[SyncKey | Exception] = []

    def call() -> None:
        try:
            later.append(sync.get_key(JULES))
        except Exception as error:  # noqa: BLE001 - told to the test
            later.append(error)

    joins = threading.Thread(target=call)
    joins.start()
    time.sleep(0.1)
    streaming.release()
    thread.join()
    joins.join()
    assert [type(each) for each in got + later] == [GoneError, GoneError]


def test_an_event_that_was_cut_off_is_asked_for_again() -> None:
    reader = EventReader()
    for line in (b"id: 1-1", b"event: beat", b"data: ", b""):
        event = reader.feed(line)
    assert event is not None
    assert event.kind is Kind.BEAT
    for line in (b"id: 1-2", b"event: revoked"):
        assert reader.feed(line) is None
    assert reader.last_id == "1-1"


@pytest.mark.parametrize("status", [500, 400, 409])
def test_what_confirms_nothing_ends_no_doubt(
    streaming: ScriptedStore, sync: SyncKeyClient, status: int
) -> None:
    sync.get_key(JULES, 3600)
    streaming.until(followed(sync))
    code = {500: "internal_error", 400: "invalid_parameter", 409: "version_conflict"}[status]
    streaming.on("POST", BATCH, streaming.problem(status, code))
    streaming.tell("reset")
    streaming.until(lambda: len(streaming.asked(BATCH)) > 0)
    time.sleep(0.5)
    assert not followed(sync)()


@pytest.mark.parametrize(("status", "code"), [(503, "ledger_unavailable"), (429, "rate_limited")])
def test_a_store_that_cannot_serve_is_not_asked_all_the_time(
    streaming: ScriptedStore, sync: SyncKeyClient, status: int, code: str
) -> None:
    sync.get_key(JULES, 3600)
    streaming.until(followed(sync))
    away = streaming.problem(status, code, retry_after_seconds=1)
    for address in (BATCH, "/v1/reports"):
        streaming.on("POST", address, away)
    streaming.on("GET", f"/v1/keys/{JULES}", away)
    assert sync.get_key(JULES, 0).source == "outage"
    streaming.tell("reset")
    before = len(streaming.requests)
    time.sleep(4.0)
    asked = [each.path for each in streaming.requests[before:]]
    assert asked.count(BATCH) <= 7, asked
    assert asked.count("/v1/reports") <= 7, asked
    streaming._routes.clear()
    streaming.until(followed(sync), 6.0)
    streaming.until(lambda: streaming.reports, 6.0)


@pytest.mark.parametrize("has_folder", [False, True])
def test_a_client_that_follows_nothing_finds_the_store_again(
    store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, has_folder: bool
) -> None:
    monkeypatch.setattr("dox_core_store.client.breaker._TURN_SECONDS", 0.2)
    tmp_path.chmod(0o700)
    with SyncKeyClient(
        "jules-mcp",
        token(),
        store.url,
        timeout_ms=400,
        follow=False,
        outage_dir=tmp_path if has_folder else None,
    ) as client:
        client.get_key(POSTGRES)
        store.hold()
        with pytest.raises(ConnectionFailedError):
            client.get_key(JULES)
        assert client.get_key(POSTGRES, 0).source == "outage"
        store.release()
        time.sleep(0.3)
        store.until(lambda: client.get_key(POSTGRES, 0).source == "service", 2.0)
        assert client.get_key(JULES).source == "service"


def test_nobody_gets_another_environments_value_where_the_token_changes(
    store: ScriptedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(token())
    monkeypatch.setenv("SERVICE_TOKEN_FILE", str(file))

    async def scenario() -> None:
        client = KeyClient("jules-mcp", None, store.url, follow=False)
        assert (await client.get_key(JULES)).environment == "production"
        store.on("GET", f"/v1/keys/{JULES}", Response(200, store.key(f"{JULES}.staging")))
        file.write_text(token(env="staging", more="so that its size differs"))
        bare, full = await asyncio.gather(
            client.get_key(JULES, 0), client.get_key(f"{JULES}.production", 0)
        )
        assert (bare.environment, full.environment) == ("staging", "production")
        file.write_text(token(env="production"))
        store.on("GET", f"/v1/keys/{JULES}", Response(200, store.key(JULES)))
        await client.get_key(JULES)
        file.write_text(token(env="staging", more="so that its size differs"))
        store.on("GET", f"/v1/keys/{JULES}", Response(200, store.key(f"{JULES}.staging")))
        full_2, bare_2 = await asyncio.gather(
            client.get_key(f"{JULES}.production", 0), client.get_key(JULES, 0)
        )
        assert (bare_2.environment, full_2.environment) == ("staging", "production")
        both = await client.get_keys([JULES, f"{JULES}.production"], 0)
        assert [each.environment for each in both.values()] == ["staging", "production"]

    asyncio.run(scenario())


def test_an_answer_from_before_a_refused_token_lifts_nothing(
    store: ScriptedStore, client: KeyClient
) -> None:
    async def scenario() -> None:
        await client.get_key(POSTGRES)
        store.then(Response(200, store.key(JULES)))
        store.hold()
        under_way = asyncio.create_task(client.get_key(JULES))
        await store.arrived(2)
        outage = client._reader._outage
        outage.bar()  # as a 401 to another call does
        client._reader._cache.forget_all()
        store.release()
        await under_way
        assert outage._is_barred
        await client.get_key(JULES)
        assert not outage._is_barred

    asyncio.run(scenario())


def test_what_was_told_before_the_machine_slept_is_not_news(
    streaming: ScriptedStore, sync: SyncKeyClient
) -> None:
    sync.get_key(JULES, 3600)
    streaming.until(followed(sync))
    cache, follows = sync._reader._cache, sync._reader._follow
    real, told = follows._elapsed, cache.heard_at
    streams = len(streaming.asked("/v1/events"))
    streaming.has_events = False
    follows._elapsed = cache._elapsed = lambda: real() + 7200.0
    streaming.until(lambda: len(streaming.asked("/v1/events")) > streams, 6.0)
    assert cache.heard_at < told + 100


def test_a_key_that_nobody_asks_for_is_let_alone_whatever_age_was_accepted(
    store: ScriptedStore, sync: SyncKeyClient
) -> None:
    store.ceiling_seconds = store.grace_seconds = 1
    sync.get_key(JULES, float("inf"))
    store.until(lambda: store.asked(BATCH))
    time.sleep(2.5)
    before = len(store.asked(BATCH))
    time.sleep(1.5)
    assert len(store.asked(BATCH)) == before


def test_keys_that_nobody_uses_make_the_others_no_older(
    store: ScriptedStore, sync: SyncKeyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [f"many.key_{number}.of_these" for number in range(60)]
    store.values |= {(each, "production"): (1, "v") for each in many}
    sync.get_keys(many, 0)
    store.until(lambda: len(sync._reader._cache.all_held()) == 60)

    cache = sync._reader._cache
    store.until(lambda: cache.window_seconds > 2.0)
    sync.get_key(JULES, 3600)
    monkeypatch.setattr(follow, "_POLL_SECONDS", 0.1)  # so they are used no more
    store.until(lambda: cache.window_seconds < 2.0, 4.0)
    assert len(cache.all_held()) == 61


def test_changes_of_keys_that_are_refused_do_not_use_up_the_limit(store: ScriptedStore) -> None:
    store.has_events = True

    async def scenario() -> None:
        async with KeyClient("jules-mcp", token(), store.url) as client:
            told = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5.5):
                    async for change in client.changes(["no.such.key"]):
                        told.append(change.asked)  # noqa: PERF401 - it has no end
            assert told == ["no.such.key"]

    asyncio.run(scenario())
    assert len(store.asked("/v1/keys/no.such.key")) <= 4


def test_a_doubt_lasts_until_the_answer_is_held(
    streaming: ScriptedStore, sync: SyncKeyClient
) -> None:
    sync.get_key(JULES, 3600)
    streaming.until(followed(sync))
    streaming.values[JULES, "production"] = (2, "value-two")
    before = len(streaming.asked(BATCH))
    streaming.hold()
    streaming.tell("reset")
    streaming.until(lambda: len(streaming.asked(BATCH)) > before)
    streaming.tell("revoked", **ID | {"key_path": "some.other.key"}, version_id="e" * 32)
    time.sleep(0.3)  # it is heard meanwhile
    streaming.release()
    streaming.until(followed(sync))
    assert sync.get_key(JULES, 3600).version == 2
