"""The ceiling: an ASGI application that answers at once, under this store's HTTP server settings.

Its answer has the headers and the size of the store's own, read from a file, so what differs is
the store's work and nothing else. Run as ``python -m benchmarks.bare_app PORT ANSWER_FILE``.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

__all__: list[str] = []


def _application(headers: list[tuple[bytes, bytes]], body: bytes) -> Callable[..., Awaitable[None]]:
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    end = {"type": "http.response.body", "body": body}

    async def application(
        _scope: dict[str, Any],
        _receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        await send(start)
        await send(end)

    return application


async def _serve(port: int, answer: dict[str, Any]) -> None:
    server = Server(
        _application(
            [(name.encode(), value.encode()) for name, value in answer["headers"]],
            answer["body"].encode(),
        ),
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=30_000, max_buffer_size=32_768),
        runtime_threads=1,
        backlog=4096,
        backpressure=20_000,
        websockets=False,
        log_access=False,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.serve()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())))
