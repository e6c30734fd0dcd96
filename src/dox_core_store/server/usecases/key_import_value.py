"""The values of a slice: whether a key has its value already, and where a new one goes.

Beside the catalog both is answered inside the transaction that stages, without waiting for
anything. With a vault that cannot be: so before it the values that would be replaced are opened and
compared, and those that differ are stored in the vault, some at a time. The transaction then finds
its answers ready. What was changed in between has none, and the slice is made ready again.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

from dox_core_store.errors import DoxStoreError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.key import KeyRecord, State, VersionRecord
from dox_core_store.server.ports import About, Catalog, Transaction
from dox_core_store.server.usecases.stored_value import (
    Begin,
    Kept,
    StoredValues,
    Stowed,
    about_next,
)
from dox_core_store.server.usecases.vault import REFUSALS

__all__ = ["STANDING", "NotReadyError", "Slice", "SliceHere", "SliceValues", "Standing", "ready"]

STANDING = (State.CURRENT, State.PENDING)
"""States of a version that an import leaves as it is if it has the value."""

_AT_ONCE = 8


class NotReadyError(Exception):
    """A key was changed since its value was made ready."""


class Slice(NamedTuple):
    """One value of a slice, with the key and the versions that it may be compared to."""

    address: KeyAddress
    raw: bytes
    key: KeyRecord | None
    standing: list[VersionRecord]


Standing = Callable[[Transaction], list[Slice]]


class SliceValues(Protocol):
    """What staging asks, inside its transaction."""

    def has(self, version: VersionRecord, address: KeyAddress, raw: bytes) -> bool:
        """Whether ``version``, which stands, holds ``raw``."""

    def kept(self, tx: Transaction, address: KeyAddress, raw: bytes) -> Kept:
        """Where ``raw`` lies, for a version that is written now."""


class SliceHere:
    """Values that are sealed beside the catalog."""

    def __init__(self, stored: StoredValues) -> None:
        self._stored = stored

    def has(self, version: VersionRecord, address: KeyAddress, raw: bytes) -> bool:
        if version.vault is not None:
            return False  # in a vault that nobody here knows any more
        return hmac.compare_digest(self._stored.open_here(address, version), raw)

    def kept(self, tx: Transaction, address: KeyAddress, raw: bytes) -> Kept:
        return self._stored.placed_here(raw).kept(tx, address, current=False)


class _SliceThere:
    """Values that were made ready. ``same`` says of versions whether they hold the value that the
    slice has for their key."""

    def __init__(
        self, stored: StoredValues, same: Mapping[str, bool], stowed: Sequence[Stowed]
    ) -> None:
        self._stored = stored
        self._same = same
        self._stowed = {each.address: each for each in stowed}
        self._written: dict[str, bytes] = {}

    def has(self, version: VersionRecord, address: KeyAddress, raw: bytes) -> bool:  # noqa: ARG002 - as the protocol says
        written = self._written.get(version.version_id)
        if written is not None:  # the same key twice in a slice
            return hmac.compare_digest(written, raw)
        if version.version_id not in self._same:
            raise NotReadyError
        return self._same[version.version_id]

    def kept(self, tx: Transaction, address: KeyAddress, raw: bytes) -> Kept:
        if self._stored.vault is None:
            kept = self._stored.placed_here(raw).kept(tx, address, current=False)
        else:
            stowed = self._stowed.get(address)
            if stowed is None:
                raise NotReadyError
            kept = stowed.kept(tx, address, current=False)
        self._written[kept.version_id] = raw
        return kept


@asynccontextmanager
async def ready(
    stored: StoredValues, catalog: Catalog, standing: Standing
) -> AsyncIterator[SliceValues]:
    """The answers for the values that ``standing`` finds, for as long as the body stages them. What
    is then named by no version is erased."""
    found = await catalog.write(standing)
    same = await _compared(stored, found)
    if stored.vault is None:
        yield _SliceThere(stored, same, ())
        return
    wanted = {
        each.address: (each.raw, _begin(stored.vault, each))
        for each in found
        if not any(same[version.version_id] for version in each.standing)
    }
    async with stored.stowing(list(wanted.values())) as stowed:
        yield _SliceThere(stored, same, stowed)


def _begin(vault: str, each: Slice) -> Begin:
    def begin(tx: Transaction) -> tuple[KeyAddress, About]:
        return each.address, about_next(tx, vault, each.key)

    return begin


async def _compared(stored: StoredValues, found: Sequence[Slice]) -> dict[str, bool]:
    """Whether each standing version holds the value that the slice has for its key."""
    few = asyncio.Semaphore(_AT_ONCE)

    async def compared(each: Slice, version: VersionRecord) -> tuple[str, bool]:
        async with few:
            try:
                held = await stored.open(each.address, version)
            except DoxStoreError as error:
                if error.code in REFUSALS:
                    raise
                return version.version_id, False  # it is lost or damaged, and replaced
        return version.version_id, hmac.compare_digest(held, each.raw)

    pairs = [(each, version) for each in found for version in each.standing]
    return dict(await asyncio.gather(*(compared(*pair) for pair in pairs)))
