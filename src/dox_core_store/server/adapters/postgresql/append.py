"""The one statement that puts a block on the ledger, and what a lost connection leaves unsaid.

A procedure does it: the block, if its stream is still open, the commit, and then, in a transaction
of its own, the head of the change feed. So one round trip says that the block is on stable storage
and what had been changed by a moment after that.

Where the connection goes while a commit is under way, nobody knows whether it took place. On the
next connection the ledger itself says so; and it says whether it still is the ledger that it was.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format

from dox_core_store.server.adapters.postgresql.patience import execute_prepared
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.stream import StreamLostError
from dox_core_store.server.domain.ledger import changes_stream

__all__ = ["Appended", "BlockAppender"]

_STATEMENT = b"append"
_CALL = b"CALL doxstore_append($1, $2, $3, $4, $5, $6, $7, $8, NULL, NULL)"
_TYPES = [25, 20, 20, 20, 17, 17, 17, 25]
"""text, bigint, bytea: the object ids of pg_type, which are the same in every PostgreSQL."""

_BINARY = [Format.BINARY] * len(_TYPES)
_PATIENCE_SECONDS = 4.0

_number = struct.Struct(">q")


class Appended(NamedTuple):
    """Where the ledger was when it was heard of last."""

    block_id: int
    head: bytes
    feed: int


class BlockAppender:
    """For one stream of one epoch. Lives in the thread that appends."""

    def __init__(self, *, changes: str, epoch: int) -> None:
        self._changes_name = changes.encode()
        self._prepared_on: psycopg.Connection[Any] | None = None
        self._epoch = epoch
        self._known = Appended(0, b"", 0)
        self._tried: tuple[Any, ...] | None = None

    def begin(self, connection: sa.Connection) -> None:
        """What the ledger ends with, once our stream is open."""
        block = tables.ledger_block.c
        row = connection.execute(
            sa.select(block.block_id, block.head).order_by(block.block_id.desc()).limit(1)
        ).one()
        self._known = Appended(row.block_id, row.head, self._feed(connection))

    def append(self, run: psycopg.Connection[Any], row: tuple[Any, ...]) -> tuple[int, int]:
        """Commit ``row`` on the driver's connection ``run``: its id, and the head of the feed.

        Raises `StreamLostError`, and `psycopg.Error`."""
        self._tried = row
        if run is not self._prepared_on:
            prepared = run.pgconn.prepare(_STATEMENT, _CALL, _TYPES)
            if prepared.status != ExecStatus.COMMAND_OK:
                raise error_from_result(prepared, encoding=run.info.encoding)
            self._prepared_on = run
        stream, first, last, at, prev, head, body = row
        pack = _number.pack
        given = [
            stream.encode(),
            pack(first),
            pack(last),
            pack(at),
            prev,
            head,
            body,
            self._changes_name,
        ]
        answer = execute_prepared(run, _STATEMENT, given, _BINARY, _PATIENCE_SECONDS)
        self._tried = None
        said, feed_said = answer.get_value(0, 0), answer.get_value(0, 1)
        if said is None or feed_said is None:
            raise StreamLostError("its stream was closed")
        block_id, feed = _number.unpack(said)[0], _number.unpack(feed_said)[0]
        if feed < self._known.feed:
            raise StreamLostError(f"the change feed went back from {self._known.feed} to {feed}")
        self._known = Appended(block_id, row[5], feed)
        return block_id, feed

    def resume(self, connection: sa.Connection, stream: str) -> tuple[Any, ...] | None:
        """The row of whose commit nothing was heard, if it took place. After a new connection.

        Raises `StreamLostError` where the database is behind what was seen of it, or another."""
        block = tables.ledger_block.c
        epoch = connection.execute(sa.select(tables.store.c.epoch)).scalar_one()
        if epoch != self._epoch:
            raise StreamLostError(f"epoch {epoch} was begun elsewhere")
        known = self._known
        head = connection.execute(
            sa.select(block.head).where(block.block_id == known.block_id)
        ).scalar()
        if head != known.head:
            raise StreamLostError(f"block {known.block_id} is not the one that was written")
        if self._feed(connection) < known.feed:
            raise StreamLostError("the change feed went back")
        closed = sa.select(tables.ledger_stream.c.closed_at).where(
            tables.ledger_stream.c.stream == stream
        )
        if connection.execute(closed).scalar_one() is not None:
            raise StreamLostError("its stream was closed")
        tried, self._tried = self._tried, None
        if tried is None:
            return None
        found = connection.execute(
            sa.select(block.block_id, block.head)
            .where(block.block_id > known.block_id, block.stream == stream)
            .order_by(block.block_id)
        ).first()
        if found is None:
            return None
        if found.head != tried[5]:
            raise StreamLostError(f"block {found.block_id} of its stream is not its own")
        self._known = known._replace(block_id=found.block_id, head=found.head)
        return tried

    def _feed(self, connection: sa.Connection) -> int:
        stream = tables.ledger_stream.c
        query = sa.select(stream.last_seq).where(stream.stream == changes_stream(self._epoch))
        return int(connection.execute(query).scalar_one())
