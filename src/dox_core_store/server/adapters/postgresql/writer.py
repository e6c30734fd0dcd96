"""The thread that changes a node's store in PostgreSQL: mutations, the search index, its heartbeat.

Mutations of all nodes come one after the other (`transacting`), so one of them may wait here for
those of others; entries of the ledger do not (`ledger_writer`). Both together are what
`SqliteWriter` is for a file.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

import sqlalchemy as sa

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.postgresql.leases import PostgresLeases
from dox_core_store.server.adapters.postgresql.ledger_writer import LedgerWriter
from dox_core_store.server.adapters.postgresql.nodes import NodeRegister
from dox_core_store.server.adapters.postgresql.session import FAULTS, Session
from dox_core_store.server.adapters.sql.catalog import Done
from dox_core_store.server.adapters.sql.faults import unavailable
from dox_core_store.server.adapters.sql.postings import Postings
from dox_core_store.server.adapters.sql.stream import LedgerStream
from dox_core_store.server.adapters.sql.transacting import writing
from dox_core_store.server.adapters.sql.transaction import RecordReader, SqlTransaction
from dox_core_store.server.domain.ledger import Entry
from dox_core_store.server.ports import Clock, Work

__all__ = ["INDEX", "PostgresWriter"]

Result = TypeVar("Result")

INDEX = "index"
"""The lease of the node that writes the search index."""

_TIDY_SECONDS = 10.0
_END = object()


class PostgresWriter:
    """See the module. With every heartbeat ``told_time`` hears the database's time and how long it
    took to hear of it, and ``noted`` looks how far the ledger has come."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        records: RecordReader,
        stream: LedgerStream,
        ledger: LedgerWriter,
        register: NodeRegister,
        leases: PostgresLeases,
        clock: Clock,
        told_time: Callable[[float, float], None],
        noted: Callable[[sa.Connection], None],
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._records = records
        self._stream = stream
        self._ledger = ledger
        self._register = register
        self._leases = leases
        self._clock = clock
        self._told_time = told_time
        self._note_seen = noted
        self._on_death = on_death
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._postings: Postings | None = None
        self._session = Session(engine)
        self._tidied_at = 0.0
        self.beaten_at = float("-inf")
        """When the database last took this node's heartbeat: seconds of the monotonic clock."""
        self.applied: Callable[[], int] = lambda: 0
        """How far this node has applied the change feed."""
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        """Raises `DoxStoreError`."""
        try:
            self._session.connection()
        except FAULTS as error:
            raise unavailable(error) from error
        self._thread.start()

    def stop(self) -> None:
        """Do what is waiting, end the thread."""
        self._jobs.put(None)
        self._thread.join()

    # --- called on the event loop, or on the thread of the ledger ------------------------------

    def submit(self, work: Work[Any], done: Done, *, urgent: bool = False) -> None:  # noqa: ARG002 - a database has no ballast
        """Run ``work`` in a transaction; ``done`` is called on the writer's thread."""
        self._jobs.put(lambda: self._transact(work, done))

    def settle(self, work: Callable[[sa.Connection], None], change: int, done: Done) -> None:
        """Run ``work``, which is no mutation, in a transaction, once a checkpoint covers the change
        feed up to ``change``; ``done`` gets whether one did yet."""
        self._jobs.put(lambda: self._settle(work, change, done))

    def note(self, block_id: int, entries: list[Entry], at: int) -> None:
        """A block of this node is on the ledger."""
        postings = self._postings
        if postings is not None:  # else another node writes the index, and reads them
            postings.leave(block_id, entries, at)

    def index(self) -> None:
        """Write the search index of what was committed since the last time, if that is ours to
        do."""
        self._jobs.put(self._index)

    def sign(self) -> None:
        """Have what was committed since the last checkpoint signed."""
        self._ledger.sign()

    def beat(self) -> None:
        """Say that this node lives, and close the streams of those that do not."""
        self._jobs.put(self._beat)

    # --- on the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
        except BaseException as error:  # a node without it could change nothing: let it end
            self._on_death(error)
            raise
        self._session.close()

    def _transact(self, work: Work[Any], done: Done, *, again: bool = True) -> None:
        begun = False
        try:
            connection = self._session.connection()
            with writing(connection):
                begun = True
                transaction = SqlTransaction(
                    connection=connection, reader=self._records, now=self._clock.now()
                )
                # A node that cannot open a new key goes on with the one before.
                with contextlib.suppress(DoxStoreError):
                    transaction.keep_up()
                result = work(transaction)
                recorded = transaction.finish()
        except FAULTS as error:
            self._failed()
            # A connection that a restart of the server has cut is found out at its next use.
            if again and not begun and not self._session.is_open:
                self._transact(work, done, again=False)
            else:
                done(None, unavailable(error))
        except Exception as error:  # noqa: BLE001 - goes to whoever awaits the work
            done(None, error)
        else:
            if recorded is not None:
                self._stream.unsigned = True
                self.note(*recorded, int(self._clock.seconds() * 1e6))
            done(result, None)

    def _settle(self, work: Callable[[sa.Connection], None], change: int, done: Done) -> None:
        if self._stream.signed_change < change:
            self._ledger.sign()
            done(False, None)  # noqa: FBT003 - the result
            return
        try:
            connection = self._session.connection()
            with writing(connection):
                work(connection)
        except FAULTS as error:
            self._failed()
            done(None, unavailable(error))
        except DoxStoreError as error:
            done(None, error)
        else:
            done(True, None)  # noqa: FBT003 - the result

    def _index(self) -> None:
        if self._leases.hold(INDEX) is None:
            self._postings = None  # whoever writes it now goes on from what is stored
            return

        def begun(connection: sa.Connection) -> Iterator[None]:
            if self._postings is None:
                self._postings = Postings(connection)
                return self._postings.catch_up()
            return self._postings.flush()

        steps = self._tried(begun)
        if steps is not None:
            self._step(steps)

    def _step(self, steps: Iterator[None]) -> None:
        """One step of writing the index; the next one queues behind whatever waits by then."""
        if self._tried(lambda _connection: next(steps, _END) is not _END):
            self._jobs.put(lambda: self._step(steps))

    def _beat(self) -> None:
        def beaten(connection: sa.Connection) -> None:
            asked_at = time.monotonic()
            seconds = self._register.beat(connection, self._stream.name, self.applied())
            self.beaten_at = self._clock.monotonic()
            if seconds:
                self._told_time(seconds, time.monotonic() - asked_at)
            self._note_seen(connection)
            if time.monotonic() >= self._tidied_at + _TIDY_SECONDS:
                self._tidied_at = time.monotonic()
                self._register.tidy(connection, self._stream)

        self._tried(beaten)

    def _tried(self, work: Callable[[sa.Connection], Result]) -> Result | None:
        """What can be done later as well: a fault leaves it until then, and is None."""
        try:
            return work(self._session.connection())
        except FAULTS:
            self._failed()
        except DoxStoreError:
            pass
        return None

    def _failed(self) -> None:
        if self._session.failed():
            self._postings = None  # it worked on the connection that is gone
