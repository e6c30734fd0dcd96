"""How a node follows the change feed: in order, and once for all who wait for it.

The store's change feed says what changed; here it is applied to what the node knows (`Registry`)
and to the values that it keeps. ``applied`` is the feed position that everything stands for: a
ledger commit that returns a later one tells the door that it decided on old knowledge and has to
decide again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable

from dox_core_store.errors import DoxStoreError
from dox_core_store.key_path import RESERVED_PREFIX
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import Catalog, Change
from dox_core_store.server.usecases.registry import Registry

__all__ = ["Feed"]

_OWN = f"{RESERVED_PREFIX}."

_BLOCKS = 20
"""Blocks of the change feed that are applied before others have a turn: some milliseconds, even
while an import fills them."""


def _nobody(_change: Change) -> None:
    """Nobody follows."""


class Feed:
    """Applies the change feed in order; whoever needs a position waits for it here."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        registry: Registry,
        forget: Callable[[str | None], None],
        monotonic: Callable[[], float],
        lease_seconds: float = math.inf,
    ) -> None:
        self._catalog = catalog
        self._registry = registry
        self._forget = forget
        self._monotonic = monotonic
        self._lease = lease_seconds
        self._lock = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._ended = False
        self.applied = 0
        self.until = -math.inf
        """Until when (monotonic seconds) ``applied`` may be taken for all that there is: where
        others write too, it was asked for at some moment, and nobody waits for this node longer
        than ``lease_seconds`` from there."""
        self.confirmed_at = -math.inf
        """When (monotonic seconds) this node last asked, and heard that it knows everything."""
        self.tell: Callable[[Change], None] = _nobody
        """Told each change in order, once it was applied; again after a fault."""

    async def start(self) -> None:
        """Load everything as of the feed's head."""
        self.applied = await self._catalog.feed_head()
        await self._registry.load()

    def wake(self) -> None:
        """Somebody says that there are changes: look soon, and once for many who say so."""
        if self._looking is None and not self._ended:
            self._looking = asyncio.get_running_loop().create_task(self._look())
            self._under_way.add(self._looking)
            self._looking.add_done_callback(self._under_way.discard)

    async def stop(self) -> None:
        """Nobody looks after this, whoever says that there are changes: the catalog is to close."""
        self._ended = True
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _look(self) -> None:
        self._looking = None  # who says so from here on means what may not be seen below
        with contextlib.suppress(DoxStoreError):  # looked at again by the second, and told there
            await self.catch_up()

    async def drop_spent_keys(self) -> None:
        """`Registry.drop_spent_keys`, now and then, and never while changes are applied: what was
        read before a key was compromised must not come after it."""
        async with self._lock:
            await self._registry.drop_spent_keys()

    async def catch_up(self) -> None:
        """Apply what was committed since. Returns with ``applied`` at or past the head at call."""
        async with self._lock:
            while True:
                asked_at = self._monotonic()
                changes = await self._catalog.changes(self.applied, _BLOCKS)
                if not changes:
                    self.confirmed_at, self.until = asked_at, asked_at + self._lease
                    return
                for change in changes:
                    if not change.key_path.startswith(_OWN):
                        path = change.key_path.removesuffix(f".{change.environment}")
                        if change.action == Action.LIMIT:
                            # Before it is forgotten: what is looked up after that has the new one.
                            await self._registry.follow_key_limit(path, change.environment or "")
                        self._forget(path)
                    elif change.key_path.startswith(f"{_OWN}imports."):
                        self._forget(None)
                    else:
                        await self._registry.apply(change)
                    self.tell(change)
                self.applied = changes[-1].seq
                if len(changes) > _BLOCKS:
                    await asyncio.sleep(0)
