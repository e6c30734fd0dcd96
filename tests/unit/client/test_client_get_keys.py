"""`KeyClient.get_keys`: one round trip, and what happens where a part of it fails."""

from __future__ import annotations

import asyncio

import pytest
from scripted_store import Response, ScriptedStore

from dox_core_store import (
    AuthenticationError,
    ConnectionFailedError,
    DoxStoreError,
    InvalidRequestError,
    Key,
    KeyClient,
    NotFoundError,
)

JULES = "service_keys.jules_api"
POSTGRES = "database_connections.postgres_main"
MAPS = "external_apis.google_services.maps_api"


def test_keys_come_in_one_round_trip_by_the_spelling_asked(
    store: ScriptedStore, client: KeyClient
) -> None:
    asked = [f"{JULES}.production", POSTGRES, JULES, POSTGRES]
    keys = asyncio.run(client.get_keys(asked))
    assert list(keys) == [f"{JULES}.production", POSTGRES, JULES]
    assert keys[JULES].value == keys[f"{JULES}.production"].value == "value-of-jules-in-production"
    (request,) = store.requests
    assert (request.method, request.path) == ("POST", "/v1/keys/batch-get")
    assert request.json == {"key_paths": [f"{JULES}.production", POSTGRES, JULES]}


def test_what_is_cached_is_not_asked_again(store: ScriptedStore, client: KeyClient) -> None:
    async def scenario() -> dict[str, Key]:
        await client.get_key(JULES)
        return await client.get_keys([f"{JULES}.production", POSTGRES])

    keys = asyncio.run(scenario())
    assert [key.source for key in keys.values()] == ["cache", "service"]
    assert store.requests[1].json == {"key_paths": [POSTGRES]}


def test_a_batch_joins_and_is_joined(store: ScriptedStore, client: KeyClient) -> None:
    async def scenario() -> None:
        store.hold()
        single = asyncio.create_task(client.get_key(JULES))
        await store.arrived(1)
        batch = asyncio.create_task(client.get_keys([JULES, POSTGRES]))
        await store.arrived(2)
        late = asyncio.create_task(client.get_key(POSTGRES))
        await asyncio.sleep(0)
        store.release()
        keys = await batch
        assert keys[JULES] is await single
        assert keys[POSTGRES] is await late

    asyncio.run(scenario())
    assert store.requests[1].json == {"key_paths": [POSTGRES]}
    assert len(store.requests) == 2


def test_a_part_that_fails_names_every_failure_and_caches_the_rest(
    store: ScriptedStore, client: KeyClient
) -> None:
    async def scenario() -> DoxStoreError:
        with pytest.raises(DoxStoreError) as failed:
            await client.get_keys([POSTGRES, "no.such_key", "mal formed", MAPS, "none.either"])
        assert (await client.get_key(POSTGRES)).source == "cache"
        assert (await client.get_key(MAPS)).source == "cache"
        return failed.value

    error = asyncio.run(scenario())
    assert isinstance(error, NotFoundError)
    assert {path: one.code for path, one in error.errors.items()} == {
        "no.such_key": "key_not_found",
        "mal formed": "malformed_path",
        "none.either": "key_not_found",
    }
    assert list(error.errors) == ["no.such_key", "mal formed", "none.either"]
    assert len(store.requests) == 1


def test_a_refused_part_leaves_the_cache_and_the_rest_enters_it(
    store: ScriptedStore, client: KeyClient
) -> None:
    async def scenario() -> None:
        await client.get_key(JULES)
        del store.values[JULES, "production"]
        with pytest.raises(NotFoundError):
            await client.get_keys([JULES, POSTGRES], cache_ttl=0)
        assert (await client.get_key(POSTGRES)).source == "cache"
        with pytest.raises(NotFoundError):
            await client.get_key(JULES)

    asyncio.run(scenario())


def test_a_batch_that_fails_as_a_whole_fails_for_each(
    store: ScriptedStore, client: KeyClient
) -> None:
    store.then(store.problem(401, "token_revoked"))
    with pytest.raises(AuthenticationError) as failed:
        asyncio.run(client.get_keys([JULES, POSTGRES]))
    assert {path: error.code for path, error in failed.value.errors.items()} == {
        JULES: "token_revoked",
        POSTGRES: "token_revoked",
    }


def test_more_than_a_hundred_go_in_slices(store: ScriptedStore, client: KeyClient) -> None:
    paths = [f"many.key_{number}" for number in range(250)]
    store.values |= {(path, "production"): (1, f"value of {path}") for path in paths}
    keys = asyncio.run(client.get_keys(paths))
    assert [key.value for key in keys.values()] == [f"value of {path}" for path in paths]
    assert sorted(len(request.json["key_paths"]) for request in store.requests) == [50, 100, 100]


@pytest.mark.parametrize(
    "items",
    [
        [],
        [{"asked": JULES}],
        [{"asked": JULES, "key": "swapped"}],
        [{"asked": "another", "key": "honest"}],
    ],
    ids=["missing", "neither", "another key's", "unasked"],
)
def test_a_batch_that_does_not_answer_what_was_asked_is_refused(
    store: ScriptedStore, client: KeyClient, items: list[dict[str, object]]
) -> None:
    bodies = {"swapped": store.key(POSTGRES), "honest": store.key(JULES)}
    answered = [
        {**item, "key": bodies[str(item["key"])]} if "key" in item else item for item in items
    ]
    store.then(Response(200, {"keys": answered}))
    with pytest.raises(ConnectionFailedError) as refused:
        asyncio.run(client.get_keys([JULES]))
    assert refused.value.code == "not_the_store"


def test_nothing_asked_is_nothing_sent(store: ScriptedStore, client: KeyClient) -> None:
    assert asyncio.run(client.get_keys([])) == {}
    assert store.requests == []


def test_one_text_is_not_a_list(client: KeyClient) -> None:
    with pytest.raises(InvalidRequestError, match="list"):
        asyncio.run(client.get_keys(JULES))
