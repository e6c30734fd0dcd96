"""Opening the one file: durability settings, the lock of the server's role, and what is refused.

Order: the lock first (one node is one server process), then reading what is there, then the checks
that refuse, and only then the first write. Durability is SQLite's WAL with ``synchronous=FULL``: a
commit returns after its log is synced. It is read back, not assumed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event

from dox_core_store.errors import ConfigurationError, error_for

__all__ = [
    "BUSY_TIMEOUT_MS",
    "DATABASE_FILE",
    "LOCK_FILE",
    "ServerLock",
    "begin_beside",
    "check_writable",
    "open_engine",
    "sealing_alone",
]

DATABASE_FILE = "store.db"
LOCK_FILE = "server.lock"
BUSY_TIMEOUT_MS = 5_000
"""How long a statement waits for another process's transaction (an operator's command)."""

_LOCK_SECONDS = 0.3
"""How long a server that starts tries for its lock: whoever looks whether there is a server
(`ServerLock.is_held`) has it for a moment."""

_LOCK_STEP_SECONDS = 0.01
_PATIENCE_SECONDS = 15.0
_BEGIN_STEP_SECONDS = 0.001
_PAGE_CACHE_KIB = 64 * 1024
_JOURNAL_LIMIT_BYTES = 256 * 1024 * 1024
"""Far above where the log begins anew, so that it is overwritten and not cut: a commit that makes a
file longer waits for the file system's journal, and so for what others have not written yet."""


class ServerLock:
    """An advisory lock beside the database, held for the life of a server process.

    ``flock`` rather than SQLite's exclusive locking mode, which would also lock out our own second
    connection and the operators' commands that work beside a running server.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises `ConfigurationError` ``store_locked`` if another server holds it."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError as error:
            raise ConfigurationError(
                "store_missing", f"There is no folder {self._path.parent}."
            ) from error
        except OSError as error:
            raise ConfigurationError(
                "store_read_only", f"{self._path} cannot be opened: {error.strerror}."
            ) from error
        until = time.monotonic() + _LOCK_SECONDS
        while not _locks(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > until:
                os.close(descriptor)
                raise ConfigurationError(
                    "store_locked", f"Another server holds the store in {self._path.parent}."
                )
            time.sleep(_LOCK_STEP_SECONDS)
        self._descriptor = descriptor

    def is_held(self) -> bool:
        """Whether a server process has it now. Not asked by that process itself."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not _locks(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def sealing_alone(folder: Path) -> Iterator[None]:
    """Keep every other command from changing the sealing keys meanwhile.

    The lock is on the folder itself, so it leaves no file, and ends with the process. Raises
    ``rekey_blocked``.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not _locks(descriptor, fcntl.LOCK_EX):
            raise error_for(
                "rekey_blocked", "Another command is changing the sealing keys of this store."
            )
        yield
    finally:
        os.close(descriptor)


def _locks(descriptor: int, kind: int) -> bool:
    """Whether ``descriptor`` now has a lock of ``kind``."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def open_engine(folder: Path, *, file: str = DATABASE_FILE, read_only: bool = False) -> sa.Engine:
    """An engine on the store's file in ``folder``. Connections manage transactions explicitly."""
    path = quote(str(folder.resolve() / file))
    mode = "ro" if read_only else "rw"
    engine = sa.create_engine(
        f"sqlite:///file:{path}?mode={mode}&uri=true",
        isolation_level="AUTOCOMMIT",
        connect_args={"check_same_thread": False, "cached_statements": 256},
        poolclass=sa.pool.NullPool,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        if not read_only:
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA trusted_schema=OFF")
        cursor.execute(f"PRAGMA cache_size=-{_PAGE_CACHE_KIB}")
        cursor.execute("PRAGMA wal_autocheckpoint=0")  # see checkpointer
        cursor.execute("PRAGMA secure_delete=ON")  # what is replaced or erased leaves its page
        cursor.execute(f"PRAGMA journal_size_limit={_JOURNAL_LIMIT_BYTES}")
        cursor.close()

    return engine


def begin_beside(connection: sa.Connection) -> None:
    """A transaction that writes, from outside a server that may be busy.

    Between two of a busy server's commits the lock is free for moments only. SQLite's own waiting
    sleeps longer and longer and misses them; here it is asked for again and again.
    Raises `sqlalchemy.exc.OperationalError` after `_PATIENCE_SECONDS`.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    connection.exec_driver_sql("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except sa.exc.OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise
                time.sleep(_BEGIN_STEP_SECONDS)
            else:
                return
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")


def check_writable(connection: sa.Connection) -> None:
    """Raise ``store_read_only`` unless commits will be written, and synced before they return."""
    try:
        begin_beside(connection)
        # BEGIN IMMEDIATE is taken on a read-only file too; only a write tells. Nothing stays.
        connection.exec_driver_sql("PRAGMA user_version=0")
        connection.exec_driver_sql("ROLLBACK")
    except sa.exc.OperationalError as error:
        raise ConfigurationError(
            "store_read_only", f"The database cannot be written: {error.orig}."
        ) from error
    mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    if (mode, synchronous) != ("wal", 2):
        raise ConfigurationError(
            "store_read_only",
            f"The database does not sync before it answers (journal {mode}, "
            f"synchronous {synchronous}); this file system cannot carry the store.",
        )
