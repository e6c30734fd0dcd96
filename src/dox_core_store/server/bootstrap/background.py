"""What a node does again and again beside its requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from dox_core_store.errors import DoxStoreError

__all__ = ["Background"]


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

    async def stop(self) -> None:
        """No step runs after this."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, seconds: float, step: Callable[[], Awaitable[None] | None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                waited = step()
                if waited is not None:
                    await waited
            except DoxStoreError as error:
                self._log.warning("background_refused", code=error.code)
            except Exception as error:  # noqa: BLE001 - reported, and tried again
                self._report(error, "background")
