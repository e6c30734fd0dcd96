"""``GET /v1/events``: what changed, as Server-Sent Events (HTML standard, 9.2), to a service.

A plain ASGI callable beside the framework's routes, because an answer without an end is none of a
route's. Steps: who asks, may they, is there room, one request of the service's limit, the opening
on record, and only then the head of the answer. Refusals are recorded and told as at the door.
What is told, to whom and for how long is in ``usecases.events``; the format in
``docs/spec/events.md``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable

from dox_core_store.errors import (
    DoxStoreError,
    InvalidRequestError,
    MethodNotAllowedError,
    RateLimitError,
    UnauthorizedError,
)
from dox_core_store.server.domain.event import EventKind, Place
from dox_core_store.server.domain.ledger import Action, Entry, Status
from dox_core_store.server.domain.limit import Verdict
from dox_core_store.server.domain.quota import NOT_AT_HAND
from dox_core_store.server.domain.token import Kind
from dox_core_store.server.ports import Ledger
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.event_queue import Stream
from dox_core_store.server.usecases.events import Events
from dox_core_store.server.usecases.principal import Authenticator, Principal
from dox_core_store.server.usecases.refusals import Refusals, status_of
from dox_core_store.server.web.holder import Holders
from dox_core_store.server.web.limit_headers import limit_headers
from dox_core_store.server.web.problem import (
    internal_error,
    problem_body,
    problem_document,
    problem_headers,
)
from dox_core_store.server.web.request import (
    ONCE,
    Receive,
    RequestIds,
    Scope,
    Send,
    credentials,
    hear,
)
from dox_core_store.wire import ChangeEvent, encode

__all__ = ["EVENTS_ADDRESS", "EventDoor", "frame"]

EVENTS_ADDRESS = "/v1/events"

_ADDRESS = EVENTS_ADDRESS.encode()
_SUBJECT = "_store.events"
_NOBODY = "anonymous"
_HEAD = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # what nginx, and others after it, take for "do not buffer"
]


def frame(kind: EventKind, place: Place, change: ChangeEvent | None) -> bytes:
    """One event. Without the line ``data`` a browser would not tell its page of it."""
    data = b"" if change is None else encode(change)
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(place).encode(), kind.encode(), data)


class EventDoor:
    """See the module."""

    def __init__(
        self,
        *,
        events: Events,
        authenticator: Authenticator,
        decisions: Decisions,
        ledger: Ledger,
        refusals: Refusals,
        request_ids: RequestIds,
        stamp: Callable[[], str],
        store_id: str,
        report: Callable[[BaseException, str], None],
        address_of: Callable[[Scope], str],
        holders: Holders,
    ) -> None:
        self._events = events
        self._authenticator = authenticator
        self._decisions = decisions
        self._ledger = ledger
        self._refusals = refusals
        self._request_ids = request_ids
        self._stamp = stamp
        self._store_id = store_id
        self._report = report
        self._address_of = address_of
        self._holders = holders

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._request_ids()
        entry = self._entry(scope, request_id)
        try:
            try:
                principal, with_proof = await self._who(scope, entry)
                entry = entry._replace(service_name=principal.name, token_id=principal.token_id)
                stream, verdict = await self._admitted(scope, principal)
            except DoxStoreError as error:
                await self._refused(entry, error)
                raise
            headers = [*_HEAD, (b"x-request-id", request_id.encode()), *limit_headers(verdict)]
            if with_proof:
                headers.append(self._holders.nonce())
            try:
                first = await self._begun(scope, stream, entry)
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await self._run(stream, first, receive, send, request_id)
            finally:
                self._events.leave(stream)
        except DoxStoreError as error:
            if error.status is None:
                self._report(error, request_id)
            await self._tell(error, send, request_id)
        except Exception as error:  # noqa: BLE001 - told as a fault of ours, and reported
            self._report(error, request_id)
            await self._tell(internal_error(), send, request_id)

    async def _who(self, scope: Scope, entry: Entry) -> tuple[Principal, bool]:
        heard = hear(scope["headers"])
        token, with_proof = credentials(heard.authorization)
        proof = self._holders.shown(scope, heard) if with_proof else None
        return await self._authenticator.authenticate(token, entry.ip_address, proof), with_proof

    async def _admitted(self, scope: Scope, principal: Principal) -> tuple[Stream, Verdict | None]:
        """Room for the stream of who asks, if they may have one."""
        if scope["raw_path"] != _ADDRESS:
            raise InvalidRequestError(
                "malformed_path", "An address takes no percent escapes and no further slashes."
            )
        if scope["method"] != "GET":
            raise MethodNotAllowedError("method_not_allowed", "Events are followed with GET.")
        if scope["query_string"]:
            raise InvalidRequestError("invalid_parameter", "This takes no parameters.")
        if principal.claims.kind is not Kind.SERVICE:
            raise UnauthorizedError(
                "not_authorized", "Events are for services. What changed is on the ledger."
            )
        verdict = self._decisions.limit(principal)
        if verdict is NOT_AT_HAND:
            verdict = await self._decisions.fetch_limit(principal)
        if verdict is not None and not verdict.allowed:
            refused = RateLimitError(
                "rate_limited",
                "Too many key requests",
                retry_after_seconds=math.ceil(verdict.retry_after_seconds or 1),
            )
            refused.limits = limit_headers(verdict)  # type: ignore[attr-defined]
            raise refused
        return self._events.admit(principal.claims), verdict

    async def _begun(self, scope: Scope, stream: Stream, entry: Entry) -> bytes:
        """Put the opening on record; what the stream begins with."""
        await self._ledger.commit((entry,))
        said = [value for name, value in scope["headers"] if name == b"last-event-id"]
        try:
            return await self._events.begin(stream, said[0] if len(said) == 1 else None)
        except DoxStoreError as error:
            self._ledger.abort((entry,))
            await self._refused(entry, error)
            raise

    async def _run(
        self, stream: Stream, first: bytes, receive: Receive, send: Send, request_id: str
    ) -> None:
        """Send what happens until the stream is over, for whichever reason."""
        leaving = asyncio.ensure_future(_left(receive, stream))
        is_sending = False
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None) as life:
                    stream.interrupt = lambda: life.reschedule(0.0)
                    taken = first
                    while not stream.is_over:
                        is_sending = True
                        await send(_piece(taken))
                        is_sending = False
                        taken = await stream.take()
        except Exception as error:  # noqa: BLE001 - the head was sent: nothing else can be told
            self._report(error, request_id)
        finally:
            stream.interrupt = leaving.cancel  # `life` is over, and must not be called any more
            leaving.cancel()
        if not is_sending:  # else the reader takes nothing, and no end either
            await send({"type": "http.response.body", "body": b""})

    def _entry(self, scope: Scope, request_id: str) -> Entry:
        heard = hear([each for each in scope["headers"] if each[0] not in ONCE])
        return Entry(
            timestamp=self._stamp(),
            service_name=_NOBODY,
            key_path=_SUBJECT,
            action=Action.FOLLOW,
            status=Status.GRANTED,
            request_id=request_id,
            ip_address=self._address_of(scope),
            user_agent=heard.user_agent,
            correlation_id=heard.correlation_id,
        )

    async def _refused(self, entry: Entry, error: DoxStoreError) -> None:
        """Put it on record: of a good token that was refused, under the name of its bearer."""
        known: Principal | None = getattr(error, "bearer", None)
        if known is not None:
            entry = entry._replace(service_name=known.name, token_id=known.token_id)
        await self._refusals.record(
            entry._replace(timestamp=self._stamp(), status=status_of(error), reason=error.code)
        )

    async def _tell(self, error: DoxStoreError, send: Send, request_id: str) -> None:
        problem = problem_document(error, self._store_id, request_id)
        headers = problem_headers(problem) + getattr(error, "limits", [])
        if problem.code == "nonce_needed":
            headers.append(self._holders.nonce())
        start = {"type": "http.response.start", "status": problem.status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": problem_body(problem)})


async def _left(receive: Receive, stream: Stream) -> None:
    """Ends the stream when its reader is gone. What is sent as a body is nobody's."""
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.close()


def _piece(events: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": events, "more_body": True}
