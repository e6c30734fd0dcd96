"""Which blocks of the ledger may hold what happened at a time, or what one request did.

Blocks are stored in order of time, give or take what waits for a commit, so their ids are bisected
instead of indexed; what was written late has a term of its own (`postings`). A request's id leads
to its time: it names the process that took the request and counts what that took (`RequestIds`).
Whatever stands with a lower number arrived before it, whatever has a higher one after it, and an
entry is written soon after its request arrived; so any two such entries bound where its own can be,
and bisecting only finds two that lie close. An index over request ids would be as large as the
ledger.

Where many nodes write, ids rise with time but for some seconds, by which every bound is wider; and
processes run beside one another, so where one begins is looked up in the postings.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import NamedTuple

from dox_core_store.server.adapters.sql.driver import Driver, worded
from dox_core_store.server.adapters.sql.posting_lists import lowest_chunk
from dox_core_store.server.adapters.sql.postings import CHUNK_BLOCKS, LATE_SECONDS
from dox_core_store.server.adapters.sql.tables import Instant
from dox_core_store.server.domain.ledger import Entry, parse_canonical

__all__ = ["BlockTimes"]

_SLACK_MICROSECONDS = int(LATE_SECONDS * 1e6)
_REQUEST_MICROSECONDS = 60_000_000
"""An entry that is not late is written within this of the arrival of its request: the body of a
request takes 10 s at most, a commit 2 s."""

_DISORDER_MICROSECONDS = {"sqlite": 0, "postgresql": 45_000_000}
"""By how much a block may say that it is older than one before it. A node that was stopped between
naming the time and the commit goes on within half a minute, or finds its stream closed."""

_REQUEST = re.compile(rb"(req_[0-9a-f]{12})([0-9a-f]{6,12})")
_PROBED_BLOCKS = 4
_PROBES = 8
_MOST_STREAMS = 500
"""Restarts, the last ones, in which the process of a request is looked for."""

_TOP = "SELECT max(block_id) FROM ledger_block"
_FIRST_FROM = (
    "SELECT block_id, first_at FROM ledger_block WHERE block_id >= ? ORDER BY block_id LIMIT 1"
)
_BODIES = (
    "SELECT block_id, body FROM ledger_block WHERE block_id BETWEEN ? AND ?"
    " ORDER BY block_id LIMIT ?"
)
_OPENED = (
    "SELECT opened_at FROM ledger_stream WHERE stream >= 'str_' AND stream < 'str`'"
    " ORDER BY opened_at DESC LIMIT ?"
)


class _Met(NamedTuple):
    """An id that a process gave, where it stands, and the time of its entry."""

    process: bytes
    number: int
    block_id: int
    at: int


class BlockTimes:
    """Over one connection, for one search."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._first_from = worded(driver.dialect, _FIRST_FROM)
        self._bodies = worded(driver.dialect, _BODIES)
        self._disorder = _DISORDER_MICROSECONDS[driver.dialect.name]
        self.top: int = driver.rows(_TOP, ())[0][0] or 0
        self.process: str | None = None
        """The process of the request that was asked for, where the postings know it."""

    def bounds(self, since: datetime | None, until: datetime | None) -> tuple[int, int]:
        """The first and the last block that may hold entries of these times, but for late ones
        behind it."""
        low, high = 0, self.top
        if since is not None:
            low = self._not_before(Instant.microseconds(since) - _SLACK_MICROSECONDS)
        if until is not None:
            high = self._not_after(Instant.microseconds(until) + _SLACK_MICROSECONDS)
        return low, high

    def of_request(self, request_id: str, low: int, high: int) -> tuple[int, int]:
        """The part of the blocks ``low`` to ``high`` that may hold entries of a request, but for
        late ones behind it; all of them where the id does not tell."""
        asked = _REQUEST.fullmatch(request_id.encode())
        if asked is None:
            return low, high
        process, number = asked[1], int(asked[2], 16)
        if self._driver.is_far:
            chunk = lowest_chunk(self._driver, "p", process.decode())
            if chunk is None:
                return low, high
            self.process = process.decode()
            first, last = self._around(process, number, chunk * CHUNK_BLOCKS, self.top)
            return max(low, first), min(high, last)
        # One process at a time serves a store: its entries end where the next one's begin.
        last = self.top
        for (opened_at,) in self._driver.rows(_OPENED, (_MOST_STREAMS,)):
            first = self._from(opened_at - _SLACK_MICROSECONDS)
            own = self._from(opened_at)
            met = self._met(own, last, _REQUEST)
            if met is not None and met.process == process:
                first, last = self._around(process, number, first, last)
                return max(low, first), min(high, last)
            last = min(last, self._from(opened_at + _SLACK_MICROSECONDS))
        return low, high

    def _around(self, process: bytes, number: int, low: int, high: int) -> tuple[int, int]:
        """The blocks between what certainly arrived before a request and what did after it."""
        pattern = re.compile(rb"(%b)([0-9a-f]{6,12})" % process)
        first, beyond = low, high + 1
        before, after = list[int](), list[int]()
        while first < beyond:
            middle = (first + beyond) // 2
            met = self._met(middle, high, pattern)
            if met is None:
                beyond = middle
                continue
            if met.number <= number:
                before.append(met.at)
            if met.number >= number:
                after.append(met.at)
                beyond = middle
            else:
                first = met.block_id + 1
        if before:
            low = max(low, self._not_before(max(before) - _REQUEST_MICROSECONDS))
        if after:
            high = min(high, self._not_after(min(after) + _REQUEST_MICROSECONDS))
        return low, high

    def _met(self, first: int, last: int, pattern: re.Pattern[bytes]) -> _Met | None:
        """The first id of ``pattern`` in the blocks from ``first`` on, if it is not far."""
        for _ in range(_PROBES):
            rows = self._driver.rows(self._bodies, (first, last, _PROBED_BLOCKS))
            for block_id, body in rows:
                for found in pattern.finditer(body):
                    entry = _entry_at(body, found.start())
                    if entry.request_id.encode() == found[0]:  # not what a caller sent as its own
                        at = Instant.microseconds(datetime.fromisoformat(entry.timestamp))
                        return _Met(found[1], int(found[2], 16), block_id, at)
            if len(rows) < _PROBED_BLOCKS:
                return None
            first = rows[-1][0] + 1
        return None

    def _not_before(self, at: int) -> int:
        """The first block that may be of time ``at`` or later."""
        return self._from(at - self._disorder)

    def _not_after(self, at: int) -> int:
        """The last block that may be of time ``at`` or earlier."""
        return self._from(at + self._disorder + 1) - 1

    def _from(self, at: int) -> int:
        """The first block of time ``at`` or later, by bisection, as if ids rose with time."""
        low, high = 1, self.top + 1
        while low < high:
            middle = (low + high) // 2
            rows = self._driver.rows(self._first_from, (middle,))
            if not rows or rows[0][1] >= at:
                high = middle
            else:
                low = rows[0][0] + 1
        return low


def _entry_at(body: bytes, place: int) -> Entry:
    """The entry whose line holds ``place``."""
    begin, end = body.rfind(b"\n", 0, place) + 1, body.find(b"\n", place)
    return parse_canonical(body[begin : end if end != -1 else len(body)])[0]
