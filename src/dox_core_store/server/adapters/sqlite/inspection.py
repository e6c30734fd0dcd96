"""Looking an opened store over: what ``doxstore doctor`` and ``doxstore ledger verify`` ask for.

Everything here only reads.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from dox_core_store import wire
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.migrate import current_revision
from dox_core_store.server.adapters.sql.search import Block, decode_block
from dox_core_store.server.adapters.sqlite.store import OpenedStore
from dox_core_store.server.domain.ledger import is_changes
from dox_core_store.server.ports import StoredEntry

__all__ = ["Condition", "StoreInspection", "public_checkpoint_key"]

_ROWS = 1_000
_BLOCKS = 500


class Condition(NamedTuple):
    """``pages`` is what SQLite's own quick check says: ``ok``, or its first complaint."""

    schema: str | None
    known_schema: str
    journal_mode: str
    synchronous: int
    pages: str
    slots: int


class StoreInspection:
    """Over one opened store; each question on a connection of its own."""

    def __init__(self, store: OpenedStore) -> None:
        self._store = store

    def condition(self) -> Condition:
        """The database as such."""
        with self._store.engine.connect() as connection:
            pragma = connection.exec_driver_sql
            return Condition(
                schema=current_revision(connection),
                known_schema=tables.SCHEMAS[-1],
                journal_mode=str(pragma("PRAGMA journal_mode").scalar()),
                synchronous=int(pragma("PRAGMA synchronous").scalar() or 0),
                pages=str(pragma("PRAGMA quick_check(1)").scalar()),
                slots=_count(connection, tables.seal_slot),
            )

    def count_records(self) -> int:
        """How many rows carry a MAC."""
        with self._store.engine.connect() as connection:
            return sum(_count(connection, table) for table in tables.RECORDS.values())

    def check_records(self) -> Iterator[int]:
        """Read every row that carries a MAC; yields how many were read since the last yield.

        Rows whose MAC does not hold reach the alarm that the store was opened with.
        """
        with self._store.engine.connect() as connection:
            for kind, table in tables.RECORDS.items():
                query = sa.select(table).execution_options(yield_per=_ROWS)
                for rows in connection.execute(query).mappings().partitions():
                    for row in rows:
                        self._store.records.record(kind, row)
                    yield len(rows)

    def count_blocks(self) -> int:
        """How many blocks the ledger has now."""
        with self._store.engine.connect() as connection:
            return _count(connection, tables.ledger_block)

    def heads(self) -> dict[str, tuple[int, bytes]]:
        """Last ``seq`` and hash of every stream whose end the store knows: closed, or `changes`."""
        stream = tables.ledger_stream.c
        query = sa.select(stream.stream, stream.last_seq, stream.head, stream.closed_at)
        with self._store.engine.connect() as connection:
            return {
                row.stream: (row.last_seq, row.head)
                for row in connection.execute(query)
                if row.closed_at is not None or is_changes(row.stream)
            }

    def blocks(self) -> Iterator[list[StoredEntry]]:
        """Every block's entries, in stored order. Raises ``ValueError`` at an unreadable one."""
        block = tables.ledger_block.c
        after = 0
        with self._store.engine.connect() as connection:
            while True:
                query = (
                    sa.select(block.block_id, block.stream, block.prev, block.head, block.body)
                    .where(block.block_id > after)
                    .order_by(block.block_id)
                    .limit(_BLOCKS)
                )
                rows = connection.execute(query).all()
                if not rows:
                    return
                for row in rows:
                    yield decode_block(Block(*row))
                after = rows[-1].block_id


def public_checkpoint_key(store: OpenedStore) -> wire.CheckpointKey:
    """The public half of the checkpoint key, named by its RFC 7638 thumbprint."""
    raw = store.checkpoint_key.public_key().public_bytes_raw()
    members = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)}
    thumbprint = hashlib.sha256(msgspec.json.encode(members)).digest()
    return wire.CheckpointKey(**members, kid=_base64url(thumbprint), store_id=store.store_id)


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
