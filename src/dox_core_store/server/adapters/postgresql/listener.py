"""Hearing of changes as they are committed: PostgreSQL's NOTIFY, on a connection of its own.

It only says that there is something; what it is says the change feed. So nothing is lost when a
notice is: the feed is looked at twice a second anyway, and before every value that leaves.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import psycopg

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.postgresql.engine import DatabaseAddress

__all__ = ["CHANNEL", "ChangeListener"]

CHANNEL = "doxstore_changes"

_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 0.5
_PATIENCE_SECONDS = 2.0


class ChangeListener:
    """A thread. ``changed`` is called on it at every notice, and once for each new connection:
    something may have been missed before."""

    def __init__(self, address: DatabaseAddress, *, changed: Callable[[], None]) -> None:
        self._address = address
        self._changed = changed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-listener", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(psycopg.Error, DoxStoreError):
                self._listen()
            self._stopping.wait(_RETRY_SECONDS)

    def _listen(self) -> None:
        with self._address.connect(patience_seconds=_PATIENCE_SECONDS) as connection:
            connection.execute(f"LISTEN {CHANNEL}".encode())
            self._changed()
            while not self._stopping.is_set():
                for _ in connection.notifies(timeout=_LOOK_SECONDS, stop_after=1):
                    self._changed()
                # A connection that was cut silently says nothing for ever; a query finds out.
                connection.execute(b"SELECT 1")
