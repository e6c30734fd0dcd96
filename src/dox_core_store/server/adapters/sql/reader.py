"""Reading the catalog: queries that any thread may run on a connection of its own.

A key and the version that is asked for come in one statement, and a page of keys is a range of an
index: neither costs more in a store of a million keys. Between the commit of an import and the
moment its keys are tidied up, their rows say less than what holds; here they are read as they will
be then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from msgspec.structs import replace

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.adapters.sql import (
    key_queries,
    tables,
    token_queries,
    use_queries,
    vault_queries,
)
from dox_core_store.server.adapters.sql.driver import Driver
from dox_core_store.server.adapters.sql.records import RecordReader, instant, shape_of
from dox_core_store.server.adapters.sql.use_queries import CallsPage
from dox_core_store.server.domain.access import TokenBindingRecord, TokenRecord
from dox_core_store.server.domain.key import (
    Act,
    ImportRecord,
    KeyLimitRecord,
    KeyRecord,
    State,
    UpkeepRecord,
    VersionRecord,
    next_state,
)
from dox_core_store.server.domain.ledger import Action, Entry, Status, parse_canonical
from dox_core_store.server.ports import (
    Change,
    Found,
    KeyRow,
    Lying,
    TokenFilter,
    TokenRow,
    TokenSpan,
)

__all__ = ["SqlReader"]

Record = TypeVar("Record")

_TOOK_EFFECT = ("committed", "settled")
_STAGED, _IMPORT_ID = "import", "imp_"
"""The reason of an entry for a staged version, and how an import's id begins."""


