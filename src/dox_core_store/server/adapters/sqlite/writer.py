"""The one writer of an embedded store: a thread that owns the only writing connection.

Two kinds of work reach it, in order of arrival: mutations (a transaction each) and ledger entries
(everything that waits goes into one commit: group commit). Both commits sync before anyone is told.
A ledger commit is one SQL statement, so the interpreter lock is given up for all of SQLite's work
and the sync, and that statement also returns the head of the change feed: the commit is the lease.

`SqlLedger` is the half on the event loop; this module is the half in the thread.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import sqlalchemy as sa

from dox_core_store.errors import DoxStoreError, StoreUnavailableError
from dox_core_store.server.adapters.sql.faults import unavailable
from dox_core_store.server.adapters.sql.ledger import HandedOver, Outcome
from dox_core_store.server.adapters.sql.postings import Postings
from dox_core_store.server.adapters.sql.stream import LedgerStream
from dox_core_store.server.adapters.sql.transacting import writing
from dox_core_store.server.adapters.sql.transaction import RecordReader, SqlTransaction
from dox_core_store.server.adapters.sqlite.ballast import Disk
from dox_core_store.server.adapters.sqlite.files import OpenFiles
from dox_core_store.server.domain.ledger import Entry
from dox_core_store.server.ports import Clock, Committed, Work

__all__ = ["SqliteWriter"]

_MAX_ENTRIES_PER_COMMIT = 2_000

_APPEND = (
    "INSERT INTO ledger_block (stream, first_seq, last_seq, first_at, prev, head, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
    " RETURNING block_id, (SELECT last_seq FROM ledger_stream WHERE stream = ?)"
)


Done = Callable[[Any, BaseException | None], None]


def _full() -> StoreUnavailableError:
    return StoreUnavailableError(
        "ledger_unavailable", "The disk is full: only revoking works. Nothing was revealed."
    )


def _lost(names: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        "ledger_unavailable",
        f"The store's files were deleted or replaced under the server: {names}. Nothing was"
        " revealed.",
    )


class SqliteWriter:
    """See the module. ``start`` opens the process's stream; ``stop`` closes it."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        records: RecordReader,
        stream: LedgerStream,
        clock: Clock,
        disk: Disk,
        files: OpenFiles,
        outcome: Outcome,
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._records = records
        self._stream = stream
        self._clock = clock
        self._disk = disk
        self._files = files
        self._outcome = outcome
        self._on_death = on_death
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._pending: deque[HandedOver] = deque()
        self._kept: list[Entry] = []
        self._signalled = False
        self._faulty = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self, reason: str | None = None) -> None:
        """Open the connection and the stream, then the thread. ``reason`` enters the OPEN entry.
        Raises `DoxStoreError`."""
        self._connection = self._engine.connect()
        self._driver: Any = self._connection.connection.driver_connection
        try:
            # A node that ends on a full disk must be able to start on one: else nothing is revoked.
            self._disk.insist(lambda: self._stream.open(self._connection, reason))
        except sa.exc.DBAPIError as error:
            raise unavailable(error) from error
        self._files.note()
        self._postings = Postings(self._connection)
        if not self._disk.is_full:
            self._drain(self._postings.catch_up())
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

    def submit(self, work: Work[Any], done: Done, *, urgent: bool = False) -> None:
        """Run ``work`` in a transaction; ``done`` is called on the writer's thread. What is urgent
        is done on a full disk too, as long as the ballast lasts."""
        self._jobs.put(lambda: self._transact(work, done, urgent=urgent))

    def settle(self, work: Callable[[sa.Connection], None], change: int, done: Done) -> None:
        """Run ``work``, which is no mutation, in a transaction, once a checkpoint covers the change
        feed up to ``change``; ``done`` gets whether one did yet."""
        self._jobs.put(lambda: self._settle(work, change, done))

    def index(self) -> None:
        """Write the search index of what was committed since the last time."""
        self._jobs.put(lambda: self._index(self._postings.flush()))

    def sign(self) -> None:
        """Have what was committed since the last checkpoint signed. After a fault it also tries
        whether the ledger can be written again, so that a node recovers without traffic."""
        self._jobs.put(self._sign)

    def restart_log(self) -> None:
        """Have SQLite's write-ahead log begin anew, as soon as what waits now is done."""
        self._jobs.put(self._checkpoint)

    # --- on the writer's thread --------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
        except BaseException as error:  # a node without its writer could only refuse: let it end
            self._on_death(error)
            raise
        while self._pending:  # what a fault refuses leaves the queue too
            self._append_pending()
        if not self._files.are_lost():  # another server may have closed our stream already
            with contextlib.suppress(sa.exc.DBAPIError):  # a full disk must not keep us from ending
                self._stream.close(self._connection)
        self._connection.close()

    def _sign(self) -> None:
        if self._stream.unsigned or self._faulty or self._files.are_lost():
            self._append_pending(signing=True)

    def _append_pending(self, *, signing: bool = False) -> None:
        self._signalled = False  # before draining: an append after this line signals anew
        pending, taken, entries = self._pending, [], list(self._kept)
        while pending and len(entries) < _MAX_ENTRIES_PER_COMMIT:
            waiting = pending.popleft()
            taken.append(waiting)
            entries += waiting.entries
        if not entries and not signing:
            return
        if pending:
            self._signalled = True
            self._jobs.put(self._append_pending)
        ticket = taken[-1].ticket if taken else 0
        if self._files.are_lost():
            self._refuse(taken, ticket, _lost(self._files.lost))
            return
        if self._disk.refuses():
            self._refuse(taken, ticket, _full())
            return
        try:
            block_id, feed_head, written = self._stream.append(
                self._connection, entries, self._insert_block
            )
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            self._disk.note(error)
            self._refuse(taken, ticket, unavailable(error))
            return
        self._faulty = False
        self._disk.wrote()
        self._kept.clear()
        self._outcome(ticket, Committed(feed_head, math.inf), None)
        self._postings.add(block_id, written, self._stream.written_at)

    def _microseconds(self) -> int:
        """The time as the database has it."""
        return int(self._clock.seconds() * 1e6)

    def _refuse(self, taken: list[HandedOver], ticket: int, error: DoxStoreError) -> None:
        """What someone waits for is refused now; what nobody waits for is written later."""
        self._kept += [e for each in taken if each.future is None for e in each.entries]
        self._faulty = True
        self._outcome(ticket, None, error)

    def _insert_block(self, row: tuple[Any, ...]) -> tuple[int, int]:
        """On the driver's own connection: this runs thousands of times a second, and SQLAlchemy's
        result machinery would hold the interpreter lock longer than everything else here. In
        autocommit, fetching the last row ends the statement, and so commits and syncs."""
        (inserted,) = self._driver.execute(_APPEND, (*row, self._stream.changes)).fetchall()
        return inserted[0], inserted[1]

    def _transact(self, work: Work[Any], done: Done, *, urgent: bool) -> None:
        disk = self._disk
        if self._files.are_lost():  # what is urgent too: it would be lost with the file
            done(None, _lost(self._files.lost))
            return
        if not urgent and disk.refuses():
            done(None, _full())
            return
        try:
            result, recorded = (
                disk.insist(lambda: self._transaction(work), self._checkpoint)
                if urgent
                else self._transaction(work)
            )
        except sa.exc.DBAPIError as error:
            disk.note(error)
            done(None, unavailable(error))
        except Exception as error:  # noqa: BLE001 - goes to whoever awaits the work
            done(None, error)
        else:
            if not urgent:
                disk.wrote()
            if recorded is not None:
                self._stream.unsigned = True
                self._postings.add(*recorded, self._microseconds())
            done(result, None)

    def _transaction(self, work: Work[Any]) -> tuple[Any, tuple[int, list[Entry]] | None]:
        """Run ``work`` in a transaction; its result, and the block that it added to the ledger."""
        with writing(self._connection):
            transaction = SqlTransaction(
                connection=self._connection, reader=self._records, now=self._clock.now()
            )
            # A server that cannot open a new key goes on: `RingFollower` has not said that it knows
            # the key, so the one before stays, and nobody must be kept from revoking.
            with contextlib.suppress(DoxStoreError):
                transaction.keep_up()
            result = work(transaction)
            recorded = transaction.finish()
        return result, recorded

    def _settle(self, work: Callable[[sa.Connection], None], change: int, done: Done) -> None:
        if self._stream.signed_change < change:
            self._sign()
        unsigned = self._stream.signed_change < change
        if unsigned or self._files.are_lost() or self._disk.refuses():
            done(False, None)  # noqa: FBT003 - the result
            return
        try:
            with writing(self._connection):
                work(self._connection)
        except sa.exc.DBAPIError as error:
            self._disk.note(error)
            done(None, unavailable(error))
        else:
            done(True, None)  # noqa: FBT003 - the result

    def _index(self, steps: Iterator[None]) -> None:
        """One step of writing the index; the next one queues behind whatever waits by then."""
        # The index is behind by design: what cannot be written now is caught up with later. It must
        # not take what the ballast gave up.
        if self._disk.refuses():
            return
        with contextlib.suppress(sa.exc.DBAPIError):
            for _ in steps:
                self._jobs.put(lambda: self._index(steps))
                return

    def _checkpoint(self) -> None:
        """Let the log start anew: what `Checkpointer` left of it is copied here, where nobody
        writes meanwhile. PASSIVE never waits for a reader. On a full disk this is what makes a
        little room go far: the log is then written over, and not made longer."""
        with contextlib.suppress(sa.exc.DBAPIError):
            self._connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")

    def _drain(self, steps: Iterator[None]) -> None:
        """All steps of writing the index, at start."""
        with contextlib.suppress(sa.exc.DBAPIError):
            for _ in steps:
                pass
