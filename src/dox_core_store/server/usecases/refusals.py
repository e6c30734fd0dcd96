"""How refusals reach the ledger: the first of a kind at once, a flood of them folded.

A kind is (principal or address, action, status, code). Within a window the first `INDIVIDUAL` of a
kind are entries of their own; what follows is counted, and written as one entry with its ``count``
when the window is over. Nothing is dropped silently. A refusal does not wait for its commit, unless
the ledger is known to be in trouble: then the answer is the ledger's 503 instead.

Named principals are few, and a window is a second. Strangers, who showed no good token, may come
from more addresses than anybody has disk for, so they have a window of their own, which cannot
touch a named one's entries: in it, for each code, so many addresses are told apart and so many
entries are spent beyond the first of each; all further ones are one kind, ``*``. As long as
strangers flood, their windows get longer, up to a minute, and narrower. What they can write is
thereby bounded, however many they are. An IPv6 stranger is its /64.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
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
from dox_core_store.server.domain.address import counted_as
from dox_core_store.server.domain.ledger import Entry, Status
from dox_core_store.server.ports import Ledger

__all__ = ["INDIVIDUAL", "Refusals", "status_of"]

INDIVIDUAL = 100
WINDOW_SECONDS = 1.0
LONGEST_SECONDS = 60.0
_MAX_KINDS = 10_000
_MAX_ADDRESSES = 1_000
"""Strangers that are told apart in a window, for each code; and entries beyond their first ones."""

_MAX_ADDRESSES_IN_FLOOD = 100
_MANY = "*"
_STRANGER = "anonymous"

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


class Refusals:
    """See the module. Lives on the event loop."""

    def __init__(self, *, ledger: Ledger) -> None:
        self._ledger = ledger
        self._named = _Window(ledger, longest_seconds=WINDOW_SECONDS)
        self._strangers = _Window(ledger, longest_seconds=LONGEST_SECONDS)

    async def record(self, entry: Entry) -> None:
        """Put a refusal on record; ``entry.reason`` holds its code. Raises what `Ledger` raises."""
        try:
            self._ledger.check()
        except StoreUnavailableError:
            await self._ledger.commit((entry,))
            return
        if entry.service_name != _STRANGER:
            kind = _Kind(entry.service_name, entry.action, entry.status, entry.reason)
            self._named.take(kind, entry, _MAX_KINDS, sys.maxsize)
            return
        kind = _Kind(counted_as(entry.ip_address), entry.action, entry.status, entry.reason)
        is_calm = self._strangers.seconds <= WINDOW_SECONDS
        most = _MAX_ADDRESSES if is_calm else _MAX_ADDRESSES_IN_FLOOD
        self._strangers.take(kind, entry, most, most)

    def flush(self) -> None:
        """Write what was folded; called at shutdown."""
        self._named.flush()
        self._strangers.flush()


class _Kind(NamedTuple):
    who: str
    action: str
    status: str
    code: str | None


class _Folded:
    """Refusals of a kind. ``entry`` stands for those ``count`` that are no entries of their own."""

    __slots__ = ("count", "entry", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.count = 0
        self.entry: Entry | None = None

    def add(self, kind: _Kind, entry: Entry) -> None:
        """Count ``entry``; what it differs in from those before is told as ``*``, or for an address
        as the network that all of them are from."""
        self.count += 1
        before, self.entry = self.entry, entry
        if before is None:
            return
        if before.key_path != entry.key_path:
            self.entry = self.entry._replace(key_path=_MANY)
        if before.user_agent != entry.user_agent:
            self.entry = self.entry._replace(user_agent=_MANY)
        if before.ip_address != entry.ip_address:
            where = kind.who if entry.service_name == _STRANGER else _MANY
            self.entry = self.entry._replace(ip_address=where)


class _Window:
    """The refusals of some seconds, by kind."""

    def __init__(self, ledger: Ledger, *, longest_seconds: float) -> None:
        self._ledger = ledger
        self._longest = longest_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._kinds: dict[_Kind, _Folded] = {}
        self._told_apart: Counter[str | None] = Counter()
        self._spent: Counter[str | None] = Counter()
        self.seconds = WINDOW_SECONDS

    def take(self, kind: _Kind, entry: Entry, most: int, spare: int) -> None:
        """One refusal. For each code, at most ``most`` kinds are told apart, and at most ``spare``
        entries are spent on others than the first of each."""
        if kind not in self._kinds:
            if self._told_apart[kind.code] < most:
                self._told_apart[kind.code] += 1
            else:
                kind = kind._replace(who=_MANY)
        folded = self._kinds.setdefault(kind, _Folded())
        folded.seen += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.seconds, self.flush)
        if folded.seen == 1:
            self._ledger.record(entry)
        elif folded.seen <= INDIVIDUAL and self._spent[kind.code] < spare:
            self._spent[kind.code] += 1
            self._ledger.record(entry)
        else:
            folded.add(kind, entry)

    def flush(self) -> None:
        """Write what was folded. The next window is longer if this one was flooded."""
        kinds, self._kinds = self._kinds, {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._told_apart.clear()
        self._spent.clear()
        entries = [(each.entry, each.count) for each in kinds.values() if each.entry is not None]
        for entry, count in entries:
            self._ledger.record(entry._replace(count=count))
        self.seconds = min(2 * self.seconds, self._longest) if entries else WINDOW_SECONDS
