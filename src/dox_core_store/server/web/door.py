"""The door: ``GET /v1/keys/{path}`` and ``POST /v1/keys/batch-get``, in front of the framework.

A plain ASGI callable, because a read is the product and a framework's route costs more than the
read. It owns its paths, matched on the raw path: nothing under them falls through to the framework
by accident, and percent escapes are refused rather than decoded. The steps of a read are in
``usecases.reveal``; here is HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from dox_core_store.errors import (
    DoxStoreError,
    InvalidRequestError,
    MethodNotAllowedError,
)
from dox_core_store.server.domain.ledger import Action, Entry
from dox_core_store.server.domain.quota import NOT_AT_HAND
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.principal import Authenticator, Principal
from dox_core_store.server.usecases.refusals import Refusals, status_of
from dox_core_store.server.usecases.reveal import Asked, Reveal
from dox_core_store.server.web.batch import MAX_BATCH_BYTES, batch_items, parse_batch
from dox_core_store.server.web.door_metrics import DoorMetrics
from dox_core_store.server.web.holder import Holders
from dox_core_store.server.web.limit_headers import limit_headers, of_key, tightest
from dox_core_store.server.web.problem import (
    internal_error,
    problem_body,
    problem_document,
    problem_headers,
)
from dox_core_store.server.web.request import (
    ONCE,
    Heard,
    Receive,
    RequestIds,
    Scope,
    Send,
    bearer,
    credentials,
    hear,
    read_body,
)
from dox_core_store.wire import BatchRequest

__all__ = ["Door"]

_PREFIX = b"/v1/keys/"
_BATCH = b"/v1/keys/batch-get"
_TOLD = (b"/versions", b"/description")
_BEHIND = re.compile(
    rb"/v1/keys/[^/]+(?:/(?:versions|description|describe|limit|propose|promote|rollback|retire|revoke"
    rb"|destroy|expire|extend|rejected))?"
)
"""What under the prefix the framework may answer: writes, and what is told without a value."""

_SHOWN_CHARACTERS = 256
_NOBODY = "anonymous"

Answer = Callable[[Scope, Receive, Send, str], Awaitable[int]]

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")


class Door:
    """See the module. ``application`` answers everything that the door does not own."""

    def __init__(
        self,
        *,
        application: Callable[[Scope, Receive, Send], Any],
        authenticator: Authenticator,
        decisions: Decisions,
        reveal: Reveal,
        refusals: Refusals,
        request_ids: RequestIds,
        metrics: DoorMetrics,
        stamp: Callable[[], str],
        store_id: str,
        report: Callable[[BaseException, str], None],
        address_of: Callable[[Scope], str],
        holders: Holders,
    ) -> None:
        self._address_of = address_of
        self._holders = holders
        self._application = application
        self._authenticator = authenticator
        self._decisions = decisions
        self._reveal = reveal
        self._refusals = refusals
        self._request_ids = request_ids
        self._metrics = metrics
        self._stamp = stamp
        self._store_id = store_id
        self._named = (b"x-store-id", store_id.encode())
        """On answers without a body, which cannot say whose they are."""
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw = scope["raw_path"]
            if raw.startswith(_PREFIX):
                answer = self._owner(raw, scope["method"])
                if answer is not None:
                    await self._guard(answer, scope, receive, send)
                    return
        await self._application(scope, receive, send)

    def _owner(self, raw: bytes, method: str) -> Answer | None:
        """What of the door answers this; None leaves it to the framework."""
        if raw == _BATCH:
            return self._batch
        if method in ("GET", "HEAD") and not raw.endswith(_TOLD):
            return self._get
        if b"%" in raw or _BEHIND.fullmatch(raw) is None:
            return self._malformed
        return None

    async def _guard(self, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
        """Run ``answer``; whatever it raises becomes a problem document."""
        started = perf_counter()
        request_id = self._request_ids()
        code, values = "ok", 0
        try:
            values = await answer(scope, receive, send, request_id)
        except DoxStoreError as error:
            if error.status is None:
                self._report(error, request_id)
            code = await self._tell(error, send, request_id)
        except Exception as error:  # noqa: BLE001 - told as a fault of ours, and reported
            self._report(error, request_id)
            code = await self._tell(internal_error(), send, request_id)
        self._metrics.note(code, values, perf_counter() - started)

    async def _tell(self, error: DoxStoreError, send: Send, request_id: str) -> str:
        problem = problem_document(error, self._store_id, request_id)
        headers = problem_headers(problem) + getattr(error, "limits", [])
        if problem.code == "nonce_needed":
            headers.append(self._holders.nonce())
        await _send(send, problem.status, headers, problem_body(problem))
        return problem.code

    async def _get(self, scope: Scope, _receive: Receive, send: Send, request_id: str) -> int:
        path = scope["raw_path"][len(_PREFIX) :].decode("latin-1")
        address = self._address_of(scope)
        try:
            heard = hear(scope["headers"])
            if heard.proof is None:
                token, with_proof = bearer(heard.authorization), False
                principal = self._authenticator.at_hand(token)
            else:
                token, with_proof = credentials(heard.authorization)
                principal = None if with_proof else self._authenticator.at_hand(token)
            if principal is None:
                proof = self._holders.shown(scope, heard) if with_proof else None
                principal = await self._authenticator.authenticate(token, address, proof)
        except DoxStoreError as error:
            await self._refuse_stranger(scope, address, path, request_id, error)
            raise
        asked = _asked(address, heard, request_id)
        number = None
        if scope["query_string"] or scope["method"] != "GET":
            try:
                number = _version(scope)
            except DoxStoreError as error:
                await self._refuse(principal.name, path, asked, error)
                raise
        verdict = self._decisions.limit(principal)
        if verdict is NOT_AT_HAND:
            verdict = await self._reveal.fetch_limit(principal, 1, path, asked)
        try:
            found = await self._reveal.one(principal, path, number, asked, verdict)
        except DoxStoreError as error:
            error.limits = limit_headers(verdict, of_key(error))  # type: ignore[attr-defined]
            raise
        headers = [
            _JSON,
            _NO_STORE,
            (b"etag", found.etag),
            (b"x-request-id", request_id.encode()),
            *limit_headers(verdict, found.verdict),
        ]
        if with_proof:
            headers.append(self._holders.nonce())
        held = heard.if_none_match
        if held is not None and (held == found.etag or held == b'"%b"' % found.tag.encode()):
            await _send(send, 304, [*headers[1:], self._named], b"")
            return 0
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": found.body})
        return 1

    async def _batch(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> int:
        principal, asked, wanted, with_proof = await self._asked_for(scope, receive, request_id)
        paths = wanted.key_paths
        verdict = self._decisions.limit(principal, len(paths))
        if verdict is NOT_AT_HAND:
            verdict = await self._reveal.fetch_limit(principal, len(paths), paths[0], asked)
        try:
            found = await self._reveal.many(principal, paths, asked, verdict, wanted.known)
        except DoxStoreError as error:
            error.limits = limit_headers(verdict)  # type: ignore[attr-defined]
            raise
        limits = limit_headers(verdict, tightest(found))
        items = batch_items(
            paths, found, lambda error: problem_document(error, self._store_id, request_id)
        )
        headers = [_JSON, _NO_STORE, (b"x-request-id", request_id.encode()), *limits]
        if with_proof:
            headers.append(self._holders.nonce())
        if items.body is None:
            await _send(send, 304, [*headers[1:], self._named], b"")
        else:
            await _send(send, 200, headers, items.body)
        return items.values

    async def _asked_for(
        self, scope: Scope, receive: Receive, request_id: str
    ) -> tuple[Principal, Asked, BatchRequest, bool]:
        """Who asks for which keys at once, and whether with a proof."""
        address = self._address_of(scope)
        body = proof = None
        try:
            heard = hear(scope["headers"])
            token, with_proof = credentials(heard.authorization)
            if with_proof:  # the body is part of what is proven, and so comes first
                body = await read_body(receive, MAX_BATCH_BYTES)
                proof = self._holders.shown(scope, heard, body)
            principal = await self._authenticator.authenticate(token, address, proof)
        except DoxStoreError as error:
            await self._refuse_stranger(scope, address, "batch-get", request_id, error)
            raise
        asked = _asked(address, heard, request_id)
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowedError("method_not_allowed", "batch-get takes POST.")
            if scope["query_string"]:
                raise InvalidRequestError("invalid_parameter", "batch-get takes no parameters.")
            if body is None:
                body = await read_body(receive, MAX_BATCH_BYTES)
                # It may have taken its time: who asks must still be who they were.
                await self._authenticator.authenticate(token, address)
            wanted = parse_batch(body)
        except DoxStoreError as error:
            await self._refuse(principal.name, "batch-get", asked, error)
            raise
        return principal, asked, wanted, with_proof

    async def _malformed(
        self, scope: Scope, _receive: Receive, _send: Send, request_id: str
    ) -> int:
        """An address under the door's prefix that names no key: refused, never decoded."""
        path = scope["raw_path"][len(_PREFIX) :].decode("latin-1")
        address = self._address_of(scope)
        try:
            heard = hear(scope["headers"])
            token, with_proof = credentials(heard.authorization)
            proof = self._holders.shown(scope, heard) if with_proof else None
            principal = await self._authenticator.authenticate(token, address, proof)
        except DoxStoreError as error:
            await self._refuse_stranger(scope, address, path, request_id, error)
            raise
        refused = InvalidRequestError("malformed_path", f"{path[:80]!a} is not a key path.")
        action = Action.PUT if scope["method"] == "PUT" else Action.GET
        asked = _asked(address, heard, request_id)
        await self._refuse(principal.name, path, asked, refused, action)
        raise refused

    async def _refuse_stranger(
        self, scope: Scope, address: str, path: str, request_id: str, error: DoxStoreError
    ) -> None:
        """Put a refused token on record: under its address, for it has no name; under its own
        where it is good, and came from elsewhere or without its key."""
        headers = [each for each in scope["headers"] if each[0] not in ONCE]
        known = getattr(error, "bearer", None)
        await self._refuse(
            _NOBODY if known is None else known.name,
            path,
            _asked(address, hear(headers), request_id),
            error,
            token_id=None if known is None else known.token_id,
        )

    async def _refuse(
        self,
        who: str,
        path: str,
        asked: Asked,
        error: DoxStoreError,
        action: Action = Action.GET,
        token_id: str | None = None,
    ) -> None:
        await self._refusals.record(
            Entry(
                timestamp=self._stamp(),
                service_name=who,
                key_path=path[:_SHOWN_CHARACTERS],
                action=action,
                status=status_of(error),
                request_id=asked.request_id,
                ip_address=asked.ip_address,
                user_agent=asked.user_agent,
                token_id=token_id,
                correlation_id=asked.correlation_id,
                reason=error.code,
            )
        )


def _asked(address: str, heard: Heard, request_id: str) -> Asked:
    return Asked(request_id, address, heard.user_agent, heard.correlation_id, heard.reason)


def _version(scope: Scope) -> int | None:
    """The version asked for by number, if any."""
    if scope["method"] != "GET":
        raise MethodNotAllowedError("method_not_allowed", "A key is read with GET.")
    if not scope["query_string"]:
        return None
    name, _, text = scope["query_string"].partition(b"=")
    if name != b"version" or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise InvalidRequestError("invalid_parameter", "The only parameter is version=N, N from 1.")
    return int(text)


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
