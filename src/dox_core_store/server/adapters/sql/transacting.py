"""How transactions begin and end, in the words of each engine.

Whoever writes is alone: SQLite's ``BEGIN IMMEDIATE`` sees to it in one file, on PostgreSQL a lock
that every mutation of every node takes first and that ends with its transaction. So a mutation
decides on what is stored at that moment, and the change feed is in the order of commits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import sqlalchemy as sa

__all__ = ["APPENDING", "MUTATING", "begin_writing", "snapshot", "take_time", "writing"]

MUTATING = 0x646F7801
"""The advisory lock of whoever changes the store. Our numbers are "dox" and a byte."""

APPENDING = 0x646F7803
"""The advisory lock that whoever adds a block to the ledger shares until its commit."""

_PATIENT = "30min"

Begin = Callable[[sa.Connection], None]

_BEGIN = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": f"BEGIN; SELECT pg_advisory_xact_lock({MUTATING})",
}


def begin_writing(connection: sa.Connection) -> None:
    """Begin a transaction that writes. Raises `sqlalchemy.exc.DBAPIError`."""
    connection.exec_driver_sql(_BEGIN[connection.dialect.name])


@contextlib.contextmanager
def writing(connection: sa.Connection, begin: Begin = begin_writing) -> Iterator[None]:
    """A transaction that writes: committed at the end, rolled back where that is not reached."""
    try:
        begin(connection)
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        # The engine may have rolled back itself, or be gone with its connection.
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            connection.exec_driver_sql("ROLLBACK")
        raise


@contextlib.contextmanager
def snapshot(connection: sa.Connection) -> Iterator[None]:
    """One state of the store for several queries, also where the caller is in a transaction."""
    if connection.dialect.name == "sqlite":
        began, ended = "SAVEPOINT snapshot", "RELEASE snapshot"
    elif _is_inside(connection):
        began = ended = ""
    else:
        began, ended = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "COMMIT"
    if began:
        connection.exec_driver_sql(began)
    try:
        yield
    except BaseException:
        if ended:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                connection.exec_driver_sql(ended)
        raise
    if ended:
        connection.exec_driver_sql(ended)


def take_time(connection: sa.Connection) -> None:
    """Inside a transaction: nothing may be asked on it for minutes, where what was read is handed
    on slowly. PostgreSQL would end it after some seconds."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{_PATIENT}'")


def _is_inside(connection: sa.Connection) -> bool:
    """Whether a transaction is under way that was begun by a statement."""
    from psycopg.pq import TransactionStatus  # noqa: PLC0415 - only who has PostgreSQL has this

    status = connection.connection.driver_connection.info.transaction_status  # type: ignore[union-attr]
    return bool(status != TransactionStatus.IDLE)
