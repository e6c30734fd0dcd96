"""The `Ledger` port over the writer: the half that lives on the event loop.

Every awaited entry has a ticket; the writer reports tickets in order, so one report settles many
waiters. A waiter that is not told within `PATIENCE_SECONDS` is refused; if its entries are written
after all, ABORTED entries follow, because no value left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from dox_core_store.errors import DoxStoreError, StoreUnavailableError
from dox_core_store.server.adapters.sql.transaction import timestamp
from dox_core_store.server.domain.ledger import Entry, Status
from dox_core_store.server.ports import Clock, Committed

__all__ = ["MAX_WAITING", "PATIENCE_SECONDS", "Appender", "HandedOver", "Outcome", "SqlLedger"]

PATIENCE_SECONDS = 2.0
MAX_WAITING = 10_000
_TICK_SECONDS = 0.1


class Appender(Protocol):
    """The half in a thread."""

    def append(self, waiting: HandedOver) -> None:
        """Hand over entries; once woken, `SqlLedger.told` hears when they are on stable storage."""

    def wake(self) -> None:
        """Have what was handed over written."""


class HandedOver(Protocol):
    """Entries on their way to the writer. ``ticket`` rises; ``future``: whether a value depends on
    their commit. The writer reads, the ledger owns."""

    @property
    def ticket(self) -> int: ...

    @property
    def entries(self) -> Sequence[Entry]: ...

    @property
    def future(self) -> object | None: ...


class Outcome(Protocol):
    """Told on the writer's thread what became of every ticket up to ``ticket``."""

    def __call__(
        self, ticket: int, committed: Committed | None, error: DoxStoreError | None
    ) -> None: ...


class _Waiter:
    """One hand-over to the writer; ``future`` is None where nobody waits for its commit."""

    __slots__ = ("entries", "future", "refused", "since", "ticket")

    def __init__(
        self,
        ticket: int,
        entries: Sequence[Entry],
        since: float,
        future: asyncio.Future[Committed] | None,
    ) -> None:
        self.ticket = ticket
        self.entries = entries
        self.since = since
        self.future = future
        self.refused = False


class SqlLedger:
    """See the port. `attach` binds it to its writer, `told` is the writer's `Outcome`."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._monotonic = clock.monotonic
        self._loop = asyncio.get_running_loop()
        self._ticket = 0
        self._written = 0
        self._waiters: deque[_Waiter] = deque()
        self._fault: StoreUnavailableError | None = None
        self._ticking = False
        self._waking = False

    @property
    def waiting(self) -> int:
        """How many commits are awaited."""
        return len(self._waiters)

    def attach(self, writer: Appender) -> None:
        self._writer = writer

    def record(self, entry: Entry) -> None:
        self._ticket += 1
        self._hand_over(_Waiter(self._ticket, (entry,), 0.0, None))

    def commit(self, entries: Sequence[Entry]) -> asyncio.Future[Committed]:
        waiters = self._waiters
        if len(waiters) >= MAX_WAITING:
            raise StoreUnavailableError("overloaded", "Too many requests wait for the ledger.")
        self._ticket += 1
        future = self._loop.create_future()
        waiter = _Waiter(self._ticket, entries, self._monotonic(), future)
        waiters.append(waiter)
        self._hand_over(waiter)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(_TICK_SECONDS, self._tick)
        return future

    def _hand_over(self, waiter: _Waiter) -> None:
        """The writer is woken two rounds of the loop later, so that what is already on its way into
        the loop shares the commit: fewer syncs, for microseconds of waiting."""
        self._writer.append(waiter)
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._loop.call_soon, self._wake)

    def _wake(self) -> None:
        self._waking = False
        self._writer.wake()

    def check(self) -> None:
        if self._fault is not None:
            raise StoreUnavailableError(self._fault.code, self._fault.detail)
        if self._ticket - self._written > MAX_WAITING:
            raise StoreUnavailableError("overloaded", "Too many entries wait for the ledger.")

    def told(self, ticket: int, committed: Committed | None, error: DoxStoreError | None) -> None:
        """The writer's report; called on its thread. One of both is None."""
        self._loop.call_soon_threadsafe(self._settle, ticket, committed, error)

    def _settle(
        self, ticket: int, committed: Committed | None, error: DoxStoreError | None
    ) -> None:
        self._written = max(ticket, self._written)
        self._fault = error if isinstance(error, StoreUnavailableError) else None
        waiters = self._waiters
        while waiters and waiters[0].ticket <= ticket:
            waiter = waiters.popleft()
            future = waiter.future
            if future is None or waiter.refused or future.cancelled():
                if error is None:  # written after all, but nobody is there to be handed a value
                    self.abort(waiter.entries)
            elif committed is not None:
                future.set_result(committed)
            elif error is not None:
                # A fresh one each: a shared exception would collect every task's traceback.
                future.set_exception(type(error)(error.code, error.detail))

    def abort(self, entries: Sequence[Entry]) -> None:
        """Record that what ``entries`` granted did not leave, or that what they report was not
        taken: whoever told it will tell it again."""
        now = timestamp(self._clock.now())
        for entry in entries:
            if entry.status in (Status.GRANTED, Status.REPORTED):
                self.record(entry._replace(timestamp=now, status=Status.ABORTED))

    def _tick(self) -> None:
        overdue = self._monotonic() - PATIENCE_SECONDS
        for waiter in self._waiters:
            if waiter.since > overdue:
                break
            if waiter.future is not None and not waiter.refused and not waiter.future.done():
                waiter.refused = True
                self._fault = _too_slow()
                waiter.future.set_exception(_too_slow())
        self._ticking = bool(self._waiters)
        if self._ticking:
            self._loop.call_later(_TICK_SECONDS, self._tick)


def _too_slow() -> StoreUnavailableError:
    return StoreUnavailableError(
        "ledger_unavailable", f"The access was not on record within {PATIENCE_SECONDS:g} s."
    )
