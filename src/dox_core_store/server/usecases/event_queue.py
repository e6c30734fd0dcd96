"""One stream of events on its way to whoever follows: what waits to be sent, and when it is over.

What is told is put here and never waits for the reader. A reader that does not keep up is cut off:
the memory that it may take, and the time that it may stand still, have a bound.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from dox_core_store.server.domain.token import Claims
from dox_core_store.server.usecases.registry import subject

__all__ = ["Stream"]

_STUCK_BEATS = 30
"""How many beats in a row a reader may leave where they are."""


def _nothing() -> None:
    """There is nobody to interrupt yet."""


class Stream:
    """See the module. ``after`` is the place in the feed up to which all was put here."""

    MOST_WAITING: ClassVar = 256

    __slots__ = ("_beats", "_there", "_waiting", "after", "claims", "interrupt", "is_over",
                 "subject", "turn")  # fmt: skip

    def __init__(self, claims: Claims, *, turn: int) -> None:
        self.claims = claims
        self.turn = turn
        self.subject = subject("tokens", claims.token_id)
        """What the change feed calls its token."""
        self.after = math.inf  # until it has begun
        self.is_over = False
        self.interrupt: Callable[[], object] = _nothing
        """Called when it is over, for whoever takes from it may be busy with the reader."""
        self._waiting: deque[bytes] = deque()
        self._beats = 0
        self._there = asyncio.Event()

    def put(self, seq: int, frame: bytes) -> None:
        """Tell it ``frame``, unless that was told before."""
        if seq <= self.after or self.is_over:
            return
        self.after = seq
        self._beats = 0
        self._append(frame)

    def beat(self, frame: bytes) -> None:
        """Tell it that it was told everything; of beats that wait the last one counts."""
        if self.is_over:
            return
        self._beats += 1
        if self._beats > _STUCK_BEATS:
            self.close()
        elif self._beats > 1:
            self._waiting[-1] = frame
        else:
            self._append(frame)

    def close(self) -> None:
        """It is over at once: what waits is not sent any more."""
        if not self.is_over:
            self.is_over = True
            self._waiting.clear()
            self._there.set()
            self.interrupt()

    async def take(self) -> bytes:
        """All that waits, once something does; nothing where it is over."""
        while not self._waiting and not self.is_over:
            self._there.clear()
            await self._there.wait()
        taken = b"".join(self._waiting)
        self._waiting.clear()
        self._beats = 0
        return taken

    def _append(self, frame: bytes) -> None:
        if len(self._waiting) >= self.MOST_WAITING:
            self.close()
            return
        self._waiting.append(frame)
        self._there.set()
