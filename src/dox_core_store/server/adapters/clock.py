"""The system's clock, and its time as the ledger writes it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

__all__ = ["LedgerStamp", "SystemClock"]


class SystemClock:
    """See the `Clock` port."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    seconds = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class LedgerStamp:
    """The wall clock in the ledger's form (RFC 3339, UTC, milliseconds), formatted once a
    millisecond: the door asks for it at every read."""

    def __init__(self) -> None:
        self._second = -1
        self._milliseconds = -1
        self._prefix = ""
        self._text = ""

    def __call__(self) -> str:
        milliseconds = time.time_ns() // 1_000_000
        if milliseconds != self._milliseconds:
            second, rest = divmod(milliseconds, 1000)
            if second != self._second:
                self._second = second
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._milliseconds = milliseconds
            self._text = f"{self._prefix}.{rest:03d}Z"
        return self._text
