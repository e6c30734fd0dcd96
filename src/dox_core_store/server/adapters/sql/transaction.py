"""The `Transaction` port over a SQLAlchemy connection.

Generic over the domain's records: a record's fields are its table's columns. A MAC under a key from
the ring covers every field but the sealed value, which authenticates itself; a row whose MAC does
not hold counts as absent and is reported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from dox_core_store.errors import ConflictError
from dox_core_store.key_path import fold, prefixes
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.envelope import Ring
from dox_core_store.server.domain.ledger import CHANGES, Chain, Entry, Status

__all__ = ["RecordReader", "SqlTransaction", "timestamp"]

Record = TypeVar("Record")

_UNMACCED = frozenset({"sealed", "mac"})
_encode = msgspec.json.Encoder().encode
_INSERTS: dict[str, Callable[[sa.Table], Any]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
"""The one statement that SQL has no common word for; both dialects say it alike."""


def timestamp(instant: datetime) -> str:
    """As the ledger writes times: RFC 3339, UTC, milliseconds."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"


class RecordReader:
    """Turns rows into records and back, checking and making MACs. ``changes`` is the name of the
    stream that takes this epoch's mutations."""

    def __init__(
        self, *, ring: Ring, alarm: Callable[[str, str], None], changes: str = CHANGES
    ) -> None:
        self._ring = ring
        self._alarm = alarm
        self.changes = changes

    def record(self, kind: type[Record], row: sa.RowMapping) -> Record | None:
        """The record in ``row``; None, and an alarm, if its MAC does not hold."""
        fields = {name: row[name] for name in kind.__struct_fields__}  # type: ignore[attr-defined]
        table = tables.RECORDS[kind].name
        if not self._ring.mac_holds(table, _maced(fields), row["mac"]):
            identity = tables.RECORDS[kind].primary_key.columns.keys()[0]
            self._alarm(table, str(row[identity]))
            return None
        return msgspec.convert(fields, kind, strict=False)

    def row(self, record: Any) -> dict[str, Any]:
        """The columns of ``record``, with their MAC."""
        fields = {name: getattr(record, name) for name in record.__struct_fields__}
        table = tables.RECORDS[type(record)].name
        return {**fields, "mac": self._ring.mac(table, _maced(fields))}


def _maced(fields: Mapping[str, Any]) -> bytes:
    return _encode([[name, value] for name, value in fields.items() if name not in _UNMACCED])


