"""Empty stores in both engines, for tests of what runs on either."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import sqlalchemy as sa
from tests.functional.postgres import Postgres

from dox_core_store.server.adapters.postgresql.engine import DatabaseAddress, open_engine
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.migrate import upgrade

__all__ = ["ENGINES", "Emptied", "FreshDatabases", "sqlite_engine"]

ENGINES = ("sqlite", "postgresql")


def sqlite_engine() -> sa.Engine:
    """A database in memory, with the schema and nothing in it."""
    engine = sa.create_engine("sqlite://", isolation_level="AUTOCOMMIT")
    tables.metadata.create_all(engine)
    return engine


class FreshDatabases:
    """Databases of one server, each a copy of one that was migrated."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):
            server.run("postgres", statement)  # nobody pulls a plug here
        self._template = server.create_database()
        engine = self._opened(self._template)
        with engine.connect() as connection:
            upgrade(connection)
        engine.dispose()

    def create(self) -> sa.Engine:
        name = self._template.rpartition("/")[2]
        url = f"{self._template}_{next(self._numbers)}"
        self._server.run(
            "postgres", f'CREATE DATABASE "{url.rpartition("/")[2]}" TEMPLATE "{name}"'
        )
        return self._opened(url)

    def drop(self, engine: sa.Engine) -> None:
        with engine.connect() as connection:
            url = self._server.url(str(connection.exec_driver_sql(_NAME).scalar()))
        engine.dispose()
        self._server.drop_database(url)

    def _opened(self, url: str) -> sa.Engine:
        return open_engine(DatabaseAddress(url), connections=5)


_NAME = "SELECT current_database()"


class Emptied:
    """Makes empty stores of one engine, the last one of which is good: a database is made once."""

    def __init__(self, name: str, make: Callable[[], sa.Engine]) -> None:
        self.name = name
        self._make = make
        self._connection: sa.Connection | None = None

    def __call__(self) -> sa.Connection:
        if self.name == "sqlite":
            return self._make().connect()
        if self._connection is None:
            self._connection = self._make().connect()
        self._connection.exec_driver_sql("ROLLBACK")
        for table in reversed(tables.metadata.sorted_tables):
            self._connection.execute(sa.delete(table))
        self._connection.exec_driver_sql("ALTER SEQUENCE ledger_block_block_id_seq RESTART")
        return self._connection
