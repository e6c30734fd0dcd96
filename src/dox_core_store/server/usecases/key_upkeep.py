"""What is said of a key beside its versions: owner, usage, how many versions it keeps, doubts.

Describing a key changes none of its versions, so it takes nothing away from an import that is under
way. Keeping fewer versions takes effect at once, in steps: each is a short transaction.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec.structs import replace

from dox_core_store.errors import InvalidRequestError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.key import KeyRecord, UpkeepRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import Catalog, Transaction
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.key_retention import Retention
from dox_core_store.server.usecases.stored_key import KeyShelf, StoredKey

__all__ = ["Description", "KeyUpkeep"]

MOST_KEPT = 1_000_000_000


class Description(NamedTuple):
    """What to say of a key. None leaves a thing as it is, empty text takes it away."""

    owner: str | None = None
    usage: str | None = None
    keep_versions: int | Literal["default"] | None = None
    verified: bool = False
    """Somebody made sure that what was restored still opens what it is for."""


class KeyUpkeep:
    """See the module."""

    def __init__(
        self, *, shelf: KeyShelf, catalog: Catalog, retention: Retention, feed: Feed
    ) -> None:
        self._shelf = shelf
        self._catalog = catalog
        self._retention = retention
        self._feed = feed

    async def describe(
        self,
        caller: Caller,
        path: str,
        said: Description,
        *,
        environment: str | None = None,
        reason: str | None = None,
    ) -> KeyAddress:
        """Take over what is said, and destroy the versions that are thereby too many."""
        require(caller.roles, Permission.WRITE_KEYS)
        if isinstance(said.keep_versions, int) and not 0 <= said.keep_versions <= MOST_KEPT:
            raise InvalidRequestError(
                "invalid_field", "keep_versions takes a number from 0 (all), or default."
            )

        def work(tx: Transaction) -> KeyRecord:
            key = self._shelf.told_of(tx, caller, path, environment)
            _take_over(tx, key, said)
            key.entry(caller, Action.DESCRIBE, None, reason)
            return key.record

        def prune(tx: Transaction) -> bool:
            record = tx.get(KeyRecord, key_id=key.key_id)
            return record is not None and self._retention.prune(tx, caller, record)

        key = await self._catalog.write(work)
        if said.keep_versions is not None:
            while await self._catalog.write(prune):
                pass
        await self._feed.catch_up()
        return KeyAddress(key.path, key.environment)


def _take_over(tx: Transaction, key: StoredKey, said: Description) -> None:
    record = key.record
    if said.owner is not None:
        record = replace(record, owner=said.owner or None)
    if said.usage is not None:
        record = replace(record, usage=said.usage or None)
    if record != key.record:
        tx.put(record)
        key.record = record
    before = tx.get(UpkeepRecord, key_id=record.key_id) or UpkeepRecord(key_id=record.key_id)
    upkeep = before
    if said.keep_versions is not None:
        keep = None if said.keep_versions == "default" else said.keep_versions
        upkeep = replace(upkeep, keep_versions=keep)
    if said.verified:
        upkeep = replace(upkeep, unverified_since=None)
    if upkeep != before:
        tx.put(upkeep)
