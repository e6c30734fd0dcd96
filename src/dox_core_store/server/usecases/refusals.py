"""How refusals reach the ledger: the first of a kind at once, a flood of them folded.

A kind is (principal or address, action, status, code). Within a second the first `INDIVIDUAL` of a
kind are entries of their own; what follows is counted, and written as one entry with its ``count``
when the second is over. Nothing is dropped silently, and an attacker cannot fill the disk. A
refusal does not wait for its commit, unless the ledger is known to be in trouble: then the answer
is the ledger's 503 instead.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from dox_core_store.errors import (
    AuthenticationError,
    ConflictError,
    DoxStoreError,
    GoneError,
    InternalError,
    NotFoundError,
    RateLimitError,
    StoreUnavailableError,
    UnauthorizedError,
)
from dox_core_store.server.domain.ledger import Entry, Status
from dox_core_store.server.ports import Ledger

__all__ = ["INDIVIDUAL", "Refusals", "status_of"]

INDIVIDUAL = 100
WINDOW_SECONDS = 1.0
_MAX_KINDS = 10_000
_MANY = "*"

_STATUS: tuple[tuple[type[DoxStoreError], Status], ...] = (
    (AuthenticationError, Status.DENIED),
    (UnauthorizedError, Status.DENIED),
    (GoneError, Status.DENIED),
    (NotFoundError, Status.NOT_FOUND),
    (RateLimitError, Status.LIMITED),
    (ConflictError, Status.FAILED),
    (InternalError, Status.FAILED),
    (StoreUnavailableError, Status.FAILED),
    (InternalError, Status.FAILED),
)


def status_of(error: DoxStoreError) -> Status:
    """How the ledger calls what ended with ``error``: a request we cannot take is INVALID, and what
    is no answer of a server (a damaged store) is a fault of ours."""
    otherwise = Status.FAILED if error.status is None else Status.INVALID
    return next((status for kind, status in _STATUS if isinstance(error, kind)), otherwise)


class _Kind(NamedTuple):
    who: str
    action: str
    status: str
    code: str | None


class _Folded:
    __slots__ = ("entry", "seen")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.seen = 0


class Refusals:
    """See the module. Lives on the event loop."""

    def __init__(self, *, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kinds: dict[_Kind, _Folded] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def record(self, entry: Entry) -> None:
        """Put a refusal on record; ``entry.reason`` holds its code. Raises what `Ledger` raises."""
        try:
            self._ledger.check()
        except StoreUnavailableError:
            await self._ledger.commit((entry,))
            return
        who = entry.ip_address if entry.service_name == "anonymous" else entry.service_name
        kind = _Kind(who, entry.action, entry.status, entry.reason)
        folded = self._kinds.get(kind)
        if folded is None:
            if len(self._kinds) >= _MAX_KINDS:  # an address space is larger than our memory
                kind = kind._replace(who=_MANY)
                folded = self._kinds.get(kind)
            if folded is None:
                folded = self._kinds[kind] = _Folded(entry)
        folded.seen += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WINDOW_SECONDS, self.flush)
        if folded.seen <= INDIVIDUAL:
            self._ledger.record(entry)
            folded.entry = entry
        else:
            path = entry.key_path if folded.entry.key_path == entry.key_path else _MANY
            folded.entry = entry._replace(key_path=path)

    def flush(self) -> None:
        """Write what was folded; called when the window ends and at shutdown."""
        kinds, self._kinds, self._timer = self._kinds, {}, None
        for folded in kinds.values():
            if folded.seen > INDIVIDUAL:
                self._ledger.record(folded.entry._replace(count=folded.seen - INDIVIDUAL))
