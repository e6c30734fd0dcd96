"""The HTTP contract as pure functions: how a call is written, and what an answer means.

Order of judgement for an answer, and why: first *whose* it is, then what it says. A proxy, a
captive portal or a neighbour's server can answer anything with any status; if its 404 counted, it
could empty the caches of a platform. So a failure counts only as an ``application/problem+json``
document with a ``code``, its own status and the ``store_id`` of the store that issued our token; a
success only if it decodes and names the key that was asked for. All else is ``not_the_store``.

No I/O. Bodies hide from ``repr``, so that no traceback that prints variables prints a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from dox_core_store import wire
from dox_core_store.errors import (
    ConnectionFailedError,
    DoxStoreError,
    InvalidRequestError,
    error_for,
)
from dox_core_store.key_path import check_environment_name, split_environment

__all__ = [
    "MAX_BATCH",
    "UNCHANGED",
    "Call",
    "Outcome",
    "Reply",
    "Unchanged",
    "Why",
    "accept",
    "check_spelling",
    "not_the_store",
    "read_answer",
    "read_batch",
    "read_key",
    "read_value",
    "to_batch_get",
    "to_get_key",
    "to_rejected",
    "to_report",
    "url_segment",
]

T = TypeVar("T")

Why = Literal["call", "refresh", "startup"]
"""Why a key is read, as the ledger tells it: for a caller, in the background, or at a start."""

MAX_BATCH = 100
"""Spellings in one ``POST /v1/keys/batch-get``."""


_NOT_MODIFIED = 304


class Unchanged(Enum):
    """What is held is still what the store would answer."""

    UNCHANGED = auto()


UNCHANGED = Unchanged.UNCHANGED

Outcome = wire.KeyValue | DoxStoreError | Unchanged
"""What became of one asked spelling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, without its token. ``repeatable``: sending it twice does no harm."""

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    body: bytes | None = field(default=None, repr=False)
    content_type: str = "application/json"
    headers: Sequence[tuple[str, str]] = ()
    repeatable: bool = False

    @property
    def target(self) -> str:
        """Path and query as they are sent."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One response, as far as anything here looks at it."""

    status: int
    content_type: str = ""
    request_id: str | None = None
    store_id: str | None = None
    body: bytes = field(default=b"", repr=False)


def check_spelling(text: object) -> str:
    """``text``, if some store could know it; else ``malformed_path``.

    Which last segments are environments only the store knows, so one more segment is allowed here.
    Checking before sending keeps ``..`` and ``/`` out of URLs.
    """
    if not isinstance(text, str):
        raise InvalidRequestError("malformed_path", "A key path is a text.")
    try:
        split_environment(text, ())
    except InvalidRequestError:
        head, _, last = text.rpartition(".")
        try:
            split_environment(head, ())
            check_environment_name(last)
        except InvalidRequestError:
            pass
        else:
            return text
        raise
    return text


def url_segment(text: str) -> str:
    """``text`` as one segment of a URL, whatever is in it."""
    if text in {"", ".", ".."}:
        raise InvalidRequestError("invalid_field", f"{text!r} names nothing.")
    return quote(text, safe="")


def to_get_key(
    spelling: str, *, version: int | None = None, known: str | None = None, why: Why = "call"
) -> Call:
    """The call for one key, its current version by default; ``known`` is the tag of the version
    that is held (`wire.tag_of`), which is not sent again."""
    query = () if version is None else (("version", str(version)),)
    headers = _headers(why)
    if known is not None:
        headers.append(("If-None-Match", f'"{known}"'))
    return Call(
        method="GET", path=f"/v1/keys/{spelling}", query=query, headers=headers, repeatable=True
    )


def to_batch_get(
    spellings: Sequence[str], *, known: Mapping[str, str] | None = None, why: Why = "call"
) -> Call:
    """The call for up to `MAX_BATCH` keys; ``known`` has the tags of the versions that are held."""
    request = wire.BatchRequest(key_paths=list(spellings), known=dict(known or {}))
    return Call(
        method="POST",
        path="/v1/keys/batch-get",
        body=wire.encode(request),
        headers=_headers(why),
        repeatable=True,
    )


def to_rejected(spelling: str, version_id: str, reason: str) -> Call:
    """The call that says that whoever the key is for refused this version."""
    body = wire.encode(wire.RejectedRequest(version_id=version_id, reason=reason or None))
    return Call(method="POST", path=f"/v1/keys/{spelling}/rejected", body=body)


