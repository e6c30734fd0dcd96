"""What a node does again and again beside its requests."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import sqlalchemy as sa

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.sql.faults import unavailable
from dox_core_store.server.ports import Leases

__all__ = ["Background", "alone_by"]

Step = Callable[[], Awaitable[None]]


def alone_by(leases: Leases) -> Callable[[str, Step], Step]:
    """Makes a step that is done by one node at a time, by the lease named."""

    def alone(lease: str, step: Step) -> Step:
        @functools.wraps(step)
        async def stepped() -> None:
            if await asyncio.to_thread(leases.hold, lease) is not None:
                await step()

        return stepped

    return alone


class Background:
    """Steps that are repeated until `stop`. What a step refuses is told by readiness and by every
    read, and logged once for as long as it is the same; a fault of ours is reported. The next round
    comes all the same."""

    def __init__(self, *, log: Any, report: Callable[[BaseException, str], None]) -> None:
        self._log = log
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: dict[str, str] = {}

    def every(self, seconds: float, step: Callable[[], Awaitable[None] | None]) -> None:
        """Run ``step``, ``seconds`` after it last ended."""
        self._tasks.add(asyncio.create_task(self._repeat(seconds, step)))

    def once(self, step: Step) -> None:
        """Run ``step`` now, beside everything else."""
        self._tasks.add(asyncio.create_task(self._done(step)))

    async def stop(self) -> None:
        """No step runs after this."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, seconds: float, step: Callable[[], Awaitable[None] | None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._done(step)

    async def _done(self, step: Callable[[], Awaitable[None] | None]) -> None:
        name = getattr(step, "__qualname__", "step")
        try:
            waited = step()
            if waited is not None:
                await waited
            self._refused.pop(name, None)
        except DoxStoreError as error:
            self._tell(name, error)
        except sa.exc.DBAPIError as error:
            self._tell(name, unavailable(error))
        except Exception as error:  # noqa: BLE001 - reported; what is repeated is tried again
            self._report(error, "background")

    def _tell(self, name: str, error: DoxStoreError) -> None:
        if self._refused.get(name) != error.code:
            self._refused[name] = error.code
            self._log.warning("background_refused", step=name, code=error.code, detail=error.detail)
