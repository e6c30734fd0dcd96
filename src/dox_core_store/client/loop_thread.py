"""`LoopThread`: a thread that runs an event loop until it is told to end, and then ends all on it.

The loop differs from asyncio's own in two ways. Blocking work (which is resolving a name) is done
in plain daemon threads: the standard library's pools take no work once the main thread has ended,
although others may go on, and a process cannot end before they have, however long a resolver takes.
And it is never in asyncio's debug mode, which would report the import of the HTTP library as slow.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import selectors
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["LoopThread"]

_HELD_SECONDS = 5.0
"""No fork takes longer; the thread would go on."""

_LAST_SECONDS = 4.0
"""How long the work on a loop that ends may take to end."""


class LoopThread(threading.Thread):
    """Runs what ``main`` makes, and whatever else is put on `loop`."""

    def __init__(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__(name="dox-core-store", daemon=True)
        self._main = main
        self._selector = selectors.DefaultSelector()
        self._go_on = threading.Event()
        self.loop = _Loop(self._selector)
        self.loop.set_debug(False)

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            main = self.loop.create_task(self._main())
            self.loop.run_forever()
            self.loop.run_until_complete(_ended())
            del main
        finally:
            self.loop.close()

    def end(self) -> None:
        """End everything on the loop in order, then the thread. To be called once."""
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self.loop.call_soon_threadsafe(self.loop.stop)

    def hold(self) -> threading.Event:
        """Stand still between two steps until `go_on`; the event tells when it does."""
        self._go_on, stands = threading.Event(), threading.Event()

        def stand(go_on: threading.Event = self._go_on) -> None:
            stands.set()
            go_on.wait(_HELD_SECONDS)

        try:
            self.loop.call_soon_threadsafe(stand)
        except RuntimeError:  # it has ended
            stands.set()
        return stands

    def go_on(self) -> None:
        self._go_on.set()

    def leave(self) -> None:
        """In a process that was forked: let go of the parent's sockets, which would else be open
        until both had closed them, and of what the parent waits on, which both would change. The
        numbers stay taken, for the objects that know them close them one day."""
        if self.loop.is_closed():
            return
        nowhere = os.open(os.devnull, os.O_RDWR)
        try:
            numbers = {each.fd for each in self._selector.get_map().values()}
            numbers |= {each.get_extra_info("socket").fileno() for each in self.loop.connections}
            if hasattr(self._selector, "fileno"):
                numbers.add(self._selector.fileno())
            for number in numbers - {-1}:
                os.dup2(nowhere, number, inheritable=False)
        finally:
            os.close(nowhere)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, selector: selectors.BaseSelector) -> None:
        super().__init__(selector)
        self.connections: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()
        """Also those that nobody waits for, of which the selector does not know."""

    async def create_connection(self, *arguments: Any, **more: Any) -> Any:
        made = await super().create_connection(*arguments, **more)
        self.connections.add(made[0])
        return made

    def run_in_executor(  # type: ignore[override]  # its variadic types are not in Python 3.11
        self, _executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """See the module. The executor is None: the loop's own calls name none."""
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def run() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(func(*args))
                except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                    done.set_exception(error)

        threading.Thread(target=run, name="dox-core-store-call", daemon=True).start()
        return asyncio.wrap_future(done, loop=self)


async def _ended() -> None:
    """End everything on the running loop in order. What that begins itself has its time, too."""
    for patience_seconds in (_LAST_SECONDS, _LAST_SECONDS / 4):
        told = _others()
        # A task that is cancelled before it began may leave what it was to await never awaited.
        await asyncio.sleep(0)
        for task in told:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                while left := _others():
                    await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
