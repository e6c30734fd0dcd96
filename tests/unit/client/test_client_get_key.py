"""`KeyClient.get_key`: who is answered from where, and what it costs the store."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable

import pytest
from scripted_store import Request, Response, ScriptedStore, token

from dox_core_store import (
    ConfigurationError,
    ConnectionFailedError,
    DoxStoreError,
    GoneError,
    InternalError,
    InvalidRequestError,
    Key,
    KeyClient,
    RateLimitError,
    UnauthorizedError,
)

JULES = "service_keys.jules_api"


def test_a_first_get_is_the_services_and_a_second_the_caches(
    store: ScriptedStore, client: KeyClient
) -> None:
    async def scenario() -> tuple[Key, Key]:
        return await client.get_key(JULES), await client.get_key(JULES)

    first, second = asyncio.run(scenario())
    assert (first.source, second.source) == ("service", "cache")
    assert first.value == second.value == "value-of-jules-in-production"
    assert 0 <= second.age_seconds < 60
    assert (second.version, second.environment, second.key_path) == (1, "production", JULES)
    assert len(store.requests) == 1


def test_fifty_callers_make_one_request(store: ScriptedStore, client: KeyClient) -> None:
    async def scenario() -> list[Key]:
        store.hold()
        callers = [asyncio.create_task(client.get_key(JULES)) for _ in range(50)]
        await store.arrived(1)
        store.release()
        return await asyncio.gather(*callers)

    keys = asyncio.run(scenario())
    assert {key.value for key in keys} == {"value-of-jules-in-production"}
    assert len(store.requests) == 1


def test_waiters_for_different_keys_get_their_own(store: ScriptedStore, client: KeyClient) -> None:
    paths = [f"many.key_{number}" for number in range(20)]
    store.values |= {(path, "production"): (1, f"value of {path}") for path in paths}

    async def scenario() -> list[Key]:
        return await asyncio.gather(*(client.get_key(path) for path in paths * 3))

    assert [key.value for key in asyncio.run(scenario())] == [f"value of {p}" for p in paths * 3]


def test_a_cancelled_caller_harms_no_other(store: ScriptedStore, client: KeyClient) -> None:
    async def scenario() -> list[Key | BaseException]:
        store.hold()
        callers = [asyncio.create_task(client.get_key(JULES)) for _ in range(5)]
        await store.arrived(1)
        callers[0].cancel()  # the one whose call began the request
        callers[3].cancel()
        store.release()
        return await asyncio.gather(*callers, return_exceptions=True)

    outcomes = asyncio.run(scenario())
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert len(store.requests) == 1


def test_what_every_caller_left_still_fills_the_cache(
    store: ScriptedStore, client: KeyClient
) -> None:
    async def scenario() -> Key:
        store.hold()
        caller = asyncio.create_task(client.get_key(JULES))
        await store.arrived(1)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        joined = asyncio.create_task(client.get_key(JULES))
        await asyncio.sleep(0)
        store.release()
        return await joined

    assert asyncio.run(scenario()).value == "value-of-jules-in-production"
    assert len(store.requests) == 1


def test_an_error_is_not_cached(store: ScriptedStore, client: KeyClient) -> None:
    store.then(
        store.problem(403, "not_authorized"),
        store.problem(429, "rate_limited", "Too many key requests", retry_after_seconds=7),
        store.problem(500, "internal_error"),
    )

    async def scenario() -> Key:
        with pytest.raises(UnauthorizedError):
            await client.get_key(JULES)
        with pytest.raises(RateLimitError, match="Too many key requests") as limited:
            await client.get_key(JULES)
        assert limited.value.extra["retry_after_seconds"] == 7
        assert limited.value.request_id == "req_scripted"
        with pytest.raises(InternalError):
            await client.get_key(JULES)
        return await client.get_key(JULES)

    assert asyncio.run(scenario()).source == "service"
    assert len(store.requests) == 4


def test_each_waiter_raises_an_error_of_its_own(store: ScriptedStore, client: KeyClient) -> None:
    store.then(store.problem(403, "not_authorized"))

    async def scenario() -> list[object]:
        store.hold()
        callers = [asyncio.create_task(client.get_key(JULES)) for _ in range(3)]
        await store.arrived(1)
        store.release()
        return await asyncio.gather(*callers, return_exceptions=True)

    errors = asyncio.run(scenario())
    assert [type(error) for error in errors] == [UnauthorizedError] * 3
    assert len({id(error) for error in errors}) == 3


def test_zero_bypasses_the_cache_and_refreshes_it(store: ScriptedStore, client: KeyClient) -> None:
    async def scenario() -> tuple[Key, Key, Key]:
        first = await client.get_key(JULES)
        store.values[JULES, "production"] = (2, "rotated")
        return first, await client.get_key(JULES, cache_ttl=0), await client.get_key(JULES)

    first, bypassed, cached = asyncio.run(scenario())
    assert (first.version, bypassed.version, cached.version) == (1, 2, 2)
    assert (bypassed.source, cached.source) == ("service", "cache")


def test_the_stores_ceiling_wins(store: ScriptedStore, client: KeyClient) -> None:
    store.ceiling_seconds = 0

    async def scenario() -> Key:
        await client.get_key(JULES, cache_ttl=3600)
        return await client.get_key(JULES, cache_ttl=3600)

    assert asyncio.run(scenario()).source == "service"
    assert len(store.requests) == 2


def test_both_spellings_share_one_entry(store: ScriptedStore, client: KeyClient) -> None:
    async def scenario() -> None:
        bare = await client.get_key(JULES)
        full = await client.get_key(f"{JULES}.production")
        assert full.source == "cache"
        assert bare.version_id == full.version_id
        staging = await client.get_key(f"{JULES}.staging")
        assert staging.value == "value-of-jules-in-staging"
        for cleared in (JULES, f"{JULES}.production"):
            await client.clear_cache(cleared)
            before = len(store.requests)
            assert (await client.get_key(JULES)).source == "service"
            assert (await client.get_key(f"{JULES}.production")).source == "cache"
            assert len(store.requests) == before + 1

    asyncio.run(scenario())


def test_both_spellings_share_one_request_once_they_are_known(
    store: ScriptedStore, client: KeyClient
) -> None:
    async def scenario() -> list[Key]:
        await client.get_key(JULES)
        store.hold()
        callers = [
            asyncio.create_task(client.get_key(spelling, cache_ttl=0))
            for spelling in (JULES, f"{JULES}.production")
        ]
        await store.arrived(2)
        store.release()
        return await asyncio.gather(*callers)

    assert {key.environment for key in asyncio.run(scenario())} == {"production"}
    assert len(store.requests) == 2


def test_a_get_after_clearing_does_not_join_an_older_request(
    store: ScriptedStore, client: KeyClient
) -> None:
    old = store.key(JULES)

    async def scenario() -> tuple[Key, Key, Key]:
        store.then(Response(200, old))
        store.hold()
        early = asyncio.create_task(client.get_key(JULES))
        await store.arrived(1)
        await client.clear_cache(JULES)
        store.values[JULES, "production"] = (2, "rotated")
        late = asyncio.create_task(client.get_key(JULES))
        await store.arrived(2)
        store.release()
        return await early, await late, await client.get_key(JULES)

    early, late, cached = asyncio.run(scenario())
    assert (early.version, late.version, cached.version) == (1, 2, 2)


def test_an_answer_that_was_overtaken_by_clearing_is_not_kept(
    store: ScriptedStore, client: KeyClient
) -> None:
    async def scenario() -> Key:
        store.hold()
        early = asyncio.create_task(client.get_key(JULES))
        await store.arrived(1)
        await client.clear_cache()
        store.release()
        await early
        return await client.get_key(JULES)

    assert asyncio.run(scenario()).source == "service"


@pytest.mark.parametrize(
    ("status", "code"), [(403, "not_authorized"), (404, "key_not_found"), (410, "version_revoked")]
)
def test_a_refusal_takes_the_key_out_of_the_cache(
    store: ScriptedStore, client: KeyClient, status: int, code: str
) -> None:
    async def scenario() -> None:
        await client.get_key(JULES, cache_ttl=3600)
        store.then(store.problem(status, code), store.problem(status, code))
        with pytest.raises(DoxStoreError):
            await client.get_key(f"{JULES}.production", cache_ttl=0)
        with pytest.raises(DoxStoreError):
            await client.get_key(JULES, cache_ttl=3600)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "broken",
    [
        Response(404, b"<html>no such page</html>", "text/html"),
        Response(410, {"code": "version_revoked"}, "application/problem+json"),
        Response(503, b"", ""),
        Response(302, b"", "", {"Location": "https://elsewhere.example/"}),
        Response(None),
    ],
    ids=["404 html", "410 without store_id", "503 empty", "302", "hung up"],
)
def test_a_misrouted_proxy_does_not_wipe_the_cache(
    store: ScriptedStore, client: KeyClient, broken: Response
) -> None:
    async def scenario() -> None:
        await client.get_key(JULES)
        store.then(broken, broken)
        assert (await client.get_key(JULES, cache_ttl=0)).source == "outage"
        assert (await client.get_key(JULES)).source == "cache"

    asyncio.run(scenario())


def test_a_gone_key_is_told_with_its_code(store: ScriptedStore, client: KeyClient) -> None:
    store.then(store.problem(410, "version_revoked", "It was revoked."))
    with pytest.raises(GoneError, match=r"It was revoked\.") as gone:
        asyncio.run(client.get_key(JULES))
    assert gone.value.code == "version_revoked"


def test_an_answer_about_another_key_is_refused(store: ScriptedStore, client: KeyClient) -> None:
    store.then(
        Response(200, store.key("database_connections.postgres_main")),
        Response(200, store.key(f"{JULES}.staging")),
    )
    for _ in range(2):
        with pytest.raises(ConnectionFailedError, match="another key") as refused:
            asyncio.run(client.get_key(f"{JULES}.production"))
        assert refused.value.code == "not_the_store"
    assert asyncio.run(client.get_key(f"{JULES}.production")).source == "service"


@pytest.mark.parametrize(
    "path", ["", ".", "..", "a..b", "a/b", "a%2Fb", "a\tb", "ключ", "a" * 65, "a." * 9 + "b", None]
)
def test_a_malformed_path_is_refused_before_it_is_sent(
    store: ScriptedStore, client: KeyClient, path: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        asyncio.run(client.get_key(path))
    assert refused.value.code == "malformed_path"
    assert store.requests == []


def test_the_longest_path_may_carry_an_environment(store: ScriptedStore, client: KeyClient) -> None:
    longest = ".".join(["a" * 31] * 8)
    store.values[longest, "staging"] = (1, "deep")
    assert asyncio.run(client.get_key(f"{longest}.staging")).value == "deep"


@pytest.mark.parametrize("ttl", [-1, float("nan")])
def test_a_senseless_ttl_is_refused(client: KeyClient, ttl: float) -> None:
    with pytest.raises(ConfigurationError, match="cache_ttl"):
        asyncio.run(client.get_key(JULES, cache_ttl=ttl))


def test_a_second_event_loop_finds_cache_and_store(store: ScriptedStore, client: KeyClient) -> None:
    assert asyncio.run(client.get_key(JULES)).source == "service"
    assert asyncio.run(client.get_key(JULES)).source == "cache"
    assert asyncio.run(client.get_key(f"{JULES}.staging")).source == "service"
    assert store.connections == 2  # one per loop, and none of a loop that has ended


def test_two_event_loops_at_once_share_the_cache_and_nothing_else(
    store: ScriptedStore, client: KeyClient
) -> None:
    async def scenario() -> None:
        store.hold()
        here = asyncio.create_task(client.get_key(JULES))
        await store.arrived(1)
        elsewhere = asyncio.to_thread(asyncio.run, client.get_key(f"{JULES}.staging"))
        there = asyncio.create_task(elsewhere)
        await store.arrived(2)
        store.release()
        assert (await here).environment == "production"
        assert (await there).environment == "staging"
        assert (await client.get_key(f"{JULES}.staging")).source == "cache"
        assert (await client.get_key(JULES, cache_ttl=0)).source == "service"

    asyncio.run(scenario())
    assert store.connections == 2


def test_nothing_is_left_open_when_a_loop_ends_without_closing(
    store: ScriptedStore, client: KeyClient
) -> None:
    async def scenario() -> None:
        store.hold()
        forgotten = asyncio.create_task(client.get_key(f"{JULES}.staging"))
        await store.arrived(2)
        del forgotten

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(client.get_key(JULES))
        asyncio.run(scenario())
        gc.collect()
    assert [str(warning.message) for warning in seen] == []


def test_closing_ends_what_is_in_flight_and_forgets(
    store: ScriptedStore, client: KeyClient
) -> None:
    async def scenario() -> Key:
        async with client:
            await client.get_key(JULES)
            store.hold()
            waiting = asyncio.create_task(client.get_key(f"{JULES}.staging"))
            await store.arrived(2)
        store.release()
        with pytest.raises(ConnectionFailedError, match="closed"):
            await waiting
        await client.aclose()  # again, and nothing happens
        return await client.get_key(JULES)

    assert asyncio.run(scenario()).source == "service"


def test_a_silent_store_is_given_up_in_time(store: ScriptedStore) -> None:
    client = KeyClient("jules-mcp", token(), store.url, timeout_ms=50)
    store.hold()
    with pytest.raises(ConnectionFailedError, match="no whole answer in time"):
        asyncio.run(client.get_key(JULES))


def test_a_connection_that_broke_is_tried_once_more(
    store: ScriptedStore, client: KeyClient
) -> None:
    store.then(Response(None))
    assert asyncio.run(client.get_key(JULES)).source == "service"
    other = "database_connections.postgres_main"
    store.then(Response(None), Response(None))
    with pytest.raises(ConnectionFailedError, match="the connection broke") as failed:
        asyncio.run(client.get_key(other, cache_ttl=0))
    assert failed.value.code == "connection_failed"
    assert len(store.requests) == 4


def test_redirects_are_not_followed(store: ScriptedStore, client: KeyClient) -> None:
    target: Callable[[Request], Response] = lambda _: Response(200, store.key(JULES))  # noqa: E731
    store.on("GET", "/elsewhere", target)
    store.then(Response(307, b"", "", {"Location": f"{store.url}/elsewhere"}))
    with pytest.raises(ConnectionFailedError) as refused:
        asyncio.run(client.get_key(JULES))
    assert refused.value.code == "not_the_store"
    assert [request.path for request in store.requests] == [f"/v1/keys/{JULES}"]


def test_a_request_says_who_asks_and_takes_no_compression(
    store: ScriptedStore,
) -> None:
    text = token()
    asyncio.run(KeyClient("jules-mcp", text, store.url).get_key(JULES))
    headers = store.requests[0].headers
    assert headers["authorization"] == f"Bearer {text}"
    assert headers["user-agent"].startswith("dox-core-store/")
    assert headers["accept-encoding"] == "identity"
