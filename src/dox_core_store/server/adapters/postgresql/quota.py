"""The limits that nodes share, as rows of a table: the `Quotas` port on PostgreSQL.

The table ``quota`` has the theoretical arrival time of each limit, in microseconds since 1970 by
the database's clock. One statement takes from many rows, from each all or nothing; rows are locked
in the order of their names, so that two nodes never wait for each other. The time is that at which
the statement arrived: a row that is waited for meanwhile only judges more strictly by it. A limit
that was not used for an hour needs no row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from dox_core_store.server.adapters.postgresql.together import Together
from dox_core_store.server.adapters.sql.driver import Driver
from dox_core_store.server.ports import Take, Taken

__all__ = ["PostgresQuotas"]

_SECONDS = 1.0
_SWEEP_SECONDS = 60.0
_NOW = "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint"

_TAKE = f"""
WITH asked AS MATERIALIZED (
    SELECT name, cost, tolerance
    FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS asked (name, cost, tolerance)
),
taken AS (
    INSERT INTO quota AS q (name, arrival)
    SELECT name, {_NOW} + cost FROM asked WHERE cost <= tolerance ORDER BY name COLLATE "C"
    ON CONFLICT (name) DO UPDATE
    SET arrival = greatest(q.arrival, {_NOW}) + excluded.arrival - {_NOW}
    WHERE greatest(q.arrival, {_NOW}) + excluded.arrival - {_NOW}
        <= {_NOW} + (SELECT tolerance FROM asked WHERE asked.name = excluded.name)
    RETURNING q.name, q.arrival
)
SELECT asked.name, taken.name IS NOT NULL,
    greatest(0, coalesce(taken.arrival, quota.arrival, 0) - {_NOW})
FROM asked
LEFT JOIN taken ON taken.name = asked.name
LEFT JOIN quota ON quota.name = asked.name
"""  # noqa: S608 - of constants

_SWEEP = f"""
DELETE FROM quota WHERE name IN (
    SELECT name FROM quota WHERE arrival < {_NOW} - 3600000000
    LIMIT 1000 FOR UPDATE SKIP LOCKED
)
"""  # noqa: S608 - of constants


class PostgresQuotas:
    """See the port. ``engine``: it keeps one connection of it."""

    def __init__(
        self, *, engine: sa.Engine, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._swept = monotonic()
        self._together = Together[Take, Taken](
            engine=engine,
            answers=_take_all,
            tidy=self._sweep,
            seconds=_SECONDS,
            name="doxstore-quotas",
        )

    async def take(self, wanted: Take) -> Taken:
        return await self._together.ask(wanted)

    def close(self) -> None:
        """Nothing more is asked; returns at once."""
        self._together.close()

    def _sweep(self, driver: Driver) -> None:
        if self._monotonic() - self._swept >= _SWEEP_SECONDS:
            driver.rows(_SWEEP, ())
            self._swept = self._monotonic()


def _take_all(driver: Driver, asked: Sequence[Take], /, *, again: bool) -> list[Taken]:
    """Where the statement before may have been carried out, it is taken twice: never too much."""
    del again
    answers: dict[int, Taken] = {}
    rest = list(enumerate(asked))
    while rest:  # a statement can take from a row once
        first = {wanted.name: (at, wanted) for at, wanted in reversed(rest)}
        wanted = [each for _, each in first.values()]
        rows = driver.rows(_TAKE, [list(column) for column in zip(*wanted, strict=True)])
        for name, granted, ahead in rows:
            answers[first[name][0]] = Taken(granted, ahead / 1e6)
        rest = [each for each in rest if each[0] not in answers]
    return [answers[at] for at in range(len(asked))]
