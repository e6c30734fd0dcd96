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
from dox_core_store.server.domain.envelope import Ring

__all__ = ["RING_EVENT", "RingFollower"]

RING_EVENT = "ring"
"""The event in which the server says which key is the newest that it has: ``newest``."""

_LINGER_SECONDS = 10.0
"""Far beyond what a page takes from its query to the check of its last row."""


class RingFollower:
    """See the module. Called on the event loop. ``said`` has the store know which key is the newest
    that this server has."""

    def __init__(
        self,
        *,
        ring: Ring,
        said: Callable[[int], None],
        report: Callable[[BaseException, str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._ring = ring
        self._say = said
        self._report = report
        self._loop = loop

    def __call__(self) -> None:
        try:
            self._ring.refresh()
        except DoxStoreError as error:
            self._report(error, "ring")
            return
        self._say(self._ring.newest)
        if len(self._ring.numbers) > 1:
            self._loop.call_later(_LINGER_SECONDS, self._settle)

    def _settle(self) -> None:
        try:
            self._ring.settle()
        except DoxStoreError as error:
            self._report(error, "ring")
