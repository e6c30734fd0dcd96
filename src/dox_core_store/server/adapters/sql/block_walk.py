"""Following the ledger in stored order, without passing by a block that is still on its way.

Ids of blocks are handed out before their commits (`horizon`), so whoever goes on from the highest
id that was seen may have passed by a lower one for good. Two things say that none is missing: ids
without a gap, which cost nothing to see, and the settled top, for which everybody who adds a block
is asked to wait for a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from dox_core_store.server.adapters.sql.horizon import settled_top

__all__ = ["next_blocks", "patient_top"]

Row = TypeVar("Row", bound=Sequence[Any])

_TRIES = 20
_PAUSE_SECONDS = 0.5
"""Longer than it is asked for: while it is, nobody's block is committed behind one that hangs. All
tries last longer than the server lets a transaction do nothing."""


def patient_top(connection: sa.Connection, pause: Callable[[float], None] = time.sleep) -> int:
    """`settled_top`, also where a node hangs in the middle of its commit. Raises
    `sqlalchemy.exc.DBAPIError`."""
    for _ in range(_TRIES - 1):
        try:
            return settled_top(connection)
        except sa.exc.OperationalError as error:
            if error.connection_invalidated:
                raise
            pause(_PAUSE_SECONDS)
    return settled_top(connection)


def next_blocks(
    connection: sa.Connection, read: Callable[[int], list[Row]], after: int
) -> list[Row]:
    """The next blocks behind ``after``: what ``read`` returns up to a given id, in order, with the
    id first."""
    rows = read(_ANY)
    if connection.dialect.name == "sqlite" or not rows or rows[-1][0] - after == len(rows):
        return rows
    return read(patient_top(connection))


_ANY = 2**62
