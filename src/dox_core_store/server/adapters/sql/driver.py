"""Statements on records, run on the driver's own connection.

SQLAlchemy writes the statements, once for each shape of question and dialect; running them goes
past its machinery, which costs ten times what the database does. What the driver raises is raised
as SQLAlchemy's errors, without the parameters. Several rows go in one statement wherever they can:
a driver gives up the interpreter's lock at each, and behind busy neighbours it waits to have it
back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from dox_core_store.server.adapters.sql.records import Shape, once, shape_of

__all__ = ["Driver", "compiled", "worded"]

ROWS = 25
"""Rows in one statement: few enough that a short transaction is several statements."""

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""The one statement that SQL has no common word for; both dialects say it alike."""

_PARAMSTYLES = {"sqlite": "qmark", "postgresql": "format"}
"""By position in both: psycopg's own style is by name."""


class Driver:
    """Over one connection, which stays its owner's."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect
        self.dialect: type[sa.Dialect] = type(connection.dialect)
        self._run: Any = connection.connection.driver_connection
        self._errors: Any = self._dialect.loaded_dbapi.Error
        self.is_far = self._dialect.name != "sqlite"
        """Whether statements go to a server, which may serve many nodes."""

    def rows(
        self, text: str, parameters: Sequence[Any] | Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """All rows of the answer. Raises `sqlalchemy.exc.DBAPIError`."""
        try:
            answer = self._run.execute(text, parameters)
            # psycopg has no rows where a statement returns none, and does not take that for empty.
            found: list[tuple[Any, ...]] = answer.fetchall() if answer.description else []
        except self._errors as error:
            raise self._translated(text, error) from error
        return found

    def find(
        self,
        kind: type[Any],
        where: Mapping[str, Any],
        limit: int | None = None,
        after: str | None = None,
    ) -> list[tuple[Any, ...]]:
        """The rows of records whose columns equal ``where``, in the order of their primary key,
        from what follows ``after`` in it."""
        shape = shape_of(kind)
        absent = frozenset(name for name, value in where.items() if value is None)
        text = _find(self.dialect, kind, tuple(where), absent, after is not None)
        given = [
            shape.column_value(name, value) for name, value in where.items() if value is not None
        ]
        if after is not None:
            given.append(after)
        return self.rows(text if limit is None else f"{text} LIMIT {limit:d}", given)

    def find_among(
        self, kind: type[Any], name: str, values: Iterable[Any], where: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """The rows of records whose column ``name`` is one of ``values`` and whose others equal
        ``where``, which holds no None; in no order."""
        shape = shape_of(kind)
        text = _find_among(self.dialect, kind, name, tuple(where))
        rest = [shape.column_value(each, value) for each, value in where.items()]
        return self._among(text, [shape.column_value(name, value) for value in values], rest)

    def latest(
        self, kind: type[Any], by: str, where: Mapping[str, Any], skip: int, limit: int
    ) -> list[tuple[Any, ...]]:
        """The rows of records whose columns equal ``where`` (a tuple: one of it), the highest
        ``by`` first, without the first ``skip``."""
        shape = shape_of(kind)
        counts = tuple((name, len(_several(value))) for name, value in where.items())
        given = [
            shape.column_value(name, each)
            for name, value in where.items()
            for each in _several(value)
        ]
        return self.rows(_latest(self.dialect, kind, by, counts), [*given, limit, skip])

    def among(self, table: sa.Table, name: str, values: Sequence[Any]) -> list[Any]:
        """The rows of ``table`` whose column ``name`` is one of ``values``, in no order."""
        return self._among(_among(self.dialect, table, name), values, ())

    def insert(self, table: sa.Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert ``rows``, each with all columns of ``table``."""
        self._write(lambda count: _insert(self.dialect, table, count), rows)

    def put(self, kind: type[Any], rows: Sequence[Sequence[Any]]) -> None:
        """Insert ``rows``, or replace those with the same primary key; of several, the last one
        counts."""
        if self.is_far and len(rows) > 1:  # one statement may not replace a row twice there
            at = _identity(kind)
            rows = list({tuple(row[each] for each in at): row for row in rows}.values())
        self._write(lambda count: _put(self.dialect, kind, count), rows)

    def remove(self, kind: type[Any], where: Mapping[str, Any]) -> None:
        """Remove the records whose columns equal ``where``, which holds no None."""
        shape = shape_of(kind)
        given = [shape.column_value(name, value) for name, value in where.items()]
        self.rows(_remove(self.dialect, kind, tuple(where)), given)

    def _among(
        self, text: str, values: Sequence[Any], rest: Sequence[Any]
    ) -> list[tuple[Any, ...]]:
        """Values that are missing in the last statement are its last one, again."""
        found = []
        for part in _parts(values):
            found += self.rows(text, [*part, *[part[-1]] * (ROWS - len(part)), *rest])
        return found

    def _write(self, text: Callable[[int], str], rows: Sequence[Sequence[Any]]) -> None:
        for part in _parts(rows):
            # A few rows left over are a statement each in a file, whose texts are few then; to a
            # server every statement is a way there and back.
            if self.is_far or len(part) == ROWS:
                self.rows(text(len(part)), [each for row in part for each in row])
            else:
                one = text(1)
                for row in part:
                    self.rows(one, row)

    def _translated(self, text: str, error: Any) -> BaseException:
        if self.is_far and self._dialect.is_disconnect(error, self._run, None):
            self._connection.invalidate()  # its pool would hand it out again
        made: BaseException = sa.exc.DBAPIError.instance(
            text, None, error, self._errors, hide_parameters=True, dialect=self._dialect
        )
        return made


