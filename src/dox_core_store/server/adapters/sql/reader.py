"""Reading the catalog: queries that any thread may run on a connection of its own."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from msgspec.structs import replace

from dox_core_store.key_path import RESERVED_PREFIX, KeyAddress
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.transaction import RecordReader
from dox_core_store.server.domain.access import TokenRecord
from dox_core_store.server.domain.key import ImportRecord, KeyRecord, State, VersionRecord
from dox_core_store.server.domain.ledger import parse_canonical
from dox_core_store.server.ports import Change, Found, KeyRow

__all__ = ["SqlReader"]

Record = TypeVar("Record")

_TOOK_EFFECT = ("committed", "settled")


class SqlReader:
    """One connection's view of the catalog. See the `Catalog` port for what each answer means."""

    def __init__(self, *, connection: sa.Connection, records: RecordReader) -> None:
        self._connection = connection
        self._records = records

    def version(self, address: KeyAddress, number: int | None) -> Found | None:
        key = self._one(KeyRecord, path=address.path, environment=address.environment)
        if key is None:
            return None
        if number is not None:
            found = self._one(VersionRecord, key_id=key.key_id, number=number)
        else:
            head = key.settled_head(self._committed(key))
            found = self._one(VersionRecord, version_id=head) if head is not None else None
        if found is None:
            return None
        if found.version_id == key.staged_head:
            if key.staged_import not in self._committed(key):
                return None  # an import that has not taken effect: nobody sees its versions
            found = _as_current(found)
        return Found(key, found)

    def keys(
        self, prefix: str | None, environment: str | None, after: KeyAddress | None, limit: int
    ) -> list[KeyRow]:
        key, read = tables.key.c, tables.key_read.c
        query = (
            sa.select(tables.key, read.last_read_at)
            .outerjoin(
                tables.key_read, (read.path == key.path) & (read.environment == key.environment)
            )
            .where(~_under(key.path, RESERVED_PREFIX))
            .order_by(key.path, key.environment)
            .limit(limit)
        )
        if prefix is not None:
            query = query.where(_under(key.path, prefix))
        if environment is not None:
            query = query.where(key.environment == environment)
        if after is not None:
            query = query.where(sa.tuple_(key.path, key.environment) > sa.tuple_(*after))
        rows = []
        for row in self._connection.execute(query).mappings().all():
            record = self._records.record(KeyRecord, row)
            if record is None:
                continue
            head = record.settled_head(self._committed(record))
            version = self._one(VersionRecord, version_id=head) if head is not None else None
            if version is not None and head == record.staged_head:
                version = _as_current(version)
            rows.append(KeyRow(record, version, row["last_read_at"]))
        return rows

    def page(self, kind: type[Record], after: str | None, limit: int, **where: Any) -> list[Record]:
        table = tables.RECORDS[kind]
        (identity,) = table.primary_key.columns
        query = sa.select(table).order_by(identity).limit(limit)
        query = query.where(*(table.c[name] == value for name, value in where.items()))
        if after is not None:
            query = query.where(identity > after)
        return self._read(kind, query)

    def versions(self, key_id: int) -> list[VersionRecord]:
        table = tables.version
        query = sa.select(table).where(table.c.key_id == key_id).order_by(table.c.number)
        return self._read(VersionRecord, query)

    def live_tokens(self, now: datetime) -> set[str]:
        token = tables.token.c
        query = sa.select(tables.token).where(token.revoked_at.is_(None), token.expires_at > now)
        return {record.token_id for record in self._read(TokenRecord, query)}

    def environments(self) -> list[str]:
        name = tables.environment.c.name
        return list(self._connection.execute(sa.select(name).order_by(name)).scalars())

    def feed_head(self) -> int:
        stream = tables.ledger_stream.c
        query = sa.select(stream.last_seq).where(stream.stream == self._records.changes)
        return int(self._connection.execute(query).scalar_one())

    def changes(self, after: int, limit: int) -> list[Change]:
        block = tables.ledger_block.c
        query = (
            sa.select(block.body)
            .where(tables.FEED, block.stream == self._records.changes, block.last_seq > after)
            .order_by(block.last_seq)
            .limit(limit)
        )
        found = []
        for body in self._connection.execute(query).scalars():
            for line in body.split(b"\n"):
                entry, seq, _stream = parse_canonical(line)
                if seq > after:
                    found.append(Change(seq, entry.action, entry.key_path, entry.environment))
        return found

    def _committed(self, key: KeyRecord) -> frozenset[str]:
        """The key's staging import, if that import took effect."""
        if key.staged_import is None:
            return frozenset()
        found = self._one(ImportRecord, import_id=key.staged_import)
        done = found is not None and found.status in _TOOK_EFFECT
        return frozenset({key.staged_import}) if done else frozenset()

    def _one(self, kind: type[Record], **where: Any) -> Record | None:
        table = tables.RECORDS[kind]
        query = sa.select(table).where(*(table.c[name] == where[name] for name in where))
        row = self._connection.execute(query).mappings().first()
        return None if row is None else self._records.record(kind, row)

    def _read(self, kind: type[Record], query: sa.Select[Any]) -> list[Record]:
        rows = self._connection.execute(query).mappings().all()
        records = (self._records.record(kind, row) for row in rows)
        return [record for record in records if record is not None]


def _as_current(version: VersionRecord) -> VersionRecord:
    """A staged version of an import that took effect, before it was tidied up."""
    return replace(version, state=State.CURRENT)


def _under(column: Any, prefix: str) -> sa.ColumnElement[bool]:
    """``prefix`` itself or below it, as ranges that an index serves ("/" follows ".")."""
    return sa.or_(column == prefix, sa.and_(column > f"{prefix}.", column < f"{prefix}/"))
