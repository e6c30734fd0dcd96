"""What door and routes alike take from a request: who, from where, under which ids."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeVar

import msgspec

from dox_core_store.errors import (
    AuthenticationError,
    InvalidRequestError,
    PayloadTooLargeError,
    StoreUnavailableError,
)
from dox_core_store.wire import decode

__all__ = [
    "BODY_SECONDS",
    "MAX_BODY_BYTES",
    "ONCE",
    "Heard",
    "Receive",
    "RequestIds",
    "Scope",
    "Send",
    "bearer",
    "credentials",
    "hear",
    "parse",
    "read_body",
]

Body = TypeVar("Body")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_SECONDS = 10.0
"""How long a body may take to arrive."""

MAX_BODY_BYTES = 16 * 1024 * 1024
"""The largest body of any route: a slice of an import at its limits."""

_MAX_HEADER_CHARACTERS = 256
_AUTHORIZATION = b"authorization"
ONCE = (_AUTHORIZATION, b"dpop")
"""Headers that speak for who asks, and so may be there once."""
_CALL = "call"
REASONS = {reason.encode(): reason for reason in (_CALL, "refresh", "startup")}
"""Why a client reads, by its ``X-Read-Reason`` header; anything else is a call."""


class RequestIds:
    """``req_`` ids: random per process, then counted, so never the same twice."""

    def __init__(self) -> None:
        self._prefix = f"req_{secrets.token_hex(6)}"
        self._count = itertools.count(1)

    def __call__(self) -> str:
        return f"{self._prefix}{next(self._count):06x}"


class Heard(msgspec.Struct, frozen=True, gc=False):
    """The headers that matter. ``authorization`` is None if absent, and refused if repeated."""

    authorization: bytes | None
    proof: bytes | None
    user_agent: str
    correlation_id: str | None
    reason: str
    if_none_match: bytes | None


def hear(headers: Sequence[tuple[bytes, bytes]]) -> Heard:
    """Pick what matters out of ``headers``, bounded in length.

    Raises `AuthenticationError` ``token_invalid`` where one of `ONCE` is repeated: two readers of
    one request could believe different ones.
    """
    found = dict(headers)
    if len(found) != len(headers) and any(
        sum(name == once for name, _ in headers) > 1 for once in ONCE
    ):
        raise AuthenticationError("token_invalid", "The token is not valid here.")
    correlation, reason = found.get(b"x-request-id"), found.get(b"x-read-reason")
    return Heard(
        found.get(_AUTHORIZATION),
        found.get(b"dpop"),
        found.get(b"user-agent", b"")[:_MAX_HEADER_CHARACTERS].decode("latin-1"),
        None if correlation is None else correlation[:_MAX_HEADER_CHARACTERS].decode("latin-1"),
        _CALL if reason is None else REASONS.get(reason, _CALL),
        found.get(b"if-none-match"),
    )


def bearer(authorization: bytes | None) -> bytes:
    """The token of an Authorization header (RFC 6750). Raises `AuthenticationError`."""
    if authorization is None:
        raise AuthenticationError("token_missing", "Send Authorization: Bearer TOKEN.")
    if authorization[:7].lower() != b"bearer " or len(authorization) == 7:
        if authorization[:5].lower() == b"dpop ":
            raise AuthenticationError("proof_needed", "A DPoP token comes with a proof beside it.")
        raise AuthenticationError("token_invalid", "The token is not valid here.")
    return authorization[7:]


def credentials(authorization: bytes | None) -> tuple[bytes, bool]:
    """The token of an Authorization header, and whether it came as DPoP (RFC 9449, 7.1).

    Raises `AuthenticationError`."""
    if authorization is not None and authorization[:5].lower() == b"dpop " != authorization.lower():
        return authorization[5:], True
    return bearer(authorization), False


async def read_body(receive: Receive, limit: int = MAX_BODY_BYTES) -> bytes:
    """The whole body, bounded in size and time.

    Raises `PayloadTooLargeError` ``body_too_large``, `StoreUnavailableError` ``timed_out``,
    `InvalidRequestError` ``malformed_json`` for one that breaks off.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read(receive, limit)
    except TimeoutError as error:
        raise StoreUnavailableError(
            "timed_out", f"The body did not arrive within {BODY_SECONDS:g} s."
        ) from error


def parse(kind: type[Body], raw: bytes) -> Body:
    """A JSON body as ``kind``, whatever its Content-Type: ``curl -d`` sends none of its own.

    Raises `InvalidRequestError` ``malformed_json``, also for a member given twice, of which two
    readers could believe different ones; ``invalid_field`` for what does not fit ``kind``.
    """
    try:
        json.loads(raw, object_pairs_hook=_distinct)
        body = decode(kind, raw)
    except msgspec.ValidationError as error:
        raise InvalidRequestError("invalid_field", f"{str(error)[:200]}.") from None
    except (ValueError, RecursionError):  # includes UnicodeDecodeError, msgspec.DecodeError
        raise InvalidRequestError(
            "malformed_json", "The body is not valid JSON, or names a member twice."
        ) from None
    if b"\\u0000" in raw and _has_nul(body):
        raise InvalidRequestError("invalid_field", "Only a value may hold the character NUL.")
    return body


_SPELLED = frozenset(
    {"environment", "key_path", "key_paths", "pattern", "required_keys", "service_name"}
)
"""What has a grammar of its own, which says better what is wrong with it."""


def _has_nul(said: object) -> bool:
    """Whether a text in ``said`` holds what no database takes. Values are sealed, and may."""
    if isinstance(said, str):
        return "\0" in said
    if isinstance(said, msgspec.Struct):
        names = (name for name in said.__struct_fields__ if name not in _SPELLED)
        return any(_has_nul(getattr(said, name)) for name in names)
    if isinstance(said, dict):
        return any(_has_nul(key) or _has_nul(each) for key, each in said.items())
    return isinstance(said, list) and any(map(_has_nul, said))


def _distinct(members: list[tuple[str, object]]) -> None:
    names = {name for name, _ in members}
    if len(names) != len(members):
        raise ValueError("a member is given twice")


async def _read(receive: Receive, limit: int) -> bytes:
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            # The caller left, or its chunks cannot be read: never a reason to come back later.
            raise InvalidRequestError("malformed_json", "The body breaks off, or is badly chunked.")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise PayloadTooLargeError("body_too_large", f"A body here has at most {limit} bytes.")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
