"""An attacker on the ledger: knows the format, can write the database, has no key of the store.

`Forgery` reads a copied database with nothing but SQLite, lets a test change entries, computes all
hashes anew with the public algorithm where that is wanted, and writes it back so that every row of
the database agrees with every other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["ACTION", "ACTOR", "CHANGES", "Block", "Forgery", "entry_of"]

CHANGES = "changes"
ACTOR, ACTION, SEQ, STREAM = 1, 3, 8, 9
"""Places in a canonical entry, as docs/spec/ledger.md has them."""


class Block(NamedTuple):
    block_id: int
    stream: str
    first_at: int
    prev: bytes
    head: bytes
    lines: list[bytes]


def entry_of(line: bytes) -> list[Any]:
    fields: list[Any] = json.loads(line)
    return fields


def _canonical(fields: list[Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


class Forgery:
    """The ledger of the database at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with contextlib.closing(sqlite3.connect(path)) as database:
            (self.store_id,) = database.execute("SELECT store_id FROM store").fetchone()
            rows = database.execute(
                "SELECT block_id, stream, first_at, prev, head, body FROM ledger_block"
                " ORDER BY block_id"
            )
            self.blocks = [Block(*row[:5], row[5].split(b"\n")) for row in rows]
            self.ends = dict(database.execute("SELECT stream, last_seq FROM ledger_stream"))

    def of(self, stream: str) -> list[Block]:
        return [block for block in self.blocks if block.stream == stream]

    def lines(self, stream: str) -> list[bytes]:
        return [line for block in self.of(stream) for line in block.lines]

    def put(self, block: Block) -> None:
        """``block`` in the place of the one with its id."""
        self.blocks = [block if each.block_id == block.block_id else each for each in self.blocks]

    def drop(self, wanted: Callable[[Block], bool]) -> None:
        self.blocks = [block for block in self.blocks if not wanted(block)]

    def rechain(
        self, stream: str, change: Callable[[list[Any]], list[Any] | None], *, since: int = 0
    ) -> None:
        """Write the stream anew: from the block ``since`` on each entry as ``change`` returns it,
        left out where that is None, numbered and hashed as if nothing had happened."""
        seed = f"doxstore/ledger/1\n{self.store_id}\n{stream}".encode()
        head, seq, blocks = hashlib.sha256(seed).digest(), 0, []
        for block in self.blocks:
            if block.stream != stream:
                blocks.append(block)
                continue
            prev, lines = head, []
            for line in block.lines:
                fields = entry_of(line)
                fields = change(fields) if block.block_id >= since else fields
                if fields is None:
                    continue
                seq += 1
                fields[SEQ] = seq
                lines.append(_canonical(fields))
                head = hashlib.sha256(head + b"\x01" + lines[-1]).digest()
            if lines:
                blocks.append(block._replace(prev=prev, head=head, lines=lines))
        self.blocks = blocks

    def save(self, *, fix_ends: bool = True, forget: str | None = None) -> None:
        """Write the database, if that is wanted with the streams' ends as they are now, and without
        the stream ``forget``."""
        with contextlib.closing(sqlite3.connect(self._path)) as database, database:
            database.execute("DELETE FROM ledger_block")
            for block in self.blocks:
                first, last = (entry_of(block.lines[at])[SEQ] for at in (0, -1))
                database.execute(
                    "INSERT INTO ledger_block (block_id, stream, first_seq, last_seq, first_at,"
                    " prev, head, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(block.block_id, block.stream, min(first, last), max(first, last)),
                        *(block.first_at, block.prev, block.head, b"\n".join(block.lines)),
                    ),
                )
            if fix_ends:
                for stream in {block.stream for block in self.blocks}:
                    last_block = self.of(stream)[-1]
                    database.execute(
                        "UPDATE ledger_stream SET last_seq = ?, head = ? WHERE stream = ?",
                        (entry_of(last_block.lines[-1])[SEQ], last_block.head, stream),
                    )
            database.execute("DELETE FROM ledger_stream WHERE stream = ?", (forget,))
