"""`Tally`: what was served without asking the store, counted by version, to be reported.

Reports refine what the ledger knows and are never relied on: a process that is killed takes its
counts along. Never a value.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypeVar

from dox_core_store.client.cache import Held
from dox_core_store.client.forking import begin_anew_in_child
from dox_core_store.client.key import HeldKey
from dox_core_store.wire import ReadCount

__all__ = ["MOST_IN_REPORT", "Tally"]

K = TypeVar("K", bound=HeldKey)

MOST_IN_REPORT = 500


class _What(NamedTuple):
    key_path: str
    environment: str
    version: int
    source: Literal["cache", "outage"]


class _Count:
    __slots__ = ("count", "since", "until")

    def __init__(self, since: float) -> None:
        self.count = 0
        self.since = self.until = since


class Tally:
    """Times are seconds since 1970."""

    def __init__(self) -> None:
        self._counting = threading.Lock()
        self._counts: dict[_What, _Count] = {}
        begin_anew_in_child(self)

    def outage(self, key: HeldKey, now: float) -> None:
        """One read was served although the store could not be asked."""
        self._count(_What(key.key_path, key.environment, key.version, "outage"), 1, now, now)

    def settle(self, held: Held[K], now: float) -> int:
        """Count the reads that ``held`` has answered from the cache since this was last called."""
        with self._counting:
            # Reading the counter takes a number, so the next count begins behind that.
            total = next(held.reads)
            count, held.settled = total - held.settled, total + 1
            since, held.since = held.since, now
        if count:
            answer = held.answer
            what = _What(answer.key_path, answer.environment, answer.version, "cache")
            self._count(what, count, since, now)
        return count

    @property
    def is_pressing(self) -> bool:
        """Whether reads during an outage wait to be reported."""
        return any(what.source == "outage" for what in list(self._counts))

    def take(self) -> list[ReadCount]:
        """The counts so far, which are then begun anew; `put_back` where they could not be told."""
        with self._counting:
            counts, self._counts = self._counts, {}
        return [
            ReadCount(
                **what._asdict(), count=each.count, since=_time(each.since), until=_time(each.until)
            )
            for what, each in counts.items()
        ]

    def put_back(self, reads: list[ReadCount]) -> None:
        for each in reads:
            what = _What(each.key_path, each.environment, each.version, each.source)
            self._count(what, each.count, each.since.timestamp(), each.until.timestamp())

    def begin_anew(self) -> None:
        """In a process that was forked: its parent reports what it served."""
        self._counting = threading.Lock()
        self._counts = {}

    def _count(self, what: _What, count: int, since: float, until: float) -> None:
        with self._counting:
            known = self._counts.setdefault(what, _Count(since))
            known.count += count
            known.since, known.until = min(known.since, since), max(known.until, until)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
