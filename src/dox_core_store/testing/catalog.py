"""A catalog in memory that was filled beforehand: it answers, and takes no transactions."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar

from dox_core_store.errors import StoreUnavailableError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import (
    GrantRecord,
    OperatorRecord,
    ServiceRecord,
    TokenRecord,
)
from dox_core_store.server.domain.key import KeyRecord, VersionRecord
from dox_core_store.server.domain.token import SigningKeyRecord
from dox_core_store.server.ports import Change, Found, KeyRow, Work

__all__ = ["MemoryCatalog"]

Record = TypeVar("Record")
Result = TypeVar("Result")

_IDENTITY: dict[type, str] = {
    GrantRecord: "grant_id",
    OperatorRecord: "name",
    ServiceRecord: "name",
    SigningKeyRecord: "kid",
    TokenRecord: "token_id",
}


class MemoryCatalog:
    """See the `Catalog` port, all of it but `write`.

    `put` keeps a record under its primary key, `change` appends to the change feed; nothing does
    one because of the other. ``asked`` is every address that was looked up.
    """

    def __init__(self, environments: Iterable[str] = ("production", "staging")) -> None:
        self._environments = sorted(environments)
        self._records: dict[type, dict[str, Any]] = {}
        self._keys: dict[KeyAddress, KeyRecord] = {}
        self._versions: dict[str, VersionRecord] = {}
        self._changes: list[Change] = []
        self.asked: list[tuple[KeyAddress, int | None]] = []

    def put(self, record: Any) -> None:
        """Keep ``record``, in the place of the one with its primary key."""
        if isinstance(record, KeyRecord):
            self._keys[KeyAddress(record.path, record.environment)] = record
        elif isinstance(record, VersionRecord):
            self._versions[record.version_id] = record
        else:
            identity = getattr(record, _IDENTITY[type(record)])
            self._records.setdefault(type(record), {})[identity] = record

    def change(self, action: str, key_path: str, environment: str | None = None) -> int:
        """Append to the change feed; returns its new head."""
        seq = len(self._changes) + 1
        self._changes.append(Change(seq, action, key_path, environment))
        return seq

    async def write(self, work: Work[Result], *, urgent: bool = False) -> Result:  # noqa: ARG002 - the port says so
        raise StoreUnavailableError("ledger_unavailable", "This catalog takes no transactions.")

    async def version(self, address: KeyAddress, number: int | None) -> Found | None:
        self.asked.append((address, number))
        key = self._keys.get(address)
        if key is None:
            return None
        for version in await self.versions(key.key_id):
            if version.version_id == key.head if number is None else version.number == number:
                return Found(key, version)
        return None

    async def versions(self, key_id: int) -> list[VersionRecord]:
        found = [version for version in self._versions.values() if version.key_id == key_id]
        return sorted(found, key=lambda version: version.number)

    async def keys(
        self, prefix: str | None, environment: str | None, after: KeyAddress | None, limit: int
    ) -> list[KeyRow]:
        rows = []
        for address, key in sorted(self._keys.items()):
            is_under = prefix is None or f"{address.path}.".startswith(f"{prefix}.")
            is_there = environment in (None, address.environment)
            if is_under and is_there and (after is None or address > after):
                head = None if key.head is None else self._versions.get(key.head)
                rows.append(KeyRow(key, head, None))
        return rows[:limit]

    async def records(
        self, kind: type[Record], after: str | None, limit: int, **where: Any
    ) -> list[Record]:
        found = [
            record
            for identity, record in sorted(self._records.get(kind, {}).items())
            if (after is None or identity > after)
            and all(getattr(record, name) == value for name, value in where.items())
        ]
        return found[:limit]

    async def live_tokens(self, now: datetime) -> set[str]:
        tokens: Iterable[TokenRecord] = self._records.get(TokenRecord, {}).values()
        return {
            token.token_id
            for token in tokens
            if token.revoked_at is None and token.expires_at > now
        }

    async def environments(self) -> list[str]:
        return self._environments

    async def feed_head(self) -> int:
        return len(self._changes)

    async def changes(self, after: int, limit: int) -> list[Change]:
        return self._changes[after : after + limit]
