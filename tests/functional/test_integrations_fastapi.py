"""A FastAPI application with a real store: its client lives as long as it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from tests.functional.running import RunningStore

from dox_core_store import Key, KeyClient
from dox_core_store.integrations.fastapi import key, key_client, key_lifespan

Jules = Annotated[Key, Depends(key("fastapi.jules"))]


@pytest.fixture(scope="module")
def token(shared_store: RunningStore) -> str:
    shared_store.put("fastapi.jules", "value-of-jules", environment="production")
    return shared_store.issue("fastapi-app", "fastapi.jules")


def application(lifespan: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan)

    @app.get("/jules")
    async def jules(current: Jules) -> dict[str, Any]:
        return {"version": current.version, "source": current.source}

    @app.get("/health")
    async def health(client: Annotated[KeyClient, Depends(key_client)]) -> bool:
        return (await client.health_check()).is_healthy

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, current: Jules) -> None:
        await websocket.accept()
        await websocket.send_text(str(current.version))

    return app


class Asgi:
    """What a server does: runs the lifespan, and calls the application with its state."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._to_app: asyncio.Queue[Any] = asyncio.Queue()
        self._from_app: asyncio.Queue[Any] = asyncio.Queue()
        self._state: dict[str, Any] = {}

    async def start(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self._state}
        run = self._app(scope, self._to_app.get, self._from_app.put)
        self._running = asyncio.create_task(run)
        await self._to_app.put({"type": "lifespan.startup"})
        started = await self._from_app.get()
        assert started["type"] == "lifespan.startup.complete", started

    async def stop(self) -> None:
        await self._to_app.put({"type": "lifespan.shutdown"})
        assert (await self._from_app.get())["type"] == "lifespan.shutdown.complete"
        await self._running

    async def call(self, kind: str, path: str, first: str) -> list[dict[str, Any]]:
        """What the application sends."""
        sent: list[dict[str, Any]] = []
        given: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        given.put_nowait({"type": first})

        async def send(message: Any) -> None:
            sent.append(dict(message))

        scope = {
            "type": kind, "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
            "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [],
            "subprotocols": [], "root_path": "", "state": dict(self._state),
        }  # fmt: skip
        await self._app(scope, given.get, send)
        return sent

    async def get(self, path: str) -> bytes:
        start, body = await self.call("http", path, "http.request")
        assert start["status"] == 200
        content: bytes = body["body"]
        return content


async def _serve(url: str, token: str) -> None:
    made: list[KeyClient] = []

    def make() -> KeyClient:
        made.append(KeyClient("fastapi-app", token, url))
        return made[-1]

    asgi = Asgi(application(key_lifespan(make)))
    assert made == []
    await asgi.start()
    assert await asgi.get("/jules") == b'{"version":1,"source":"service"}'
    assert await asgi.get("/jules") == b'{"version":1,"source":"cache"}'
    assert await asgi.get("/health") == b"true"
    sent = await asgi.call("websocket", "/socket", "websocket.connect")
    assert sent[-1]["text"] == "1"
    await asgi.stop()
    (client,) = made
    assert not client._reader.worker.is_running


def test_requests_and_websockets_get_the_current_key(
    shared_store: RunningStore, token: str
) -> None:
    asyncio.run(_serve(shared_store.url, token))


async def _serve_with_own(url: str, token: str) -> list[str]:
    order = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, Any]]:
        current = await app.state.key_client.get_key("fastapi.jules")
        order.append(f"began with {current.version}")
        yield {"own": order}
        order.append((await app.state.key_client.get_key("fastapi.jules")).source)

    app = application(key_lifespan(lambda: KeyClient("fastapi-app", token, url), own))
    asgi = Asgi(app)
    await asgi.start()
    assert asgi._state["own"] is order
    assert await asgi.get("/jules") == b'{"version":1,"source":"cache"}'
    await asgi.stop()
    return order


def test_the_applications_own_lifespan_runs_inside(shared_store: RunningStore, token: str) -> None:
    order = asyncio.run(_serve_with_own(shared_store.url, token))
    assert order == ["began with 1", "cache"]


async def _serve_without() -> None:
    asgi = Asgi(application(None))
    await asgi.start()
    with pytest.raises(RuntimeError, match="lifespan=key_lifespan"):
        await asgi.get("/jules")
    await asgi.stop()


def test_an_application_without_the_lifespan_is_told(token: str) -> None:
    asyncio.run(_serve_without())
