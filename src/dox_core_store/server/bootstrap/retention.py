"""Retention of the ledger in a running node, and the room that is left for it.

Dropping goes in rounds: a PRUNE entry says what goes, a checkpoint signs it, and then it goes, in
one short transaction. A round that is too long for the door is followed by smaller ones. Where
blocks do not follow from one another nothing more is dropped: `ledger verify` says what is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.sql.pruning import (
    Plan,
    Planner,
    drop,
    drop_postings,
    idle_postings,
)
from dox_core_store.server.adapters.sql.room import Room, used_bytes
from dox_core_store.server.bootstrap.backing import Backing
from dox_core_store.server.bootstrap.local import local_caller
from dox_core_store.server.domain.ledger import Action, BrokenChainError
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.registry import Registry

__all__ = ["LOOK_SECONDS", "ROOM_SECONDS", "LedgerRetention", "RoomWatch"]

T = TypeVar("T")

LOOK_SECONDS = 1.0
ROOM_SECONDS = 10.0
_REST_SECONDS = 600.0
"""Until it is looked again, once nothing is old enough."""

_PAUSE_SECONDS = 0.05
_SIGNED_SECONDS = 0.2
_LONG_SECONDS = 0.02
_SHORT_SECONDS = 0.005
_FEWEST, _MOST = 50, 5_000
"""Blocks of one round. Begins with the fewest: how long a disk takes for them shows then."""

_POSTINGS = 100
"""Postings of one transaction: each may lie on a page of its own."""


class LedgerRetention:
    """See the module. `step` is called again and again."""

    def __init__(
        self,
        *,
        settings: Settings,
        backing: Backing,
        clock: SystemClock,
        log: Any,
    ) -> None:
        self._backing = backing
        self._clock = clock
        self._log = log
        self._planner = Planner(
            store_id=backing.store.store_id, keep_days=settings.ledger_keep_days
        )
        self._is_stopped = not settings.ledger_keep_days
        self._next_at = 0.0
        self._size = _FEWEST
        self.dropped = 0
        """Blocks that were dropped since the node started."""

    async def step(self) -> None:
        """Drop what is old enough, if it is time to look."""
        if self._is_stopped or self._clock.monotonic() < self._next_at:
            return
        before = self.dropped
        try:
            while (plan := await asyncio.to_thread(self._plan)) is not None:
                await self._drop(plan)
                await asyncio.sleep(_PAUSE_SECONDS)
        except BrokenChainError as error:
            self._is_stopped = True  # evidence must not be dropped
            self._log.error("retention_stopped", stream=error.stream, seq=error.seq)
        if self.dropped > before:
            await self._drop_postings()
            self._log.info("ledger_pruned", blocks=self.dropped - before)
        self._next_at = self._clock.monotonic() + _REST_SECONDS

    def _plan(self) -> Plan | None:
        with self._backing.store.engine.connect() as connection:
            return self._planner.plan(connection, self._clock.now(), self._size)

    async def _drop(self, plan: Plan) -> None:
        entry = {"action": Action.PRUNE, "key_path": "_store.ledger", "reason": plan.reason}
        await self._backing.catalog.write(lambda tx: tx.record(local_caller(), entry))
        change = await self._backing.catalog.feed_head()
        took = 0.0

        def work(connection: sa.Connection) -> None:
            nonlocal took
            began = self._clock.monotonic()
            drop(connection, plan)
            took = self._clock.monotonic() - began

        while not await self._settle(work, change):  # noqa: ASYNC110 - the writer's thread signs
            await asyncio.sleep(_SIGNED_SECONDS)
        self._planner.dropped(plan)
        self.dropped += plan.blocks
        if took > _LONG_SECONDS:
            self._size = max(self._size // 2, _FEWEST)
        elif took < _SHORT_SECONDS:
            self._size = min(self._size * 2, _MOST)

    async def _drop_postings(self) -> None:
        with self._backing.store.engine.connect() as connection:
            steps = idle_postings(connection)
            while (names := await asyncio.to_thread(next, steps, None)) is not None:
                for first in range(0, len(names), _POSTINGS):
                    part = names[first : first + _POSTINGS]
                    await self._settle(lambda c, part=part: drop_postings(c, part), 0)  # type: ignore[misc]
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _settle(self, work: Callable[[sa.Connection], None], change: int) -> bool:
        """Whether the writer did ``work``."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(bool(result))
                else:
                    future.set_exception(error)

        def done(result: Any, error: BaseException | None) -> None:
            loop.call_soon_threadsafe(settle, result, error)

        self._backing.writer.settle(work, change, done)
        return await future


class RoomWatch:
    """Holds reads back while the store is as large as it may be."""

    def __init__(self, *, room: Room, backing: Backing, registry: Registry, log: Any) -> None:
        self._room = room
        self._backing = backing
        self._registry = registry
        self._log = log
        self._state = "ok"

    async def look(self) -> None:
        """Compare what is used with what may be."""
        room = self._room
        room.look(await asyncio.to_thread(used_bytes, self._backing.store.engine))
        state = room.state
        full = state == "full"
        told = f"The store uses {room}: nothing is handed out, because it could not be recorded."
        if full != (self._state == "full"):
            self._registry.hold("ledger_full", told if full else None)
        if state != self._state:
            self._state = state
            if full:
                self._log.error("ledger_full", used=str(room))
            elif state == "ok":
                self._log.info("ledger_has_room", used=str(room))
            else:
                self._log.warning("ledger_nearly_full", used=str(room))
