"""The `Catalog` port over PostgreSQL: what is taken away is taken away on every node.

A node hands out on what it heard of the change feed up to `LEASE_SECONDS` ago: so who takes
something away waits for as long after the commit. From the answer on no node hands it out, whatever
became of that node meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import sqlalchemy as sa

from dox_core_store.server.adapters.postgresql.ledger_writer import LEASE_SECONDS
from dox_core_store.server.adapters.postgresql.nodes import KnownNode, known_nodes
from dox_core_store.server.adapters.sql.catalog import SqlCatalog
from dox_core_store.server.adapters.sql.faults import unavailable
from dox_core_store.server.ports import Work

__all__ = ["PostgresCatalog"]

Result = TypeVar("Result")


class PostgresCatalog(SqlCatalog):
    """See the port."""

    async def write(self, work: Work[Result], *, urgent: bool = False) -> Result:
        result = await super().write(work, urgent=urgent)
        if urgent:
            await asyncio.sleep(LEASE_SECONDS)
        return result

    async def nodes(self) -> list[KnownNode]:
        """All nodes that are not gone. Raises as `version`."""

        def read() -> list[KnownNode]:
            try:
                with self._engine.connect() as connection:
                    return known_nodes(connection)
            except sa.exc.DBAPIError as error:
                raise unavailable(error) from error

        return await self._loop.run_in_executor(self._threads, read)
