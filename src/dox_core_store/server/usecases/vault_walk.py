"""Going through keys a batch at a time: what all do that is done to every key by somebody's calls.

A call does as much as can be waited for and says where to go on. One key's failure is told and
holds up no other, but a vault that does not answer ends the call: whoever asked decides whether to
go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from dox_core_store.errors import DoxStoreError
from dox_core_store.key_path import KeyAddress, split_environment
from dox_core_store.server.domain.key import KeyRecord
from dox_core_store.server.ports import Catalog

__all__ = ["Failed", "KeyBatch", "Moved", "Walk"]

_AT_ONCE = 4
"""Keys that are under way at a time; reads use the vaults meanwhile."""

_ENDS = frozenset({"vault_unavailable", "vault_refused"})

_BATCH_SECONDS = 1.5
"""After this no more keys are begun in one call: its caller waits for an answer."""


class Failed(NamedTuple):
    """A key that stays where it is, and why."""

    address: KeyAddress
    code: str
    detail: str


class Moved(NamedTuple):
    """What became of some keys; ``next`` is where to go on, None at the end."""

    moved: int
    skipped: int
    failed: list[Failed]
    next: KeyAddress | None


class Walk(NamedTuple):
    """Which keys: those below ``prefix``, after ``after``, ``limit`` at most."""

    prefix: str | None
    after: KeyAddress | None
    limit: int


class KeyBatch:
    """Some keys, one after the other, as far as the time goes: the same for all that is done key
    by key. ``work`` says whether anything was done to a key, or raises."""

    def __init__(self, *, catalog: Catalog, monotonic: Callable[[], float]) -> None:
        self._catalog = catalog
        self._monotonic = monotonic

    async def run(self, walk: Walk, work: Callable[[KeyRecord], Awaitable[bool]]) -> Moved:
        ends = self._monotonic() + _BATCH_SECONDS
        prefix, environment = walk.prefix, None
        if prefix is not None:
            prefix, environment = split_environment(prefix, await self._catalog.environments())
        rows = await self._catalog.keys(prefix, environment, walk.after, walk.limit)
        moved, skipped, failed = 0, 0, list[Failed]()
        last, at = walk.after, 0
        while at < len(rows) and (at == 0 or self._monotonic() < ends):
            few = [row.key for row in rows[at : at + _AT_ONCE]]
            at += len(few)
            for key, outcome in zip(
                few, await asyncio.gather(*map(work, few), return_exceptions=True), strict=True
            ):
                last = KeyAddress(key.path, key.environment)
                if isinstance(outcome, DoxStoreError):
                    failed.append(Failed(last, outcome.code, outcome.detail))
                elif isinstance(outcome, BaseException):
                    raise outcome
                elif outcome:
                    moved += 1
                else:
                    skipped += 1
            if any(each.code in _ENDS for each in failed):
                break  # whoever asked says whether the rest is worth waiting for
        is_end = at >= len(rows) and len(rows) < walk.limit
        return Moved(moved, skipped, failed, None if is_end else last)
