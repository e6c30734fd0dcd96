"""`AgentFolder`: the folder that an agent keeps current, and what it remembers of it.

A file is replaced as a whole, and is there only while its key may be used. The agent removes and
replaces nothing that it has not made: what that is stands in a manifest (names, key paths and
version numbers; never a value), which tells of a file before there is one. Beside each stands when
the store was last heard to vouch for it, so that an agent which starts while the store is away
knows what has outlived its grace.

One agent per folder: it holds a lock on it for as long as it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from dox_core_store.cli.run_files import replace_file
from dox_core_store.errors import ConfigurationError

__all__ = ["AgentFolder", "Kept"]

_MANIFEST = ".doxstore-agent.json"
_FUTURE_SECONDS = 60.0
"""How far a clock may have been ahead."""


class Kept(msgspec.Struct, kw_only=True):
    """One file. ``confirmed_at`` in seconds since 1970."""

    key_path: str
    version: int
    confirmed_at: float


class _Manifest(msgspec.Struct, kw_only=True):
    files: dict[str, Kept] = {}


class AgentFolder:
    """Enter it to hold it. ``wall`` is the time of day. Raises `ConfigurationError`."""

    def __init__(self, path: Path, *, mode: int, wall: Callable[[], float]) -> None:
        self._path = path.absolute()
        self._mode = mode
        self._wall = wall
        self._lock = -1
        self._kept: dict[str, Kept] = {}

    def __enter__(self) -> Self:
        # Whoever may read the files must get to them: an x for each r.
        mode = 0o700 | ((self._mode & 0o444) >> 2)
        try:
            if not self._path.is_dir():
                self._path.mkdir(mode=0o700, parents=True)
                self._path.chmod(mode)
            found = self._path.stat()
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & (
                stat.S_IWGRP | stat.S_IWOTH
            ):
                raise ConfigurationError(
                    "bad_setting", f"{self._path} may be written by others: give it mode 0700."
                )
            self._lock = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise ConfigurationError(
                "bad_setting", f"Another agent keeps {self._path}: one agent, one folder."
            ) from None
        except OSError as error:
            raise _unusable(self._path, error) from None
        self._kept = self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._lock)

    @property
    def names(self) -> list[str]:
        """What the agent has made."""
        return list(self._kept)

    def check(self, names: Iterable[str]) -> None:
        """Raises ``bad_setting`` where one of ``names`` is somebody else's."""
        for name in names:
            if name not in self._kept and os.path.lexists(self._path / name):
                raise ConfigurationError(
                    "bad_setting",
                    f"{self._path / name} was not made by the agent: move it away,"
                    " or map another name.",
                )

    def write(self, name: str, value: str, *, key_path: str, version: int) -> bool:
        """Let ``name`` hold ``value``; whether that is new."""
        path, content = self._path / name, value.encode()
        new = Kept(key_path=key_path, version=version, confirmed_at=self._wall())
        try:
            if name in self._kept and _holds(path, content, self._mode):
                self._kept[name] = new
                return False
            self._kept[name] = new
            self.save()
            self._make_parents(path)
            replace_file(path, content, mode=self._mode)
        except OSError as error:
            raise _unusable(path, error) from None
        return True

    def remove(self, name: str) -> bool:
        """Let ``name`` be there no more; whether it was."""
        if name not in self._kept:
            return False
        path = self._path / name
        try:
            was_there = path.is_file() or path.is_symlink()
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            was_there = False
        except OSError as error:
            raise _unusable(path, error) from None
        del self._kept[name]
        self.save()
        with contextlib.suppress(OSError):  # others' files are in it, or it is not there
            while path.parent != self._path:
                path = path.parent
                path.rmdir()
        return was_there

    def confirm(self, name: str) -> None:
        """The store vouches for ``name`` now."""
        if name in self._kept:
            self._kept[name].confirmed_at = self._wall()

    def outlived(self, grace_seconds: float) -> list[str]:
        """What the store has not vouched for within ``grace_seconds``."""
        now = self._wall()
        return [
            name
            for name, each in self._kept.items()
            if not now - grace_seconds < each.confirmed_at < now + _FUTURE_SECONDS
        ]

    def save(self) -> None:
        """Write the manifest."""
        content = msgspec.json.format(msgspec.json.encode(_Manifest(files=self._kept)), indent=1)
        path = self._path / _MANIFEST
        try:
            replace_file(path, content + b"\n", mode=0o600)
        except OSError as error:
            raise _unusable(path, error) from None

    def _read(self) -> dict[str, Kept]:
        path = self._path / _MANIFEST
        try:
            files = msgspec.json.decode(path.read_bytes(), type=_Manifest).files
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _unusable(path, error) from None
        except msgspec.MsgspecError:
            files = None
        if files is None or any(name[:1] in ("", "/") or ".." in name.split("/") for name in files):
            raise ConfigurationError(
                "bad_setting", f"{path} is damaged: empty the folder, and start again."
            )
        return files

    def _make_parents(self, path: Path) -> None:
        """The folders between ours and ``path``, which are folders: no link leads elsewhere."""
        at = self._path
        for part in path.relative_to(self._path).parts[:-1]:
            at /= part
            if at.is_symlink():
                raise ConfigurationError("bad_setting", f"{at} is a link: the agent makes folders.")
            if not at.is_dir():
                at.mkdir(mode=0o700)
                at.chmod(0o700 | ((self._mode & 0o444) >> 2))


def _holds(path: Path, content: bytes, mode: int) -> bool:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            return (
                stat.S_ISREG(found.st_mode)
                and stat.S_IMODE(found.st_mode) == mode
                and file.read(len(content) + 1) == content
            )
    except OSError:
        return False


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return ConfigurationError("bad_setting", f"{path}: a file is where a folder has to be.")
    return ConfigurationError("output_failed", f"{path} cannot be used: {error.strerror}.")