class SqlReader:
    """One connection's view of the catalog. See the `Catalog` port for what each answer means."""

    def __init__(self, *, connection: sa.Connection, records: RecordReader) -> None:
        self._connection = connection
        self._driver = Driver(connection)
        self._records = records

    def version(self, address: KeyAddress, number: int | None) -> Found | None:
        dialect = self._driver.dialect
        rows = (
            self._driver.rows(key_queries.head(dialect), address)
            if number is None
            else self._driver.rows(key_queries.numbered(dialect), (number, *address))
        )
        key = self._records.read(KeyRecord, rows[0]) if rows else None
        if key is None:
            return None
        found = self._joined(rows[0])
        if key.staged_head is not None:
            found = self._settled(key, found, number)
        return None if found is None else Found(key, found)

    def keys(
        self, prefix: str | None, environment: str | None, after: KeyAddress | None, limit: int
    ) -> list[KeyRow]:
        found: list[KeyRow] = []
        for stretch in key_queries.stretches(prefix, environment, after):
            text = key_queries.page(self._driver.dialect, stretch.shape)
            wanted = limit - len(found)
            rows = self._driver.rows(text, (*stretch.parameters, wanted))
            found += self._described(list(self._rows(rows)))
            if len(rows) == wanted:  # there may be more, also where a row did not count
                if len(found) < limit:
                    last = key_queries.address(rows[-1])
                    found += self.keys(prefix, environment, last, limit - len(found))
                break
        return found

    def page(self, kind: type[Record], after: str | None, limit: int, **where: Any) -> list[Record]:
        shape, found = shape_of(kind), list[Record]()
        while True:
            wanted = limit - len(found)
            rows = self._driver.find(kind, where, wanted, after)
            found += self._records.read_all(kind, rows)
            if len(rows) < wanted or len(found) == limit:
                return found
            after = rows[-1][shape.identity]  # rows that did not count must not end the page

    def versions(self, key_id: int) -> list[VersionRecord]:
        versions = self._records.read_all(
            VersionRecord, self._driver.find(VersionRecord, {"key_id": key_id})
        )
        key = self._one(KeyRecord, key_id=key_id)
        if key is not None and key.staged_head is not None:
            versions = (
                [_superseding(key, version) for version in versions]
                if self._is_settled(key)
                else [each for each in versions if each.version_id != key.staged_head]
            )
        return sorted(versions, key=lambda version: version.number)

    def live_tokens(self, now: datetime) -> set[str]:
        rows = self._driver.rows(
            key_queries.live_tokens(self._driver.dialect), (tables.Instant.microseconds(now),)
        )
        return {record.token_id for record in self._records.read_all(TokenRecord, rows)}

    def tokens(self, wanted: TokenFilter, after: str | None, limit: int) -> list[TokenRow]:
        rows = token_queries.page(self._driver, wanted, after, limit)
        found = [(self._records.read(TokenRecord, row), used_at) for row, used_at in rows]
        tokens = [(token, used_at) for token, used_at in found if token is not None]
        ids = [token.token_id for token, _ in tokens]
        bindings = {
            each.token_id: each
            for each in self._records.read_all(
                TokenBindingRecord, self._driver.find_among(TokenBindingRecord, "token_id", ids, {})
            )
        }
        return [TokenRow(token, bindings.get(token.token_id), at) for token, at in tokens]

    def token_span(self, since: datetime, until: datetime | None, now: datetime) -> TokenSpan:
        return token_queries.span(self._driver, since, until, now)

    def token_uses(self, token_ids: Sequence[str]) -> dict[str, datetime]:
        return use_queries.token_uses(self._driver, token_ids)

    def calls(
        self, service: str, prefix: str | None, environment: str, since: datetime, first: str
    ) -> CallsPage:
        return use_queries.calls(self._driver, service, prefix, environment, since, first)

    def callers(self, environment: str, since: datetime, first: str) -> tuple[set[str], str | None]:
        return use_queries.callers(self._driver, environment, since, first)

    def last_calls(self, address: KeyAddress) -> dict[str, datetime]:
        return use_queries.last_calls(self._driver, address)

    def environments(self) -> list[str]:
        name = tables.environment.c.name
        return list(self._connection.execute(sa.select(name).order_by(name)).scalars())

    def lying(self) -> dict[str, Lying]:
        return vault_queries.lying(self._connection)

    def feed_head(self) -> int:
        stream = tables.ledger_stream.c
        query = sa.select(stream.last_seq).where(stream.stream == self._records.changes)
        return int(self._connection.execute(query).scalar_one())

    def changes(self, after: int, limit: int) -> list[Change]:
        rows = self._driver.rows(
            key_queries.changes(self._driver.dialect), (self._records.changes, after, limit)
        )
        found = []
        for (body,) in rows:
            for line in body.split(b"\n"):
                entry, seq, _stream = parse_canonical(line)
                if seq > after:
                    found.append(
                        Change(
                            seq,
                            entry.action,
                            entry.key_path,
                            entry.environment,
                            entry.version,
                            not _is_staged(entry),
                        )
                    )
        return found

    def _rows(self, rows: list[tuple[Any, ...]]) -> Iterator[KeyRow]:
        """A page's rows; an import that many of them wait for is looked at once."""
        took_effect: dict[str, bool] = {}
        for row in rows:
            key = self._records.read(KeyRecord, row)
            if key is None:
                continue
            head = self._joined(row)
            if key.staged_import is not None:
                if key.staged_import not in took_effect:
                    took_effect[key.staged_import] = self._is_settled(key)
                if took_effect[key.staged_import]:
                    head = self._staged(key)
            at = [each for each in row[key_queries.LAST_READ :] if each is not None]
            yield KeyRow(key, head, instant(max(at)) if at else None)

    def _described(self, rows: list[KeyRow]) -> list[KeyRow]:
        """``rows`` with what is said of their keys beside their versions."""
        ids = [row.key.key_id for row in rows]
        upkeep = {each.key_id: each for each in self._among(UpkeepRecord, ids)}
        limits = {each.key_id: each for each in self._among(KeyLimitRecord, ids)}
        bare = {
            row.key.key_id: row.key.staged_head
            for row in rows
            if row.head is None and not row.key.is_only_staged
        }
        proposed = {
            each.key_id
            for each in self._among(VersionRecord, bare, state=State.PENDING)
            if each.version_id != bare[each.key_id]
        }
        return [
            row._replace(
                upkeep=upkeep.get(key_id),
                proposed=key_id in proposed,
                limit=limits.get(key_id),
            )
            for key_id, row in zip(ids, rows, strict=True)
        ]

    def _among(self, kind: type[Record], ids: Iterable[int], **where: Any) -> list[Record]:
        return self._records.read_all(
            kind, self._driver.find_among(kind, "key_id", list(ids), where)
        )

    def _joined(self, row: tuple[Any, ...]) -> VersionRecord | None:
        """The version that stands behind the key in ``row``, if there is one."""
        joined = row[key_queries.VERSION :]
        return None if joined[0] is None else self._records.read(VersionRecord, joined)

    def _settled(
        self, key: KeyRecord, found: VersionRecord | None, number: int | None
    ) -> VersionRecord | None:
        """What ``found`` is, where an import has staged another version of its key."""
        if not self._is_settled(key):
            # An import that has not taken effect: nobody sees its versions.
            return None if found is not None and found.version_id == key.staged_head else found
        if number is None:
            return self._staged(key)
        return None if found is None else _superseding(key, found)

    def _staged(self, key: KeyRecord) -> VersionRecord | None:
        staged = self._one(VersionRecord, version_id=key.staged_head)
        return None if staged is None else _superseding(key, staged)

    def _is_settled(self, key: KeyRecord) -> bool:
        """Whether the import that has staged a version of ``key`` took effect."""
        if key.staged_import is None:
            return False
        found = self._one(ImportRecord, import_id=key.staged_import)
        return found is not None and found.status in _TOOK_EFFECT

    def _one(self, kind: type[Record], **where: Any) -> Record | None:
        rows = self._driver.find(kind, where, 1)
        return self._records.read(kind, rows[0]) if rows else None


def _superseding(key: KeyRecord, version: VersionRecord) -> VersionRecord:
    """``version`` as it will be once the staged one of its key is tidied up as current."""
    if version.version_id == key.staged_head:
        is_pending = version.state is State.PENDING
        return replace(version, state=State.CURRENT) if is_pending else version
    if version.state in (State.CURRENT, State.PREVIOUS):
        return replace(version, state=next_state(version.state, Act.SUPERSEDE))
    return version


def _is_staged(entry: Entry) -> bool:
    """Whether it tells of an import that has no effect (yet). What an import stages is known by its
    id beside its reason: a caller may give either for a write of their own, and hardly both."""
    if entry.action == Action.PUT:
        of_import = (entry.correlation_id or "").startswith(_IMPORT_ID)
        return of_import and entry.reason == _STAGED
    return entry.action == Action.IMPORT and entry.status == Status.ABORTED
