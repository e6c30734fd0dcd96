"""`Refusals`: what follows when whoever a key is for refuses its value.

The store hears of it and counts it; nothing else changes there. The caller gets the current version
if it is another one by now, else the newest other one that still holds, for an upstream may know
the old value still, or the new one not yet. However many callers say so of one version, the store
is asked once; all of it runs on the worker's loop.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from dox_core_store.client.cache import KeyCache
from dox_core_store.client.connection import StoreConnection
from dox_core_store.client.fetch import Fetch
from dox_core_store.client.key import HeldKey
from dox_core_store.client.outage import is_borne
from dox_core_store.client.protocol import read_answer, to_rejected
from dox_core_store.errors import DoxStoreError, NotFoundError
from dox_core_store.key_path import KeyAddress
from dox_core_store.wire import Rejected

__all__ = ["Refusals"]

K = TypeVar("K", bound=HeldKey)

_REMEMBERED_SECONDS = 5.0
"""How long the same answer is given again: a service with a wrong key retries at once."""


class Refusals(Generic[K]):
    """See the module. Lives on the worker's loop."""

    def __init__(
        self,
        *,
        connection: StoreConnection,
        cache: KeyCache[K],
        fetch: Fetch[K],
        elapsed: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._fetch = fetch
        self._elapsed = elapsed
        self._asked: dict[str, tuple[float, asyncio.Task[K | DoxStoreError]]] = {}

    async def of(self, key: K, reason: str) -> K:
        """What to use instead of ``key``. Raises `DoxStoreError`."""
        now, loop = self._elapsed(), asyncio.get_running_loop()
        for version_id, (asked_at, task) in list(self._asked.items()):
            if now > asked_at + _REMEMBERED_SECONDS or task.get_loop() is not loop:
                del self._asked[version_id]
        held = self._cache.held(str(KeyAddress(key.key_path, key.environment)))
        if held is not None and held.answer.version_id != key.version_id:
            known = self._asked.get(key.version_id)
            if known is not None and known[0] < held.fetched_at:
                del self._asked[key.version_id]  # another version is current since that answer
        if key.version_id not in self._asked:
            task = loop.create_task(self._ask(key, reason))
            self._asked[key.version_id] = (now, task)
        outcome = await asyncio.shield(self._asked[key.version_id][1])
        if isinstance(outcome, DoxStoreError):
            raise copy.copy(outcome)
        return outcome

    async def _ask(self, key: K, reason: str) -> K | DoxStoreError:
        try:
            return await self._instead_of(key, reason)
        except DoxStoreError as error:  # a value: each of many waiters raises a copy of its own
            return error

    async def _instead_of(self, key: K, reason: str) -> K:
        name = str(KeyAddress(key.key_path, key.environment))
        told: Rejected | None = None
        try:
            call = to_rejected(name, key.version_id, reason)
            told = await self._connection.ask(call, partial(read_answer, Rejected))
        except DoxStoreError as error:
            if not is_borne(error):
                raise
        found = (await self._fetch.one([name]))[name]
        if isinstance(found, DoxStoreError):
            raise found
        if found.version_id != key.version_id:
            return found
        if told is None or told.other_version is None:
            raise NotFoundError("version_not_found", f"There is no other version of {name}.")
        return await self._fetch.version(name, told.other_version)
