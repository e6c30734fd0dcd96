"""A backup as a database again: its head to open it with, and then all of it in a folder.

The head alone is a database in memory, so a backup is opened by the same code as a store, before
anything of it is written anywhere. The folder is a draft: whoever asked for it looks the store in
it over, and throws it away or puts it in its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.backup.archive import Checked, records
from dox_core_store.server.adapters.backup.rows import HEAD, TABLES, Rows, damaged
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.custody import (
    Opened,
    Unlock,
    open_custody,
    read_slots,
)
from dox_core_store.server.adapters.sql.migrate import upgrade
from dox_core_store.server.adapters.sqlite.engine import DATABASE_FILE, open_engine
from dox_core_store.server.domain.seal import Slot, UnlockedRoot

__all__ = ["fill", "fold", "open_head", "same_slot"]

_ROWS = 2_000
"""Rows in one transaction."""

_FOLD_PAGES = 10_000


def open_head(checked: Checked, unlock: Unlock) -> tuple[Opened, list[Slot]]:
    """Open the seal of a backup; its slots. Raises what ``unlock`` raises, ``store_damaged``."""
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    with engine.connect() as connection:
        tables.metadata.create_all(connection, [tables.metadata.tables[name] for name in HEAD])
        for name, rows in checked.head.items():
            if rows:
                Rows(name).write(connection, rows)
        opened = open_custody(connection, engine, unlock)
        ring = opened.ring.only(opened.ring.numbers)  # there are no others to be looked for
        return opened._replace(ring=ring), read_slots(connection)


def same_slot(unlocked: UnlockedRoot) -> Unlock:
    """Opens a store by the slot that opened another copy of it; nobody is asked again."""

    def unlock(store_id: str, slots: Sequence[Slot]) -> Iterator[tuple[Slot, bytes]]:  # noqa: ARG001
        own = [slot for slot in slots if slot.slot_id == unlocked.slot.slot_id]
        yield from ((slot, unlocked.slot_key) for slot in own)
        raise ConfigurationError(
            "slot_needed", f"Slot {unlocked.slot.slot_id} of the backup does not open this store."
        )

    return unlock


def fill(folder: Path, stream: BinaryIO, checked: Checked, step: Callable[[int], None]) -> None:
    """Make the store of a backup in ``folder``. Raises ``backup_damaged``, ``store_read_only``."""
    path = folder / DATABASE_FILE
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        engine = open_engine(folder)
        with engine.connect() as connection:
            # Nobody relies on a draft: it is synced once, when it is whole (`fold`).
            connection.exec_driver_sql("PRAGMA synchronous=OFF")
            connection.exec_driver_sql(f"PRAGMA wal_autocheckpoint={_FOLD_PAGES}")
            upgrade(connection)
            _insert(connection, stream, checked, step)
            connection.execute(sa.update(tables.store).values(readable_by=tables.READABLE_BY))
    except sa.exc.IntegrityError as error:
        raise damaged("its records contradict each other") from error
    except (OSError, sa.exc.OperationalError) as error:
        said = getattr(error, "orig", None) or getattr(error, "strerror", None)
        raise ConfigurationError(
            "store_read_only", f"{folder} cannot be written: {said}."
        ) from error


def fold(engine: sa.Engine, folder: Path) -> None:
    """Bring everything into the one file, and onto the disk."""
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    descriptor = os.open(folder / DATABASE_FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _insert(
    connection: sa.Connection, stream: BinaryIO, checked: Checked, step: Callable[[int], None]
) -> None:
    known: Mapping[str, Rows] = {name: Rows(name) for name in TABLES}
    waiting: list[dict[str, Any]] = []
    current = TABLES[0]
    for name, row in records(stream, checked):
        if name != current or len(waiting) == _ROWS:
            _write(connection, known[current], waiting)
            step(len(waiting))
            waiting, current = [], name
        waiting.append(known[name].decoded(row))
    _write(connection, known[current], waiting)
    step(len(waiting))


def _write(connection: sa.Connection, rows: Rows, waiting: list[dict[str, Any]]) -> None:
    if not waiting:
        return
    connection.exec_driver_sql("BEGIN")
    rows.write(connection, waiting)
    connection.exec_driver_sql("COMMIT")
