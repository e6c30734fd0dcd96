"""Reading the whole ledger of a database, block by block. Needs no key, and writes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.block_walk import next_blocks
from dox_core_store.server.adapters.sql.room import Room, used_bytes
from dox_core_store.server.adapters.sql.search import Block, decode_block
from dox_core_store.server.adapters.sql.transacting import snapshot, take_time
from dox_core_store.server.domain.ledger import is_changes
from dox_core_store.server.ports import StoredEntry

__all__ = ["FiledBlock", "LedgerInspection"]

_BLOCKS = 500


class FiledBlock(NamedTuple):
    """A block, and the places under which its row files it: no hash covers those."""

    block: Block
    first_seq: int
    last_seq: int

    def entries(self) -> list[StoredEntry]:
        """What it holds. Raises ``ValueError`` if that cannot be read."""
        try:
            return decode_block(self.block)
        except TypeError as error:  # a body that is text
            raise ValueError(str(error)) from error

    def is_filed_right(self, entries: Sequence[StoredEntry]) -> bool:
        """Whether its row says what ``entries`` are."""
        places = (entries[0].seq, entries[-1].seq)
        names = {each.stream for each in entries}
        return places == (self.first_seq, self.last_seq) and names == {self.block.stream}


class LedgerInspection:
    """Over the engine of one store; each question on a connection of its own."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def count_blocks(self) -> int:
        """How many blocks the ledger has now."""
        query = sa.select(sa.func.count()).select_from(tables.ledger_block)
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def room(self, max_gib: float) -> Room:
        """How much of ``max_gib`` the database uses."""
        room = Room(max_gib)
        room.look(used_bytes(self._engine))
        return room

    def heads(self) -> dict[str, tuple[int, bytes]]:
        """Last ``seq`` and hash of every stream whose end the store knows: closed, or `changes`."""
        stream = tables.ledger_stream.c
        query = sa.select(stream.stream, stream.last_seq, stream.head, stream.closed_at)
        with self._engine.connect() as connection:
            return {
                row.stream: (row.last_seq, row.head)
                for row in connection.execute(query)
                if row.closed_at is not None or is_changes(row.stream)
            }

    def blocks(self) -> Iterator[FiledBlock]:
        """Every block, in stored order."""
        block = tables.ledger_block.c
        columns = (block.block_id, block.stream, block.prev, block.head, block.body)
        after = 0
        with self._engine.connect() as connection:

            def read(top: int) -> list[Any]:
                query = (
                    sa.select(*columns, block.first_seq, block.last_seq)
                    .where(block.block_id > after, block.block_id <= top)
                    .order_by(block.block_id)
                    .limit(_BLOCKS)
                )
                return list(connection.execute(query))

            while rows := next_blocks(connection, read, after):
                for row in rows:
                    yield FiledBlock(Block(*row[: len(columns)]), row.first_seq, row.last_seq)
                after = rows[-1].block_id


@contextlib.contextmanager
def _settled(connection: sa.Connection) -> Iterator[None]:
    """Nothing appears behind what was read. One writer adds blocks in the order of their ids, so
    there is nothing to be done; of many, one may commit a block behind another's, so the ledger is
    read as it was at one moment. A busy server of one file could not tidy up its log meanwhile."""
    if connection.dialect.name == "sqlite":
        yield
        return
    with snapshot(connection):
        take_time(connection)
        yield
