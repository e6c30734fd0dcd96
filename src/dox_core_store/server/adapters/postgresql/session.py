"""A connection that is kept, and made anew when it was lost.

Belongs to one thread. While the database does not answer it is tried now and then, so that whoever
asks in between is told at once.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psycopg
import sqlalchemy as sa

from dox_core_store.errors import StoreUnavailableError

__all__ = ["FAULTS", "Session"]

FAULTS = (sa.exc.DBAPIError, psycopg.Error)
"""What a database raises, by SQLAlchemy and by its driver."""

_RETRY_SECONDS = 0.2


class Session:
    """See the module. One that failed is tried again after ``retry_seconds``."""

    def __init__(self, engine: sa.Engine, *, retry_seconds: float = _RETRY_SECONDS) -> None:
        self._engine = engine
        self._retry_seconds = retry_seconds
        self._connection: sa.Connection | None = None
        self._tried_at = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether `connection` returns the one that it returned before."""
        return self._connection is not None and not self._connection.invalidated

    def connection(self) -> sa.Connection:
        """Raises `StoreUnavailableError` where it was tried a moment ago, else one of `FAULTS`."""
        if self._connection is not None and self._connection.invalidated:
            self.close()
        if self._connection is None:
            if time.monotonic() < self._tried_at + self._retry_seconds:
                raise StoreUnavailableError("ledger_unavailable", "The database does not answer.")
            self._tried_at = time.monotonic()
            self._connection = self._engine.connect()
        return self._connection

    def failed(self) -> bool:
        """After a fault: whether the connection was lost with it, and is let go."""
        connection = self._connection
        if connection is None:
            return True
        if not connection.invalidated:
            driver: Any = connection.connection.driver_connection
            if driver is not None and not driver.closed:
                return False
        self.close()
        return True

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sa.exc.SQLAlchemyError, psycopg.Error):
                connection.close()
