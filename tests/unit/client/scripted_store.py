"""`ScriptedStore`: the other side of a real socket, with answers written by the test.

A small HTTP/1.1 server in a thread of its own, so that it outlives the event loops of the client
under test. It knows keys well enough to answer honestly, notes every request, can hold answers
back, and can be told to answer, or to break, in any other way. Nothing here imports the client.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["Request", "Response", "ScriptedStore", "token"]

STORE_ID = "st_scripted"
ENVIRONMENTS = ("production", "staging", "development")


def token(sub: str = "jules-mcp", **claims: Any) -> str:
    """A token as the store issues them, as far as a client can see: nobody here verifies it."""
    day = 86_400
    now = int(time.time())
    payload = {
        "iss": STORE_ID,
        "sub": sub,
        "env": "production",
        "iat": now,
        "exp": now + 90 * day,
        **claims,
    }
    parts = [{"alg": "RS256"}, payload]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
    return b".".join([*encoded, b"c2lnbmF0dXJl"]).decode()


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Response:
    """``body`` is bytes, or something to be sent as JSON. ``None`` status: hang up unanswered."""

    status: int | None = 200
    body: Any = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    def wire(self) -> bytes:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {
            "Content-Type": self.content_type,
            "Content-Length": str(len(body)),
            "X-Request-Id": "req_scripted",
            **self.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} X\r\n{head}\r\n".encode() + body


Answer = Response | Callable[[Request], Response]


class ScriptedStore:
    """Use as a context manager. ``values`` maps (path, environment) to (version, value)."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.values: dict[tuple[str, str], tuple[int, str]] = {}
        self.expires_at: str | None = None
        self.ceiling_seconds = 3600
        self.grace_seconds = 3600
        self.reports: list[dict[str, Any]] = []
        self.streams: list[asyncio.StreamWriter] = []
        self.has_events = False
        self.is_beating = True
        self._tls = tls
        self._next: deque[Answer] = deque()
        self._routes: dict[tuple[str, str], Answer] = {}
        self._arrival = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    # --- what a test says ---------------------------------------------------------------------

    def then(self, *answers: Answer) -> None:
        """Answer the next requests with these, one after the other, whatever they are."""
        self._next.extend(answers)

    def on(self, method: str, path: str, answer: Answer) -> None:
        """Always answer ``method path`` like this."""
        self._routes[method, path] = answer

    def hold(self) -> None:
        """Hold every answer back until `release`."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    def stop_serving(self) -> None:
        """Hang up on everybody."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)

    def tell(self, kind: str, **change: Any) -> None:
        """Send an event to everybody who follows."""
        text = f"id: 1-1\nevent: {kind}\ndata: {json.dumps(change) if change else ''}\n\n"

        def send() -> None:
            for writer in self.streams:
                writer.write(_chunk(text))

        self._loop.call_soon_threadsafe(send)

    def asked(self, path: str) -> list[Request]:
        """The requests for an address so far."""
        return [each for each in self.requests if each.path == path]

    def until(self, holds: Callable[[], object], seconds: float = 20.0) -> None:
        """Wait for what is to happen by itself."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.01)

    async def arrived(self, count: int) -> None:
        """Return once ``count`` requests have arrived in all."""

        def wait() -> bool:
            with self._arrival:
                return self._arrival.wait_for(lambda: len(self.requests) >= count, timeout=20)

        assert await asyncio.to_thread(wait), f"{len(self.requests)} of {count} requests arrived"

    # --- what it answers ----------------------------------------------------------------------

    def key(self, spelling: str, **changed: Any) -> dict[str, Any]:
        """The body of a get."""
        path, _, last = spelling.rpartition(".")
        address = (path, last) if last in ENVIRONMENTS else (spelling, "production")
        version, value = self.values[address]
        return {
            "key_path": address[0],
            "environment": address[1],
            "version": version,
            "version_id": f"{version:032x}",
            "state": "current",
            "value": value,
            "expires_at": self.expires_at,
            "cache_ttl_ceiling_seconds": self.ceiling_seconds,
            "outage_grace_seconds": self.grace_seconds,
            "a_field_of_a_later_release": True,
            **changed,
        }

    @staticmethod
    def problem_body(status: int, code: str, detail: str = "It is so.", **more: Any) -> Any:
        return {
            "type": f"https://keys.example/docs/errors#{code}",
            "title": "A problem",
            "status": status,
            "detail": detail,
            "code": code,
            "store_id": STORE_ID,
            "request_id": "req_scripted",
            **more,
        }

    def problem(self, status: int, code: str, detail: str = "It is so.", **more: Any) -> Response:
        body = self.problem_body(status, code, detail, **more)
        return Response(status, body, "application/problem+json")

    @staticmethod
    def unchanged() -> Response:
        return Response(304, b"", "", {"X-Store-Id": STORE_ID})

    def _honest(self, request: Request) -> Response:
        if request.method == "GET" and request.path.startswith("/v1/keys/"):
            try:
                key = self.key(request.path.removeprefix("/v1/keys/"))
            except KeyError:
                return self.problem(404, "key_not_found")
            if request.headers.get("if-none-match") == f'"{key["version_id"]}"':
                return self.unchanged()
            return Response(200, key)
        if request.path == "/v1/reports":
            self.reports += request.json["reads"]
            return Response(200, {"taken": len(request.json["reads"])})
        if request.path == "/v1/keys/batch-get":
            items = []
            for asked in request.json["key_paths"]:
                try:
                    key = self.key(asked)
                    if request.json.get("known", {}).get(asked) == key["version_id"]:
                        items.append({"asked": asked, "unchanged": True})
                    else:
                        items.append({"asked": asked, "key": key})
                except KeyError:
                    problem = self.problem_body(404, "key_not_found")
                    items.append({"asked": asked, "problem": problem})
            if all("unchanged" in item for item in items):
                return self.unchanged()
            return Response(200, {"keys": items})
        return self.problem(404, "address_not_found")

    # --- the socket ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(20)
        port = self._server.sockets[0].getsockname()[1]
        host = "127.0.0.1" if self._tls is None else "localhost"
        self.url = f"http{'s' if self._tls else ''}://{host}:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        endings = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        try:
            with contextlib.suppress(*endings):
                while await self._serve_one(reader, writer):
                    pass
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line = await reader.readline()
        if not line:
            return False
        method, target, _ = line.decode().split(" ")
        headers = {}
        while (line := await reader.readline()) not in {b"\r\n", b""}:
            name, _, value = line.decode().partition(":")
            headers[name.strip().lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        request = Request(method, target, headers, body)
        with self._arrival:
            self.requests.append(request)
            answer = self._next.popleft() if self._next else None
            self._arrival.notify_all()
        if answer is None and request.path == "/v1/events" and self.has_events:
            await self._stream(writer)
            return False
        if answer is None:
            answer = self._routes.get((method, request.path), self._honest)
        await self._open.wait()
        response = answer if isinstance(answer, Response) else answer(request)
        if response.status is None:
            return False
        writer.write(response.wire())
        await writer.drain()
        return True

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        head = "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked"
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
        writer.write(_chunk("id: 1-0\nevent: reset\ndata: \n\n"))
        self.streams.append(writer)
        try:
            while not writer.is_closing():
                if self.is_beating:
                    writer.write(_chunk("id: 1-1\nevent: beat\ndata: \n\n"))
                    await writer.drain()
                await asyncio.sleep(0.1)
        finally:
            self.streams.remove(writer)


def _chunk(text: str) -> bytes:
    return f"{len(text):x}\r\n{text}\r\n".encode()
