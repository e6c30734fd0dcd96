"""The door: ``GET /v1/keys/{path}`` and ``POST /v1/keys/batch-get``, in front of the framework.

A plain ASGI callable, because a read is the product and a framework's route costs more than the read.
It owns its paths, matched on the raw path: nothing under them falls through to the framework by
accident, and percent escapes are refused rather than decoded. The steps of a read are in
``usecases.reveal``; here is HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from time import perf_counter
from typing import Any

import msgspec

from dox_core_store.errors import (
    AuthenticationError,
    DoxStoreError,
    InvalidRequestError,
    MethodNotAllowedError,
)
from dox_core_store.server.domain.key import VersionRecord
from dox_core_store.server.domain.ledger import Action, Entry
from dox_core_store.server.domain.limit import Rate, Verdict
from dox_core_store.server.usecases.refusals import Refusals, status_of
from dox_core_store.server.usecases.registry import KnownService
from dox_core_store.server.usecases.reveal import Asked, Reveal
from dox_core_store.server.usecases.token import Authenticator, Principal
from dox_core_store.server.web.problem import problem_body, problem_document, problem_headers
from dox_core_store.server.web.request import (
    Heard,
    Receive,
    RequestIds,
    Scope,
    Send,
    bearer,
    hear,
    read_body,
)
from dox_core_store.wire import BatchRequest, decode, encode

__all__ = ["Door", "DoorMetrics", "render_key"]

_PREFIX = b"/v1/keys/"
_BATCH = b"/v1/keys/batch-get"
_VERSIONS = re.compile(rb"[^/]+/versions")
_MAX_BATCH = 100
_MAX_BATCH_BYTES = 64 * 1024
_SHOWN_CHARACTERS = 256
_NOBODY = "anonymous"

_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")


class DoorMetrics:
    """What the door counts of itself, since no middleware sees its requests."""

    BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.values = 0
        self.seconds = 0.0
        self.counts = [0] * (len(self.BUCKETS) + 1)

    def note(self, code: str, values: int, seconds: float) -> None:
        """Count one request that ended with ``code`` (``ok`` or an error's) after ``seconds``."""
        self.outcomes[code] = self.outcomes.get(code, 0) + 1
        self.values += values
        self.seconds += seconds
        for place, bound in enumerate(self.BUCKETS):
            if seconds <= bound:
                self.counts[place] += 1
                return
        self.counts[-1] += 1


class Door:
    """See the module. ``application`` answers everything that the door does not own."""

    def __init__(
        self,
        *,
        application: Callable[[Scope, Receive, Send], Any],
        authenticator: Authenticator,
        reveal: Reveal,
        refusals: Refusals,
        request_ids: RequestIds,
        metrics: DoorMetrics,
        stamp: Callable[[], str],
        store_id: str,
        report: Callable[[BaseException, str], None],
    ) -> None:
        self._application = application
        self._authenticator = authenticator
        self._reveal = reveal
        self._refusals = refusals
        self._request_ids = request_ids
        self._metrics = metrics
        self._stamp = stamp
        self._store_id = store_id
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        raw, method = scope["raw_path"], scope["method"]
        if raw.startswith(_PREFIX):
            if raw == _BATCH:
                await self._guard(self._batch, scope, receive, send)
                return
            if method in ("GET", "HEAD") and _VERSIONS.fullmatch(raw, len(_PREFIX)) is None:
                await self._guard(self._get, scope, receive, send)
                return
        await self._application(scope, receive, send)

    async def _guard(
        self, answer: Callable[..., Any], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Run ``answer``; whatever it raises becomes a problem document."""
        started = perf_counter()
        request_id = self._request_ids()
        code, values = "ok", 0
        try:
            values = await answer(scope, receive, send, request_id)
        except DoxStoreError as error:
            problem = problem_document(error, self._store_id, request_id)
            if error.status is None:
                self._report(error, request_id)
            code = problem.code
            headers = problem_headers(problem)
            if isinstance(limits := error.extra.get("limits"), list):
                headers += limits
            await _send(send, problem.status, headers, problem_body(problem))
        except Exception as error:  # noqa: BLE001 - told as a fault of ours, and reported
            self._report(error, request_id)
            problem = problem_document(DoxStoreError("internal_error", ""), self._store_id, request_id)
            code = problem.code
            await _send(send, problem.status, problem_headers(problem), problem_body(problem))
        self._metrics.note(code, values, perf_counter() - started)

    async def _get(self, scope: Scope, _receive: Receive, send: Send, request_id: str) -> int:
        path = scope["raw_path"][len(_PREFIX) :].decode("latin-1")
        heard, principal = await self._enter(scope, request_id, path)
        asked = _asked(scope, heard, request_id)
        try:
            if scope["method"] != "GET":
                raise MethodNotAllowedError("method_not_allowed", "A key is read with GET.")
            query = scope["query_string"]
            number = _version(query) if query else None
        except DoxStoreError as error:
            await self._refuse(principal.name, path, asked, error)
            raise
        verdict = self._reveal.limit(principal)
        limits = _limits(principal, verdict)
        try:
            found = await self._reveal.one(principal, path, number, asked, verdict)
        except DoxStoreError as error:
            error.extra["limits"] = limits
            raise
        etag = b'"' + found.version_id.encode() + b'"'
        headers = [_JSON, _NO_STORE, (b"etag", etag), (b"x-request-id", request_id.encode()), *limits]
        if heard.if_none_match is not None and heard.if_none_match == etag:
            await _send(send, 304, headers[1:], b"")
            return 0
        await _send(send, 200, headers, found.body)
        return 1

    async def _batch(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> int:
        heard, principal = await self._enter(scope, request_id, "batch-get")
        asked = _asked(scope, heard, request_id)
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowedError("method_not_allowed", "batch-get takes POST.")
            if scope["query_string"]:
                raise InvalidRequestError("invalid_parameter", "batch-get takes no parameters.")
            paths = _batch_paths(await read_body(receive, _MAX_BATCH_BYTES))
        except DoxStoreError as error:
            await self._refuse(principal.name, "batch-get", asked, error)
            raise
        verdict = self._reveal.limit(principal, len(paths))
        limits = _limits(principal, verdict)
        try:
            found = await self._reveal.many(principal, paths, asked, verdict)
        except DoxStoreError as error:
            error.extra["limits"] = limits
            raise
        items, values = [], 0
        for path, each in zip(paths, found, strict=True):
            if isinstance(each, DoxStoreError):
                problem = problem_document(each, self._store_id, request_id)
                items.append({"asked": path, "problem": problem})
            else:
                items.append({"asked": path, "key": msgspec.Raw(each.body)})
                values += 1
        headers = [_JSON, _NO_STORE, (b"x-request-id", request_id.encode()), *limits]
        await _send(send, 200, headers, encode({"keys": items}))
        return values

    async def _enter(self, scope: Scope, request_id: str, path: str) -> tuple[Heard, Principal]:
        """Step 1, authenticate; a refusal is on record before it is told."""
        try:
            heard = hear(scope["headers"])
            return heard, self._authenticator.authenticate(bearer(heard.authorization))
        except AuthenticationError as error:
            asked = _asked(scope, Heard(None, _agent(scope), None, "call", None), request_id)
            await self._refuse(_NOBODY, path, asked, error)
            raise

    async def _refuse(self, who: str, path: str, asked: Asked, error: DoxStoreError) -> None:
        await self._refusals.record(
            Entry(
                timestamp=self._stamp(),
                service_name=who,
                key_path=path[:_SHOWN_CHARACTERS],
                action=Action.GET,
                status=status_of(error),
                request_id=asked.request_id,
                ip_address=asked.ip_address,
                user_agent=asked.user_agent,
                correlation_id=asked.correlation_id,
                reason=error.code,
            )
        )


def render_key(ceiling_seconds: int, grace_seconds: int) -> Callable[..., bytes]:
    """How a version becomes the body of `wire.KeyValue`."""

    def render(address: Any, version: VersionRecord, value: bytes) -> bytes:
        return encode(
            {
                "key_path": address.path,
                "environment": address.environment,
                "version": version.number,
                "version_id": version.version_id,
                "state": version.state,
                "value": value.decode(),
                "expires_at": version.expires_at,
                "cache_ttl_ceiling_seconds": ceiling_seconds,
                "outage_grace_seconds": grace_seconds,
            }
        )

    return render


def _asked(scope: Scope, heard: Heard, request_id: str) -> Asked:
    client = scope.get("client")
    address = client[0] if client else ""
    return Asked(request_id, address, heard.user_agent, heard.correlation_id, heard.reason)


def _agent(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"user-agent":
            return str(value[:_SHOWN_CHARACTERS].decode("latin-1"))
    return ""


def _version(query: bytes) -> int:
    name, _, text = query.partition(b"=")
    if name != b"version" or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise InvalidRequestError("invalid_parameter", "The only parameter is version=N, N from 1.")
    return int(text)


def _batch_paths(body: bytes) -> list[str]:
    try:
        paths = decode(BatchRequest, body).key_paths
    except msgspec.ValidationError as error:
        raise InvalidRequestError("invalid_field", f"{error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequestError("malformed_json", "The body is not valid JSON.") from None
    if not 1 <= len(paths) <= _MAX_BATCH:
        raise InvalidRequestError("invalid_field", f"key_paths takes 1 to {_MAX_BATCH} paths.")
    return paths


def _limits(principal: Principal, verdict: Verdict | None) -> list[tuple[bytes, bytes]]:
    """``RateLimit`` headers (draft-ietf-httpapi-ratelimit-headers-10)."""
    if verdict is None or not isinstance(principal.known, KnownService):
        return []
    rate: Rate = principal.known.bucket.rate
    reset = int(verdict.reset_seconds + 0.999)
    return [
        (b"ratelimit-policy", rate.policy),
        (b"ratelimit", b'"service";r=%d;t=%d' % (verdict.remaining, reset)),
    ]


async def _send(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
