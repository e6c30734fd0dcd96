"""One key inside a transaction: found, asked for its versions, given a new current one.

What all changes of a key have in common. A key is settled before anything else (see `key_import`):
an import that took effect is written out, one that is still open loses the key.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from dox_core_store.errors import ConflictError, InvalidRequestError, NotFoundError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.key import (
    KeyRecord,
    State,
    VersionRecord,
    writable_address,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import Catalog, Transaction, Work
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.key_import import settle, settle_committed, supersede
from dox_core_store.server.usecases.key_retention import Retention

__all__ = ["KeyShelf", "StoredKey", "Written", "not_found"]

Found = TypeVar("Found")


class Written(NamedTuple):
    """A version as written, and whether it is the first that its key ever had as current."""

    address: KeyAddress
    version: VersionRecord
    created: bool


class StoredKey:
    """See the module. ``record`` is the key as this transaction has it by now."""

    def __init__(self, tx: Transaction, address: KeyAddress, record: KeyRecord) -> None:
        self._tx = tx
        self.address = address
        self.record = record

    def version(self, number: int | None) -> VersionRecord:
        """The version ``number``; None: the head. Raises ``version_not_found``, and
        ``key_not_found`` where the head is asked for and there is none yet."""
        key = self.record
        if number is None and key.head is None:
            raise not_found(self.address)
        where = {"version_id": key.head} if number is None else {"number": number}
        version = None
        if number is None or 1 <= number <= key.last_number:  # any other may not even fit a column
            version = self._tx.get(VersionRecord, key_id=key.key_id, **where)
        if version is None:
            raise NotFoundError("version_not_found", f"{key.path} has no such version.")
        return version

    def head(self) -> VersionRecord | None:
        """The version that a read without a number means, if there ever was one."""
        if self.record.head is None:
            return None
        return self._tx.get(VersionRecord, version_id=self.record.head)

    def newest(self, state: State, *, limit: int = 1) -> list[VersionRecord]:
        """The newest versions in ``state``, newest first."""
        return self._tx.latest(
            VersionRecord, "number", limit=limit, key_id=self.record.key_id, state=(state,)
        )

    def check_version(self, if_version: int | None) -> None:
        """Raise ``version_conflict`` unless ``if_version`` is the head's number (0: no head)."""
        if if_version is None:
            return
        actual = 0 if self.record.head is None else self.version(None).number
        if actual != if_version:
            raise ConflictError(
                "version_conflict",
                f"The key is at version {actual}, not {if_version}.",
                actual_version=actual,
            )

    def add(self, version: VersionRecord) -> None:
        """A new version that is not current."""
        self.record = replace(self.record, last_number=version.number)
        self._tx.put(self.record)
        self._tx.put(version)

    def make_current(self, version: VersionRecord) -> None:
        """``version`` is the key's current one from now on; what was becomes previous."""
        supersede(self._tx, self.record)
        self.record = replace(
            self.record,
            head=version.version_id,
            last_number=max(self.record.last_number, version.number),
            rotated_at=self._tx.now,
        )
        self._tx.put(self.record)
        self._tx.put(version)

    def entry(
        self, caller: Caller, action: Action, version: VersionRecord | None, reason: str | None
    ) -> None:
        """Put what happened on the ledger."""
        self._tx.record(
            caller,
            {
                "action": action,
                "key_path": str(self.address),
                "environment": self.address.environment,
                "version": None if version is None else version.number,
                "reason": reason,
            },
        )


class KeyShelf:
    """Where keys are found and changed; shared by the use cases on them."""

    def __init__(
        self,
        *,
        default_environment: str,
        expiry_days: int,
        catalog: Catalog,
        feed: Feed,
        retention: Retention,
    ) -> None:
        self._default = default_environment
        self._expiry = timedelta(days=expiry_days) if expiry_days else None
        self._catalog = catalog
        self._feed = feed
        self._retention = retention

    async def write(
        self, work: Callable[[Transaction], Written], *, urgent: bool = False
    ) -> Written:
        """Run ``work``; returns once this node has taken over what it changed."""
        written = await self._catalog.write(work, urgent=urgent)
        await self._feed.catch_up()
        return written

    async def look(self, work: Work[Found]) -> Found:
        """What ``work`` finds; of what it writes nobody has to be told at once."""
        return await self._catalog.write(work)

    def address(self, tx: Transaction, path: str, environment: str | None) -> KeyAddress:
        """The address that ``path`` names, if operators may write there."""
        return writable_address(
            path, tx.environments(), default=self._default, explicit=environment
        )

    def find(self, tx: Transaction, caller: Caller, address: KeyAddress) -> StoredKey | None:
        """The key at ``address``, settled."""
        record = tx.get(KeyRecord, path=address.path, environment=address.environment)
        if record is None:
            return None
        settled = settle(tx, record)
        if settled.head != record.head:
            self._retention.after_promotions(tx, caller, [settled])
        return StoredKey(tx, address, settled)

    def told_of(
        self, tx: Transaction, caller: Caller, path: str, environment: str | None
    ) -> StoredKey:
        """The key at ``path``, for what is said of it: its versions stay as they are, also those
        that an open import has staged. Raises ``key_not_found``."""
        address = self.address(tx, path, environment)
        record = tx.get(KeyRecord, path=address.path, environment=address.environment)
        settled = None if record is None else settle_committed(tx, record)
        if record is None or settled is None or settled.is_only_staged:
            raise not_found(address)
        if settled.head != record.head:
            self._retention.after_promotions(tx, caller, [settled])
        return StoredKey(tx, address, settled)

    def existing(
        self, tx: Transaction, caller: Caller, path: str, environment: str | None
    ) -> StoredKey:
        """The same, of a key that has some version. Raises ``key_not_found``."""
        address = self.address(tx, path, environment)
        key = self.find(tx, caller, address)
        if key is None or key.record.is_only_staged:
            raise not_found(address)
        return key

    def until(self, tx: Transaction, expires_at: datetime | None) -> datetime | None:
        """The end of a life that begins now: as asked for, else as the store's setting says."""
        if expires_at is None:
            return None if self._expiry is None else tx.now + self._expiry
        if expires_at.tzinfo is None:
            raise InvalidRequestError("invalid_field", "expires_at needs an offset, such as Z.")
        if expires_at <= tx.now:
            raise InvalidRequestError("invalid_field", "expires_at lies in the past.")
        try:
            return expires_at.astimezone(UTC)
        except OverflowError:
            raise InvalidRequestError(
                "invalid_field", "expires_at lies beyond the year 9999 in UTC."
            ) from None


def not_found(address: KeyAddress) -> NotFoundError:
    """That ``address`` has no value."""
    return NotFoundError("key_not_found", f"There is no {address.path} in {address.environment}.")
