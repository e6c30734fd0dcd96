"""Rows as a backup has them: the same whatever the database.

A row is an object of its table's columns: text, numbers and JSON as they are, bytes in base64,
times in microseconds since 1970 UTC. MACs and sealed values go along unopened; they do not depend
on the database either. What can be made again (the search index) or says something of one database
alone (its custody events; which nodes run on it, and what they share for minutes at the most: who
does what, quotas, proofs that were used) is left out.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.sql import tables

__all__ = ["HEAD", "LEFT_OUT", "TABLES", "Rows", "damaged"]

HEAD = ("store", "seal_slot", "seal_ring")
"""What opens a backup; these come first."""

TABLES = (
    *HEAD,
    "environment",
    "spelling",
    *(str(table.name) for table in tables.RECORDS.values()),
    "key_read",
    "service_call",
    "token_use",
    "ledger_stream",
    "ledger_block",
)
"""Every table of a backup, in its order: what others refer to comes before them."""

LEFT_OUT = (
    "custody_event",
    "lease",
    "ledger_cursor",
    "ledger_posting",
    "node",
    "proof_use",
    "quota",
)

_FETCH = 500
_FETCH_LARGE = 100
"""Of rows with blobs: a value may have 64 KiB, a block of the ledger some megabytes."""


class Rows:
    """One table's rows, out of a database and into one."""

    def __init__(self, name: str) -> None:
        table = tables.metadata.tables[name]
        # The same table without our own types: times stay the numbers that they are.
        columns = [sa.column(column.name, _plain(column.type)) for column in table.columns]
        self._plain = sa.table(name, *columns)
        self._order = [self._plain.c[column.name] for column in table.primary_key]
        self.names = [str(column.name) for column in columns]  # SQLAlchemy's are of another type
        self._blobs = [str(c.name) for c in columns if isinstance(c.type, sa.LargeBinary)]
        self._is_large = not {"sealed", "body"}.isdisjoint(self._blobs)
        self._takes = {
            str(column.name): _takes(column.type, nullable=bool(column.nullable))
            for column in table.columns
        }
        self.name = name

    def count(self, connection: sa.Connection) -> int:
        query = sa.select(sa.func.count()).select_from(self._plain)
        return int(connection.execute(query).scalar_one())

    def stored(self, connection: sa.Connection) -> Iterator[Sequence[Sequence[Any]]]:
        """All rows in the order of their primary key, some at a time; of several engines, in a
        transaction."""
        query = sa.select(self._plain).order_by(*self._order)
        fetch = _FETCH_LARGE if self._is_large else _FETCH
        found = connection.execute(query.execution_options(yield_per=fetch))
        yield from found.partitions()

    def read(self, connection: sa.Connection) -> Iterator[list[dict[str, Any]]]:
        """The same as a backup has them."""
        for part in self.stored(connection):
            rows = [dict(zip(self.names, row, strict=True)) for row in part]
            for name in self._blobs:
                for row in rows:
                    if row[name] is not None:
                        row[name] = base64.b64encode(row[name]).decode()
            yield rows

    def decoded(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row as the database takes it. Raises ``backup_damaged``."""
        if unknown := row.keys() - self._takes.keys():
            raise damaged(f"{self.name} has no column {min(unknown)[:40]!a}")
        decoded = {name: row.get(name) for name in self._takes}
        for name in self._blobs:
            if decoded[name] is not None:
                decoded[name] = _bytes(self.name, decoded[name])
        for name, takes in self._takes.items():
            if not isinstance(decoded[name], takes):
                raise damaged(f"{self.name}.{name} is of another type than it should be")
        return decoded

    def write(self, connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
        """Insert rows that were `decoded`."""
        connection.execute(sa.insert(self._plain), rows)


def damaged(why: str) -> ConfigurationError:
    """The one error for what a backup cannot be."""
    return ConfigurationError("backup_damaged", f"The backup is not whole: {why}.")


def _plain(kind: Any) -> Any:
    return sa.BigInteger() if isinstance(kind, tables.Instant) else kind


def _takes(kind: Any, *, nullable: bool) -> tuple[type, ...]:
    given: type
    match kind:
        case sa.LargeBinary():
            given = bytes
        case sa.Text():
            given = str
        case tables.Json():
            given = list
        case _:
            given = int
    return (given, type(None)) if nullable else (given,)


def _bytes(table: str, text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise damaged(f"{table} holds what is not base64") from error
