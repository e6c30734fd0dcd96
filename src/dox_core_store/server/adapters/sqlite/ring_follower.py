"""How a running server follows the sealing keys while a command rotates them (`rekey`).

The change feed calls it at every change of the seal, and once at start. It takes up what is new at
once and says so in the store: the command rewraps nothing before that. What the store has dropped
leaves the server's memory a little later, because a page that was read before may be checked still.
A server whose slot is gone cannot take up a new key; it says nothing, and the command gives up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.sqlite.writer import SqliteWriter
from dox_core_store.server.domain.envelope import Ring

__all__ = ["RING_EVENT", "RingFollower"]

RING_EVENT = "ring"
"""The event in which the server says which key is the newest that it has: ``newest``."""

_LINGER_SECONDS = 10.0
"""Far beyond what a page takes from its query to the check of its last row."""


class RingFollower:
    """See the module. Called on the event loop."""

    def __init__(
        self,
        *,
        ring: Ring,
        writer: SqliteWriter,
        report: Callable[[BaseException, str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._ring = ring
        self._writer = writer
        self._report = report
        self._loop = loop

    def __call__(self) -> None:
        try:
            self._ring.refresh()
        except DoxStoreError as error:
            self._report(error, "ring")
            return
        newest = self._ring.newest
        self._writer.submit(lambda tx: tx.note(RING_EVENT, {"newest": newest}), self._said)
        if len(self._ring.numbers) > 1:
            self._loop.call_later(_LINGER_SECONDS, self._settle)

    def _said(self, _result: object, error: BaseException | None) -> None:
        """On the writer's thread. A store that cannot be written says so at every read."""
        if error is not None and not isinstance(error, DoxStoreError):
            self._report(error, "ring")

    def _settle(self) -> None:
        try:
            self._ring.settle()
        except DoxStoreError as error:
            self._report(error, "ring")
