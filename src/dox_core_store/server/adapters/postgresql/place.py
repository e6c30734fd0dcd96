"""A store in a PostgreSQL database, which it shares with nobody.

A new store is made in one transaction, and only where there are no other tables: whoever backs up,
copies or drops a database means all of it, and what others may do in it is not the store's to say.
What several nodes and commands must not do at once is under
advisory locks, which end with their transaction or connection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError, error_for
from dox_core_store.server.adapters.postgresql.engine import (
    DatabaseAddress,
    check_writable,
    open_engine,
    soundness,
)
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.history import WITNESS_FILE
from dox_core_store.server.adapters.sql.place import LIVE_SECONDS, Soundness
from dox_core_store.server.adapters.sql.transacting import begin_writing, writing

__all__ = ["LIVE_SECONDS", "PostgresPlace"]

Result = TypeVar("Result")

_SHOWN_TABLES = 3
_UNREACHABLE = frozenset({"25P03", "57014", "57P01", "57P02", "57P03", "57P05"})
"""It, or somebody there, ended the session or the statement."""

_SERVING_SECONDS = 5.0
"""How long one answer may take where requests wait for it."""

_SEALING = 0x646F7802


class PostgresPlace:
    """See the `Place` protocol. ``folder`` is where this machine keeps what it has seen;
    ``connections``: how many an engine keeps, 0 for a command that needs one."""

    def __init__(self, address: DatabaseAddress, *, folder: Path, connections: int = 0) -> None:
        self.address = address
        self.shown = address.shown
        self.witness = folder / WITNESS_FILE
        self._connections = connections

    def engine(self, *, read_only: bool = False) -> sa.Engine:
        serving = 0 if read_only else self._connections
        return open_engine(
            self.address,
            read_only=read_only,
            connections=serving,
            patience_seconds=_SERVING_SECONDS if serving else 0.0,
        )

    def check_present(self) -> None:
        if not self._has_store():
            raise ConfigurationError("store_missing", f"There is no store in {self.shown}.")

    def is_taken(self) -> bool:
        try:
            return self._has_store()
        except sa.exc.SQLAlchemyError as error:
            raise self.unusable(error) from error

    def check_free(self) -> None:
        try:
            with self.engine(read_only=True).connect() as connection:
                self._refuse_tables(connection)
        except sa.exc.SQLAlchemyError as error:
            raise self.unusable(error) from error

    @contextmanager
    def creating(self) -> Iterator[sa.Connection]:
        with self.engine().connect() as connection:
            check_writable(connection)
            with writing(connection):
                self._refuse_tables(connection)  # of two at once, the second finds the first's
                yield connection

    def check_writable(self, connection: sa.Connection) -> None:
        check_writable(connection)

    def soundness(self, connection: sa.Connection) -> Soundness:
        return soundness(connection)

    def now(self, connection: sa.Connection) -> float | None:
        return float(
            connection.exec_driver_sql(
                "SELECT extract(epoch FROM clock_timestamp())::double precision"
            ).scalar_one()
        )

    def begin_beside(self, connection: sa.Connection) -> None:
        begin_writing(connection)

    def insist(self, write: Callable[[], Result]) -> Result:
        return write()

    @contextmanager
    def sealing_alone(self) -> Iterator[None]:
        with self.engine().connect() as connection:
            query = f"SELECT pg_try_advisory_lock({_SEALING})"
            if not connection.exec_driver_sql(query).scalar_one():
                raise error_for(
                    "rekey_blocked", "Another command is changing the sealing keys of this store."
                )
            yield

    def is_served(self, connection: sa.Connection) -> bool:
        return self._rings(connection) != []

    def all_have_ring(self, connection: sa.Connection, number: int) -> bool:
        return all(ring >= number for ring in self._rings(connection))

    def unusable(self, error: Exception) -> ConfigurationError:
        cause = getattr(error, "orig", error)
        said, state = " ".join(str(cause).split()).rstrip("."), getattr(cause, "sqlstate", None)
        shown = self.shown
        if state == "55P03":
            return ConfigurationError("store_locked", f"{shown} is busy: {said}.")
        if state in {"25006", "42501", "53100"}:
            return ConfigurationError("store_read_only", f"{shown} cannot be written: {said}.")
        if isinstance(error, sa.exc.OperationalError) or state in _UNREACHABLE:
            return ConfigurationError("database_unreachable", f"{shown} does not answer: {said}.")
        return ConfigurationError("store_damaged", f"The store in {shown} is unusable: {said}.")

    def _rings(self, connection: sa.Connection) -> list[int]:
        """The newest sealing key of each node that runs."""
        node = tables.node.c
        since = int(((self.now(connection) or 0.0) - LIVE_SECONDS) * 1e6)
        seen_at = sa.type_coerce(node.seen_at, sa.BigInteger)
        return list(connection.execute(sa.select(node.ring).where(seen_at > since)).scalars())

    def _refuse_tables(self, connection: sa.Connection) -> None:
        there = sorted(sa.inspect(connection).get_table_names())
        if _is_ours(there):
            raise ConfigurationError("store_exists", f"{self.shown} holds a store already.")
        if there:
            named = ", ".join(there[:_SHOWN_TABLES])
            raise ConfigurationError(
                "bad_setting",
                f"{self.shown} holds other tables ({named}{', …' if there[3:] else ''}): database"
                " takes one of the store's own.",
            )

    def _has_store(self) -> bool:
        with self.engine(read_only=True).connect() as connection:
            return _is_ours(sa.inspect(connection).get_table_names())


def _is_ours(names: Collection[str]) -> bool:
    """Whether a database with tables of these names holds a store; others may have a ``store``."""
    return {tables.store.name, tables.seal_ring.name, "alembic_version"}.issubset(names)