class SqlTransaction:
    """See the port. Lives for one transaction, in the writer's thread."""

    def __init__(self, *, connection: sa.Connection, reader: RecordReader, now: datetime) -> None:
        self._connection = connection
        self._reader = reader
        self._now = now
        self._entries: list[Entry] = []
        self._spelled: dict[str, str] = {}
        self._environments: frozenset[str] | None = None
        self._last_key_id: int | None = None

    @property
    def now(self) -> datetime:
        return self._now

    def get(self, kind: type[Record], **where: Any) -> Record | None:
        found = self.find(kind, limit=1, **where)
        return found[0] if found else None

    def find(self, kind: type[Record], *, limit: int | None = None, **where: Any) -> list[Record]:
        table = tables.RECORDS[kind]
        query = sa.select(table).where(*_equals(table, where)).order_by(*table.primary_key)
        if limit is not None:
            query = query.limit(limit)
        rows = self._connection.execute(query).mappings()
        records = (self._reader.record(kind, row) for row in rows)
        return [record for record in records if record is not None]

    def put(self, record: Any) -> None:
        table = tables.RECORDS[type(record)]
        row = self._reader.row(record)
        self._connection.execute(_upsert(self._connection.dialect.name, table), row)

    def remove(self, kind: type[Any], **where: Any) -> None:
        table = tables.RECORDS[kind]
        self._connection.execute(sa.delete(table).where(*_equals(table, where)))

    def new_key_id(self) -> int:
        if self._last_key_id is None:
            query = sa.select(sa.func.max(tables.key.c.key_id))
            self._last_key_id = self._connection.execute(query).scalar() or 0
        self._last_key_id += 1
        return self._last_key_id

    def environments(self) -> Collection[str]:
        if self._environments is None:
            rows = self._connection.execute(sa.select(tables.environment.c.name))
            self._environments = frozenset(rows.scalars())
        return self._environments

    def add_environment(self, name: str) -> None:
        ends = f"%.{name}".replace("_", r"\_")
        path = sa.func.lower(tables.key.c.path)
        query = sa.select(tables.key.c.path).where(
            sa.or_(path == name, path.like(ends, escape="\\"))
        )
        if (used := self._connection.execute(query.limit(1)).scalar()) is not None:
            raise ConflictError("environment_in_use", f"The stored path {used} ends in {name}.")
        self._connection.execute(
            sa.insert(tables.environment).values(name=name, created_at=self._now)
        )
        self._environments = None

    def spell(self, names: Sequence[str]) -> None:
        asked = {fold(name): name for name in names}
        unseen = [folded for folded in asked if folded not in self._spelled]
        if unseen:
            query = sa.select(tables.spelling).where(tables.spelling.c.folded.in_(unseen))
            self._spelled.update(
                {row.folded: row.spelled for row in self._connection.execute(query)}
            )
        rows = []
        for folded, name in asked.items():
            spelled = self._spelled.get(folded)
            if spelled is None:
                rows.append({"folded": folded, "spelled": name})
                self._spelled[folded] = name
            elif spelled != name:
                raise ConflictError(
                    "case_collision", f"{name} differs from the stored {spelled} only in case."
                )
        if rows:
            self._connection.execute(sa.insert(tables.spelling), rows)

    def unspell(self, path: str) -> None:
        for name in reversed(prefixes(path)):
            at_or_under = sa.or_(
                tables.key.c.path == name,
                sa.and_(tables.key.c.path > f"{name}.", tables.key.c.path < f"{name}/"),
            )
            if self._connection.execute(sa.select(tables.key.c.path).where(at_or_under)).first():
                return
            self._connection.execute(
                sa.delete(tables.spelling).where(tables.spelling.c.folded == fold(name))
            )
            self._spelled.pop(fold(name), None)

    def record(self, caller: Caller, entry: Mapping[str, Any]) -> None:
        self._entries.append(
            Entry(
                timestamp=timestamp(self._now),
                service_name=caller.name,
                request_id=caller.request_id,
                ip_address=caller.ip_address,
                user_agent=caller.user_agent,
                token_id=caller.token_id,
                **{"status": Status.GRANTED, "correlation_id": caller.correlation_id, **entry},
            )
        )

    def finish(self) -> tuple[int, list[Entry]] | None:
        """Write what was recorded to the ``changes`` stream: the transaction's last statements.

        Returns the block's id and its entries, if there were any.
        """
        if not self._entries:
            return None
        stream, name = tables.ledger_stream, self._reader.changes
        query = sa.select(stream.c.last_seq, stream.c.head).where(stream.c.stream == name)
        seq, head = self._connection.execute(query).one()
        changes = Chain(name, head, seq)
        body, after = changes.extend(self._entries)
        inserted = self._connection.execute(
            sa.insert(tables.ledger_block).values(
                stream=name,
                first_seq=seq + 1,
                last_seq=after.seq,
                first_at=tables.Instant.microseconds(self._now),
                prev=head,
                head=after.head,
                body=body,
            )
        )
        self._connection.execute(
            sa.update(stream)
            .where(stream.c.stream == name)
            .values(last_seq=after.seq, head=after.head)
        )
        (block_id,) = inserted.inserted_primary_key or (0,)
        return block_id, self._entries


@functools.cache
def _upsert(dialect: str, table: sa.Table) -> Any:
    """Insert a row, or replace the one with its primary key. Built once: making the statement costs
    more than running it."""
    insert = _INSERTS[dialect](table)
    identity = table.primary_key.columns.keys()
    names = [column.name for column in table.columns if column.name not in identity]
    rest = {name: insert.excluded[name] for name in names}
    return insert.on_conflict_do_update(index_elements=identity, set_=rest)


def _equals(table: sa.Table, where: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in where.items()]
