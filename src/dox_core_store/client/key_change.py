"""`Changes`: tells whoever waits what keys are now, and again whenever one becomes another.

Nothing is heard of here: a key is asked for as by any other caller, when something may have changed
and now and then besides. One that the store refuses is asked for ever more seldom, until something
changed: ten keys that are not there must not use up the limit of a service.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from dox_core_store.client.forking import begin_anew_in_child
from dox_core_store.client.key import HeldKey
from dox_core_store.client.outage import is_borne
from dox_core_store.client.protocol import check_spelling
from dox_core_store.errors import ConnectionFailedError, DoxStoreError

__all__ = ["Changes", "KeyChange"]

K = TypeVar("K", bound=HeldKey)

_LOOK_SECONDS = 1.0
_LONGEST_REST_SECONDS = {True: 5.0, False: 30.0}
"""Until a key is asked for again that the store cannot hand out now, or will not."""


class KeyChange(NamedTuple, Generic[K]):
    """What the key asked for as ``asked`` is now: ``key``, or the ``error`` that a get raises."""

    asked: str
    key: K | None
    error: DoxStoreError | None


class _Rests:
    """Until when (``elapsed`` seconds) refused keys are left alone."""

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._elapsed = elapsed
        self._seconds: dict[str, float] = {}
        self._until: dict[str, float] = {}

    def is_over(self, spelling: str) -> bool:
        return self._elapsed() >= self._until.get(spelling, 0.0)

    def after(self, spelling: str, error: DoxStoreError | None) -> None:
        if error is None or isinstance(error, ConnectionFailedError):
            self._seconds.pop(spelling, None)
            return
        longest = _LONGEST_REST_SECONDS[is_borne(error)]
        rest = min(self._seconds.get(spelling, _LOOK_SECONDS) * 2, longest)
        self._seconds[spelling], self._until[spelling] = rest, self._elapsed() + rest

    def end(self) -> None:
        self._until.clear()


class Changes(Generic[K]):
    """See the module. ``get`` is how any caller gets a key."""

    def __init__(
        self, *, get: Callable[[str, float], Awaitable[K]], elapsed: Callable[[], float]
    ) -> None:
        self._get = get
        self._elapsed = elapsed
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        begin_anew_in_child(self)

    async def of(
        self, key_paths: Iterable[str], cache_ttl: float
    ) -> AsyncGenerator[KeyChange[K], None]:
        """See `KeyClient.changes`."""
        asked = [check_spelling(each) for each in dict.fromkeys(key_paths)]
        known: dict[str, str] = {}
        rests, woken = _Rests(self._elapsed), asyncio.Event()
        self._waiting[woken] = asyncio.get_running_loop()
        try:
            while True:
                if woken.is_set():
                    rests.end()
                woken.clear()
                for spelling in filter(rests.is_over, asked):
                    change = await self._now(spelling, cache_ttl)
                    rests.after(spelling, change.error)
                    told = _told(change)
                    if known.get(spelling) != told:
                        known[spelling] = told
                        yield change
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await woken.wait()
        finally:
            self._waiting.pop(woken, None)  # not there in a process that was forked meanwhile

    def wake(self) -> None:
        """Something may have changed. In any thread."""
        for woken, loop in list(self._waiting.items()):
            with contextlib.suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(woken.set)

    def begin_anew(self) -> None:
        """In a process that was forked: the loops of those who wait are its parent's."""
        self._waiting.clear()

    async def _now(self, spelling: str, cache_ttl: float) -> KeyChange[K]:
        try:
            return KeyChange(spelling, await self._get(spelling, cache_ttl), None)
        except DoxStoreError as error:
            return KeyChange(spelling, None, error)


def _told(change: KeyChange[K]) -> str:
    """What of a change its listener would see."""
    if change.key is not None:
        return change.key.version_id
    return "" if change.error is None else change.error.code
