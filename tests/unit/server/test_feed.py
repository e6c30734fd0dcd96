"""The change feed at the end of a node: nobody asks a catalog that is closed."""

from __future__ import annotations

import asyncio
from typing import Any

from dox_core_store.server.ports import Change
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.registry import Registry
from dox_core_store.testing.catalog import MemoryCatalog
from dox_core_store.testing.clock import FixedClock


class SlowCatalog(MemoryCatalog):
    """Counts who asks for changes, and answers nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.was_asked = asyncio.Event()

    async def changes(self, after: int, limit: int) -> list[Change]:
        del after, limit
        self.asked += 1
        self.was_asked.set()
        await asyncio.Event().wait()
        return []


class NoKeys:
    def replace(self, keys: Any) -> None:
        pass


def test_whoever_wakes_a_feed_that_was_stopped_asks_nobody() -> None:
    async def woken() -> None:
        catalog, clock = SlowCatalog(), FixedClock()
        registry = Registry(catalog=catalog, clock=clock, key_set=NoKeys(), alarm=lambda *_: None)
        feed = Feed(
            catalog=catalog, registry=registry, forget=lambda _: None, monotonic=clock.monotonic
        )
        feed.wake()
        await catalog.was_asked.wait()
        await feed.stop()  # also what is under way
        feed.wake()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert catalog.asked == 1

    asyncio.run(woken())
