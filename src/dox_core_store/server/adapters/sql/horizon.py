"""Up to where the ledger is settled: which blocks a follower may take for all that there are.

Ids of blocks are handed out before their commits. With one writer they are seen in their order;
with many nodes a block may be committed after one with a higher id, and who has passed that one by
would never see it. So on PostgreSQL whoever adds a block shares a lock until its commit, and who
asks here has it alone for a moment: then nothing is on its way.
"""

from __future__ import annotations

import sqlalchemy as sa

from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.transacting import APPENDING

__all__ = ["settled_top"]

_WAIT_MS = 100
"""Who adds a block waits behind us, so we do not wait for long: a node that was stopped in the
middle of its commit is ended by the server later."""

_ALONE = (
    f"BEGIN; SET LOCAL lock_timeout = '{_WAIT_MS}ms'; SELECT pg_advisory_xact_lock({APPENDING})"
)


def settled_top(connection: sa.Connection) -> int:
    """The highest id of a block that is committed, below which no other one will appear; 0 for an
    empty ledger. Outside of any transaction.

    Raises `sqlalchemy.exc.DBAPIError` where that cannot be told now: ask again later.
    """
    query = sa.select(sa.func.max(tables.ledger_block.c.block_id))
    if connection.dialect.name == "sqlite":
        return connection.execute(query).scalar() or 0
    try:
        connection.exec_driver_sql(_ALONE)
        top: int | None = connection.execute(query).scalar()
    finally:
        connection.exec_driver_sql("ROLLBACK")
    return top or 0
