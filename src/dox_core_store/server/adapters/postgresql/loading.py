"""A whole store's rows into an empty database, table by table, with ``COPY``.

In the caller's transaction: until that is committed there is no store. Rows come with the numbers
that they had, so the sequences that hand out new ones go on behind the highest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.backup.rows import TABLES, Rows
from dox_core_store.server.adapters.sql import tables

__all__ = ["StoreLoading"]


class StoreLoading:
    """From the database of ``source`` into that of ``target``, which has the tables already."""

    def __init__(self, source: sa.Connection, target: sa.Connection) -> None:
        self._source = source
        self._target = target
        self._driver: Any = target.connection.driver_connection
        self._dbapi: Any = target.dialect.loaded_dbapi  # whose errors COPY raises as they are
        self._quote = target.dialect.identifier_preparer.quote

    def count(self) -> int:
        """How many rows there are."""
        return sum(Rows(name).count(self._source) for name in TABLES)

    def run(self) -> Iterator[int]:
        """Load all of it; yields how many rows were since the last yield. Raises
        `sqlalchemy.exc.DBAPIError`, and ``bad_setting`` for text that only SQLite takes."""
        for name in TABLES:
            try:
                yield from self._load(Rows(name))
            except self._dbapi.DataError as error:  # of which SQLite has one that it does not
                raise ConfigurationError(
                    "bad_setting",
                    f"A row of {name} holds what PostgreSQL does not take ({error}): change it"
                    " where the store is now, and make another backup.",
                ) from error
            except self._dbapi.Error as error:
                raise sa.exc.DBAPIError.instance(
                    f"COPY {name}", None, error, self._dbapi.Error, dialect=self._target.dialect
                ) from error
        self._number_on()
        self._target.exec_driver_sql("ANALYZE")  # or the first nodes would plan for empty tables

    def _load(self, rows: Rows) -> Iterator[int]:
        names = ", ".join(map(self._quote, rows.names))
        text = f"COPY {self._quote(rows.name)} ({names}) FROM STDIN"
        with self._driver.cursor() as cursor, cursor.copy(text) as copy:
            for part in rows.stored(self._source):
                for row in part:
                    copy.write_row([_given(each) for each in row])
                yield len(part)

    def _number_on(self) -> None:
        for table in tables.metadata.sorted_tables:
            column = table.autoincrement_column
            if column is None:
                continue
            name = self._quote(table.name)
            sequence = self._target.execute(
                sa.select(sa.func.pg_get_serial_sequence(name, column.name))
            ).scalar()
            if sequence is not None:
                last = self._target.execute(sa.select(sa.func.max(column))).scalar()
                self._target.execute(
                    sa.select(sa.func.setval(sequence, last or 1, last is not None))
                )


def _given(value: Any) -> Any:
    """As the column has it: what is JSON, as text."""
    if isinstance(value, (list, dict)):
        return msgspec.json.encode(value).decode()
    return value
