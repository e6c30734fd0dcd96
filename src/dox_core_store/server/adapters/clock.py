"""This process's time, and that time as the ledger writes it.

The wall clock is asked once, when the process starts; from then on `CLOCK_BOOTTIME` counts on
(also while the machine sleeps). So whoever sets the wall clock of a running node moves nothing: an
expired key stays expired, and no token comes back. The kernel keeps both clocks at the same rate,
so they part only where the wall clock is stepped: `SystemClock.step_seconds` tells by how much.
"""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime, timedelta

__all__ = ["LedgerStamp", "SystemClock"]

_BOOTTIME = time.CLOCK_BOOTTIME
_gettime, _gettime_ns = time.clock_gettime, time.clock_gettime_ns
_NANOSECONDS = 1_000_000_000


class SystemClock:
    """See the `Clock` port. One per process, so that everything in it agrees on the time."""

    def __init__(self) -> None:
        self.offset_ns = time.time_ns() - _gettime_ns(_BOOTTIME)
        """What makes the time of day of `CLOCK_BOOTTIME`."""
        self._offset = self.offset_ns / _NANOSECONDS

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds(), UTC)

    def seconds(self) -> float:
        return self._offset + _gettime(_BOOTTIME)

    monotonic = staticmethod(functools.partial(_gettime, _BOOTTIME))
    """Also while the machine sleeps: what may be handed out for half a second may not be after an
    hour of sleep."""

    def be_at(self, seconds: float) -> None:
        """Be at ``seconds`` since 1970 now: the time that all nodes of a store agree on."""
        self.offset_ns = round(seconds * _NANOSECONDS) - _gettime_ns(_BOOTTIME)
        self._offset = self.offset_ns / _NANOSECONDS

    def not_before(self, instant: datetime) -> None:
        """Be at ``instant`` if it has not come yet: what expired until then stays expired."""
        ahead = instant - self.now()
        if ahead > timedelta(0):
            self.offset_ns += ahead // timedelta(microseconds=1) * 1000
            self._offset = self.offset_ns / _NANOSECONDS

    def step_seconds(self) -> float:
        """By how much the wall clock is ahead of (behind: negative) this one: it was set since this
        one started, or is not at the time that the nodes agree on."""
        return time.time() - self.seconds()


class LedgerStamp:
    """A clock's time in the ledger's form (RFC 3339, UTC, milliseconds), formatted once a
    millisecond: the door asks for it at every read."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._second = -1
        self._milliseconds = -1
        self._prefix = ""
        self._text = ""

    def __call__(self) -> str:
        milliseconds = (self._clock.offset_ns + _gettime_ns(_BOOTTIME)) // 1_000_000
        if milliseconds != self._milliseconds:
            second, rest = divmod(milliseconds, 1000)
            if second != self._second:
                self._second = second
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._milliseconds = milliseconds
            self._text = f"{self._prefix}.{rest:03d}Z"
        return self._text
