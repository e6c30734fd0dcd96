"""Finding and dropping what is too old of the ledger, and the postings that then point nowhere.

Blocks are dropped in stored order, never those of a `changes` stream, never the newest other one
(the end of an open stream is known by its last block), and only if they still follow from one
another: what was tampered with stays, to be looked at. `plan` reads beside the writer; what it
finds is written by `drop` and `drop_postings`, in transactions that the writer makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from dox_core_store.server.adapters.sql.postings import CHUNK_BLOCKS
from dox_core_store.server.adapters.sql.search import Block
from dox_core_store.server.adapters.sql.tables import FEED, Instant
from dox_core_store.server.adapters.sql.transaction import timestamp
from dox_core_store.server.domain.ledger import (
    BrokenChainError,
    genesis,
    link,
    parse_canonical,
)
from dox_core_store.server.domain.ledger_retention import MOST_STREAMS, due, prune_reason

__all__ = ["Plan", "Planner", "drop", "drop_postings", "idle_postings"]

_KEPT = f"({FEED.text})"
_POSTINGS = 1_000
_IDLE = (
    " NOT EXISTS (SELECT 1 FROM json_each(chunks) AS chunk JOIN ledger_block AS block"  # noqa: S608
    f" ON block.block_id BETWEEN chunk.value * {CHUNK_BLOCKS}"
    f" AND chunk.value * {CHUNK_BLOCKS} + {CHUNK_BLOCKS - 1})"
)


class Plan(NamedTuple):
    """Blocks behind ``after`` up to ``last`` may go; ``reason`` is for their PRUNE entry, and
    ``heads`` is where their streams go on."""

    after: int
    last: int
    blocks: int
    reason: str
    heads: dict[str, bytes]


class Planner:
    """Of one store. Raises `BrokenChainError` where blocks do not follow from one another."""

    def __init__(self, *, store_id: str, keep_days: int) -> None:
        self._store_id = store_id
        self._keep_days = keep_days
        self._heads: dict[str, bytes] = {}

    def plan(self, connection: sa.Connection, now: datetime, most: int) -> Plan | None:
        """The next blocks that may go, ``most`` at most; None if there are none."""
        until = due(now, keep_days=self._keep_days, before=_newest_before(connection))
        if until is None:
            return None
        run = connection.exec_driver_sql
        pruned = run("SELECT block_id FROM ledger_cursor WHERE name = 'pruned'").scalar() or 0
        newest = run(
            f"SELECT block_id FROM ledger_block WHERE NOT {_KEPT}"  # noqa: S608 - ours
            " ORDER BY block_id DESC LIMIT 1"
        ).scalar()
        rows = run(
            "SELECT block_id, stream, prev, head, body, first_at FROM ledger_block"  # noqa: S608
            f" WHERE block_id > ? AND block_id < ? AND NOT {_KEPT} ORDER BY block_id LIMIT ?",
            (pruned, newest or 0, most),
        )
        heads = dict(self._heads)
        limit, last, blocks = Instant.microseconds(until), 0, 0
        streams: dict[str, tuple[int, bytes]] = {}
        for row in rows:
            block = Block(*row[:5])
            if row[5] >= limit or (len(streams) == MOST_STREAMS and block.stream not in streams):
                break
            seq, at = self._follow(block, heads.get(block.stream))
            if at >= timestamp(until):
                break
            streams[block.stream] = (seq, block.head)
            heads[block.stream] = block.head
            last, blocks = block.block_id, blocks + 1
        if not blocks:
            return None
        return Plan(pruned, last, blocks, prune_reason(timestamp(until), streams), heads)

    def dropped(self, plan: Plan) -> None:
        """``plan`` was carried out."""
        self._heads = plan.heads

    def _follow(self, block: Block, before: bytes | None) -> tuple[int, str]:
        """The ``seq`` and the time of its last entry."""
        head, seq, newest = block.prev, 0, ""
        for line in block.body.split(b"\n"):
            try:
                entry, seq, stream = parse_canonical(line)
            except (ValueError, TypeError) as error:
                raise BrokenChainError(block.stream, seq + 1, "is unreadable") from error
            if before is None and seq == 1:
                before = genesis(self._store_id, stream)
            if stream != block.stream or (before is not None and before != head):
                raise BrokenChainError(block.stream, seq, "does not follow from what was before")
            head = before = link(head, line)
            newest = max(entry.timestamp, newest)
        if head != block.head:
            raise BrokenChainError(block.stream, seq, "was changed")
        return seq, newest


def drop(connection: sa.Connection, plan: Plan) -> None:
    """Drop what ``plan`` says, inside the writer's transaction."""
    run = connection.exec_driver_sql
    run(
        f"DELETE FROM ledger_block WHERE block_id > ? AND block_id <= ? AND NOT {_KEPT}",  # noqa: S608
        (plan.after, plan.last),
    )
    run(
        "INSERT OR REPLACE INTO ledger_cursor (name, block_id) VALUES ('pruned', ?)",
        (plan.last,),
    )


def idle_postings(connection: sa.Connection) -> Iterator[list[tuple[str, str, int]]]:
    """Postings none of whose blocks is there any more, some at a time; empty lists too."""
    at: tuple[str, str, int] = ("", "", -1)
    chunk = (
        connection.exec_driver_sql(
            "SELECT block_id FROM ledger_cursor WHERE name = 'pruned'"
        ).scalar()
        or 0
    ) // CHUNK_BLOCKS
    while True:
        rows = connection.exec_driver_sql(
            f"SELECT kind, term, first_chunk, first_chunk <= ? AND{_IDLE} FROM (SELECT * FROM"  # noqa: S608
            " ledger_posting WHERE (kind, term, first_chunk) > (?, ?, ?)"
            " ORDER BY kind, term, first_chunk LIMIT ?)",
            (chunk, *at, _POSTINGS),
        ).all()
        if not rows:
            return
        yield [(row[0], row[1], row[2]) for row in rows if row[3]]
        at = (rows[-1][0], rows[-1][1], rows[-1][2])


def drop_postings(connection: sa.Connection, names: list[tuple[str, str, int]]) -> None:
    """Drop postings, inside the writer's transaction, if they still point nowhere."""
    connection.exec_driver_sql(
        "DELETE FROM ledger_posting WHERE (kind, term, first_chunk) IN (SELECT value ->> 0,"  # noqa: S608
        f" value ->> 1, value ->> 2 FROM json_each(?)) AND{_IDLE}",
        (msgspec.json.encode(names).decode(),),
    )


def _newest_before(connection: sa.Connection) -> Callable[[datetime], datetime | None]:
    """When the newest block was made that is not newer than a time, by bisection: ids rise with
    time."""
    top = connection.exec_driver_sql("SELECT max(block_id) FROM ledger_block").scalar() or 0

    def before(at: datetime) -> datetime | None:
        wanted = Instant.microseconds(at)
        low, high, found = 0, top, None
        while low < high:
            middle = (low + high + 1) // 2
            row = connection.exec_driver_sql(
                "SELECT block_id, first_at FROM ledger_block WHERE block_id <= ?"
                " ORDER BY block_id DESC LIMIT 1",
                (middle,),
            ).first()
            if row is None:
                low = middle
            elif row[1] <= wanted:
                low, found = middle, row[1]
            else:
                high = row[0] - 1
        instant: datetime | None = Instant().process_result_value(found, None)
        return instant

    return before
