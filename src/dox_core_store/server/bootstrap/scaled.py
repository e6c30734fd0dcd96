"""The adapters of a store in PostgreSQL, started in order and stopped in reverse.

Nothing is locked: any number of nodes may run. What reads and may refuse comes first, then the
threads that write, which open this process's stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.postgresql.append import BlockAppender
from dox_core_store.server.adapters.postgresql.catalog import PostgresCatalog
from dox_core_store.server.adapters.postgresql.engine import DatabaseAddress, open_engine
from dox_core_store.server.adapters.postgresql.leases import PostgresLeases
from dox_core_store.server.adapters.postgresql.ledger_writer import LEASE_SECONDS, LedgerWriter
from dox_core_store.server.adapters.postgresql.listener import ChangeListener
from dox_core_store.server.adapters.postgresql.nodes import KnownNode, NodeRegister
from dox_core_store.server.adapters.postgresql.place import PostgresPlace
from dox_core_store.server.adapters.postgresql.proof_use import PostgresProofUses
from dox_core_store.server.adapters.postgresql.quota import PostgresQuotas
from dox_core_store.server.adapters.postgresql.writer import PostgresWriter
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.sql.custody import Unlock
from dox_core_store.server.adapters.sql.ledger import SqlLedger
from dox_core_store.server.adapters.sql.ledger_reader import SqlLedgerReader
from dox_core_store.server.adapters.sql.store import OpenedStore, Start, open_store
from dox_core_store.server.adapters.sql.stream import LedgerStream, StreamLostError
from dox_core_store.server.bootstrap.backing import BeginAnewError
from dox_core_store.server.domain.ledger import Entry
from dox_core_store.server.settings import Settings

__all__ = ["Scaled"]

_WRITING_SECONDS = 8.0
"""How long one answer to a writer may take: beyond what it may wait for others' mutations."""

_SILENT_SECONDS = 5.0
"""For how long a database may take no heartbeat until a node says that it is not ready."""

_STEP_SECONDS = 0.25
"""How far this node's clock may be from the database's before it is brought to it."""


