"""`StoreConnection`: one principal's calls to one store, on whatever event loop asks.

What every call has in common happens here: take the current token, send, and if the store says 401
while the token file holds another token by now, send once more with that one. Connections and
flights belong to an event loop (and process): they are made at the first call on it, and are closed
with it. The HTTP library is imported at the first call of all: a service that starts does not wait
85 to 170 ms for it; and in a thread, so that nobody's event loop does.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from dox_core_store.client.credential import Credential, Token
from dox_core_store.client.endpoint import Endpoint
from dox_core_store.client.flights import Flights
from dox_core_store.client.forking import unforked
from dox_core_store.client.key import HeldKey
from dox_core_store.client.protocol import Call, Reply, accept
from dox_core_store.errors import AuthenticationError

if TYPE_CHECKING:
    from dox_core_store.client.exchanged import ExchangedCredential
    from dox_core_store.client.transport import HttpTransport

__all__ = ["Read", "Session", "StoreConnection"]

_AT_FIRST_REQUEST = ("httpcore2", "anyio._backends._asyncio")
"""What the HTTP library imports in the middle of its first request, if it is not there by then."""

_Here = tuple[int, asyncio.AbstractEventLoop]
"""A process and an event loop in it."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Read(Protocol[T_co]):
    """Makes an answer of a reply, or raises; ``store_id`` is the store that issued the token."""

    def __call__(self, reply: Reply, /, *, store_id: str | None) -> T_co: ...


class Session(NamedTuple):
    """What belongs to one event loop. ``ending`` closes it when the loop ends."""

    transport: HttpTransport
    flights: Flights[HeldKey]
    ending: AsyncGenerator[None, None]


class StoreConnection:
    """Sends calls as whoever ``credential`` is, to where ``endpoint`` says."""

    def __init__(self, *, endpoint: Endpoint, credential: Credential | ExchangedCredential) -> None:
        self._endpoint = endpoint
        self._credential = credential
        self._transport: type[HttpTransport] | None = None
        self._loading: dict[_Here, asyncio.Task[type[HttpTransport]]] = {}
        self._sessions: dict[_Here, Session] = {}

    async def ask(self, call: Call, read: Read[T]) -> T:
        """What ``read`` makes of the reply to ``call``."""
        token = await self._token()
        try:
            return await self._ask_as(token, call, read)
        except AuthenticationError:
            other = await self._other_than(token)
            if other is None:
                raise
        return await self._ask_as(other, call, read)

    async def ask_openly(
        self, call: Call, read: Read[T], *, timeout_seconds: float | None = None
    ) -> T:
        """The same without a token, for addresses that need none."""
        session = await self.session()
        timeout = self._endpoint.timeout_seconds if timeout_seconds is None else timeout_seconds
        reply = await session.transport.send(call, token=None, timeout_seconds=timeout)
        return read(reply, store_id=self._credential.store_id)

    async def lines(
        self, call: Call, *, silence_seconds: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The lines of a long answer, as they come, with at most so much silence in between."""
        token = await self._token()
        session = await self.session()

        def check(reply: Reply) -> None:
            accept(reply, store_id=token.claims.iss)

        lines = session.transport.lines(
            call, token=token.text, key=token.key, check=check, silence_seconds=silence_seconds
        )
        async with aclosing(lines):
            async for line in lines:
                yield line

    async def session(self) -> Session:
        """The session of the running event loop."""
        here = (os.getpid(), asyncio.get_running_loop())
        if here in self._sessions:
            return self._sessions[here]
        if self._transport is None:
            # All who wait here come back at once, before a flight of the first could land.
            if here not in self._loading:
                loading = self._loading[here] = asyncio.ensure_future(_loaded())
                loading.add_done_callback(lambda _: self._loading.pop(here, None))
            self._transport = await asyncio.shield(self._loading[here])
        session = self._sessions.get(here)
        if session is None:
            self._drop_ended()
            transport, flights = self._transport(self._endpoint), Flights[HeldKey]()
            ending = _ending(transport, flights, lambda: self._sessions.pop(here, None))
            session = self._sessions[here] = Session(transport, flights, ending)
            await anext(ending)
        return session

    def detach_flights(self) -> None:
        """No later caller may join what is in flight now."""
        for session in list(self._sessions.values()):
            session.flights.detach()

    async def aclose(self) -> None:
        """Close what belongs to the running event loop. A later call opens it again."""
        session = self._sessions.pop((os.getpid(), asyncio.get_running_loop()), None)
        if session is not None:
            await session.ending.aclose()

    def let_go(self, *, but: asyncio.AbstractEventLoop | None) -> None:
        """The same on every event loop but that one, without waiting, from any thread."""
        for process_id, loop in list(self._sessions):
            if process_id == os.getpid() and loop is not but:
                # Its loop closes the generator, of which this was the last reference. The collector
                # would take the connections along with it, not closed.
                self._sessions.pop((process_id, loop), None)

    async def _ask_as(self, token: Token, call: Call, read: Read[T]) -> T:
        session = await self.session()
        reply = await session.transport.send(
            call,
            token=token.text,
            key=token.key,
            timeout_seconds=self._endpoint.timeout_seconds,
        )
        return read(reply, store_id=token.claims.iss)

    async def _token(self) -> Token:
        if isinstance(self._credential, Credential):
            return self._credential.current()
        return await self._credential.fresh(self._post)

    async def _other_than(self, refused: Token) -> Token | None:
        if isinstance(self._credential, Credential):
            return self._credential.after_refusal(refused)
        return await self._credential.after_refusal(refused, self._post)

    async def _post(self, call: Call) -> Reply:
        session = await self.session()
        return await session.transport.send(
            call, token=None, timeout_seconds=self._endpoint.timeout_seconds
        )

    def _drop_ended(self) -> None:
        for process_id, loop in list(self._sessions):
            # Of another process: its parent's. Closing that would close the parent's connections.
            if process_id == os.getpid() and loop.is_closed():
                self._sessions.pop((process_id, loop), None)


async def _loaded() -> type[HttpTransport]:
    try:
        return await asyncio.get_running_loop().run_in_executor(None, _load)
    except RuntimeError:  # asyncio's threads take no work once the main thread has ended
        return _load()


def _load() -> type[HttpTransport]:
    with unforked():
        from dox_core_store.client.transport import HttpTransport  # noqa: PLC0415

        for name in _AT_FIRST_REQUEST:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    return HttpTransport


async def _ending(
    transport: HttpTransport, flights: Flights[HeldKey], forget: Callable[[], object]
) -> AsyncGenerator[None, None]:
    # `asyncio.run` closes the generators that are open before it closes the loop, and a loop closes
    # one that nobody refers to any more: so connections end properly even where `aclose` was
    # forgotten. There is no other hook for the end of a loop.
    try:
        yield
    finally:
        forget()
        try:
            await flights.aclose()
        finally:
            await transport.aclose()
