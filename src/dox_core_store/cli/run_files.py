"""`PrivateFolder`: keys as files for one command, in memory, gone when the command is.

The folder (0700) lies in a file system that is kept in memory, files are 0600, and a changed one
is replaced as a whole. It is named after our process and locked by it; the lock ends with the
process, however that ends. So whatever a killed one left is known, and removed at the next start.
The lock, since a process id says nothing in another container that shares the memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from dox_core_store.errors import ConfigurationError

__all__ = ["PrivateFolder", "file_system_of", "is_in_memory", "remove_leftovers", "replace_file"]

_IN_MEMORY = frozenset(("ramfs", "tmpfs"))
_NAME = re.compile(r"doxstore-run-(\d+)-(\d+)-\w+", re.ASCII)
_START_FIELD = 22
"""``starttime`` of ``/proc/PID/stat``, proc(5)."""


class PrivateFolder:
    """Made when it is entered. ``allow_disk``: rather on a disk than not at all."""

    def __init__(self, *, allow_disk: bool = False) -> None:
        self._allow_disk = allow_disk
        self._lock = -1
        self.path = Path()

    def __enter__(self) -> Self:
        base = _base(allow_disk=self._allow_disk)
        prefix = f"doxstore-run-{os.getpid()}-{_started(os.getpid()) or 0}-"
        try:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _unwritable(base, error) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def write(self, name: str, value: str) -> None:
        """Make ``name``, or put a new one in its place."""
        path = self.path / name
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, value.encode(), mode=0o600)
        except OSError as error:
            raise _unwritable(path, error) from None

    def remove(self, name: str) -> None:
        """Let ``name`` be there no more."""
        with contextlib.suppress(OSError):
            (self.path / name).unlink()


def replace_file(path: Path, content: bytes, *, mode: int) -> None:
    """Put ``content`` in the place of ``path``: whoever opens it finds the old or the new, whole.
    Raises `OSError`."""
    draft = path.with_name(f".doxstore-{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def remove_leftovers() -> None:
    """Remove what processes of ours that were killed could not. Never raises."""
    for base in {*_bases(), Path(tempfile.gettempdir())}:
        with contextlib.suppress(OSError):
            for path in base.iterdir():
                named = _NAME.fullmatch(path.name)
                if named and _started(int(named[1])) != int(named[2]):
                    _remove_if_left(path)


def is_in_memory(path: Path) -> bool:
    """Whether what is written to ``path`` stays in memory (or in swap), as far as one can tell."""
    return file_system_of(path) in _IN_MEMORY


def file_system_of(path: Path) -> str | None:
    """The kind of file system that ``path`` lies in: ``tmpfs``; None if nobody tells."""
    try:
        device = path.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        words = line.split(" ")
        # id parent major:minor root mount-point options [tags] - kind source options
        if words[2] == wanted:
            return words[words.index("-", 6) + 1]
    return None


def _remove_if_left(path: Path) -> None:
    found = path.lstat()
    if found.st_uid != os.geteuid():
        return
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        return  # alive, in another container
    finally:
        os.close(lock)


def _base(*, allow_disk: bool) -> Path:
    for base in _bases():
        if is_in_memory(base) and os.access(base, os.W_OK | os.X_OK):
            return base
    if allow_disk:
        return Path(tempfile.gettempdir())
    raise ConfigurationError(
        "bad_setting",
        "Neither XDG_RUNTIME_DIR nor /dev/shm is a folder in memory that we may write:"
        " give the command one (tmpfs), or say --allow-disk.",
    )


def _bases() -> Iterator[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        yield Path(runtime)
    yield Path("/dev/shm")  # noqa: S108 - each run makes a folder of its own in it


def _started(process_id: int) -> int | None:
    """When a process was started, in ticks since the boot; None if there is none."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
        # The name, in parentheses, may hold anything.
        return int(stat.rpartition(")")[2].split()[_START_FIELD - 3])
    except (OSError, ValueError, IndexError):
        return None


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError("output_failed", f"{path} cannot be written: {error.strerror}.")
