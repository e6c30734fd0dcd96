"""`Worker`: the client's own thread, with an event loop of its own.

One per client and process, started when it is first needed. What is done in the background is done
here, so a service whose own loop is busy, or that has none, keeps its keys current all the same;
and callers without an event loop have their calls made here. At the end of the process the thread
is stopped before the interpreter is, and before a fork it comes to stand between two steps, so that
no import and no write is cut in two for the child.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from dox_core_store.client.forking import begin_anew_in_child, hold_at_fork
from dox_core_store.client.loop_thread import LoopThread
from dox_core_store.errors import ConnectionFailedError

__all__ = ["Worker"]

T = TypeVar("T")

_END_SECONDS = 5.0


class Worker:
    """``main`` makes what runs in the background until the worker is stopped."""

    def __init__(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._main = main
        # Taken again by a signal's handler, or by the collector, while its thread has it.
        self._changing = threading.RLock()
        self._thread: LoopThread | None = None
        self._of_parents: list[LoopThread] = []
        begin_anew_in_child(self)
        hold_at_fork(self)
        _alive.add(self)

    @property
    def is_running(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether the caller is on this thread."""
        return self._thread is threading.current_thread()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop, if there is one now."""
        thread = self._thread
        return None if thread is None else thread.loop

    def start(self) -> None:
        """Have the background work done. Without effect where no thread can be started."""
        if not self.is_running:
            with contextlib.suppress(RuntimeError):
                self._started()

    def begin(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run ``work`` on the worker's loop. Raises `ConnectionFailedError` where it has none."""
        try:
            with self._changing:  # nothing is put behind what ends the loop: it would never be done
                return asyncio.run_coroutine_threadsafe(work, self._started().loop)
        except RuntimeError:
            work.close()
            raise _closed() from None

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` comes to, run on the worker's loop; blocks."""
        if self.is_current:
            work.close()
            raise RuntimeError("a blocking call of the client was made on the client's own thread")
        future = self.begin(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise _closed() from None
        except BaseException:
            future.cancel()  # the caller was interrupted; else it has ended anyway
            raise

    async def outcome_of(self, work: Coroutine[Any, Any, T]) -> T:
        """The same for a caller who has an event loop, which goes on meanwhile."""
        if self.is_current:
            return await work
        future = self.begin(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise _closed() from None

    def call(self, work: Callable[[], object]) -> None:
        """Have ``work`` called on the worker's loop, if it has one."""
        with self._changing, contextlib.suppress(RuntimeError):  # it has ended by itself
            if self._thread is not None:
                self._thread.loop.call_soon_threadsafe(work)

    def stop(self, *, wait: bool = True) -> None:
        """End the thread, and what it does in order. A later call starts another one."""
        with self._changing:
            thread, self._thread = self._thread, None
            if thread is not None:
                thread.end()
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join(_END_SECONDS)

    def hold(self) -> threading.Event | None:
        """Before a fork: let the thread come to stand; the event tells when it does."""
        thread = self._thread
        if thread is None or thread is threading.current_thread() or not thread.is_alive():
            return None
        return thread.hold()

    def go_on(self) -> None:
        """After it."""
        thread = self._thread
        if thread is not None:
            thread.go_on()

    def begin_anew(self) -> None:
        """In a process that was forked: the thread, its loop and its sockets are its parent's."""
        self._changing = threading.RLock()
        if self._thread is not None:
            self._thread.leave()
            # Kept, for a loop that is let go is closed, and says what all waits on it.
            self._of_parents.append(self._thread)
            self._thread = None

    def _started(self) -> LoopThread:
        with self._changing:
            thread = self._thread
            if thread is None or not thread.is_alive():
                thread = LoopThread(self._main)
                try:
                    thread.start()
                except RuntimeError:
                    thread.loop.close()
                    raise
                self._thread = thread
                _threads.add(thread)
            return thread


def _closed() -> ConnectionFailedError:
    return ConnectionFailedError("connection_failed", "The client was closed.")


_alive: weakref.WeakSet[Worker] = weakref.WeakSet()
_threads: weakref.WeakSet[LoopThread] = weakref.WeakSet()
"""Also those that end without anybody waiting for it."""


@atexit.register
def _stop_all() -> None:
    deadline = time.monotonic() + _END_SECONDS
    for worker in list(_alive):
        worker.stop(wait=False)
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
