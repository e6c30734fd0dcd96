"""The operators' side: how a route of the table becomes an answer.

Every route is one row: method, address, what the ledger calls it, body and answer types,
parameters. The desk does what is the same for all of them, in this order: authenticate, take
parameters and body apart (unknown ones are refused), run the handler, put reads on record before
they are told, and turn whatever was raised into a recorded refusal and a problem document.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from dox_core_store.errors import DoxStoreError, InvalidRequestError
from dox_core_store.server.domain.access import Caller, OperatorRecord
from dox_core_store.server.domain.ledger import Action, Entry, Status
from dox_core_store.server.ports import Ledger
from dox_core_store.server.usecases.principal import Authenticator, Principal
from dox_core_store.server.usecases.refusals import Refusals, status_of
from dox_core_store.server.web.form import MAX_FORM_BYTES, parse_form
from dox_core_store.server.web.holder import Holders
from dox_core_store.server.web.problem import (
    internal_error,
    problem_body,
    problem_document,
    problem_headers,
)
from dox_core_store.server.web.request import (
    MAX_BODY_BYTES,
    Heard,
    Receive,
    RequestIds,
    Scope,
    bearer,
    credentials,
    hear,
    parse,
    read_body,
)
from dox_core_store.wire import encode

__all__ = ["Answered", "Call", "Desk", "Reply", "Route"]

_SHOWN_CHARACTERS = 256
_UNAVAILABLE = 500
_PLACE = re.compile(r"\{(\w+):str\}")
_UNRECORDED = frozenset({"ledger_unavailable", "overloaded"})
"""The ledger has just refused an entry of this request: a second one would wait for it as long
again, and the caller with it."""

_ANONYMOUS = Caller("anonymous", (), "", "", "")


class Call(NamedTuple):
    """One request to a route, taken apart. ``principal`` is who asks as the door knows them; None
    where the route needs no token."""

    caller: Caller
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    principal: Principal | None = None


class Reply(NamedTuple):
    """What a handler answers: the body, a status where it is not the route's first, and headers of
    its own."""

    body: Any
    status: int | None = None
    headers: Sequence[tuple[bytes, bytes]] = ()


class Route(NamedTuple):
    """One row of the API. ``statuses[0]`` is the usual success; ``is_read`` puts the read itself on
    record before it is told; one that ``is_open`` needs no token; the body of one that ``is_form``
    is a form; one that is ``for_services`` takes tokens that are bound to a key, with their proof,
    for services have such. ``most_bytes``: how long a body may be."""

    method: str
    address: str
    action: Action
    summary: str
    handle: Callable[[Call], Awaitable[Reply]]
    body: type | None = None
    answer: Any = None
    statuses: tuple[int, ...] = (200,)
    parameters: tuple[str, ...] = ()
    is_read: bool = False
    is_open: bool = False
    is_form: bool = False
    for_services: bool = False
    most_bytes: int = MAX_BODY_BYTES
    media_type: str = "application/json"

    def subject(self, path: Mapping[str, str]) -> str:
        """How the ledger names what this call is about."""
        if "key_path" in path:
            return path["key_path"]
        parts = self.address.strip("/").removeprefix("v1/").split("/")
        return ".".join(["_store", parts[0], *path.values()])


class Answered(NamedTuple):
    """An HTTP answer, ready to be sent. ``body`` is bytes, or pieces for a stream."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | AsyncIterator[bytes]


