"""Finding and dropping what is too old of the ledger, and the postings that then point nowhere.

Blocks are dropped in stored order, never those of a `changes` stream, never the newest other one
nor what follows the last one of an open stream (whose end is known by that block alone), and only
if they still follow from one another: what was tampered with stays, to be looked at. `plan` reads
beside the writer; what it finds is written by `drop` and `drop_postings`, in transactions that the
writer makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from dox_core_store.server.adapters.sql.driver import Driver, worded
from dox_core_store.server.adapters.sql.horizon import settled_top
from dox_core_store.server.adapters.sql.postings import CHUNK_BLOCKS
from dox_core_store.server.adapters.sql.records import once
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
_CHUNKS = {
    "sqlite": "SELECT value AS chunk FROM json_each(chunks)",
    "postgresql": "SELECT value::bigint AS chunk FROM json_array_elements_text(chunks::json)",
}
# For each chunk one step into the primary key.
_IDLE = {
    name: (
        f"NOT EXISTS (SELECT 1 FROM ({chunks}) AS each WHERE"  # noqa: S608 - ours
        f" (SELECT block_id FROM ledger_block WHERE block_id >= chunk * {CHUNK_BLOCKS}"
        f" ORDER BY block_id LIMIT 1) < (chunk + 1) * {CHUNK_BLOCKS})"
    )
    for name, chunks in _CHUNKS.items()
}
_NAMED = {
    "sqlite": "SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
    "postgresql": (
        "SELECT value ->> 0, value ->> 1, (value ->> 2)::bigint FROM json_array_elements(?::json)"
    ),
}
_PRUNED = (
    "INSERT INTO ledger_cursor (name, block_id) VALUES ('pruned', ?)"
    " ON CONFLICT (name) DO UPDATE SET block_id = excluded.block_id"
)
_OPEN = f"SELECT stream FROM ledger_stream WHERE closed_at IS NULL AND NOT {_KEPT}"  # noqa: S608
_LAST_OF = "SELECT block_id FROM ledger_block WHERE stream = ? ORDER BY block_id DESC LIMIT 1"
_NEWEST = f"SELECT block_id FROM ledger_block WHERE NOT {_KEPT} ORDER BY block_id DESC LIMIT 1"  # noqa: S608
_OLDEST = (
    "SELECT block_id, stream, prev, head, body, first_at FROM ledger_block"  # noqa: S608
    f" WHERE block_id > ? AND block_id < ? AND NOT {_KEPT} ORDER BY block_id LIMIT ?"
)
_AT = "SELECT block_id FROM ledger_cursor WHERE name = 'pruned'"
_UP_TO = (
    "SELECT block_id, first_at FROM ledger_block WHERE block_id <= ? ORDER BY block_id DESC LIMIT 1"
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
        end = _end(connection)
        driver = Driver(connection)
        pruned = _value(driver, _AT) or 0
        rows = driver.rows(worded(driver.dialect, _OLDEST), (pruned, end, most))
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
    driver = Driver(connection)
    text = f"DELETE FROM ledger_block WHERE block_id > ? AND block_id <= ? AND NOT {_KEPT}"  # noqa: S608
    driver.rows(worded(driver.dialect, text), (plan.after, plan.last))
    driver.rows(worded(driver.dialect, _PRUNED), (plan.last,))


def idle_postings(connection: sa.Connection) -> Iterator[list[tuple[str, str, int]]]:
    """Postings none of whose blocks is there any more, some at a time; empty lists too."""
    driver = Driver(connection)
    at: tuple[str, str, int] = ("", "", -1)
    chunk = (_value(driver, _AT) or 0) // CHUNK_BLOCKS
    text = _idle(driver.dialect)
    while rows := driver.rows(text, (chunk, *at, _POSTINGS)):
        yield [(row[0], row[1], row[2]) for row in rows if row[3]]
        at = (rows[-1][0], rows[-1][1], rows[-1][2])


def drop_postings(connection: sa.Connection, names: list[tuple[str, str, int]]) -> None:
    """Drop postings, inside the writer's transaction, if they still point nowhere."""
    driver = Driver(connection)
    driver.rows(_drop(driver.dialect), (msgspec.json.encode(names).decode(),))


@once
def _idle(dialect: type[sa.Dialect]) -> str:
    """Postings in order from behind a place, each with whether it is idle."""
    return worded(
        dialect,
        "SELECT kind, term, first_chunk,"  # noqa: S608 - ours
        f" first_chunk <= ? AND {_IDLE[dialect.name]} FROM (SELECT * FROM ledger_posting"
        " WHERE (kind, term, first_chunk) > (?, ?, ?)"
        " ORDER BY kind, term, first_chunk LIMIT ?) AS part",
    )


@once
def _drop(dialect: type[sa.Dialect]) -> str:
    """Drop those that are named, as JSON, and idle."""
    return worded(
        dialect,
        "DELETE FROM ledger_posting WHERE (kind, term, first_chunk) IN"  # noqa: S608 - ours
        f" ({_NAMED[dialect.name]}) AND {_IDLE[dialect.name]}",
    )


def _end(connection: sa.Connection) -> int:
    """The first block that has to stay, whatever its age."""
    driver = Driver(connection)
    open_streams = driver.rows(_OPEN, ())
    last_of = worded(driver.dialect, _LAST_OF)
    ends: list[int] = [row[0] for (name,) in open_streams for row in driver.rows(last_of, (name,))]
    return min([_value(driver, _NEWEST) or 0, settled_top(connection), *ends])


def _value(driver: Driver, text: str) -> int | None:
    rows = driver.rows(text, ())
    return rows[0][0] if rows else None


def _newest_before(connection: sa.Connection) -> Callable[[datetime], datetime | None]:
    """When the newest block was made that is not newer than a time, by bisection: ids rise with
    time."""
    driver = Driver(connection)
    top = _value(driver, "SELECT max(block_id) FROM ledger_block") or 0
    text = worded(driver.dialect, _UP_TO)

    def before(at: datetime) -> datetime | None:
        wanted = Instant.microseconds(at)
        low, high, found = 0, top, None
        while low < high:
            middle = (low + high + 1) // 2
            rows = driver.rows(text, (middle,))
            if not rows:
                low = middle
            elif rows[0][1] <= wanted:
                low, found = middle, rows[0][1]
            else:
                high = rows[0][0] - 1
        instant: datetime | None = Instant().process_result_value(found, None)
        return instant

    return before
