"""Copying SQLite's write-ahead log into the database, off the commit path.

SQLite would do it inside every thousandth commit, and all reads that wait for that commit would
wait for it too. Here a thread of its own copies while the writer goes on (a PASSIVE checkpoint
never blocks it); only when the log has grown long is the writer asked to finish the rest, so that
it can start anew. It is also who tells the store's witness how far the ledger has come.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from dox_core_store.server.adapters.sqlite.writer import SqliteWriter

__all__ = ["Checkpointer"]

_INTERVAL_SECONDS = 0.5
_NOTE_SECONDS = 1.0
_RESTART_FRAMES = 16_000
"""64 MiB of 4 KiB pages: small beside any disk, and what a start after a crash replays."""


class Checkpointer:
    """See the module. One thread, one connection."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        writer: SqliteWriter,
        note: Callable[[sa.Connection], None],
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._note = note
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-checkpointer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        noted_at = 0.0
        with self._engine.connect() as connection:
            while not self._stopping.wait(_INTERVAL_SECONDS):
                # What cannot be copied now (a full disk) is copied later; commits tell of faults.
                with contextlib.suppress(sa.exc.DBAPIError):
                    row = connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").one()
                    if row[1] > _RESTART_FRAMES:
                        self._writer.restart_log()
                if (now := time.monotonic()) >= noted_at + _NOTE_SECONDS:
                    noted_at = now
                    self._note(connection)
