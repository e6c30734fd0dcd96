"""`Flights`: one request in flight per key, however many callers wait for it.

A flight is a task of its own, so a caller who is cancelled takes nobody down. Its outcome per
name is an answer or an error *value*; each waiter raises its own copy, because one exception
raised in fifty tasks would collect fifty tracebacks. Nothing is remembered after landing: errors
are never cached here, and values are the cache's business.

Belongs to one event loop. Knows neither HTTP nor the cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, TypeVar

from dox_core_store.errors import ConnectionFailedError, DoxStoreError

__all__ = ["Flights"]

T = TypeVar("T")


class Flights(Generic[T]):
    """Futures by name; all names boarded together land with one request."""

    def __init__(self) -> None:
        self._boarding: dict[str, asyncio.Future[T | DoxStoreError]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def board(
        self,
        spellings: Mapping[str, str],
        fetch: Callable[[list[str]], Coroutine[Any, Any, Mapping[str, T | DoxStoreError]]],
    ) -> dict[str, asyncio.Future[T | DoxStoreError]]:
        """The future outcome of each name in ``spellings`` (name → spelling to ask with).

        Names already in flight are joined; for the others ``fetch`` is started once, with their
        spellings, and has to return an outcome for each. Wait under `asyncio.shield`: the futures
        are shared.
        """
        # Looked up once each: another thread may `detach` in between.
        joined = {
            name: future for name in spellings if (future := self._boarding.get(name)) is not None
        }
        asked = {name: text for name, text in spellings.items() if name not in joined}
        if asked:
            loop = asyncio.get_running_loop()
            futures: dict[str, asyncio.Future[T | DoxStoreError]] = {
                name: loop.create_future() for name in asked
            }
            self._boarding.update(futures)
            joined |= futures
            task = loop.create_task(fetch(list(asked.values())))
            self._tasks.add(task)
            # A callback and not the task's own last lines: a task that is cancelled before its
            # first step never runs, and its waiters would wait for ever.
            task.add_done_callback(lambda done: self._land(done, asked, futures))
        return joined

    def detach(self) -> None:
        """Let nobody join what is in flight now; those who wait already still get it."""
        self._boarding.clear()

    async def aclose(self) -> None:
        """End every flight; whoever waits gets ``connection_failed``."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _land(
        self,
        task: asyncio.Task[Mapping[str, T | DoxStoreError]],
        asked: Mapping[str, str],
        futures: Mapping[str, asyncio.Future[T | DoxStoreError]],
    ) -> None:
        self._tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        for name, future in futures.items():
            if self._boarding.get(name) is future:
                del self._boarding[name]
            if future.done():
                continue
            if task.cancelled():
                closed = ConnectionFailedError("connection_failed", "The client was closed.")
                future.set_result(closed)
            elif fault is None:
                future.set_result(task.result()[asked[name]])
            else:  # a fault of ours: those who wait must see it
                future.set_exception(fault)
                future.exception()  # marked as seen, for perhaps every waiter was cancelled