class Scaled:
    """See `Backing`. Made on the running event loop."""

    catalog: PostgresCatalog
    ledger: SqlLedger
    ledger_reader: SqlLedgerReader
    leases: PostgresLeases
    quotas: PostgresQuotas
    proof_uses: PostgresProofUses
    store: OpenedStore
    writer: PostgresWriter
    lease_seconds: float = LEASE_SECONDS

    def __init__(
        self,
        settings: Settings,
        *,
        clock: SystemClock,
        alarm: Callable[[str, str], None],
        on_death: Callable[[BaseException], None],
        notice: Callable[[str, str], None],
        lost: Callable[[str], None],
        accept_clock: bool = False,
    ) -> None:
        self._address = DatabaseAddress(
            settings.database, password_file=settings.database_password_file
        )
        self._place = PostgresPlace(
            self._address, folder=Path(settings.data), connections=settings.database_connections
        )
        self._connections = settings.database_connections
        self._name = settings.node_name or platform.node() or "node"
        self._start = Start(clock, accept_clock=accept_clock, notice=notice)
        self._clock = clock
        self._alarm = alarm
        self._on_death = on_death
        self._lost = lost
        self._gone = ""
        self._nodes: list[KnownNode] = []
        self._applied: Callable[[], int] = lambda: 0
        self.farewell: Callable[[], None] = lambda: None
        self._stops: list[Callable[[], None]] = []

    def hold(self) -> None:
        """Any number of nodes may run."""

    def check_writable(self) -> None:
        """The database says so when it is opened."""

    async def open(self, unlock: Unlock) -> None:
        try:
            await self._open(unlock)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        while self._stops:
            await asyncio.to_thread(self._stops.pop())

    def say_ring(self, newest: int) -> None:
        self._register.ring = newest
        self.writer.beat()

    def lost(self) -> str:
        """A database is not replaced under an open connection; a new one finds it out."""
        return self._gone

    def follow(self, applied: Callable[[], int], wake: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._applied = self.writer.applied = applied

        def changed() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(wake)

        listener = ChangeListener(self._address, changed=changed)
        listener.start()
        self._stops.append(listener.stop)

    async def look(self) -> None:
        """Say that this node lives, and see who else does."""
        if not self._gone:
            self.writer.beat()
        self._nodes = await self.catalog.nodes()

    def checks(self) -> dict[str, str]:
        nodes = self._nodes
        head = max((each.applied for each in nodes), default=0)
        told = [
            f"{each.name} {head - each.applied} behind, seen {each.seen_seconds:.1f} s ago"
            for each in nodes
        ]
        silent = self._clock.monotonic() - self.writer.beaten_at
        return {
            "database": "ok" if silent < _SILENT_SECONDS else "takes no heartbeat",
            "nodes": "; ".join(told) or "none seen yet",
        }

    async def _open(self, unlock: Unlock) -> None:
        folder = self._place.witness.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                "bad_setting", f"data: {folder} cannot be made: {error.strerror}."
            ) from error
        # In a thread: a key service or a derivation may take seconds, and a sealed node answers.
        self.store = store = await asyncio.to_thread(
            open_store, self._place, unlock=unlock, alarm=self._alarm, start=self._start
        )
        engine = open_engine(self._address, patience_seconds=_WRITING_SECONDS)
        self.ledger = ledger = SqlLedger(clock=self._clock)
        stream = LedgerStream(
            store_id=store.store_id,
            changes=store.records.changes,
            actor=local_caller().name,
            checkpoint_key=store.checkpoint_key,
            clock=self._clock,
        )
        self._register = register = NodeRegister(
            name=self._name, release=version("dox-core-store"), ring=store.ring.newest
        )
        self.leases = leases = PostgresLeases(engine=store.engine, holder=stream.name)
        appending = LedgerWriter(
            engine=engine,
            stream=stream,
            appender=BlockAppender(changes=store.records.changes, epoch=store.epoch),
            register=register,
            clock=self._clock,
            outcome=ledger.told,
            written=self._written,
            lost=self._is_lost,
            on_death=self._on_death,
        )
        ledger.attach(appending)
        self.writer = writer = PostgresWriter(
            engine=engine,
            records=store.records,
            stream=stream,
            ledger=appending,
            register=register,
            leases=leases,
            clock=self._clock,
            told_time=self._told_time,
            noted=store.history.note,
            on_death=self._on_death,
        )
        self._stops.append(store.engine.dispose)
        self._stops.append(leases.let_go)
        self._stops.append(self._note_end)
        accepted = "the clock was accepted as it is" if self._start.accept_clock else None
        try:
            await asyncio.to_thread(appending.start, accepted)
        except StreamLostError as error:
            raise BeginAnewError(str(error)) from error
        self._stops.append(appending.stop)
        await asyncio.to_thread(writer.start)
        writer.beat()
        self._stops.append(writer.stop)
        threads = ThreadPoolExecutor(self._connections, thread_name_prefix="store-reader")
        self._stops.append(lambda: threads.shutdown(cancel_futures=True))
        self.catalog = PostgresCatalog(
            engine=store.engine, records=store.records, writer=writer, threads=threads
        )
        self.ledger_reader = SqlLedgerReader(engine=store.engine, records=store.records)
        # What is taken of a limit is in PostgreSQL's log before the entry of the read that it let
        # through, and that one is waited for: so nothing that was revealed is ever uncounted.
        self.quotas = PostgresQuotas(
            engine=open_engine(self._address, patience_seconds=_WRITING_SECONDS, lazy=True)
        )
        self._stops.append(self.quotas.close)
        self.proof_uses = PostgresProofUses(engine=engine)
        self._stops.append(self.proof_uses.close)

    def _written(self, block_id: int, entries: list[Entry], at: int) -> None:
        """On the thread of the ledger."""
        self.writer.note(block_id, entries, at)

    def _told_time(self, seconds: float, round_trip: float) -> None:
        """On the writer's thread."""
        there = seconds + round_trip / 2
        if abs(there - self._clock.seconds()) > _STEP_SECONDS + round_trip:
            self._clock.be_at(there)

    def _is_lost(self, why: str) -> None:
        self._gone = why
        self._lost(why)

    def _note_end(self) -> None:
        """Of a database that is not ours any more the witness must not speak: it is what finds that
        out."""
        if self._gone:
            return
        self.farewell()
        with self.store.engine.connect() as connection:
            self.store.history.note(connection)
