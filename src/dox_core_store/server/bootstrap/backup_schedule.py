"""Backups on a schedule: made by the node itself, in a thread, while it serves.

When the next one is due follows from the last one that the store knows of, whoever made it, so a
restart neither skips one nor makes one too many. A target that fails costs a warning in the log, a
count and another try soon; the node serves on. Old backups go once a new one is there, never the
newest, and never a file of another name.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from dox_core_store.errors import DoxStoreError, StoreUnavailableError
from dox_core_store.server.adapters.backup.flow import check_recipient
from dox_core_store.server.adapters.backup.places import BackupPlace, place_at
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.sql.custody_event import read_event
from dox_core_store.server.adapters.sql.store import OpenedStore
from dox_core_store.server.bootstrap.backups import write_backup
from dox_core_store.server.domain.backup import backup_name, older_backups
from dox_core_store.server.ports import Catalog
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.backup import BACKUP, DRILL, enter_backup

__all__ = ["LOOK_SECONDS", "BackupAges", "BackupSchedule"]

LOOK_SECONDS = 5.0
_RETRY_SECONDS = 60.0
_RETRY_MOST_SECONDS = 3_600.0
_PAUSE_SECONDS = 0.002
"""After some hundred records each: requests have the interpreter in between."""


class BackupAges(NamedTuple):
    """Seconds since the last backup and the last drill (infinite if there was none), and how many
    backups on the schedule have failed."""

    backup: float = math.inf
    drill: float = math.inf
    failures: int = 0


class BackupSchedule:
    """`step` is run again and again, some seconds apart, on one node at a time; ``keep`` is called
    now and then while a backup is made, so that it stays this node's step. Raises ``bad_setting``
    for a recipient that is none."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: OpenedStore,
        catalog: Catalog,
        clock: SystemClock,
        log: Any,
        report: Callable[[BaseException, str], None],
        keep: Callable[[], object] = lambda: None,
    ) -> None:
        self._keep = keep
        self._ending = threading.Event()
        self._settings = settings
        self._recipient = (
            check_recipient(settings.backup_recipient) if settings.backup_recipient else None
        )
        self._every = timedelta(hours=settings.backup_every_hours)
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._log = log
        self._report = report
        self._last: dict[str, datetime] = {}
        self._failures = 0
        self._in_a_row = 0
        self._not_before = -math.inf

    def ages(self) -> BackupAges:
        """For the metrics."""
        now = self._clock.now()
        backup, drill = (
            (now - self._last[name]).total_seconds() if name in self._last else math.inf
            for name in (BACKUP, DRILL)
        )
        return BackupAges(backup, drill, self._failures)

    async def step(self) -> None:
        """Look when the last backup was, and make one if another is due. Cancelled, it gives up
        the one that is under way."""
        try:
            await asyncio.to_thread(self._look)
            if self._settings.backup_to and self._is_due():
                await self._back_up()
        except asyncio.CancelledError:
            self._ending.set()
            raise

    def _look(self) -> None:
        with self._store.engine.connect() as connection:
            for name in (BACKUP, DRILL):
                event = read_event(connection, name)
                if event is not None:
                    self._last[name] = event[0]

    def _is_due(self) -> bool:
        now, last = self._clock.now(), self._last.get(BACKUP)
        if self._clock.monotonic() < self._not_before:
            return False
        return last is None or last > now or now - last >= self._every

    async def _back_up(self) -> None:
        try:
            made, dropped = await asyncio.to_thread(self._write)
        except DoxStoreError as error:
            self._failed(error.code)
        except Exception as error:  # noqa: BLE001 - whatever a target does, the node serves on
            self._report(error, "backup")
            self._failed("internal_error")
        else:
            caller = local_caller()
            await self._catalog.write(lambda tx: enter_backup(tx, caller, made))
            self._last[BACKUP] = self._clock.now()
            self._in_a_row = 0
            self._log.info("backup_made", name=made["name"], dropped=dropped)

    def _failed(self, code: str) -> None:
        self._failures += 1
        wait = min(_RETRY_SECONDS * 2**self._in_a_row, _RETRY_MOST_SECONDS)
        self._in_a_row += 1
        self._not_before = self._clock.monotonic() + wait
        self._log.error("backup_failed", code=code, again_in_seconds=wait)

    def _write(self) -> tuple[dict[str, Any], int]:
        place = place_at(self._settings.backup_to)
        name = backup_name(
            self._store.store_id, self._clock.now(), encrypted=self._recipient is not None
        )
        made = write_backup(
            self._store,
            place,
            name,
            recipient=self._recipient,
            clock=self._clock,
            pause=self._pause,
        )
        return made.on_record(), self._drop_old(place)

    def _pause(self) -> None:
        self._keep()
        if self._ending.wait(_PAUSE_SECONDS):
            raise StoreUnavailableError("shutting_down", "The node is shutting down.")

    def _drop_old(self, place: BackupPlace) -> int:
        old = older_backups(place.names(), self._store.store_id, self._settings.backup_keep)
        for name in old:
            place.remove(name)
        return len(old)