def to_report(reads: Sequence[wire.ReadCount]) -> Call:
    """The call that says what was served without asking."""
    body = wire.encode(wire.ReadReport(reads=list(reads)))
    return Call(method="POST", path="/v1/reports", body=body)


def accept(reply: Reply, *, store_id: str | None) -> None:
    """Return if ``reply`` is a success; raise what the store, or whoever it was, says otherwise."""
    if 200 <= reply.status <= 299:
        return
    problem = _decoded(wire.Problem, reply) if _is_problem(reply) else None
    if problem is None or problem.status != reply.status or not problem.code:
        raise not_the_store(reply)
    if not problem.store_id or (store_id is not None and problem.store_id != store_id):
        raise not_the_store(
            reply,
            f"Store {ascii(problem.store_id)[:80]} answered, "
            f"but the token is from store {ascii(store_id)[:80]}.",
        )
    raise _error(problem)


def read_answer(kind: type[T], reply: Reply, *, store_id: str | None) -> T:
    """The body of a success as ``kind``; else raises."""
    accept(reply, store_id=store_id)
    answer = _decoded(kind, reply)
    if answer is None:
        raise not_the_store(reply)
    return answer


def read_value(spelling: str, reply: Reply, *, store_id: str | None) -> wire.KeyValue:
    """The key that ``spelling`` asked for; another key's answer is refused."""
    answer = read_answer(wire.KeyValue, reply, store_id=store_id)
    if not _names(answer, spelling):
        raise not_the_store(reply, "The answer is about another key.")
    return answer


def read_key(
    spelling: str, known: Mapping[str, str], reply: Reply, *, store_id: str | None
) -> wire.KeyValue | Unchanged:
    """The same, or that what is ``known`` of it is still current."""
    if spelling in known and _is_unchanged(reply, store_id):
        return UNCHANGED
    return read_value(spelling, reply, store_id=store_id)


def read_batch(
    spellings: Iterable[str], known: Mapping[str, str], reply: Reply, *, store_id: str | None
) -> Mapping[str, Outcome]:
    """A key, an error or `UNCHANGED` for each of ``spellings``."""
    if all(spelling in known for spelling in spellings) and _is_unchanged(reply, store_id):
        return dict.fromkeys(spellings, UNCHANGED)
    batch = read_answer(wire.Batch, reply, store_id=store_id)
    items = {item.asked: item for item in batch.keys}
    outcomes: dict[str, Outcome] = {}
    for spelling in spellings:
        item = items.get(spelling)
        if item is not None and item.key is not None and _names(item.key, spelling):
            outcomes[spelling] = item.key
        elif item is not None and item.key is None and item.problem is not None:
            outcomes[spelling] = _error(item.problem)
        elif item is not None and item.key is None and item.unchanged and spelling in known:
            outcomes[spelling] = UNCHANGED
        else:
            outcomes[spelling] = not_the_store(reply, "The answer does not say what was asked.")
    return outcomes


def not_the_store(reply: Reply, why: str | None = None) -> ConnectionFailedError:
    """The error for a reply that is not our store's, and for that reason says nothing."""
    shown = reply.content_type.partition(";")[0][:60] or "no content type"
    return ConnectionFailedError(
        "not_the_store",
        why or f"Status {reply.status} with {shown!a} is no answer of the store.",
        request_id=reply.request_id,
        status=reply.status,
    )


def _is_unchanged(reply: Reply, store_id: str | None) -> bool:
    """A 304 has no body to say whose it is, so a header does: one of a proxy's own is none."""
    said = reply.store_id
    return reply.status == _NOT_MODIFIED and said is not None and store_id in (None, said)


def _headers(why: Why) -> list[tuple[str, str]]:
    return [] if why == "call" else [("X-Read-Reason", why)]


def _is_problem(reply: Reply) -> bool:
    return reply.content_type.partition(";")[0].strip().lower() == "application/problem+json"


def _decoded(kind: type[T], reply: Reply) -> T | None:
    try:
        return wire.decode(kind, reply.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None  # the caller raises: a chained decoding error could carry the body along


def _error(problem: wire.Problem) -> DoxStoreError:
    extra: dict[str, Any] = {
        name: value
        for name in ("actual_version", "retry_after_seconds")
        if (value := getattr(problem, name)) is not None
    }
    return error_for(
        problem.code,
        problem.detail,
        status=problem.status,
        request_id=problem.request_id,
        **extra,
    )


def _names(answer: wire.KeyValue, spelling: str) -> bool:
    # A bare path may be answered from any environment: the token's, which the store knows best.
    return spelling in (answer.key_path, f"{answer.key_path}.{answer.environment}")
