"""The adapters of an embedded store, started in order and stopped in reverse.

The server's lock first, then everything that only reads and may refuse, and only then the writer,
which opens the process's stream. The lock is taken on its own, because a node whose store is still
sealed holds it already; an attempt to open that fails leaves nothing behind but the lock.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

from dox_core_store.errors import ConfigurationError, DoxStoreError
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.sql.custody import Unlock
from dox_core_store.server.adapters.sql.ledger import SqlLedger
from dox_core_store.server.adapters.sql.ledger_reader import SqlLedgerReader
from dox_core_store.server.adapters.sql.ring_follower import RING_EVENT
from dox_core_store.server.adapters.sql.store import OpenedStore, Start, open_store
from dox_core_store.server.adapters.sql.stream import LedgerStream
from dox_core_store.server.adapters.sqlite.ballast import Ballast, Disk
from dox_core_store.server.adapters.sqlite.catalog import SqliteCatalog
from dox_core_store.server.adapters.sqlite.checkpointer import Checkpointer
from dox_core_store.server.adapters.sqlite.engine import DATABASE_FILE, ServerLock
from dox_core_store.server.adapters.sqlite.files import OpenFiles
from dox_core_store.server.adapters.sqlite.leases import SoleLeases
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.adapters.sqlite.writer import SqliteWriter
from dox_core_store.server.bootstrap.unlock import unlock_of
from dox_core_store.server.ports import ProofUses, Quotas
from dox_core_store.server.settings import Settings

__all__ = ["Embedded"]

_MIB = 1024 * 1024


class Embedded:
    """Made on the running event loop. What it holds may be used between `open` and `stop`."""

    catalog: SqliteCatalog
    ledger: SqlLedger
    ledger_reader: SqlLedgerReader
    store: OpenedStore
    writer: SqliteWriter
    lease_seconds: float = math.inf
    quotas: Quotas | None = None
    proof_uses: ProofUses | None = None

    def __init__(
        self,
        settings: Settings,
        *,
        clock: SystemClock,
        alarm: Callable[[str, str], None],
        on_death: Callable[[BaseException], None],
        notice: Callable[[str, str], None],
        report: Callable[[BaseException, str], None],
        accept_clock: bool = False,
    ) -> None:
        self._settings = settings
        self._folder = folder = Path(settings.data)
        self.disk = Disk(
            Ballast(folder, size=settings.ballast_mib * _MIB), told=lambda event: notice(event, "")
        )
        self.files = OpenFiles(folder, monotonic=clock.monotonic, told=notice)
        self._start = Start(clock, accept_clock=accept_clock, notice=notice)
        self._clock = clock
        self._alarm = alarm
        self._report = report
        self._on_death = on_death
        self._lock = ServerLock(folder)
        self.leases = SoleLeases()
        self.farewell: Callable[[], None] = _nothing
        """Called in a thread once the stream is closed, before the lock is released."""
        self._stops: list[Callable[[], None]] = []

    async def start(self) -> None:
        """`hold` and `open` with what the settings say. Raises what they do; nothing is then
        held."""
        self.hold()
        try:
            await self.open(unlock_of(self._settings, None))
        except BaseException:
            await self.stop()
            raise

    def hold(self) -> None:
        """Take the server's lock. Raises `ConfigurationError`."""
        self._lock.acquire()
        self._stops.append(self._lock.release)

    async def open(self, unlock: Unlock) -> None:
        """Raises as `open_store`; nothing but the lock is then held, and nothing was written."""
        held = len(self._stops)
        try:
            await self._open(unlock)
        except BaseException:
            await self._stop_down_to(held)
            raise

    def check_writable(self) -> None:
        """Raise `ConfigurationError` ``store_read_only`` where it can be seen without writing."""
        path = self._folder / DATABASE_FILE
        try:
            path.open("r+b").close()  # no connection of ours is open, whose locks this would end
        except OSError as error:
            raise ConfigurationError(
                "store_read_only", f"{path} cannot be written: {error.strerror}."
            ) from error

    async def stop(self) -> None:
        """Write what waits, close the stream, release the lock."""
        await self._stop_down_to(0)

    async def _stop_down_to(self, held: int) -> None:
        while len(self._stops) > held:
            await asyncio.to_thread(self._stops.pop())

    async def _open(self, unlock: Unlock) -> None:
        # In a thread: a key service or a derivation may take seconds, and a sealed node answers.
        opening = asyncio.ensure_future(
            asyncio.to_thread(
                open_store,
                SqlitePlace(self._folder),
                unlock=unlock,
                alarm=self._alarm,
                start=self._start,
            )
        )
        try:
            self.store = store = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait([opening])  # it may write: not without the lock
            raise
        self.ledger = ledger = SqlLedger(clock=self._clock)
        accepted = "the clock was accepted as it is" if self._start.accept_clock else None
        self.writer = writer = SqliteWriter(
            engine=store.engine,
            records=store.records,
            stream=LedgerStream(
                store_id=store.store_id,
                changes=store.records.changes,
                actor=local_caller().name,
                checkpoint_key=store.checkpoint_key,
                clock=self._clock,
            ),
            clock=self._clock,
            disk=self.disk,
            files=self.files,
            outcome=ledger.told,
            on_death=self._on_death,
        )
        ledger.attach(writer)
        self._stops.append(self._note_end)
        await asyncio.to_thread(writer.start, accepted)
        self._stops.append(writer.stop)
        checkpointer = Checkpointer(engine=store.engine, writer=writer, note=store.history.note)
        checkpointer.start()
        self._stops.append(checkpointer.stop)
        self.disk.start()
        self._stops.append(self.disk.stop)
        self.catalog = SqliteCatalog(engine=store.engine, records=store.records, writer=writer)
        self.ledger_reader = SqlLedgerReader(engine=store.engine, records=store.records)

    def lost(self) -> str:
        return self.files.lost

    def follow(self, applied: Callable[[], int], wake: Callable[[], None]) -> None:
        """Commands beside the server are found out by looking: nobody calls out."""

    async def look(self) -> None:
        """The lock says that this server lives."""

    def checks(self) -> dict[str, str]:
        return {}

    def say_ring(self, newest: int) -> None:
        """Have the store know which sealing key is the newest that this server has."""

        def said(_result: object, error: BaseException | None) -> None:
            # A store that cannot be written says so at every read.
            if error is not None and not isinstance(error, DoxStoreError):
                self._report(error, "ring")

        self.writer.submit(lambda tx: tx.note(RING_EVENT, {"newest": newest}), said)

    def _note_end(self) -> None:
        """The last word of the witness, once the writer has closed its stream. Of a database that
        was put in the place of ours it must not speak: it is what finds that out."""
        if self.files.are_lost():
            return
        self.farewell()
        with self.store.engine.connect() as connection:
            self.store.history.note(connection)


def _nothing() -> None:
    """There is nobody to say farewell to."""
