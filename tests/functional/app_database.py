"""A database that an application logs in to with a password, and the key that holds it."""

from __future__ import annotations

from urllib.parse import urlsplit

import psycopg
from tests.functional.postgres import Postgres
from tests.functional.running import RunningStore

__all__ = ["AppDatabase"]


class AppDatabase:
    """One role with SCRAM in PostgreSQL, and a key for its password in the store. The role of the
    tests still gets in without one."""

    def __init__(self, postgres: Postgres, store: RunningStore, *, role: str) -> None:
        self.role = role
        self.path = f"database_passwords.{role}"
        self.url_path = f"database_urls.{role}"
        self._postgres = postgres
        self._store = store
        # Nothing is cut off from the other tests' databases.
        postgres.let_in(
            "host all doxstore 127.0.0.1/32 trust", "host all all 127.0.0.1/32 scram-sha-256"
        )
        postgres.run("postgres", f"CREATE ROLE {role} LOGIN")

    @property
    def address(self) -> str:
        """Without a password, for libpq."""
        return f"postgresql://{self.role}@127.0.0.1:{self._postgres.port}/postgres"

    @property
    def port(self) -> int:
        return self._postgres.port

    def change(self, password: str) -> None:
        """As a rotation has to: first in the store, then in the database."""
        self.store(password)
        self.alter(password)

    def store(self, password: str) -> None:
        full = self.address.replace("@", f":{password}@", 1)
        self._store.put(self.path, password, environment="production")
        self._store.put(self.url_path, full, environment="production")

    def alter(self, password: str) -> None:
        self._postgres.run("postgres", f"ALTER ROLE {self.role} PASSWORD '{password}'")

    def lets_in(self, password: str) -> bool:
        host = urlsplit(self.address)
        try:
            psycopg.connect(self.address, password=password, port=host.port).close()
        except psycopg.OperationalError:
            return False
        return True

    def drop(self) -> None:
        self._postgres.run("postgres", f"DROP ROLE {self.role}")
