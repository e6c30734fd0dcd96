"""The ledger's search index, built behind the writes.

For each (kind, term), the list of blocks that hold it. Inline indexes with random keys would cost
the door more than the ledger itself; here the terms of about a second of traffic are collected in
memory and written as one sorted statement. A crash loses nothing: `catch_up` rebuilds from the
blocks behind the cursor, and a search reads blocks that are not indexed yet one by one.

Kinds: ``s`` service, ``k`` key path, ``t`` token, ``a`` address, ``n`` action other than GET,
``x`` status other than GRANTED.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

import msgspec
import sqlalchemy as sa

from dox_core_store.server.adapters.sql.tables import Instant
from dox_core_store.server.domain.ledger import Action, Entry, Status, parse_canonical

__all__ = ["Postings", "terms_of"]

_CURSOR = "postings"
_CATCH_UP_BLOCKS = 2_000
_encode = msgspec.json.encode


def _microseconds(timestamp: str) -> int:
    return Instant.microseconds(datetime.fromisoformat(timestamp))


def terms_of(entry: Entry) -> Iterable[tuple[str, str]]:
    """Under which terms a search must find ``entry``."""
    yield "s", entry.service_name
    yield "k", entry.key_path
    yield "a", entry.ip_address
    if entry.token_id is not None:
        yield "t", entry.token_id
    if entry.action != Action.GET:
        yield "n", entry.action
    if entry.status != Status.GRANTED:
        yield "x", entry.status


class Postings:
    """Collects terms and writes them. Lives in the writer's thread."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._blocks: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._reads: dict[tuple[str, str], str] = {}
        self._known = 0
        self._top = 0
        self.cursor = self._stored_cursor()

    def add(self, block_id: int, entries: Iterable[Entry]) -> None:
        """Note the terms of a block just committed."""
        blocks = self._blocks
        for entry in entries:
            for term in terms_of(entry):
                ids = blocks[term]
                if not ids or ids[-1] != block_id:
                    ids.append(block_id)
            if entry.action == Action.GET and entry.status == Status.GRANTED:
                environment = entry.environment or ""
                path = entry.key_path.removesuffix(f".{environment}")
                self._reads[path, environment] = entry.timestamp
        self._known += 1
        self._top = block_id

    @property
    def dirty(self) -> bool:
        return self._known > 0

    def flush(self) -> None:
        """Write what was collected, in one transaction. A failure leaves it to `catch_up`."""
        blocks, reads, known, top = self._blocks, self._reads, self._known, self._top
        self._blocks, self._reads, self._known = defaultdict(list), {}, 0
        if known == 0:
            return
        if top - self.cursor != known:  # another process wrote blocks between ours
            self.catch_up()
            return
        self._write(blocks, reads, top)

    def catch_up(self) -> None:
        """Index every block behind the cursor, some at a time."""
        while True:
            rows = self._connection.exec_driver_sql(
                "SELECT block_id, body FROM ledger_block WHERE block_id > ?"
                f" ORDER BY block_id LIMIT {_CATCH_UP_BLOCKS}",
                (self.cursor,),
            ).all()
            if not rows:
                return
            for block_id, body in rows:
                self.add(block_id, (parse_canonical(line)[0] for line in body.split(b"\n")))
            blocks, reads = self._blocks, self._reads
            self._blocks, self._reads, self._known = defaultdict(list), {}, 0
            self._write(blocks, reads, rows[-1][0])

    def _write(
        self,
        blocks: dict[tuple[str, str], list[int]],
        reads: dict[tuple[str, str], str],
        top: int,
    ) -> None:
        run = self._connection.exec_driver_sql
        postings = [[kind, term, ids[0], ids] for (kind, term), ids in sorted(blocks.items())]
        last = [[path, name, _microseconds(at)] for (path, name), at in sorted(reads.items())]
        run("BEGIN IMMEDIATE")
        try:
            # One statement each, fed as JSON: the rows are bound without holding the GIL per row.
            run(
                "INSERT OR REPLACE INTO ledger_posting (kind, term, first_block, blocks)"
                " SELECT value ->> 0, value ->> 1, value ->> 2, value -> 3 FROM json_each(?)",
                (_encode(postings).decode(),),
            )
            run(
                "INSERT INTO key_read (path, environment, last_read_at)"
                " SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE true"
                " ON CONFLICT (path, environment) DO UPDATE SET last_read_at ="
                " max(last_read_at, excluded.last_read_at)",
                (_encode(last).decode(),),
            )
            run(
                "INSERT OR REPLACE INTO ledger_cursor (name, block_id) VALUES (?, ?)",
                (_CURSOR, top),
            )
            run("COMMIT")
        except BaseException:
            run("ROLLBACK")
            raise
        self.cursor = top

    def _stored_cursor(self) -> int:
        row = self._connection.exec_driver_sql(
            "SELECT block_id FROM ledger_cursor WHERE name = ?", (_CURSOR,)
        ).first()
        return int(row[0]) if row is not None else 0
