"""The `Catalog` port over one SQLite file.

A point read runs inline on the event loop: with SQLite's page cache it takes microseconds, a hop to
a thread takes longer. Pages and searches run in a thread on a connection of their own.
"""

from __future__ import annotations

import sqlalchemy as sa

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.adapters.sql.catalog import SqlCatalog
from dox_core_store.server.adapters.sql.faults import unavailable
from dox_core_store.server.adapters.sql.reader import SqlReader
from dox_core_store.server.adapters.sql.transaction import RecordReader
from dox_core_store.server.adapters.sqlite.writer import SqliteWriter
from dox_core_store.server.ports import Change, Found

__all__ = ["SqliteCatalog"]


class SqliteCatalog(SqlCatalog):
    """See the port."""

    def __init__(self, *, engine: sa.Engine, records: RecordReader, writer: SqliteWriter) -> None:
        super().__init__(engine=engine, records=records, writer=writer)
        self._inline = SqlReader(connection=engine.connect(), records=records)

    async def version(self, address: KeyAddress, number: int | None) -> Found | None:
        try:
            return self._inline.version(address, number)
        except sa.exc.DBAPIError as error:
            raise unavailable(error) from error

    async def feed_head(self) -> int:
        return self._inline.feed_head()

    async def changes(self, after: int, limit: int) -> list[Change]:
        try:
            return self._inline.changes(after, limit)
        except sa.exc.DBAPIError as error:
            raise unavailable(error) from error
