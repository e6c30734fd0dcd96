"""Where a restore makes its store: in a folder, or in a database.

Both give a draft, a folder beside, in which all of the work is done; then they put what is in it in
its place at once. In a folder that is a rename, in a database one transaction that loads every row.
Whoever is killed in between leaves no store, or a whole one; the draft that is left behind goes
with the next restore.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.backup.draft import fold
from dox_core_store.server.adapters.backup.review import Progress
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.sql.history import History, unnoticed
from dox_core_store.server.adapters.sql.migrate import migrate
from dox_core_store.server.adapters.sql.place import Place
from dox_core_store.server.adapters.sql.store import OpenedStore, follow_clock
from dox_core_store.server.adapters.sql.transacting import take_time
from dox_core_store.server.adapters.sqlite.engine import DATABASE_FILE, LOCK_FILE, ServerLock
from dox_core_store.server.adapters.sqlite.place import SqlitePlace

__all__ = ["RestoreTarget", "target_of"]

_DRAFT = ".restore-"


class RestoreTarget(Protocol):
    """See the module."""

    def check_free(self) -> None:
        """Raise ``store_exists`` or ``bad_setting`` where there can be no store."""

    def draft(self) -> contextlib.AbstractContextManager[Path]:
        """A folder for the draft. Raises ``store_locked``, ``store_read_only``."""

    def follow(self, clock: SystemClock) -> None:
        """Have ``clock`` at the time that the store's nodes will agree on."""

    def put(self, store: OpenedStore, draft: Path, progress: Progress) -> None:
        """Have ``store``, which is opened in ``draft`` and whole, in its place."""


def target_of(place: Place, folder: Path) -> RestoreTarget:
    """What restores into ``place``; ``folder`` has room for a draft."""
    if isinstance(place, SqlitePlace):
        return FolderTarget(place)
    return DatabaseTarget(place, folder)


class FolderTarget:
    """A folder, under the server's lock, so that nobody else makes a store there."""

    def __init__(self, place: SqlitePlace) -> None:
        self._place = place
        self._folder = place.folder

    def check_free(self) -> None:
        self._place.check_free()

    def follow(self, clock: SystemClock) -> None:
        """It is this machine's."""

    @contextmanager
    def draft(self) -> Iterator[Path]:
        folder = self._folder
        was_there, had_lock = folder.exists(), (folder / LOCK_FILE).exists()
        lock = ServerLock(folder)
        try:
            _make(folder)
            lock.acquire()
            self.check_free()
            with _draft_in(folder) as draft:
                yield draft
        finally:
            lock.release()
            if not self._place.is_taken():
                with contextlib.suppress(OSError):
                    if not had_lock:
                        (folder / LOCK_FILE).unlink(missing_ok=True)
                    if not was_there:
                        folder.rmdir()

    def put(self, store: OpenedStore, draft: Path, progress: Progress) -> None:
        with progress("put in its place"):
            fold(store.engine, draft)
            self.check_free()
            (draft / DATABASE_FILE).rename(self._folder / DATABASE_FILE)
            _sync(self._folder)


class DatabaseTarget:
    """A database in which there is no table yet. Of two restores at once, the second one finds the
    store of the first."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._place = place
        self._folder = folder

    def check_free(self) -> None:
        self._place.check_free()

    def follow(self, clock: SystemClock) -> None:
        try:
            with self._place.engine(read_only=True).connect() as connection:
                follow_clock(self._place, connection, clock)
        except sa.exc.SQLAlchemyError as error:
            raise self._place.unusable(error) from error

    @contextmanager
    def draft(self) -> Iterator[Path]:
        was_there = self._folder.exists()
        _make(self._folder)
        try:
            with _draft_in(self._folder) as draft:
                yield draft
        except BaseException:
            if not was_there:
                with contextlib.suppress(OSError):
                    self._folder.rmdir()
            raise

    def put(self, store: OpenedStore, draft: Path, progress: Progress) -> None:  # noqa: ARG002
        # Only who has such a store needs the library.
        from dox_core_store.server.adapters.postgresql.loading import StoreLoading  # noqa: PLC0415

        place = self._place
        try:
            with store.engine.connect() as source:
                with place.creating() as target:
                    take_time(target)
                    migrate(target)
                    loading = StoreLoading(source, target)
                    with progress("rows put in their place", total=loading.count()) as step:
                        for count in loading.run():
                            step(count)
                with place.engine(read_only=True).connect() as made:
                    History(place.witness, notice=unnoticed).note(made)
        except sa.exc.SQLAlchemyError as error:
            raise place.unusable(error) from error


@contextmanager
def _draft_in(folder: Path) -> Iterator[Path]:
    """A folder for a draft; those of restores that were killed go."""
    draft = folder / f"{_DRAFT}{os.getpid()}"
    try:
        for stale in folder.glob(f"{_DRAFT}*"):
            with _held(stale) as is_mine:
                if is_mine:
                    shutil.rmtree(stale, ignore_errors=True)
        draft.mkdir(mode=0o700)
        with _held(draft):
            yield draft
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a draft for as long as this lasts; whether nobody else does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    except BlockingIOError:
        held = False
    try:
        yield held
    finally:
        os.close(descriptor)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError("store_read_only", f"{folder} cannot be written: {error.strerror}.")