class Desk:
    """See the module."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        ledger: Ledger,
        refusals: Refusals,
        request_ids: RequestIds,
        stamp: Callable[[], str],
        store_id: str,
        report: Callable[[BaseException, str], None],
        address_of: Callable[[Scope], str],
        holders: Holders,
    ) -> None:
        self._address_of = address_of
        self._holders = holders
        self._authenticator = authenticator
        self._ledger = ledger
        self._refusals = refusals
        self._request_ids = request_ids
        self._stamp = stamp
        self._store_id = store_id
        self._report = report

    async def answer(
        self, route: Route, path: Mapping[str, str], scope: Scope, receive: Receive
    ) -> Answered:
        """Answer one request to ``route``."""
        caller = _ANONYMOUS._replace(
            request_id=self._request_ids(), ip_address=self._address_of(scope)
        )
        try:
            heard = hear(scope["headers"])
            caller = caller._replace(
                user_agent=heard.user_agent, correlation_id=heard.correlation_id
            )
            principal = proven = None
            if not route.is_open:
                principal, proven = await self._authenticated(route, scope, heard, receive)
                caller = _known(principal, caller)
            _check_spelling(route, path, scope)
            query, body = _query(route, scope), await _body(route, receive, proven)
            # The body may have taken its time: is the caller still theirs?
            if not (route.is_read or route.is_open) and proven is None:
                await self._authenticator.authenticate(
                    bearer(heard.authorization), caller.ip_address
                )
            call = Call(caller, path, query, body, principal)
            reply = await route.handle(call)
            pieces = (
                await self._begun(reply.body, caller.request_id)
                if isinstance(reply.body, AsyncIterator)
                else None
            )
            if route.is_read:
                await self._ledger.commit([self._entry(route, call.path, caller, None)])
        except DoxStoreError as error:
            known: Principal | None = getattr(error, "bearer", None)
            who = caller if known is None else _known(known, caller)
            return await self._refused(route, path, who, error)
        except Exception as error:  # noqa: BLE001 - told as a fault of ours, and reported
            self._report(error, caller.request_id)
            return await self._refused(route, path, caller, internal_error())
        status = reply.status or route.statuses[0]
        headers = [
            (b"cache-control", b"no-store"),
            (b"x-request-id", caller.request_id.encode()),
            *reply.headers,
        ]
        if proven is not None:
            headers.append(self._holders.nonce())
        if pieces is not None:
            kind = (b"content-type", route.media_type.encode())
            return Answered(status, [kind, *headers], pieces)
        if reply.body is None:
            return Answered(status, headers, b"")
        return Answered(
            status, [(b"content-type", b"application/json"), *headers], encode(reply.body)
        )

    def problem(self, error: DoxStoreError) -> Answered:
        """The answer for what no route owns."""
        problem = problem_document(error, self._store_id, self._request_ids())
        return Answered(problem.status, problem_headers(problem), problem_body(problem))

    async def _authenticated(
        self, route: Route, scope: Scope, heard: Heard, receive: Receive
    ) -> tuple[Principal, bytes | None]:
        """Who asks; and the body where it is part of what they have proven, and so came first."""
        address = self._address_of(scope)
        if route.for_services:
            token, with_proof = credentials(heard.authorization)
            if with_proof:
                raw = await read_body(receive, route.most_bytes)
                proof = self._holders.shown(scope, heard, raw)
                return await self._authenticator.authenticate(token, address, proof), raw
        token = bearer(heard.authorization)
        return await self._authenticator.authenticate(token, address), None

    async def _begun(self, pieces: AsyncIterator[bytes], request_id: str) -> AsyncIterator[bytes]:
        """``pieces``, the first of them at hand: what fails before it is refused as anything else.
        What fails later can only cut the answer off, and is reported."""
        first = await anext(pieces, b"")

        async def all_of_them() -> AsyncIterator[bytes]:
            yield first
            try:
                async for piece in pieces:
                    yield piece
            except Exception as error:
                self._report(error, request_id)
                raise

        return all_of_them()

    async def _refused(
        self, route: Route, path: Mapping[str, str], caller: Caller, error: DoxStoreError
    ) -> Answered:
        try:
            if error.code not in _UNRECORDED:
                await self._refusals.record(self._entry(route, path, caller, error))
        except DoxStoreError as unrecorded:
            error = unrecorded
        problem = problem_document(error, self._store_id, caller.request_id)
        if route.is_form and problem.status < _UNAVAILABLE:
            problem.error = error.extra.get("error", "invalid_request")  # RFC 6749, 5.2
        headers = problem_headers(problem) + getattr(error, "limits", [])
        if problem.code == "nonce_needed":
            headers.append(self._holders.nonce())
        return Answered(problem.status, headers, problem_body(problem))

    def _entry(
        self, route: Route, path: Mapping[str, str], caller: Caller, error: DoxStoreError | None
    ) -> Entry:
        told = getattr(error, "told", None)
        return Entry(
            timestamp=self._stamp(),
            service_name=caller.name if told is None else told.name,
            key_path=route.subject(path)[:_SHOWN_CHARACTERS],
            action=route.action,
            status=Status.GRANTED if error is None else status_of(error),
            request_id=caller.request_id,
            ip_address=caller.ip_address,
            user_agent=caller.user_agent,
            token_id=caller.token_id,
            correlation_id=caller.correlation_id,
            reason=None if error is None else error.code if told is None else told.reason,
        )


def _known(principal: Principal, caller: Caller) -> Caller:
    """``caller``, now that it is known who it is. A service has no roles."""
    known = principal.known
    roles = tuple(known.roles) if isinstance(known, OperatorRecord) else ()
    return caller._replace(
        name=principal.name,
        roles=roles,
        token_id=principal.claims.token_id,
        signed_in=principal.claims.signed_in,
    )


def _check_spelling(route: Route, path: Mapping[str, str], scope: Scope) -> None:
    """An address has one spelling: what the framework would repair (percent escapes, doubled and
    trailing slashes) is refused, as at the door."""
    written = _PLACE.sub(lambda place: path[place[1]], route.address)
    if scope["raw_path"] != written.encode():
        raise InvalidRequestError(
            "malformed_path", "An address takes no percent escapes and no further slashes."
        )


def _query(route: Route, scope: Scope) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(scope["query_string"]),
            errors="strict",
            max_num_fields=20,
        )
    except ValueError:
        raise InvalidRequestError("invalid_parameter", "The query cannot be read.") from None
    query = dict(pairs)
    if any("\0" in text for text in query.values()):
        raise InvalidRequestError("invalid_parameter", "A parameter holds no character NUL.")
    unknown = sorted(query.keys() - set(route.parameters))
    if unknown or len(query) != len(pairs):
        what = f"{unknown[0][:80]!a} is unknown" if unknown else "One is given twice"
        takes = ", ".join(route.parameters) or "none"
        raise InvalidRequestError("invalid_parameter", f"{what}; parameters here: {takes}.")
    return query


async def _body(route: Route, receive: Receive, proven: bytes | None) -> Any:
    if route.is_form and route.body is not None:
        return parse_form(route.body, await read_body(receive, MAX_FORM_BYTES))
    raw = await read_body(receive, route.most_bytes) if proven is None else proven
    return None if route.body is None else parse(route.body, raw or b"{}")
