"""A catalog in memory that was filled beforehand: it answers, and takes no transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from dox_core_store.errors import StoreUnavailableError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import (
    GrantRecord,
    OperatorRecord,
    ServiceRecord,
    TokenBindingRecord,
    TokenRecord,
)
from dox_core_store.server.domain.epoch import EpochRecord
from dox_core_store.server.domain.key import KeyLimitRecord, KeyRecord, VersionRecord
from dox_core_store.server.domain.signing_key import SigningKeyRecord
from dox_core_store.server.ports import (
    Change,
    Found,
    KeyRow,
    Lying,
    TokenFilter,
    TokenRow,
    TokenSpan,
    Work,
)

__all__ = ["MemoryCatalog"]

Record = TypeVar("Record")
Result = TypeVar("Result")

_IDENTITY: dict[type, str] = {
    EpochRecord: "epoch",
    GrantRecord: "grant_id",
    KeyLimitRecord: "key_id",
    OperatorRecord: "name",
    ServiceRecord: "name",
    SigningKeyRecord: "kid",
    TokenBindingRecord: "token_id",
    TokenRecord: "token_id",
}


class MemoryCatalog:
    """See the `Catalog` port, all of it but `write`.

    `put` keeps a record under its primary key, `change` appends to the change feed; nothing does
    one because of the other. ``asked`` is every address that was looked up.
    """

    def __init__(self, environments: Iterable[str] = ("production", "staging")) -> None:
        self._environments = sorted(environments)
        self._records: dict[type, dict[Any, Any]] = {}
        self._keys: dict[KeyAddress, KeyRecord] = {}
        self._versions: dict[str, VersionRecord] = {}
        self._changes: list[Change] = []
        self._uses: dict[str, datetime] = {}
        self._calls: dict[tuple[str, str, str], datetime] = {}
        self.asked: list[tuple[KeyAddress, int | None]] = []

    def put(self, record: Any) -> None:
        """Keep ``record``, in the place of the one with its primary key."""
        if isinstance(record, KeyRecord):
            self._keys[KeyAddress(record.path, record.environment)] = record
            self._records.setdefault(KeyRecord, {})[record.key_id] = record
        elif isinstance(record, VersionRecord):
            self._versions[record.version_id] = record
        else:
            identity = getattr(record, _IDENTITY[type(record)])
            self._records.setdefault(type(record), {})[identity] = record

    def change(
        self,
        action: str,
        key_path: str,
        environment: str | None = None,
        *,
        version: int | None = None,
        in_effect: bool = True,
    ) -> int:
        """Append to the change feed; returns its new head."""
        seq = len(self._changes) + 1
        change = Change(seq, action, key_path, environment, version, in_effect)
        self._changes.append(change)
        return seq

    def used(self, token_id: str, at: datetime) -> None:
        """Say when a token was last used."""
        self._uses[token_id] = at

    def called(self, service: str, address: KeyAddress, at: datetime) -> None:
        """Say when ``service`` was last handed a key by a call."""
        self._calls[(*address, service)] = at

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

    async def tokens(self, wanted: TokenFilter, after: str | None, limit: int) -> list[TokenRow]:
        bindings = self._records.get(TokenBindingRecord, {})
        found = [
            TokenRow(token, bindings.get(token_id), self._uses.get(token_id))
            for token_id, token in sorted(self._records.get(TokenRecord, {}).items())
            if after is None or token_id > after
        ]
        return [row for row in found if _is_wanted(row, wanted)][:limit]

    async def token_span(self, since: datetime, until: datetime | None, now: datetime) -> TokenSpan:
        tokens: Iterable[TokenRecord] = self._records.get(TokenRecord, {}).values()
        ends = [
            token.expires_at
            for token in tokens
            if token.revoked_at is None
            and since <= token.issued_at
            and (until is None or token.issued_at < until)
        ]
        return TokenSpan(sum(end > now for end in ends), max(ends, default=None))

    async def token_uses(self, token_ids: Sequence[str]) -> dict[str, datetime]:
        return {each: self._uses[each] for each in token_ids if each in self._uses}

    async def calls(
        self, service: str, prefix: str | None, environment: str, since: datetime
    ) -> AsyncIterator[list[str]]:
        found = sorted(
            path
            for (path, there, caller), called_at in self._calls.items()
            if (there, caller) == (environment, service)
            and called_at >= since
            and (prefix is None or f"{path}.".startswith(f"{prefix}."))
        )
        for path in found:
            yield [path]

    async def callers(self, environment: str, since: datetime) -> set[str]:
        return {
            service
            for (_, there, service), called_at in self._calls.items()
            if there == environment and called_at >= since
        }

    async def last_calls(self, address: KeyAddress) -> dict[str, datetime]:
        return {
            service: called_at
            for (path, environment, service), called_at in self._calls.items()
            if (path, environment) == address
        }

    async def environments(self) -> list[str]:
        return self._environments

    async def lying(self) -> dict[str, Lying]:
        return {}

    async def feed_head(self) -> int:
        return len(self._changes)

    async def changes(self, after: int, limit: int) -> list[Change]:
        return self._changes[after : after + limit]


def _is_wanted(row: TokenRow, wanted: TokenFilter) -> bool:
    token = row.token
    is_live = token.revoked_at is None
    used_at = row.last_used_at or token.issued_at
    return (
        all(
            asked in (None, said)
            for asked, said in (
                (wanted.token_id, token.token_id),
                (wanted.kind, token.kind),
                (wanted.name, token.name),
            )
        )
        and (wanted.expires_after is None or token.expires_at > wanted.expires_after)
        and (
            wanted.expires_before is None or (is_live and token.expires_at <= wanted.expires_before)
        )
        and (wanted.unused_since is None or (is_live and used_at <= wanted.unused_since))
    )
