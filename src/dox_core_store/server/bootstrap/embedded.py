"""The adapters of an embedded store, started in order and stopped in reverse.

The server's lock first, then everything that only reads and may refuse, and only then the writer,
which opens the process's stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.seals.key_file import KeyFileHolder
from dox_core_store.server.adapters.seals.unlocking import Unlocking
from dox_core_store.server.adapters.sql.stream import LedgerStream
from dox_core_store.server.adapters.sqlite.catalog import SqliteCatalog
from dox_core_store.server.adapters.sqlite.checkpointer import Checkpointer
from dox_core_store.server.adapters.sqlite.engine import ServerLock
from dox_core_store.server.adapters.sqlite.ledger import SqliteLedger
from dox_core_store.server.adapters.sqlite.ledger_reader import SqliteLedgerReader
from dox_core_store.server.adapters.sqlite.store import OpenedStore, open_store
from dox_core_store.server.adapters.sqlite.writer import SqliteWriter
from dox_core_store.server.bootstrap.local import key_file_of, local_caller
from dox_core_store.server.settings import Settings

__all__ = ["Embedded"]


class Embedded:
    """Made on the running event loop. What it holds may be used between `start` and `stop`."""

    catalog: SqliteCatalog
    ledger: SqliteLedger
    ledger_reader: SqliteLedgerReader
    store: OpenedStore
    writer: SqliteWriter

    def __init__(
        self,
        settings: Settings,
        *,
        clock: SystemClock,
        alarm: Callable[[str, str], None],
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._alarm = alarm
        self._on_death = on_death
        self._lock = ServerLock(Path(settings.data))
        self._stops: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Raises `ConfigurationError`; nothing is then held, and nothing was written."""
        self._lock.acquire()
        self._stops.append(self._lock.release)
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Write what waits, close the stream, release the lock."""
        while self._stops:
            await asyncio.to_thread(self._stops.pop())

    async def _start(self) -> None:
        self.store = store = open_store(
            Path(self._settings.data),
            unlock=Unlocking([KeyFileHolder(key_file_of(self._settings))]),
            alarm=self._alarm,
        )
        self.ledger = ledger = SqliteLedger(clock=self._clock)
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
            outcome=ledger.told,
            on_death=self._on_death,
        )
        ledger.attach(writer)
        await asyncio.to_thread(writer.start)
        self._stops.append(writer.stop)
        checkpointer = Checkpointer(engine=store.engine, writer=writer)
        checkpointer.start()
        self._stops.append(checkpointer.stop)
        self.catalog = SqliteCatalog(engine=store.engine, records=store.records, writer=writer)
        self.ledger_reader = SqliteLedgerReader(engine=store.engine, records=store.records)
