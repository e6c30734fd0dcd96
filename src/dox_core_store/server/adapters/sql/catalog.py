"""The `Catalog` port over a database: reads in threads, writes by the node's one writer.

Awaiting a write costs the loop nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from datetime import datetime
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from dox_core_store.errors import StoreUnavailableError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.adapters.sql.faults import unavailable
from dox_core_store.server.adapters.sql.reader import SqlReader
from dox_core_store.server.adapters.sql.transaction import RecordReader
from dox_core_store.server.adapters.sql.use_queries import CallsPage
from dox_core_store.server.domain.key import VersionRecord
from dox_core_store.server.ports import (
    Change,
    Found,
    KeyRow,
    Lying,
    TokenFilter,
    TokenRow,
    TokenSpan,
    Work,
)

__all__ = ["Done", "SqlCatalog", "Submitting"]

Record = TypeVar("Record")
Result = TypeVar("Result")
Done = Callable[[Any, BaseException | None], None]


class Submitting(Protocol):
    """The writer, as far as the catalog knows it."""

    def submit(self, work: Work[Any], done: Done, *, urgent: bool = False) -> None:
        """Run ``work`` in a transaction; ``done`` is called on the writer's thread."""


class SqlCatalog:
    """See the port. ``threads`` runs the reads, each on a connection of its own for that time;
    None: the event loop's own."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        records: RecordReader,
        writer: Submitting,
        threads: Executor | None = None,
    ) -> None:
        self._engine = engine
        self._records = records
        self._writer = writer
        self._threads = threads
        self._loop = asyncio.get_running_loop()

    async def write(self, work: Work[Result], *, urgent: bool = False) -> Result:
        future: asyncio.Future[Result] = self._loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            self._loop.call_soon_threadsafe(settle, result, error)

        def settle(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._writer.submit(work, done, urgent=urgent)
        # Once handed over, the work happens: a caller that goes away must not look like a rollback.
        return await asyncio.shield(future)

    async def version(self, address: KeyAddress, number: int | None) -> Found | None:
        return await self._in_thread(lambda reader: reader.version(address, number))

    async def versions(self, key_id: int) -> list[VersionRecord]:
        return await self._in_thread(lambda reader: reader.versions(key_id))

    async def keys(
        self, prefix: str | None, environment: str | None, after: KeyAddress | None, limit: int
    ) -> list[KeyRow]:
        return await self._in_thread(lambda r: r.keys(prefix, environment, after, limit))

    async def records(
        self, kind: type[Record], after: str | None, limit: int, **where: Any
    ) -> list[Record]:
        return await self._in_thread(lambda reader: reader.page(kind, after, limit, **where))

    async def live_tokens(self, now: datetime) -> set[str]:
        return await self._in_thread(lambda reader: reader.live_tokens(now))

    async def tokens(self, wanted: TokenFilter, after: str | None, limit: int) -> list[TokenRow]:
        return await self._in_thread(lambda reader: reader.tokens(wanted, after, limit))

    async def token_span(self, since: datetime, until: datetime | None, now: datetime) -> TokenSpan:
        return await self._in_thread(lambda reader: reader.token_span(since, until, now))

    async def token_uses(self, token_ids: Sequence[str]) -> dict[str, datetime]:
        return await self._in_thread(lambda reader: reader.token_uses(token_ids))

    async def calls(
        self, service: str, prefix: str | None, environment: str, since: datetime
    ) -> AsyncIterator[list[str]]:
        def stretch(reader: SqlReader) -> CallsPage:
            return reader.calls(service, prefix, environment, since, first)

        first = ""
        while True:
            page = await self._in_thread(stretch)
            if page.paths:
                yield page.paths
            if page.next_path is None:
                return
            first = page.next_path

    async def callers(self, environment: str, since: datetime) -> set[str]:
        def stretch(reader: SqlReader) -> tuple[set[str], str | None]:
            return reader.callers(environment, since, first or "")

        found: set[str] = set()
        first: str | None = ""
        while first is not None:
            services, first = await self._in_thread(stretch)
            found |= services
        return found

    async def last_calls(self, address: KeyAddress) -> dict[str, datetime]:
        return await self._in_thread(lambda reader: reader.last_calls(address))

    async def environments(self) -> list[str]:
        return await self._in_thread(SqlReader.environments)

    async def lying(self) -> dict[str, Lying]:
        return await self._in_thread(SqlReader.lying)

    async def feed_head(self) -> int:
        return await self._in_thread(SqlReader.feed_head)

    async def changes(self, after: int, limit: int) -> list[Change]:
        return await self._in_thread(lambda reader: reader.changes(after, limit))

    async def _in_thread(self, read: Callable[[SqlReader], Result]) -> Result:
        return await self._loop.run_in_executor(self._threads, self._read, read)

    def _read(self, read: Callable[[SqlReader], Result], *, again: bool = True) -> Result:
        try:
            with self._engine.connect() as connection:
                return read(SqlReader(connection=connection, records=self._records))
        except sa.exc.TimeoutError as error:  # every connection is in use
            raise StoreUnavailableError(
                "overloaded", "Too many reads wait for the database."
            ) from error
        except sa.exc.DBAPIError as error:
            # A connection that a restart of the server has cut is found out at its next use.
            if again and error.connection_invalidated:
                return self._read(read, again=False)
            raise unavailable(error) from error
