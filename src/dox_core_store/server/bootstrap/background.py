"""What a node does again and again beside its requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.ports import Leases

__all__ = ["Background", "alone_by"]

Step = Callable[[], Awaitable[None]]


def alone_by(leases: Leases) -> Callable[[str, Step], Step]:
    """Makes a step that is done by one node at a time, by the lease named."""

    def alone(lease: str, step: Step) -> Step:
        async def stepped() -> None:
            if await asyncio.to_thread(leases.hold, lease) is not None:
                await step()

        return stepped

    return alone


class Background:
    """Steps that are repeated until `stop`. What a step refuses is told by readiness and by every
    read; a fault of ours is reported, and the next round comes all the same."""

    def __init__(self, *, log: Any, report: Callable[[BaseException, str], None]) -> None:
        self._log = log
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()

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
        try:
            waited = step()
            if waited is not None:
                await waited
        except DoxStoreError as error:
            self._log.warning("background_refused", code=error.code)
        except Exception as error:  # noqa: BLE001 - reported; what is repeated is tried again
            self._report(error, "background")
