"""The `LedgerReader` port over SQLite: each page on a connection of its own, in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import sqlalchemy as sa

from dox_core_store.server.adapters.sql.faults import unavailable
from dox_core_store.server.adapters.sql.reader import SqlReader
from dox_core_store.server.adapters.sql.search import LedgerSearch
from dox_core_store.server.adapters.sql.transaction import RecordReader
from dox_core_store.server.ports import LedgerFilter, StoredEntry

__all__ = ["SqlLedgerReader"]

Result = TypeVar("Result")

_EXPORT_BLOCKS = 500


class SqlLedgerReader:
    """See the port."""

    def __init__(self, *, engine: sa.Engine, records: RecordReader) -> None:
        self._engine = engine
        self._records = records

    async def search(
        self, wanted: LedgerFilter, before: str | None, limit: int
    ) -> tuple[list[StoredEntry], str | None]:
        return await asyncio.to_thread(self._read, lambda s: s.page(wanted, before, limit))

    async def export(self) -> AsyncIterator[list[StoredEntry]]:
        after = 0
        while True:
            step = after
            entries, after = await asyncio.to_thread(
                self._read, lambda search, step=step: search.export(step, _EXPORT_BLOCKS)
            )
            if not entries:
                return
            yield entries

    def _read(self, read: Callable[[LedgerSearch], Result]) -> Result:
        try:
            with self._engine.connect() as connection:
                reader = SqlReader(connection=connection, records=self._records)
                environments = frozenset(reader.environments())
                return read(LedgerSearch(connection=connection, environments=environments))
        except sa.exc.DBAPIError as error:
            raise unavailable(error) from error
