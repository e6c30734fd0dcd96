"""Which proofs were used, as rows of a table: the `ProofUses` port on PostgreSQL.

Whoever inserts a proof is the first to use it; the primary key decides between any number of nodes,
and a commit that returned is on stable storage. Proofs are inserted in their order, so that two
nodes with the same ones never wait for each other. What is past its time is swept after each
statement, in batches that keep nobody waiting for long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from dox_core_store.errors import StoreUnavailableError
from dox_core_store.server.adapters.postgresql.together import Together
from dox_core_store.server.adapters.sql.driver import Driver

__all__ = ["PostgresProofUses"]

_SECONDS = 2.0
_SWEEP_SECONDS = 1.0
_SWEPT_ROWS = 1_000

_INSERT = """
INSERT INTO proof_use (proof, until)
SELECT proof, until FROM unnest(%s::text[], %s::bigint[]) AS used (proof, until)
ORDER BY proof COLLATE "C"
ON CONFLICT DO NOTHING
RETURNING proof
"""
_SWEEP = f"""
DELETE FROM proof_use WHERE proof IN (
    SELECT proof FROM proof_use
    WHERE until < (extract(epoch FROM statement_timestamp()) * 1000000)::bigint
    ORDER BY until LIMIT {_SWEPT_ROWS} FOR UPDATE SKIP LOCKED
)
RETURNING 1
"""  # noqa: S608 - of constants


class _Use(NamedTuple):
    proof: str
    until: int


class PostgresProofUses:
    """See the port. ``engine``: it keeps one connection of it."""

    def __init__(
        self, *, engine: sa.Engine, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._sweep_at = monotonic() + _SWEEP_SECONDS
        self._together = Together[_Use, bool | None](
            engine=engine,
            answers=_insert_all,
            tidy=self._sweep,
            seconds=_SECONDS,
            name="doxstore-proofs",
        )

    async def first(self, proof: str, until: float) -> bool:
        is_first = await self._together.ask(_Use(proof, int(until * 1e6)))
        if is_first is None:
            raise StoreUnavailableError(
                "ledger_unavailable",
                "The database broke off: whether this proof was used before is not known.",
            )
        return is_first

    def close(self) -> None:
        """Nothing more is asked; returns at once."""
        self._together.close()

    def _sweep(self, driver: Driver) -> None:
        """A batch each second; where more is due, after the next statement too."""
        if self._monotonic() >= self._sweep_at:
            swept = driver.rows(_SWEEP, ())
            if len(swept) < _SWEPT_ROWS:
                self._sweep_at = self._monotonic() + _SWEEP_SECONDS


def _insert_all(driver: Driver, asked: Sequence[_Use], /, *, again: bool) -> list[bool | None]:
    """Whether each was the first; None where that is not known: the proof is there, and may be from
    the statement that broke off."""
    columns = [[use.proof for use in asked], [use.until for use in asked]]
    inserted = {proof for (proof,) in driver.rows(_INSERT, columns)}
    told: list[bool | None] = []
    for use in asked:
        is_first = use.proof in inserted
        inserted.discard(use.proof)  # the same one twice at once: the second is no first
        told.append(True if is_first else None if again else False)
    return told
