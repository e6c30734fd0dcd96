"""Whether a running store still writes the files that lie under its names.

A file that was deleted or replaced (a clean-up, a log rotation, a copy put back) stays open in a
process: SQLite would go on committing to it, and every entry would be gone with the process. So
the writer asks here, and refuses whatever it is handed while a name leads to nothing or elsewhere;
once each name leads to its own file again, it goes on. The lock counts too: without it a second
server would start on the same store.

It does not find out what was done to the content of a file: see `history` and the doctor.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dox_core_store.server.adapters.sqlite.engine import DATABASE_FILE, LOCK_FILE

__all__ = ["OpenFiles"]

_NAMES = (DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm", LOCK_FILE)
_LOOK_SECONDS = 0.05
"""How old what was seen may be. Looking takes microseconds, but a busy writer commits a thousand
times a second."""

Identity = tuple[int, int]


class OpenFiles:
    """Of the store in ``folder``. Everything is called on the writer's thread, or before it runs.

    ``told`` hears ``files_replaced`` and ``files_back`` with the names.
    """

    def __init__(
        self,
        folder: Path,
        *,
        monotonic: Callable[[], float],
        told: Callable[[str, str], None],
    ) -> None:
        self._folder = folder
        self._monotonic = monotonic
        self._told = told
        self._opened: dict[str, Identity] = {}
        self._looked_at = float("-inf")
        self.lost: str = ""
        """The names that lead to nothing or elsewhere, as last seen."""

    def note(self) -> None:
        """What lies there now is what this process has open."""
        found = {name: self._identity(name) for name in _NAMES}
        self._opened = {name: each for name, each in found.items() if each is not None}

    def are_lost(self) -> bool:
        """Whether anything was deleted or replaced, as seen within `_LOOK_SECONDS`."""
        now = self._monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._look()
        return bool(self.lost)

    def _look(self) -> None:
        gone = [name for name, opened in self._opened.items() if self._identity(name) != opened]
        before, self.lost = self.lost, ", ".join(gone)
        if self.lost != before:
            self._told(*(("files_replaced", self.lost) if gone else ("files_back", before)))

    def _identity(self, name: str) -> Identity | None:
        try:
            found = os.stat(self._folder / name)  # noqa: PTH116 - many times a second
        except OSError:
            return None
        return found.st_dev, found.st_ino
