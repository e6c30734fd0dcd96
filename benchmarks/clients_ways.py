"""Five clients, each called as its users call it, with what it finds in the environment.

Each is imported when it is asked for, so that none is measured with another's code in its process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

__all__ = ["AWS_CACHE", "BOTO3", "CLIENTS", "HVAC", "KEY_CLIENT", "SERVICE", "SYNC_KEY_CLIENT",
           "Client"]  # fmt: skip

SERVICE = "bench-reader"
"""Who our clients are; may read everything."""

KEY_CLIENT, SYNC_KEY_CLIENT = "KeyClient", "SyncKeyClient"
AWS_CACHE, BOTO3, HVAC = "aws-secretsmanager-caching", "boto3", "hvac"

_AWS_BATCH = 20
_MOUNT = "secret"

Paths = Sequence[str]


class Client(NamedTuple):
    """How one client is called. ``cached`` times so many calls for a path that it holds; the others
    give values. ``forget`` makes it one that has just started, on its old connections."""

    separator: str
    cold: Callable[[str], Awaitable[str]]
    batch: Callable[[Paths], Awaitable[Mapping[str, str]]]
    forget: Callable[[], Awaitable[None]]
    cached: Callable[[str, int], Awaitable[int]] | None = None
    anew: Callable[[str], Awaitable[str]] | None = None


def _looped(call: Callable[[str], Any], path: str, count: int) -> int:
    """How long ``count`` calls took, in all."""
    several = range(count)
    began = time.perf_counter_ns()
    for _ in several:
        call(path)
    return time.perf_counter_ns() - began


@contextlib.asynccontextmanager
async def _key_client() -> AsyncIterator[Client]:
    from dox_core_store import KeyClient  # noqa: PLC0415 - as the module says

    async with KeyClient(service_name=SERVICE) as client:
        get_key = client.get_key

        async def cold(path: str) -> str:
            return (await client.get_key(path)).value

        async def anew(path: str) -> str:
            return (await client.get_key(path, cache_ttl=0)).value

        async def batch(paths: Paths) -> Mapping[str, str]:
            return {path: key.value for path, key in (await client.get_keys(paths)).items()}

        async def cached(path: str, count: int) -> int:
            several = range(count)
            began = time.perf_counter_ns()
            for _ in several:
                key = await get_key(path)
            taken = time.perf_counter_ns() - began
            assert key.source == "cache", "the calls were not answered from the cache"
            return taken

        yield Client(".", cold, batch, client.clear_cache, cached, anew)


@contextlib.asynccontextmanager
async def _sync_key_client() -> AsyncIterator[Client]:
    from dox_core_store import SyncKeyClient  # noqa: PLC0415 - as the module says

    with SyncKeyClient(service_name=SERVICE) as client:

        async def cold(path: str) -> str:
            return client.get_key(path).value

        async def anew(path: str) -> str:
            return client.get_key(path, cache_ttl=0).value

        async def batch(paths: Paths) -> Mapping[str, str]:
            return {path: key.value for path, key in client.get_keys(paths).items()}

        async def cached(path: str, count: int) -> int:
            taken = _looped(client.get_key, path, count)
            assert client.get_key(path).source == "cache", "not answered from the cache"
            return taken

        async def forget() -> None:
            client.clear_cache()

        yield Client(".", cold, batch, forget, cached, anew)


@contextlib.asynccontextmanager
async def _aws_cache() -> AsyncIterator[Client]:
    """One `SecretCache` after the other on one client of boto3."""
    import boto3  # noqa: PLC0415 - as the module says
    from aws_secretsmanager_caching import SecretCache  # noqa: PLC0415

    with contextlib.closing(boto3.client("secretsmanager")) as asks:
        caches = [SecretCache(client=asks)]

        async def cold(path: str) -> str:
            return str(caches[0].get_secret_string(path))

        async def batch(paths: Paths) -> Mapping[str, str]:
            return {path: caches[0].get_secret_string(path) for path in paths}

        async def cached(path: str, count: int) -> int:
            return _looped(caches[0].get_secret_string, path, count)

        async def forget() -> None:
            caches[0] = SecretCache(client=asks)

        yield Client("/", cold, batch, forget, cached)


@contextlib.asynccontextmanager
async def _boto3() -> AsyncIterator[Client]:
    import boto3  # noqa: PLC0415 - as the module says

    with contextlib.closing(boto3.client("secretsmanager")) as asks:

        async def cold(path: str) -> str:
            return str(asks.get_secret_value(SecretId=path)["SecretString"])

        async def batch(paths: Paths) -> Mapping[str, str]:
            found: dict[str, str] = {}
            for start in range(0, len(paths), _AWS_BATCH):
                asked = list(paths[start : start + _AWS_BATCH])
                answer = asks.batch_get_secret_value(SecretIdList=asked)
                values = answer["SecretValues"]
                found.update((each["Name"], each["SecretString"]) for each in values)
            return found

        yield Client("/", cold, batch, _nothing_is_held)


@contextlib.asynccontextmanager
async def _hvac() -> AsyncIterator[Client]:
    import hvac  # noqa: PLC0415 - as the module says

    client = hvac.Client()
    read = partial(
        client.secrets.kv.v2.read_secret_version,
        mount_point=_MOUNT,
        raise_on_deleted_version=True,
    )

    async def cold(path: str) -> str:
        return str(read(path)["data"]["data"]["value"])

    async def batch(paths: Paths) -> Mapping[str, str]:
        return {path: read(path)["data"]["data"]["value"] for path in paths}

    with contextlib.closing(client.adapter):
        yield Client("/", cold, batch, _nothing_is_held)


async def _nothing_is_held() -> None:
    """Of a client without a cache."""


CLIENTS: Mapping[str, Callable[[], contextlib.AbstractAsyncContextManager[Client]]] = {
    KEY_CLIENT: _key_client,
    SYNC_KEY_CLIENT: _sync_key_client,
    AWS_CACHE: _aws_cache,
    BOTO3: _boto3,
    HVAC: _hvac,
}
