"""`Watch`: what the store says of a command's keys while it runs, gathered into steps to take.

Several changes within half a second are one step, since keys that belong together are changed
together. A key that can be had no more (403, 404, 410) is gone; one that cannot be asked for, with
its grace over, is in doubt. While any key is in doubt nothing is restarted: a new process would
begin with a value that nobody vouches for, and the old one has it already.

The values in hand are here and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from dox_core_store.errors import (
    DoxStoreError,
    GoneError,
    NotFoundError,
    UnauthorizedError,
)

if TYPE_CHECKING:
    from dox_core_store.client import Key, KeyChange, KeyClient

__all__ = ["REFUSALS", "Step", "Watch"]

REFUSALS = (UnauthorizedError, NotFoundError, GoneError)
"""Answers that mean: nobody may use what was handed out before."""

_BURST_SECONDS = 0.5


class Step(NamedTuple):
    """What is different. ``gone`` and ``doubted`` have the errors by key path."""

    changed: frozenset[str]
    gone: Mapping[str, DoxStoreError]
    doubted: Mapping[str, DoxStoreError]
    is_due: bool
    """Whether the command does not have the values in hand, and may get them now."""


class Watch:
    """``keys``: what the command was given at its start."""

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self.keys = dict(keys)
        self._used = {path: key.version_id for path, key in keys.items()}
        self._doubted: set[str] = set()
        self._new: dict[str, KeyChange[Key]] = {}
        self._woken = asyncio.Event()

    async def follow(self, client: KeyClient) -> None:
        """Gather changes, for ever."""
        changes = cast("Any", client.changes(list(self.keys)))
        async with aclosing(changes):
            async for change in changes:
                self.hear(change)

    def hear(self, change: KeyChange[Key]) -> None:
        self._new[change.asked] = change
        self._woken.set()

    async def step(self) -> Step:
        """The next one."""
        await self._woken.wait()
        await asyncio.sleep(_BURST_SECONDS)
        self._woken.clear()
        new, self._new = self._new, {}
        gone: dict[str, DoxStoreError] = {}
        doubted: dict[str, DoxStoreError] = {}
        for path, change in new.items():
            self._doubted.discard(path)
            if change.key is not None:
                self.keys[path] = change.key
            elif isinstance(change.error, REFUSALS):
                self.keys.pop(path, None)
                gone[path] = change.error
            elif change.error is not None:
                self._doubted.add(path)
                doubted[path] = change.error
        changed = frozenset(path for path in new if path in self.keys and not self._is_used(path))
        is_behind = any(not self._is_used(path) for path in self.keys)
        return Step(changed, gone, doubted, is_due=is_behind and not self._doubted)

    def used(self, paths: Iterable[str]) -> None:
        """The command has the values in hand of ``paths`` now."""
        self._used |= {path: self.keys[path].version_id for path in paths if path in self.keys}

    def _is_used(self, path: str) -> bool:
        return self._used.get(path) == self.keys[path].version_id
