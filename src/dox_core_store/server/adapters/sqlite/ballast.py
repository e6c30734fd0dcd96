"""Room that is kept for a full disk: what must not wait is written even then.

A file beside the database that holds blocks and nothing else. When a commit meets a full disk, the
writer remembers it: from then on reads and ordinary writes are refused at once, and only what is
urgent (a revocation and its like) is tried, with the ballast given up piece by piece. What was
given up belongs to the urgent: the others come back when the disk has more room than that. Then
the ballast is filled up again, by a thread of its own, and only where plenty is free.

A quota that `statvfs` does not show is met like any other fault of the disk: nothing is given up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

__all__ = ["BALLAST_FILE", "Ballast", "Disk"]

BALLAST_FILE = "ballast"

Result = TypeVar("Result")

_PIECE_BYTES = 512 * 1024
"""Given up at a time: a few dozen revocations at the worst, and usually many more."""

_MARGIN_BYTES = 1024 * 1024
"""Free beyond what the ballast gave up, the others are served again: some seconds of reads, and a
disk that fills up once more is noticed once more."""

_REFILL_SECONDS = 5.0


def _untold(_event: str) -> None:
    """For a command, which says itself what became of it."""


class Ballast:
    """The file. Any process that may write the store may give it up; the server's fills it."""

    def __init__(self, folder: Path, *, size: int = 0) -> None:
        self._path = folder / BALLAST_FILE
        self._size = size

    @property
    def held(self) -> int:
        """Bytes that it holds."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    @property
    def free(self) -> int:
        """Bytes that are free on its disk."""
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    def give(self) -> bool:
        """Give up a piece; False if nothing is left."""
        held = self.held
        with contextlib.suppress(OSError):
            if held:
                os.truncate(self._path, max(0, held - _PIECE_BYTES))
        return self.held < held

    def drop_hollow(self) -> None:
        """Begin anew where the file is only as long as it should be: copies of it hold nothing."""
        with contextlib.suppress(OSError):
            found = self._path.stat()
            if found.st_blocks * 512 < found.st_size:
                os.truncate(self._path, 0)

    def fill(self) -> bool:
        """Bring it to its size, if the disk has at least twice what that takes; True if it did."""
        missing = self._size - self.held
        if missing < 0:
            with contextlib.suppress(OSError):
                os.truncate(self._path, self._size)
        if missing <= 0 or self.free < 2 * missing:
            return False
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            os.posix_fallocate(descriptor, 0, self._size)
        except OSError:  # somebody else was faster: give back what there is of it
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._size - missing)
            return False
        finally:
            os.close(descriptor)
        return True


class Disk:
    """Whether the disk is full, as the writer found it, and the thread that keeps the ballast.

    `is_full` is asked, and everything but `start` and `stop` called, on the writer's thread.
    ``told`` hears ``disk_full``, ``disk_has_room`` and ``ballast_given``, on whichever thread.
    """

    def __init__(self, ballast: Ballast, *, told: Callable[[str], None] = _untold) -> None:
        self._ballast = ballast
        self._told = told
        self.is_full = False
        self._given = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="store-ballast", daemon=True)

    @property
    def ballast_bytes(self) -> int:
        """What the ballast holds."""
        return self._ballast.held

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def note(self, error: BaseException) -> bool:
        """Whether ``error`` is that of a full disk; remembered if so."""
        if not _says_full(error, self._ballast.free):
            return False
        if not self.is_full:
            self.is_full = True
            self._told("disk_full")
        return True

    def refuses(self) -> bool:
        """Whether what is not urgent has to be refused: there is no room but what the ballast gave
        up."""
        return self.is_full and self._ballast.free < self._given + _MARGIN_BYTES

    def give(self) -> bool:
        """Give up a piece of the ballast; False if nothing is left."""
        before = self._ballast.held
        if not self._ballast.give():
            return False
        self._given += before - self._ballast.held
        self._told("ballast_given")
        return True

    def wrote(self) -> None:
        """Something that was not urgent was written."""
        if self.is_full:
            self.is_full = False
            self._given = 0
            self._told("disk_has_room")

    def insist(
        self, work: Callable[[], Result], make_use: Callable[[], None] = lambda: None
    ) -> Result:
        """Do ``work``, giving up the ballast until the disk takes it. ``work`` may be done again
        after any fault, which has left nothing of it; ``make_use`` is called before it is."""
        while True:
            try:
                return work()
            except (sa.exc.DBAPIError, sqlite3.Error) as error:
                if not (self.note(error) and self.give()):
                    raise
                make_use()

    def _keep(self) -> None:
        self._ballast.drop_hollow()
        while True:
            if not self.is_full:
                self._ballast.fill()
            if self._stopping.wait(_REFILL_SECONDS):
                return


def _says_full(error: BaseException, free: int) -> bool:
    """SQLite says so itself; where it only says that input or output failed (it could not make its
    index of the log longer), the disk is asked."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, OSError):
        return cause.errno in (errno.ENOSPC, errno.EDQUOT)
    code = getattr(cause, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_FULL:
        return True
    return code & 0xFF == sqlite3.SQLITE_IOERR and free < _PIECE_BYTES
