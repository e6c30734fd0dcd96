"""A store in a folder: one SQLite file, for one server.

A new store is written under a temporary name and renamed when it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.sql.custody_event import read_event
from dox_core_store.server.adapters.sql.history import WITNESS_FILE
from dox_core_store.server.adapters.sql.place import Soundness
from dox_core_store.server.adapters.sql.ring_follower import RING_EVENT
from dox_core_store.server.adapters.sql.transacting import writing
from dox_core_store.server.adapters.sqlite.ballast import Ballast, Disk
from dox_core_store.server.adapters.sqlite.engine import (
    DATABASE_FILE,
    ServerLock,
    begin_beside,
    check_writable,
    open_engine,
    sealing_alone,
)

__all__ = ["SqlitePlace"]

Result = TypeVar("Result")

_SUFFIXES = ("", "-wal", "-shm")
_FULL_SYNC = 2


class SqlitePlace:
    """See the `Place` protocol. ``file`` is another one in the folder: a copy, only to be read."""

    def __init__(self, folder: Path, file: str = DATABASE_FILE) -> None:
        self.folder = folder
        self.path = folder / file
        self.shown = str(folder)
        self.witness = folder / WITNESS_FILE

    def engine(self, *, read_only: bool = False) -> sa.Engine:
        return open_engine(self.folder, file=self.path.name, read_only=read_only)

    def check_present(self) -> None:
        if not self.path.is_file():
            raise ConfigurationError("store_missing", f"There is no store in {self.folder}.")
        if self.path.stat().st_size == 0:  # SQLite would begin anew and drop the log
            raise ConfigurationError(
                "store_damaged", f"The store's file in {self.folder} is empty."
            )

    def is_taken(self) -> bool:
        return self.path.exists()

    def check_free(self) -> None:
        if self.is_taken():
            raise ConfigurationError("store_exists", f"{self.shown} holds a store already.")

    @contextmanager
    def creating(self) -> Iterator[sa.Connection]:
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            engine = open_engine(self.folder, file=draft.name)
            with engine.connect() as connection:
                check_writable(connection)
                with writing(connection):
                    yield connection
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            engine.dispose()
            draft.rename(self.path)
        except OSError as error:
            raise ConfigurationError(
                "store_read_only", f"{self.folder} cannot be written: {error.strerror}."
            ) from error
        finally:
            for suffix in _SUFFIXES:
                Path(f"{draft}{suffix}").unlink(missing_ok=True)

    def check_writable(self, connection: sa.Connection) -> None:
        check_writable(connection)

    def soundness(self, connection: sa.Connection) -> Soundness:
        pragma = connection.exec_driver_sql
        mode = str(pragma("PRAGMA journal_mode").scalar())
        synchronous = int(pragma("PRAGMA synchronous").scalar() or 0)
        pages = str(pragma("PRAGMA quick_check(1)").scalar())
        syncs = (mode, synchronous) == ("wal", _FULL_SYNC)
        return Soundness(
            syncs=syncs,
            durability=f"journal {mode}, synchronous {'FULL' if syncs else synchronous}",
            is_whole=pages == "ok",
            pages=f"pages: {pages}",
        )

    def now(self, connection: sa.Connection) -> float | None:  # noqa: ARG002 - it has none
        return None

    def begin_beside(self, connection: sa.Connection) -> None:
        begin_beside(connection)

    def insist(self, write: Callable[[], Result]) -> Result:
        return Disk(Ballast(self.folder)).insist(write)

    def sealing_alone(self) -> AbstractContextManager[None]:
        return sealing_alone(self.folder)

    def is_served(self, connection: sa.Connection) -> bool:  # noqa: ARG002 - a lock beside it says so
        return ServerLock(self.folder).is_held()

    def all_have_ring(self, connection: sa.Connection, number: int) -> bool:
        said = read_event(connection, RING_EVENT)
        return said is not None and bool(said[1]["newest"] >= number)

    def unusable(self, error: Exception) -> ConfigurationError:
        said = str(getattr(error, "orig", error))
        folder = self.folder
        if "readonly" in said or "unable to open" in said:
            return ConfigurationError(
                "store_read_only", f"The store in {folder} cannot be written: {said}."
            )
        if "full" in said:
            return ConfigurationError("store_read_only", f"The disk of {folder} is full: {said}.")
        if "locked" in said:
            return ConfigurationError("store_locked", f"The store in {folder} is busy: {said}.")
        return ConfigurationError("store_damaged", f"The store in {folder} is unusable: {said}.")
