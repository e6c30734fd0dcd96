"""One kept HTTP/1.1 connection on the event loop, for load: cheap, and it hides nothing.

An answer counts only when its last byte is there; anything less raises `ConnectionError`, so a test
never takes a broken answer for a whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json as json_module
from collections.abc import AsyncIterator
from typing import Any

from tests.functional.running import Answer, RunningStore

__all__ = ["KeptConnection", "connected"]


class KeptConnection:
    """Requests one after the other with one token. Make it with `connected`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._token = token

    async def request(self, method: str, path: str, json: Any = None) -> Answer:
        """One whole answer. Raises `ConnectionError` if it does not come, or not whole."""
        body = b"" if json is None else json_module.dumps(json).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: store\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        await self._writer.drain()
        try:
            raw = await self._reader.readuntil(b"\r\n\r\n")
            status_line, *lines = raw.decode("latin-1").strip().split("\r\n")
            headers = {
                name.lower(): text for name, _, text in (line.partition(": ") for line in lines)
            }
            length = int(headers.get("content-length", "0"))
            return Answer(
                int(status_line.split()[1]), headers, await self._reader.readexactly(length)
            )
        except asyncio.IncompleteReadError as error:
            raise ConnectionError("the answer did not arrive whole") from error

    async def get(self, key_path: str, version: int | None = None) -> Answer:
        query = "" if version is None else f"?version={version}"
        return await self.request("GET", f"/v1/keys/{key_path}{query}")

    async def put(self, key_path: str, value: str) -> Answer:
        return await self.request("PUT", f"/v1/keys/{key_path}", {"value": value})


@contextlib.asynccontextmanager
async def connected(store: RunningStore, token: str) -> AsyncIterator[KeptConnection]:
    """A connection to ``store`` for as long as the block lasts."""
    reader, writer = await asyncio.open_connection(store.host, store.port)
    try:
        yield KeptConnection(reader, writer, token)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
