"""Rows as the domain's records and back, each under its MAC.

Generic: a record's fields are its table's columns. A MAC under a key from the ring covers every
field but the sealed value, which authenticates itself; a row whose MAC does not hold counts as
absent and is reported. Rows are taken as the driver has them, by position: this runs at every read
that no cache answers.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, ParamSpec, TypeVar, cast, get_type_hints

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.domain.envelope import Ring
from dox_core_store.server.domain.key import State, TombstoneRecord, VersionRecord
from dox_core_store.server.domain.ledger import CHANGES

__all__ = ["RecordReader", "Shape", "instant", "once", "shape_of"]

Record = TypeVar("Record")
Made = TypeVar("Made")
Given = ParamSpec("Given")
Convert = Callable[[Any], Any]

_UNMACCED = frozenset({"sealed", "mac"})
_LATER = {VersionRecord: "vault"}
"""A column that was added to rows which had their MACs, the last one: it is covered where it says
anything."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode


def once(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """`functools.cache`, with its function's types: classes are hashable, whatever a checker makes
    of those that compare in a way of their own."""
    return cast("Callable[Given, Made]", functools.cache(make))


class RecordReader:
    """Turns rows into records and back, checking and making MACs. ``changes`` is the name of the
    stream that takes this epoch's mutations."""

    def __init__(
        self, *, ring: Ring, alarm: Callable[[str, str], None], changes: str = CHANGES
    ) -> None:
        self._ring = ring
        self._alarm = alarm
        self.changes = changes

    def keep_up(self, newest: int) -> None:
        """Have the key ``newest``, the last one of the store, for what is written from here on."""
        if newest > self._ring.newest:
            self._ring.refresh()

    def record(self, kind: type[Record], row: sa.RowMapping) -> Record | None:
        """The record in ``row``; None, and an alarm, if its MAC does not hold."""
        shape = shape_of(kind)
        return self._checked(kind, shape, shape.named_fields(row), row["mac"])

    def read(self, kind: type[Record], row: Sequence[Any]) -> Record | None:
        """The same for a row as the driver has it, in the order of what the shape selects."""
        shape = shape_of(kind)
        record = self._checked(kind, shape, shape.fields(row), row[len(shape.names)])
        if shape.grave and row[shape.grave] is not None and isinstance(record, VersionRecord):
            return self._buried(record, row[shape.grave :])  # type: ignore[return-value]
        return record

    def read_all(self, kind: type[Record], rows: Iterable[Sequence[Any]]) -> list[Record]:
        """The records in ``rows``, without those whose MAC does not hold."""
        records = (self.read(kind, row) for row in rows)
        return [record for record in records if record is not None]

    def write(self, record: Any) -> list[Any]:
        """The row of ``record`` for the driver, in the order of the shape's columns."""
        shape = shape_of(type(record))
        fields = shape.values(record)
        mac = self._ring.mac(shape.name, shape.maced(fields))
        return [*shape.columns_of(fields), mac]

    def _buried(self, version: VersionRecord, row: Sequence[Any]) -> VersionRecord:
        """``version`` as its tombstone says: an older copy of its row revives nothing, and alarms.
        A tombstone that was tampered with still says that the version is gone."""
        tombstone = self.read(TombstoneRecord, row)
        state = State.REVOKED if tombstone is None else tombstone.state
        if version.state not in (state, State.DESTROYED):
            self._alarm("version", version.version_id)
        if state is State.DESTROYED:
            return replace(version, state=state, sealed=None)
        return version if version.state is State.DESTROYED else replace(version, state=state)

    def _checked(
        self, kind: type[Record], shape: Shape, fields: Sequence[Any], mac: bytes
    ) -> Record | None:
        if not self._ring.mac_holds(shape.name, shape.maced(fields), mac):
            self._alarm(shape.name, str(fields[shape.identity]))
            return None
        return msgspec.convert(dict(zip(shape.names, fields, strict=True)), kind, strict=False)


class Shape:
    """How one kind of record stands in its table. ``columns`` are its fields', then the MAC's;
    ``selected`` from ``source`` has a version's tombstone behind them, from place ``grave``."""

    def __init__(self, kind: type[Any]) -> None:
        self.table = tables.RECORDS[kind]
        self.name = self.table.name
        self.names: tuple[str, ...] = kind.__struct_fields__
        self.columns = [self.table.c[name] for name in (*self.names, "mac")]
        self.source: sa.FromClause = self.table
        self.selected, self.grave = list(self.columns), 0
        if kind is VersionRecord:
            grave = shape_of(TombstoneRecord)
            self.grave = len(self.selected)
            self.selected += grave.columns
            self.source = self.table.outerjoin(
                grave.table, grave.table.c.version_id == self.table.c.version_id
            )
        self.identity = self.names.index(self.table.primary_key.columns.keys()[0])
        self.values: Callable[[Any], tuple[Any, ...]] = operator.attrgetter(*self.names)
        covered = [at for at, name in enumerate(self.names) if name not in _UNMACCED]
        self._covered: Callable[[Sequence[Any]], tuple[Any, ...]] = operator.itemgetter(*covered)
        self._covered_names = self._covered(self.names)
        self._has_later = kind in _LATER
        hints = get_type_hints(kind)
        conversions = [
            (at, *_conversion(column.type, hints[column.name]))
            for at, column in enumerate(self.columns[:-1])
        ]
        self._flags = [at for at, name in enumerate(self.names) if hints[name] is bool]
        self._from_row = [(at, convert) for at, convert, _ in conversions if convert is not None]
        self._to_row = [(at, convert) for at, _, convert in conversions if convert is not None]

    def maced(self, fields: Sequence[Any]) -> bytes:
        """What the MAC is made of."""
        covered = list(zip(self._covered_names, self._covered(fields), strict=True))
        if self._has_later and covered[-1][1] is None:
            covered.pop()
        return _encode(covered)

    def fields(self, row: Sequence[Any]) -> list[Any]:
        """The fields in a row as the driver has it."""
        return _converted(row[: len(self.names)], self._from_row)

    def named_fields(self, row: sa.RowMapping) -> list[Any]:
        """The fields in a row as SQLAlchemy has it, whose columns lack a type for flags alone."""
        fields = [row[name] for name in self.names]
        for at in self._flags:
            fields[at] = bool(fields[at])
        return fields

    def columns_of(self, fields: Sequence[Any]) -> list[Any]:
        """The inverse of `fields`."""
        return _converted(fields, self._to_row)

    def column_value(self, name: str, value: Any) -> Any:
        """``value`` as it stands in the column ``name``."""
        return next((to(value) for at, to in self._to_row if self.names[at] == name), value)


@once
def shape_of(kind: type[Any]) -> Shape:
    """Made once for each kind."""
    return Shape(kind)


def _converted(values: Sequence[Any], conversions: list[tuple[int, Convert]]) -> list[Any]:
    converted = list(values)
    for at, convert in conversions:
        value = converted[at]
        if value is not None:
            converted[at] = convert(value)
    return converted


def _conversion(column: Any, hint: Any) -> tuple[Convert | None, Convert | None]:
    """From the driver's form of a column and to it; None where they are the same."""
    if isinstance(column, tables.Instant):
        return instant, tables.Instant.microseconds
    if isinstance(column, tables.Json):
        return msgspec.json.decode, _text
    if isinstance(hint, type) and issubclass(hint, Enum):
        return None, str
    if hint is bool:  # SQLite has no type for it, and a MAC is made of what stands there
        return bool, int
    return None, None


def instant(microseconds: int) -> datetime:
    """A time as it is stored."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _text(value: Any) -> str:
    return _encode(value).decode()
