"""A connected client on bare sockets, so small that a thousand of them fit into two processes.

It does what `KeyClient` does: it fetches its key, follows ``GET /v1/events`` on a connection of its
own, understands it with the client's own `EventReader`, and when the key changed it waits up to
300 ms and asks for it again. It does so on a new connection: a client's old one has been closed by
then. A stream that is silent for 3 s, or ends, and any answer but 200 and 304 raise.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

from benchmarks.process import BenchError
from dox_core_store import wire
from dox_core_store.client.event_stream import EventReader, Kind, to_events
from dox_core_store.client.protocol import Call, to_batch_get

__all__ = ["CONNECTED", "RawFollower"]

CONNECTED = 0
"""The state of a client that holds its key and has heard the stream's heart beat."""

_JITTER_SECONDS = 0.3  # as in dox_core_store.client.follow
_SILENCE_SECONDS = 3.0
_ANSWER_SECONDS = 10.0


class RawFollower:
    """One client. ``reached`` hears, once each, of the number of a version that it holds, of the
    negative number of one that it has let go, and of `CONNECTED`. What it does beside listening is
    done in ``group``."""

    def __init__(
        self,
        *,
        url: str,
        key_path: str,
        token: str,
        reached: Callable[[int], None],
        group: asyncio.TaskGroup,
    ) -> None:
        self._where = urlsplit(url)
        self._key_path = key_path
        self._token = token
        self._tell = reached
        self._group = group
        self._held: wire.KeyValue | None = None
        self._fetching = 0
        self._reached: set[int] = set()

    async def run(self, gate: asyncio.Semaphore) -> None:
        """Until something goes wrong; ``gate`` is held while it connects."""
        events = EventReader()
        async with gate:
            await self._fetch()
            reader, writer = await self._sent(to_events(None))
            await _head(reader)
        rest = b""
        async for chunk in _chunks(reader):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = events.feed(line)
                if event is None:
                    continue
                if event.kind is Kind.REVOKED:
                    self._let_go(event.change)
                elif event.kind is not Kind.BEAT:
                    self._group.create_task(self._fetch_soon())
                elif not self._fetching:
                    self._note(CONNECTED)
        writer.close()
        raise BenchError("a stream ended")

    def _let_go(self, change: wire.ChangeEvent | None) -> None:
        if change is None or self._held is None:
            raise BenchError("a revocation of nothing")
        if change.version_id in (None, self._held.version_id):
            self._note(-self._held.version)

    def _note(self, state: int) -> None:
        if state not in self._reached:
            self._reached.add(state)
            self._tell(state)

    async def _fetch_soon(self) -> None:
        self._fetching += 1
        await asyncio.sleep(random.uniform(0.0, _JITTER_SECONDS))
        await self._fetch()
        self._fetching -= 1

    async def _fetch(self) -> None:
        known = {} if self._held is None else {self._key_path: self._held.version_id}
        call = to_batch_get([self._key_path], known=known, why="refresh")
        reader, writer = await self._sent(call)
        head = await _head(reader)
        if b" 304 " not in head[0]:
            body = await _body(reader, head)
            (item,) = wire.decode(wire.Batch, body).keys
            if item.key is not None:
                self._held = item.key
                self._note(item.key.version)
        writer.close()

    async def _sent(self, call: Call) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self._where.hostname, self._where.port)
        body = call.body or b""
        headers = {
            "Host": self._where.netloc,
            "Authorization": f"Bearer {self._token}",
            **dict(call.headers),
            **({"Content-Type": call.content_type, "Content-Length": len(body)} if body else {}),
        }
        lines = [f"{call.method} {call.target} HTTP/1.1"]
        lines += [f"{name}: {text}" for name, text in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return reader, writer


async def _head(reader: asyncio.StreamReader) -> list[bytes]:
    """Status line and headers, the latter in small letters."""
    async with asyncio.timeout(_ANSWER_SECONDS):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    if b" 200 " not in first and b" 304 " not in first:
        raise BenchError(f"the store answered {first.decode()}")
    return [first, *(line.lower() for line in lines)]


async def _body(reader: asyncio.StreamReader, head: list[bytes]) -> bytes:
    for line in head:
        name, _, text = line.partition(b":")
        if name == b"content-length":
            return await reader.readexactly(int(text))
    return b"".join([chunk async for chunk in _chunks(reader)])


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The chunks of an answer (RFC 9112, section 7.1); raises where it is silent too long."""
    while True:
        async with asyncio.timeout(_SILENCE_SECONDS):
            size = int(await reader.readuntil(b"\r\n"), 16)
            chunk = await reader.readexactly(size + 2)
        if not size:
            return
        yield chunk[:-2]
