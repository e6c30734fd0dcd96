"""A client for a FastAPI (or Starlette) application, and keys as dependencies.

::

    from typing import Annotated

    from fastapi import Depends, FastAPI

    from dox_core_store import Key, KeyClient
    from dox_core_store.integrations.fastapi import key, key_lifespan

    app = FastAPI(lifespan=key_lifespan(lambda: KeyClient("jules-mcp")))
    JulesKey = Annotated[Key, Depends(key("service_keys.jules_api"))]

    @app.get("/version")
    async def version(jules: JulesKey) -> int:
        return jules.version  # and jules.value for the upstream

The client is made when the application starts and closed when it ends; it lies in the state of each
request as ``key_client``. A key is asked for at each request, from the cache in a microsecond, so
it is never older than the store allows. What the client raises is the application's to answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.requests import HTTPConnection

from dox_core_store.client import Key, KeyClient
from dox_core_store.client.reader import DEFAULT_CACHE_TTL_SECONDS

__all__ = ["key", "key_client", "key_lifespan"]

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


def key_lifespan(
    make_client: Callable[[], KeyClient], then: Lifespan | None = None
) -> Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """A lifespan with the client that ``make_client`` makes; ``then`` is the application's own
    one, which runs inside it and finds the client as ``app.state.key_client``."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with make_client() as client:
            app.state.key_client = client
            if then is None:
                yield {"key_client": client}
            else:
                async with then(app) as state:
                    yield {**(state or {}), "key_client": client}

    return lifespan


def key_client(connection: HTTPConnection) -> KeyClient:
    """The application's client, as a dependency."""
    client = getattr(connection.state, "key_client", None)
    if not isinstance(client, KeyClient):
        raise RuntimeError(  # noqa: TRY004 - no type is wrong, something is missing
            "the application was made without lifespan=key_lifespan(...)"
        )
    return client


def key(
    key_path: str, cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS
) -> Callable[[HTTPConnection], Coroutine[Any, Any, Key]]:
    """A dependency: what ``key_path`` is at the moment of the request. For WebSockets, too."""

    async def current(connection: HTTPConnection) -> Key:
        return await key_client(connection).get_key(key_path, cache_ttl)

    return current
