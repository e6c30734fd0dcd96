"""The ledger's search index, built behind the writes.

For each (kind, term), the list of blocks that hold it. Inline indexes with random keys would cost
the door more than the ledger itself; here the terms of some seconds of traffic are collected in
memory and written in sorted order. A crash loses nothing: `catch_up` rebuilds from the
blocks behind the cursor, and a search reads blocks that are not indexed yet one by one.

Kinds: ``s`` service, ``k`` key path, ``t`` token, ``a`` address, ``n`` action other than GET,
``x`` status other than GRANTED.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from dox_core_store.server.adapters.sql.tables import Instant
from dox_core_store.server.domain.ledger import Action, Entry, Status, parse_canonical

__all__ = ["Postings"]

_GET, _GRANTED = str(Action.GET), str(Status.GRANTED)
_CATCH_UP_BLOCKS = 2_000
_ROWS_PER_STEP = 25
"""Each row dirties a page of its own: a step stays in the low milliseconds."""

_encode = msgspec.json.encode


def _microseconds(timestamp: str) -> int:
    return Instant.microseconds(datetime.fromisoformat(timestamp))


def _terms(entries: Sequence[Entry]) -> Iterable[tuple[str, set[str]]]:
    """By kind, under which terms a search must find ``entries``. By position, since every read
    comes through here: an `Entry` is a tuple."""
    yield "s", {e[1] for e in entries}
    yield "k", {e[2] for e in entries}
    yield "a", {e[6] for e in entries}
    yield "t", {e[10] for e in entries if e[10] is not None}
    yield "n", {e[3] for e in entries if e[3] != _GET}
    yield "x", {e[4] for e in entries if e[4] != _GRANTED}


def _parts(rows: list[list[Any]]) -> Iterator[list[list[Any]]]:
    return (rows[at : at + _ROWS_PER_STEP] for at in range(0, len(rows), _ROWS_PER_STEP))


class Postings:
    """Collects terms and writes them. Lives in the writer's thread."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._blocks: dict[tuple[str, str], list[int]] = {}
        self._reads: dict[tuple[str, str | None], str] = {}
        self._known = 0
        self._top = 0
        self.cursor = self._stored_cursor()

    def add(self, block_id: int, entries: Sequence[Entry]) -> None:
        """Note the terms of a block just committed."""
        blocks = self._blocks
        for kind, names in _terms(entries):
            for name in names:
                ids = blocks.get((kind, name))
                if ids is None:
                    blocks[kind, name] = [block_id]
                else:
                    ids.append(block_id)
        self._reads.update(
            {(e[2], e[8]): e[0] for e in entries if e[4] == _GRANTED and e[3] == _GET}
        )
        self._known += 1
        self._top = block_id

    def flush(self) -> Iterator[None]:
        """Write what was collected, a short transaction at each step, so that commits of the
        ledger come between. Done, or given up by a fault, it leaves the cursor at a place from
        which `catch_up` makes the rest good."""
        blocks, reads, known, top = self._blocks, self._reads, self._known, self._top
        self._blocks, self._reads, self._known = {}, {}, 0
        if known == 0:
            return
        if top - self.cursor != known:  # another process wrote blocks between ours
            yield from self.catch_up()
        else:
            yield from self._write(blocks, reads, top)

    def catch_up(self) -> Iterator[None]:
        """Index every block behind the cursor, some at a time."""
        while True:
            rows = self._connection.exec_driver_sql(
                "SELECT block_id, body FROM ledger_block WHERE block_id > ?"
                " ORDER BY block_id LIMIT ?",
                (self.cursor, _CATCH_UP_BLOCKS),
            ).all()
            if not rows:
                return
            behind = Postings(self._connection)
            for block_id, body in rows:
                behind.add(block_id, [parse_canonical(line)[0] for line in body.split(b"\n")])
            yield from self._write(behind._blocks, behind._reads, rows[-1][0])

    def _write(
        self,
        blocks: dict[tuple[str, str], list[int]],
        reads: dict[tuple[str, str | None], str],
        top: int,
    ) -> Iterator[None]:
        postings = [[kind, term, ids[0], ids] for (kind, term), ids in sorted(blocks.items())]
        for part in _parts(postings):
            # Fed as JSON to one statement: rows are bound without taking the GIL for each.
            self._commit(
                "INSERT OR REPLACE INTO ledger_posting (kind, term, first_block, blocks)"
                " SELECT value ->> 0, value ->> 1, value ->> 2, value -> 3 FROM json_each(?)",
                _encode(part).decode(),
            )
            yield
        last = sorted(
            [path.removesuffix(f".{environment}"), environment, _microseconds(at)]
            for (path, environment), at in reads.items()
            if environment is not None
        )
        for part in _parts(last):
            self._commit(
                "INSERT INTO key_read (path, environment, last_read_at)"
                " SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE true"
                " ON CONFLICT (path, environment) DO UPDATE SET last_read_at ="
                " max(last_read_at, excluded.last_read_at)",
                _encode(part).decode(),
            )
            yield
        self._commit(
            "INSERT OR REPLACE INTO ledger_cursor (name, block_id) VALUES ('postings', ?)", top
        )
        self.cursor = top

    def _commit(self, statement: str, parameter: str | int) -> None:
        self._connection.exec_driver_sql(statement, (parameter,))  # autocommit: a transaction each

    def _stored_cursor(self) -> int:
        row = self._connection.exec_driver_sql(
            "SELECT block_id FROM ledger_cursor WHERE name = 'postings'"
        ).first()
        return int(row[0]) if row is not None else 0
