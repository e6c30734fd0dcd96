"""Leases with fencing numbers: which node does what only one should.

A lease is a row. It goes to whoever asks while nobody has it or the holder's time is over, by the
database's clock, and its number rises with every new holder. A node believes in its own lease only
as long as its own monotonic clock says so, counted from before it asked.
"""

from __future__ import annotations

import contextlib
import time
from threading import Lock

import psycopg
import sqlalchemy as sa

__all__ = ["HOLD_SECONDS", "PostgresLeases"]

HOLD_SECONDS = 15.0

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_HOLD = (
    "INSERT INTO lease AS held (name, holder, number, until)"  # noqa: S608 - ours
    f" VALUES (%s, %s, 1, {_NOW} + {int(HOLD_SECONDS * 1e6)})"
    " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until,"
    " number = held.number + (held.holder <> excluded.holder)::int"
    f" WHERE held.holder = excluded.holder OR held.until < {_NOW} RETURNING number"
)

_LET_GO = "UPDATE lease SET until = 0 WHERE holder = %s"


class PostgresLeases:
    """See the `Leases` port. ``holder`` is this node's id; a lease of its own is asked for again
    only when a third of its time has passed."""

    def __init__(self, *, engine: sa.Engine, holder: str) -> None:
        self._engine = engine
        self._holder = holder
        self._lock = Lock()
        self._held: dict[str, tuple[int, float]] = {}

    def hold(self, name: str) -> int | None:
        with self._lock:
            number, asked_at = self._held.get(name, (0, -HOLD_SECONDS))
        now = time.monotonic()
        if now < asked_at + HOLD_SECONDS / 3:
            return number
        try:
            with self._engine.connect() as connection:
                row = connection.exec_driver_sql(_HOLD, (name, self._holder)).first()
        except (sa.exc.SQLAlchemyError, psycopg.Error):
            return number if self.holds(name, number) else None
        with self._lock:
            if row is None:
                self._held.pop(name, None)
                return None
            self._held[name] = (int(row[0]), now)
            return int(row[0])

    def holds(self, name: str, number: int) -> bool:
        with self._lock:
            held, asked_at = self._held.get(name, (0, -HOLD_SECONDS))
        return held == number and time.monotonic() < asked_at + HOLD_SECONDS

    def let_go(self) -> None:
        """Give up all of them, so that the next node need not wait."""
        with self._lock:
            self._held.clear()
        with (
            contextlib.suppress(sa.exc.SQLAlchemyError, psycopg.Error),
            self._engine.connect() as connection,
        ):
            connection.exec_driver_sql(_LET_GO, (self._holder,))
