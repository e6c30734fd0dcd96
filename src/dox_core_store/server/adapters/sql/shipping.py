"""The shipped part of the ledger, out of the database, and how far each destination has it.

Blocks are chosen in SQL, by the name of their stream and by the bytes that only a checkpoint has,
so that millions of reads are passed over without being decoded. A look reads a bounded range of
blocks, on a connection of its own, in the thread of whoever looks.

With a place the hash at its end is kept. A block there with another hash, or a ledger that ends
before it, means that the end of the ledger was cut off or replaced: then nobody knows what was
shipped of what is there now, and it is shipped from its beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.custody_event import read_event
from dox_core_store.server.adapters.sql.driver import worded
from dox_core_store.server.adapters.sql.horizon import settled_top
from dox_core_store.server.adapters.sql.records import once
from dox_core_store.server.domain.ledger import Action, Status, link, parse_canonical
from dox_core_store.server.domain.shipping import Batch, Place, Shipped, ShippingError, is_shipped
from dox_core_store.server.ports import StoredEntry, Work

__all__ = ["CURSOR_PREFIX", "ShippedUpTo", "SqlShippingSource", "shipped_up_to"]

Result = TypeVar("Result")

CURSOR_PREFIX = "sink:"
_RANGE_BLOCKS = 500
_BATCH_ENTRIES = 500
_BATCH_BYTES = 512 * 1024
_MICROSECONDS = 1_000_000
_CHECKPOINT = f'"{Action.CHECKPOINT}","{Status.GRANTED}"'.encode()
"""As a canonical line has it, action and status side by side: no text can have these quotes."""

_SHIPPED = {
    name: f"((stream >= 'changes' AND stream < 'changes.') OR {holds})"
    for name, holds in (
        ("sqlite", "instr(body, ?) > 0"),
        ("postgresql", "position(? in body) > 0"),
    )
}


@once
def _next(dialect: type[sa.Dialect]) -> str:
    return worded(
        dialect,
        "SELECT block_id, stream, prev, head, body, first_at FROM ledger_block"  # noqa: S608 - ours
        f" WHERE block_id > ? AND block_id <= ? AND {_SHIPPED[dialect.name]} ORDER BY block_id",
    )


@once
def _first(dialect: type[sa.Dialect]) -> str:
    return worded(
        dialect,
        f"SELECT first_at FROM ledger_block WHERE block_id > ? AND {_SHIPPED[dialect.name]}"  # noqa: S608
        " ORDER BY block_id LIMIT 1",
    )


class ShippedUpTo(NamedTuple):
    """How far a destination has the ledger; ``oldest`` is when the first entry that it lacks was
    made (seconds since 1970), None if there is none."""

    name: str
    block_id: int
    oldest: float | None


class SqlShippingSource:
    """See the `ShippingSource` port. ``encode`` makes an entry's line; ``write`` runs work in a
    transaction of the store's writer, and returns when it is done; ``lost`` says which of the
    store's files were replaced, for in their place others would be read."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        store_id: str,
        encode: Callable[[StoredEntry], bytes],
        write: Callable[[Work[None]], None],
        lost: Callable[[], str],
    ) -> None:
        self._engine = engine
        self._store_id = store_id
        self._encode = encode
        self._write = write
        self._lost = lost

    def resume(self, name: str) -> tuple[Place | None, str | None]:
        return self._read(lambda connection: _resumed(connection, name))

    def after(self, place: Place) -> Batch:
        return self._read(lambda connection: self._after(connection, place))

    def keep(self, name: str, place: Place) -> None:
        self._write(lambda tx: tx.follow(name, place.block_id, place.head))

    def _read(self, read: Callable[[sa.Connection], Result]) -> Result:
        if self._lost():
            raise ShippingError("the store's files were deleted or replaced")
        try:
            with self._engine.connect() as connection:
                return read(connection)
        except sa.exc.DBAPIError as error:
            raise ShippingError(f"the ledger cannot be read ({error.orig})") from error

    def _after(self, connection: sa.Connection, place: Place) -> Batch:
        top = settled_top(connection)  # first: whatever is at or below it is committed
        reached = max(min(place.block_id + _RANGE_BLOCKS, top), place.block_id)
        entries: list[Shipped] = []
        oldest, size = 0.0, 0
        rows = connection.exec_driver_sql(
            _next(type(connection.dialect)),
            (place.block_id, reached, _CHECKPOINT),
        )
        for row in rows:
            found = self._shipped(row)
            if found and not entries:
                oldest = row.first_at / _MICROSECONDS
            entries += found
            size += sum(len(entry.line) for entry in found)
            if len(entries) >= _BATCH_ENTRIES or size >= _BATCH_BYTES:
                reached = row.block_id
                break
        rows.close()
        is_last = reached >= top
        return Batch(self._store_id, entries, _place(connection, reached), oldest, is_last)

    def _shipped(self, row: Any) -> list[Shipped]:
        """What is shipped of a block. Hashes are made again, but for the last, so that whoever
        checks the lines finds what was changed here."""
        shipped, prev = [], row.prev
        lines = row.body.split(b"\n")
        for place, line in enumerate(lines, 1):
            head = row.head if place == len(lines) else link(prev, line)
            if is_shipped(row.stream, Action.CHECKPOINT if _CHECKPOINT in line else ""):
                shipped.append(self._encoded(row.block_id, line, prev, head))
            prev = head
        return shipped

    def _encoded(self, block_id: int, line: bytes, prev: bytes, head: bytes) -> Shipped:
        try:
            entry, seq, stream = parse_canonical(line)
        except ValueError as error:
            raise ShippingError(f"block {block_id} of the ledger is unreadable") from error
        stored = StoredEntry(entry, seq, stream, prev, head, "")
        return Shipped(self._encode(stored), entry.timestamp, entry.action)


def shipped_up_to(connection: sa.Connection) -> list[ShippedUpTo]:
    """Every destination that anything was ever shipped to, by name."""
    cursor = tables.ledger_cursor.c
    query = sa.select(cursor.name, cursor.block_id).where(cursor.name.startswith(CURSOR_PREFIX))
    found, text = [], _first(type(connection.dialect))
    for name, block_id in connection.execute(query.order_by(cursor.name)).all():
        at = connection.exec_driver_sql(text, (block_id, _CHECKPOINT)).scalar()
        oldest = None if at is None else int(at) / _MICROSECONDS
        found.append(ShippedUpTo(name.removeprefix(CURSOR_PREFIX), block_id, oldest))
    return found


def _resumed(connection: sa.Connection, name: str) -> tuple[Place | None, str | None]:
    cursor = tables.ledger_cursor.c
    query = sa.select(cursor.block_id).where(cursor.name == name)
    block_id = connection.execute(query).scalar()
    if block_id is None:
        return None, None
    event = read_event(connection, name)
    noted = "" if event is None else str(event[1].get("head", ""))
    there = _place(connection, block_id)
    if block_id > _top(connection):
        return None, f"the ledger ends before block {block_id}, which was shipped"
    if noted and there.head and noted != there.head:
        return None, f"block {block_id} is not the one that was shipped"
    return there, None


def _top(connection: sa.Connection) -> int:
    return connection.exec_driver_sql("SELECT max(block_id) FROM ledger_block").scalar() or 0


def _place(connection: sa.Connection, block_id: int) -> Place:
    """Retention may have dropped the block: then its hash is not known."""
    block = tables.ledger_block.c
    head = connection.execute(sa.select(block.head).where(block.block_id == block_id)).scalar()
    return Place(block_id, "" if head is None else head.hex())
