"""Rows under an old key-encryption key, brought under the newest one: a table, some rows at a time.

A row names the key of its MAC and, where something is sealed in it (a version's value, a place in a
vault), the key of that; it is all there is to know of how far a rotation got. `RowRewrapper.read`
finds the next rows that still name another key and makes the new MACs and wrappings, without
holding anything; `RowRewrapper.write` replaces each row that is still as it was read, in the
caller's short transaction. A row that was written meanwhile was written under the newest key and is
passed over.

A row whose MAC does not hold, or whose data key does not open under the row's own address, stays
exactly as it is: a new MAC would vouch for what somebody else wrote. The value itself is not
opened, so one that is damaged is neither healed nor hidden.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.driver import compiled
from dox_core_store.server.adapters.sql.records import shape_of
from dox_core_store.server.adapters.sql.transacting import snapshot
from dox_core_store.server.domain.envelope import (
    Binding,
    DamagedSealError,
    Ring,
    mac_number,
    sealed_number,
)
from dox_core_store.server.domain.key import KeyRecord, VersionRecord

__all__ = ["Batch", "RowRewrapper", "rewrappers"]

_BATCH_BYTES = 1024 * 1024
"""Of sealed values: each is written anew as a whole."""

_FETCH = 64
"""Rows that are on their way at once."""

_NO_ADDRESS = ("", "")
_FIRST: sa.ColumnElement[int] = sa.literal_column("1")
_SECOND: sa.ColumnElement[int] = sa.literal_column("2")
_FOUR: sa.ColumnElement[int] = sa.literal_column("4")
_UNREADABLE = (ArithmeticError, TypeError, ValueError, msgspec.MsgspecError, struct.error)
"""What a row raises into whose columns somebody put another type: it stops no rotation."""


class Batch(NamedTuple):
    """Some rows of a table, in order: ``updates`` are those that were brought over. ``left`` names
    what stays as it is; ``after`` is where to go on."""

    updates: list[tuple[Any, ...]]
    rewrapped: int
    left: list[str]
    after: tuple[Any, ...]


class RowRewrapper:
    """The rows of one kind of record. ``ring`` holds the old keys and the new one, its newest."""

    def __init__(self, kind: type[Any], *, ring: Ring, dialect: type[sa.Dialect]) -> None:
        self._ring = ring
        self._shape = shape = shape_of(kind)
        self._width = len(shape.columns)
        self._has_values = "sealed" in shape.names
        # A version's key says where it belongs; the others say it themselves.
        self._is_joined = kind is VersionRecord
        self._number = ring.newest.to_bytes(4)
        table = shape.table
        # Where both have the number: domain/envelope.py.
        under_another = sa.func.substr(table.c.mac, _FIRST, _FOUR) != sa.bindparam("number")
        order = list(table.primary_key)
        source: sa.FromClause = table
        columns = list(shape.columns)
        if self._is_joined:
            key = tables.key
            # In the order of keys, not of the random ids: rows that stand together are written
            # together, and their keys' addresses are read in order too.
            order = [table.c.key_id, table.c.number]
            source = table.outerjoin(key, key.c.key_id == table.c.key_id)
            columns += [key.c.path, key.c.environment]
        if self._has_values:
            value = sa.func.substr(table.c.sealed, _SECOND, _FOUR)
            under_another |= value != sa.bindparam("number_again")
        self._order = [columns.index(each) for each in order]
        ordered = sa.tuple_(*order) > sa.tuple_(*(sa.bindparam(f"after_{c.name}") for c in order))
        query = sa.select(*columns).select_from(source)
        self._first = compiled(dialect, query.where(under_another).order_by(*order))
        self._next = compiled(dialect, query.where(ordered, under_another).order_by(*order))
        self._count = compiled(
            dialect, sa.select(sa.func.count()).select_from(table).where(under_another)
        )
        self._update = compiled(dialect, self._updating(table))

    def count(self, connection: sa.Connection) -> int:
        """How many rows still name another key; rows that will be left are among them."""
        return int(connection.exec_driver_sql(self._count, self._numbers()).scalar_one())

    def read(
        self, connection: sa.Connection, after: tuple[Any, ...] | None, limit: int
    ) -> Batch | None:
        """Up to ``limit`` rows after ``after`` that name another key; None if there are none."""
        text, given = (self._first, ()) if after is None else (self._next, after)
        updates, left, rewrapped, size, row = [], [], 0, 0, None
        with snapshot(connection):  # in which PostgreSQL too hands out rows as they are asked for
            rows = connection.exec_driver_sql(
                f"{text} LIMIT {limit:d}",
                (*given, *self._numbers()),
                execution_options={"stream_results": True, "max_row_buffer": _FETCH},
            )
            for row in rows:
                try:
                    update = self._brought_over(row)
                except _UNREADABLE:
                    update = None
                if update is None:
                    left.append(self._named(row))
                    continue
                updates.append(update)
                if self._has_values:
                    wrapped, _, _, _, sealed = update
                    rewrapped += wrapped != sealed
                    size += len(sealed or b"")
                if size > _BATCH_BYTES:
                    break
            rows.close()
        if row is None:
            return None
        return Batch(updates, rewrapped, left, tuple(row[at] for at in self._order))

    def write(self, connection: sa.Connection, batch: Batch) -> None:
        """Replace the rows that are still as they were read."""
        connection.exec_driver_sql(self._update, batch.updates)

    def _brought_over(self, row: Sequence[Any]) -> tuple[Any, ...] | None:
        """The parameters of the update for ``row``; None if it must stay as it is."""
        shape, ring = self._shape, self._ring
        fields = shape.fields(row)
        mac = row[self._width - 1]
        maced = shape.maced(fields)
        if not ring.mac_holds(shape.name, maced, mac):
            return None
        fresh = mac if mac_number(mac) == ring.newest else ring.mac(shape.name, maced)
        if not self._has_values:
            return fresh, fields[shape.identity], mac
        version = dict(zip(shape.names, fields, strict=True))
        sealed = version["sealed"]
        wrapped = sealed
        if sealed is not None and sealed_number(sealed) != ring.newest:
            path, environment = self._address(row, version)
            if path is None:  # its key is gone
                return None
            binding = Binding(ring.store_id, path, environment, version["version_id"])
            try:
                wrapped = ring.rewrap(sealed, binding)
            except DamagedSealError:
                return None
        return wrapped, fresh, fields[shape.identity], mac, sealed

    def _updating(self, table: sa.Table) -> sa.Update:
        """The parameters stand in the order of the text: what is set, then what is asked for."""
        (identity,) = table.primary_key
        update = sa.update(table)
        unchanged = [
            identity == sa.bindparam("identity"),
            table.c.mac == sa.bindparam("old_mac"),
        ]
        if self._has_values:
            unchanged.append(table.c.sealed.is_not_distinct_from(sa.bindparam("old_sealed")))
            return update.where(*unchanged).values(
                sealed=sa.bindparam("new_sealed"), mac=sa.bindparam("new_mac")
            )
        return update.where(*unchanged).values(mac=sa.bindparam("new_mac"))

    def _address(self, row: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, Any]:
        """The key path and environment under which what is in ``row`` was sealed."""
        if self._is_joined:
            path, environment = row[self._width :]
            return path, environment
        return named["path"], named["environment"]

    def _named(self, row: Sequence[Any]) -> str:
        """As an alarm and `doctor` name it; a version's key beside it."""
        named = f"{self._shape.name} {row[self._shape.identity]}"
        path, environment = row[self._width :] if self._is_joined else _NO_ADDRESS
        return f"{named} ({path}.{environment})" if path else named

    def _numbers(self) -> tuple[bytes, ...]:
        return (self._number, self._number) if self._has_values else (self._number,)


def rewrappers(ring: Ring, dialect: type[sa.Dialect]) -> Iterator[RowRewrapper]:
    """For every table whose rows carry a MAC; keys come first, then their versions."""
    kinds = sorted(tables.RECORDS, key=lambda kind: kind is not KeyRecord)
    return (RowRewrapper(kind, ring=ring, dialect=dialect) for kind in kinds)
