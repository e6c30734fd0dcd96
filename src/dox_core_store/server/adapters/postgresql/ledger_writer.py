"""The thread that puts a node's entries on the ledger in PostgreSQL.

Everything that waits goes into one block and one commit (group commit). It has a connection of its
own, so that no mutation, and no lock that one waits for, keeps reads from going on record.

A connection that is lost is made anew, again and again, until the database is there; meanwhile
whoever waits is refused. Entries that were refused and turn out to be on record are followed by
ABORTED: no value left on them.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import sqlalchemy as sa

from dox_core_store.errors import DoxStoreError, StoreUnavailableError
from dox_core_store.server.adapters.postgresql.append import BlockAppender
from dox_core_store.server.adapters.postgresql.nodes import NodeRegister
from dox_core_store.server.adapters.postgresql.session import FAULTS, Session
from dox_core_store.server.adapters.sql.faults import unavailable
from dox_core_store.server.adapters.sql.ledger import HandedOver, Outcome
from dox_core_store.server.adapters.sql.stream import LedgerStream, StreamLostError
from dox_core_store.server.adapters.sql.transaction import timestamp
from dox_core_store.server.domain.ledger import Action, Entry, Status, parse_canonical
from dox_core_store.server.ports import Clock, Committed

__all__ = ["LEASE_SECONDS", "LedgerWriter"]

LEASE_SECONDS = 0.5
"""How long after it asked a node may hand out on the answer; who takes away waits for as long."""

_MAX_ENTRIES_PER_COMMIT = 2_000
_IDLE_SECONDS = 3600.0
"""How long a node may say nothing: retention keeps what comes after the end of an open stream."""


Written = Callable[[int, list[Entry], int], None]


class LedgerWriter:
    """See the module. ``start`` opens the node's stream, ``stop`` closes it. ``written`` hears of
    every block (id, entries, microseconds), ``lost`` once if the ledger goes on without us; both on
    this thread."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        stream: LedgerStream,
        appender: BlockAppender,
        register: NodeRegister,
        clock: Clock,
        outcome: Outcome,
        written: Written,
        lost: Callable[[str], None],
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._stream = stream
        self._appender = appender
        self._register = register
        self._clock = clock
        self._outcome = outcome
        self._written = written
        self._lost = lost
        self._on_death = on_death
        self._pending: deque[HandedOver] = deque()
        self._kept: list[Entry] = []
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._signalled = False
        self._faulty = False
        self._appended_at = clock.monotonic()
        self._gone: str | None = None
        self._session = Session(engine)
        self._thread = threading.Thread(target=self._run, name="store-ledger", daemon=True)

    def start(self, reason: str | None = None) -> None:
        """Raises `DoxStoreError`, and `StreamLostError`."""
        try:
            connection = self._session.connection()
            self._register.enter(connection, self._stream, reason)
            self._appender.begin(connection)
        except FAULTS as error:
            raise unavailable(error) from error
        self._thread.start()

    def stop(self) -> None:
        """Write what is waiting, close the stream, end the thread."""
        self._jobs.put(None)
        self._thread.join()

    # --- called on the event loop ------------------------------------------------------------

    def append(self, waiting: HandedOver) -> None:
        """Hand over entries; once woken, `Outcome` tells when they are on stable storage."""
        self._pending.append(waiting)

    def wake(self) -> None:
        """Have what was handed over written."""
        if not self._signalled:
            self._signalled = True
            self._jobs.put(self._append_pending)

    def sign(self) -> None:
        """Have what was committed since the last checkpoint signed. After a fault it also tries
        whether the ledger can be written again."""
        self._jobs.put(self._sign)

    # --- on the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
        except BaseException as error:  # a node without it could only refuse: let it end
            self._on_death(error)
            raise
        while self._pending:  # what a fault refuses leaves the queue too
            self._append_pending()
        if self._gone is None and self._session.is_open:
            with contextlib.suppress(*FAULTS):
                self._register.leave(self._session.connection(), self._stream)
        self._session.close()

    def _sign(self) -> None:
        idle = self._clock.monotonic() - self._appended_at > _IDLE_SECONDS
        if self._stream.unsigned or self._faulty or idle:
            self._append_pending(signing=True)

    def _append_pending(self, *, signing: bool = False) -> None:
        self._signalled = False  # before draining: an append after this line signals anew
        pending, taken, entries = self._pending, list[HandedOver](), list[Entry]()
        while pending and len(entries) < _MAX_ENTRIES_PER_COMMIT:
            waiting = pending.popleft()
            taken.append(waiting)
            entries += waiting.entries
        if not entries and not self._kept and not signing:
            return
        if pending:
            self._signalled = True
            self._jobs.put(self._append_pending)
        ticket = taken[-1].ticket if taken else 0
        try:
            connection = self._connected()
            entries = self._kept + entries  # behind what a lost commit left to be said
            run: Any = connection.connection.driver_connection
            asked_at = self._clock.monotonic()
            block_id, feed, written = self._stream.append(
                connection, entries, lambda row: self._appender.append(run, row)
            )
        except StreamLostError as error:
            self._give_up(str(error))
            self._refuse(taken, ticket, _gone(str(error)))
        except FAULTS as error:
            self._session.failed()
            self._refuse(taken, ticket, unavailable(error))
        except DoxStoreError as error:
            self._refuse(taken, ticket, error)
        else:
            self._faulty = False
            self._appended_at = asked_at
            self._kept.clear()
            self._outcome(ticket, Committed(feed, asked_at + LEASE_SECONDS), None)
            self._written(block_id, written, self._stream.written_at)

    def _connected(self) -> sa.Connection:
        """The connection, made anew if it was lost. Raises `StreamLostError`, and what a session
        does."""
        if self._gone is not None:
            raise _gone(self._gone)
        known = self._session.is_open
        connection = self._session.connection()
        if not known:
            try:
                row = self._appender.resume(connection, self._stream.name)
            except BaseException:
                self._session.close()  # nothing is written before it is known to be the same ledger
                raise
            if row is not None:
                self._stream.adopt(row[2], row[5])
                self._make_good(row[6])
        return connection

    def _make_good(self, body: bytes) -> None:
        """A block was written whose entries were refused: what is said twice is said once, and what
        was granted is followed by ABORTED."""
        now = timestamp(self._clock.now())
        written = [parse_canonical(line)[0] for line in body.split(b"\n")]
        self._kept = [each for each in self._kept if each not in written]
        self._kept += [
            each._replace(timestamp=now, status=Status.ABORTED)
            for each in written
            if each.status == Status.GRANTED and each.action != Action.CHECKPOINT
        ]

    def _refuse(self, taken: list[HandedOver], ticket: int, error: DoxStoreError) -> None:
        """What someone waits for is refused now; what nobody waits for is written later."""
        self._kept += [e for each in taken if each.future is None for e in each.entries]
        self._faulty = True
        self._outcome(ticket, None, error)

    def _give_up(self, why: str) -> None:
        if self._gone is None:
            self._gone = why
            self._lost(why)


def _gone(why: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        "ledger_unavailable", f"This node begins anew, because {why}. Nothing was revealed."
    )
