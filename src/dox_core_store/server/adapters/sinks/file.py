"""A file as a destination: appended to, synced, the owner's alone.

It is opened anew for each batch, so one that was deleted or rotated away in between is made again;
one that goes while a batch is written is noticed afterwards, and the batch written again. A line
that a crash cut off is taken back before anything follows it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from dox_core_store.server.domain.shipping import Batch, ShippingError

__all__ = ["FileSink"]

_FLAGS = (
    os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    | os.O_NONBLOCK  # a pipe without a reader would hold us up
)  # fmt: skip
_TAIL_BYTES = 1024 * 1024
"""Far above one entry."""

_TRIES = 3


class FileSink:
    """See the `Sink` port."""

    kind = "file"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shown = f"file://{path}"

    def send(self, batch: Batch) -> None:
        try:
            for _ in range(_TRIES):
                if self._append(batch.lines()):
                    return
        except OSError as error:
            said = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise ShippingError(str(said)) from error
        raise ShippingError("the file was replaced each time while it was written")

    def _append(self, lines: bytes) -> bool:
        """Whether the file is still in its place when ``lines`` are on stable storage."""
        is_new = not os.path.lexists(self._path)
        descriptor = os.open(self._path, _FLAGS, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ShippingError("it is no regular file")
            size = _whole_size(descriptor)
            try:
                _write(descriptor, lines)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
            os.fsync(descriptor)
            if is_new:
                _sync_folder(self._path.parent)
            return self._is_there(descriptor)
        finally:
            os.close(descriptor)

    def _is_there(self, descriptor: int) -> bool:
        ours = os.fstat(descriptor)
        try:
            there = self._path.lstat()
        except FileNotFoundError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _whole_size(descriptor: int) -> int:
    """The file's size, once it ends with a whole line. Where nothing may be taken back (the file
    may only be appended to) the torn line is ended, and readers pass over it."""
    size = os.fstat(descriptor).st_size
    start = max(size - _TAIL_BYTES, 0)
    tail = os.pread(descriptor, size - start, start)
    if not tail or tail.endswith(b"\n"):
        return size
    size = start + tail.rfind(b"\n") + 1
    try:
        os.ftruncate(descriptor, size)
    except PermissionError:
        _write(descriptor, b"\n")
        return os.fstat(descriptor).st_size
    return size


def _write(descriptor: int, lines: bytes) -> None:
    rest = memoryview(lines)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
