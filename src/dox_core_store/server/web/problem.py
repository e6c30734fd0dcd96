"""Problem documents (RFC 9457): every refusal of the server, in one form."""

from __future__ import annotations

import math

from dox_core_store.errors import CODES, DoxStoreError, InternalError
from dox_core_store.wire import Problem, encode

__all__ = ["PROBLEM_TYPE", "internal_error", "problem_body", "problem_document", "problem_headers"]

PROBLEM_TYPE = "/docs/errors#"
"""A problem's ``type`` is its page here: relative to the store, as RFC 9457 section 3.1.1
allows."""

_RETRY_SECONDS = 1
_CHALLENGES = {
    "token_missing": b"Bearer",
    "proof_needed": b'DPoP algs="ES256", error="invalid_token"',
    "proof_invalid": b'DPoP algs="ES256", error="invalid_dpop_proof"',
    "nonce_needed": b'DPoP algs="ES256", error="use_dpop_nonce"',
}
"""RFC 6750, 3; RFC 9449, 7.1 and 9."""


def problem_document(error: DoxStoreError, store_id: str, request_id: str) -> Problem:
    """``error`` as it is told. What is no answer of a server is told as an internal error."""
    if error.status is None:
        error = internal_error()
    retry = error.extra.get("retry_after_seconds")
    return Problem(
        type=PROBLEM_TYPE + error.code,
        title=CODES[error.code].title,
        status=error.status or 500,
        detail=error.detail,
        code=error.code,
        store_id=store_id,
        request_id=request_id,
        actual_version=error.extra.get("actual_version"),
        retry_after_seconds=None if retry is None else math.ceil(retry),
    )


def problem_headers(problem: Problem) -> list[tuple[bytes, bytes]]:
    """The headers that go with it."""
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"cache-control", b"no-store"),
        (b"x-request-id", problem.request_id.encode()),
    ]
    if problem.status == 401:
        challenge = _CHALLENGES.get(problem.code, b'Bearer error="invalid_token"')
        headers.append((b"www-authenticate", challenge))
    if problem.status in (429, 503):
        seconds = problem.retry_after_seconds
        if seconds is not None or problem.status == 503:
            headers.append((b"retry-after", str(seconds or _RETRY_SECONDS).encode()))
    return headers


def problem_body(problem: Problem) -> bytes:
    """The document's bytes."""
    return encode(problem)


def internal_error() -> InternalError:
    """What is told of a fault of ours: nothing but that it is one."""
    return InternalError("internal_error", "The store made a mistake. Nothing was revealed.")