def compiled(dialect: type[sa.Dialect], statement: sa.ClauseElement) -> str:
    """``statement`` as the driver takes it: its parameters in the order of the text."""
    make: Any = dialect
    return str(statement.compile(dialect=make(paramstyle=_PARAMSTYLES[dialect.name])))


@once
def worded(dialect: type[sa.Dialect], text: str) -> str:
    """``text``, whose parameters are question marks, as the driver takes it."""
    return text if _PARAMSTYLES[dialect.name] == "qmark" else text.replace("?", "%s")


@once
def _find(
    dialect: type[sa.Dialect],
    kind: type[Any],
    names: tuple[str, ...],
    absent: frozenset[str],
    follows: bool,  # noqa: FBT001 - a cache's key
) -> str:
    shape = shape_of(kind)
    equal = [
        column.is_(None) if column.name in absent else column == sa.bindparam(column.name)
        for column in _columns(shape, names)
    ]
    identity = list(shape.table.primary_key)
    query = sa.select(*shape.selected).select_from(shape.source).where(*equal)
    if follows:
        query = query.where(identity[0] > sa.bindparam("after"))
    return compiled(dialect, query.order_by(*identity))


@once
def _find_among(
    dialect: type[sa.Dialect], kind: type[Any], name: str, names: tuple[str, ...]
) -> str:
    shape = shape_of(kind)
    among = shape.table.c[name].in_([sa.bindparam(f"among_{at}") for at in range(ROWS)])
    equal = [column == sa.bindparam(column.name) for column in _columns(shape, names)]
    return compiled(
        dialect, sa.select(*shape.selected).select_from(shape.source).where(among, *equal)
    )


@once
def _latest(
    dialect: type[sa.Dialect], kind: type[Any], by: str, counts: tuple[tuple[str, int], ...]
) -> str:
    shape = shape_of(kind)
    among = [
        shape.table.c[name].in_([sa.bindparam(f"{name}_{at}") for at in range(count)])
        for name, count in counts
    ]
    query = sa.select(*shape.selected).select_from(shape.source).where(*among)
    query = query.order_by(shape.table.c[by].desc())
    return compiled(dialect, query.limit(sa.bindparam("most")).offset(sa.bindparam("skipped")))


@once
def _among(dialect: type[sa.Dialect], table: sa.Table, name: str) -> str:
    among = table.c[name].in_([sa.bindparam(f"among_{at}") for at in range(ROWS)])
    return compiled(dialect, sa.select(table).where(among))


@once
def _insert(dialect: type[sa.Dialect], table: sa.Table, rows: int) -> str:
    return compiled(dialect, sa.insert(table).values(_values(table.columns, rows)))


@once
def _put(dialect: type[sa.Dialect], kind: type[Any], rows: int) -> str:
    shape = shape_of(kind)
    insert: Any = _INSERTS[dialect.name](shape.table)
    values = _values(shape.columns, rows)
    identity = shape.table.primary_key.columns.keys()
    rest = {c.name: insert.excluded[c.name] for c in shape.columns if c.name not in identity}
    statement = insert.values(values).on_conflict_do_update(index_elements=identity, set_=rest)
    return compiled(dialect, statement)


@once
def _remove(dialect: type[sa.Dialect], kind: type[Any], names: tuple[str, ...]) -> str:
    shape = shape_of(kind)
    equal = [column == sa.bindparam(column.name) for column in _columns(shape, names)]
    return compiled(dialect, sa.delete(shape.table).where(*equal))


def _values(columns: Iterable[sa.Column[Any]], rows: int) -> Any:
    return [{c.name: sa.bindparam(f"{c.name}_{at}") for c in columns} for at in range(rows)]


@once
def _identity(kind: type[Any]) -> list[int]:
    """Where in a row its primary key stands."""
    shape = shape_of(kind)
    return [shape.columns.index(column) for column in shape.table.primary_key]


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _columns(shape: Shape, names: Iterable[str]) -> list[sa.Column[Any]]:
    return [shape.table.c[name] for name in names]


def _parts(rows: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (rows[at : at + ROWS] for at in range(0, len(rows), ROWS))
