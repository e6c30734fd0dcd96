"""`OutageFolder`: the folder of sealed outage files, as a file system has it.

Several processes of a service may share one, at once, without a lock: a file is whole or is not
there, because it is replaced by rename, and whatever vanishes in between was taken away by somebody
who may. Nothing is synced: a file that is lost in a power cut is as good as one that was never
written, and one that comes out of it damaged does not open.

A file's time of modification is when it ends, so that what is over can be removed without a key.

Everything but `OutageFolder.opened` raises `OSError`, or returns None for what is not there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from dox_core_store.errors import ConfigurationError

__all__ = ["OutageFolder"]

_SEALED = re.compile(r"[0-9a-f]{64}\.sealed", re.ASCII)
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp", re.ASCII)
_SALT = "salt"
_SALT_BYTES = 32
_ABANDONED_SECONDS = 60.0
"""Nobody takes so long to write a file: it was left over by a process that was killed."""

_NOT_FOLLOWED = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


class OutageFolder:
    """See the module. Names of sealed files are 64 hexadecimal digits, without their ending."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def opened(cls, path: Path, *, now: float) -> OutageFolder:
        """The folder ``path``, made if it is missing, without what is over ``now`` (seconds since
        1970). Raises ``bad_setting`` for one that others could read or write."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = path.stat()
            if found.st_uid != os.geteuid():
                raise _unusable(path, "belongs to another user")
            if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise _unusable(path, "is open to others: `chmod 700` it")
            folder = cls(path)
            folder.sweep(now)
        except FileExistsError:
            raise _unusable(path, "is not a folder") from None
        except OSError as error:
            raise _unusable(path, f"cannot be used: {error.strerror}") from None
        return folder

    def names(self) -> list[str]:
        """Of all sealed files, readable or not."""
        names = os.listdir(self.path)  # noqa: PTH208 - names, where `iterdir` makes paths
        return [name.partition(".")[0] for name in names if _SEALED.fullmatch(name)]

    def read(self, name: str, *, most: int) -> bytes | None:
        """The content of a sealed file; None if there is none of at most ``most`` bytes."""
        return self._read(f"{name}.sealed", most)

    def replace(self, name: str, content: bytes, *, ends_at: float) -> None:
        """Have ``name`` hold ``content`` until ``ends_at`` (seconds since 1970)."""
        with self._written(content) as temporary:
            os.utime(temporary, (ends_at, ends_at))
            temporary.replace(self.path / f"{name}.sealed")

    def remove(self, name: str) -> None:
        self._remove(f"{name}.sealed")

    def salt(self) -> bytes:
        """The folder's own random bytes, made when they are first asked for."""
        found = self._read(_SALT, _SALT_BYTES)
        if found is None:
            with (
                self._written(secrets.token_bytes(_SALT_BYTES)) as temporary,
                contextlib.suppress(FileExistsError),  # another process was faster: read its
            ):
                os.link(temporary, self.path / _SALT)  # unlike a rename, never over another's
            found = self._read(_SALT, _SALT_BYTES)
        if found is None or len(found) != _SALT_BYTES:
            raise OSError(errno.EILSEQ, "its salt is damaged")
        return found

    def note(self, name: str, content: bytes) -> None:
        """Have the file ``name``, which is not a sealed one, hold ``content``."""
        with self._written(content) as temporary:
            temporary.replace(self.path / name)

    def noted(self, name: str, *, most: int) -> bytes | None:
        """What `note` put there."""
        return self._read(name, most)

    def sweep(self, now: float) -> None:
        """Remove what is over, what killed processes left over, and a damaged salt. Nothing that is
        not ours by its name."""
        for entry in list(os.scandir(self.path)):
            with contextlib.suppress(OSError):  # gone meanwhile, or not ours after all
                if self._is_over(entry, now):
                    self._remove(entry.name)

    def _is_over(self, entry: os.DirEntry[str], now: float) -> bool:
        found = entry.stat(follow_symlinks=False)
        if _SEALED.fullmatch(entry.name):
            return found.st_mtime <= now
        if _TEMPORARY.fullmatch(entry.name):
            # By the clock of the file system, whatever `now` is.
            return abs(time.time() - found.st_mtime) > _ABANDONED_SECONDS
        return entry.name == _SALT and (
            not stat.S_ISREG(found.st_mode) or found.st_size != _SALT_BYTES
        )

    def _read(self, file_name: str, most: int) -> bytes | None:
        try:
            # Not blocking: somebody may have put a pipe there.
            flags = os.O_RDONLY | os.O_NONBLOCK | _NOT_FOLLOWED
            file = os.fdopen(os.open(self.path / file_name, flags), "rb")
        except FileNotFoundError:
            return None
        with file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > most:
                return None
            content = file.read(most + 1)
        return content if len(content) <= most else None

    @contextlib.contextmanager
    def _written(self, content: bytes) -> Iterator[Path]:
        """A new file with ``content``, for its owner alone; removed unless it gets another name."""
        temporary = self.path / f".{secrets.token_hex(8)}.tmp"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NOT_FOLLOWED
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            try:
                file.write(content)
                file.flush()
                yield temporary
            finally:
                self._remove(temporary.name)

    def _remove(self, file_name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.path / file_name).unlink()


def _unusable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError("bad_setting", f"The folder for outages {path} {why}.")
