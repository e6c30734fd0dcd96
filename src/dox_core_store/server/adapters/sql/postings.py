"""The ledger's search index, built behind the writes.

For each (kind, term), the list of chunks that hold it; a chunk is `CHUNK_BLOCKS` consecutive
blocks. Inline indexes with random keys would cost the door more than the ledger itself; here the
terms of some seconds of traffic are collected in memory, once a chunk, and written in sorted order.
A crash loses nothing: `catch_up` rebuilds from the blocks behind the cursor, and a search reads
blocks that are not indexed yet one by one.

Kinds: ``s`` service, ``k`` key path, ``t`` token, ``a`` address, ``n`` action other than GET,
``x`` status other than GRANTED; ``l`` has one term, `LATE`: chunks with an entry that was written
long after its time (folded refusals, what was kept while the disk was full).

Derived in the same way: when a token was last seen (``token_use``: whatever was answered), and when
a service was last handed a key by a call of its own (``service_call``: refreshes in the background
do not show that anybody needs the key).

The writer's thread holds the interpreter's lock while it is here, so a commit only leaves its
entries behind, and what they say is looked at once a chunk.
"""

from __future__ import annotations

import functools
import heapq
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from dox_core_store.server.adapters.sql.tables import Instant
from dox_core_store.server.domain.ledger import Action, Entry, Status, parse_canonical

__all__ = ["CHUNK_BLOCKS", "LATE", "LATE_SECONDS", "Postings"]

CHUNK_BLOCKS = 16
"""What a search reads for a hit, against what the writer notes for every read."""

LATE = "late"
LATE_SECONDS = 10.0
"""How long after its time an entry may be written without being late."""

_LATE_MICROSECONDS = int(LATE_SECONDS * 1e6)
_GET, _GRANTED, _CALL = str(Action.GET), str(Status.GRANTED), "call"
_CATCH_UP_BLOCKS = 2_000
_ROWS_PER_STEP = 25
_MOST_ROWS_PER_STEP = 800
_STEP_SECONDS = 0.002
"""Rows that lie far apart dirty a page each, neighbours share one: a step that took less than this
is followed by a longer one, one that took more by a shorter one."""

_SORTED_PER_STEP = 2_000
"""What is put in order at once: hundreds of thousands of terms would stop all reads for long."""

_encode = msgspec.json.encode
_TIME = operator.itemgetter(0)
Item = TypeVar("Item", str, tuple[str, str])
Calls = dict[tuple[str, str], str]
"""By path (written out with its environment) and service."""


@functools.lru_cache(maxsize=16_384)
def _microseconds(timestamp: str) -> int:
    """Of some seconds of traffic, most of whose milliseconds come again."""
    return Instant.microseconds(datetime.fromisoformat(timestamp))


def _is_service(name: str) -> bool:
    """Operators and local users have a kind before their name."""
    return ":" not in name


def _ordered(items: Iterable[Item]) -> Iterator[Iterator[Item] | None]:
    """Put ``items`` in order, some at each step; the last step is the whole, as an iterator."""
    runs, source = [], iter(items)
    while run := sorted(islice(source, _SORTED_PER_STEP)):
        runs.append(run)
        yield None
    yield heapq.merge(*runs)


class Postings:
    """Collects terms and writes them. Lives in the writer's thread."""

    def __init__(
        self, connection: sa.Connection, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self._rows = _ROWS_PER_STEP
        self._is_writing = False
        self._chunks: dict[tuple[str, str], list[int]] = {}
        self._chunk = -1
        self._entries: list[Entry] = []
        self._blocks: list[tuple[int, int]] = []
        """Of the chunk's blocks: where their entries end, and when they were committed."""
        self._newest = ""
        self._uses: dict[str, str] = {}
        self._calls: Calls = {}
        self._known = 0
        self._top = 0
        self.cursor = self._stored_cursor()

    def add(self, block_id: int, entries: Sequence[Entry], at: int) -> None:
        """Note the terms of a block, committed ``at`` (microseconds since 1970)."""
        chunk = block_id // CHUNK_BLOCKS
        if chunk != self._chunk:
            self._close_chunk()
            self._chunk = chunk
        self._entries += entries
        self._blocks.append((len(self._entries), at))
        self._known += 1
        self._top = block_id

    def _close_chunk(self) -> None:
        # By position, since every read comes through here: an `Entry` is a tuple.
        entries = self._entries
        if not entries:
            return
        calls = {
            (e[2], e[1]): e[0]
            for e in entries
            if e[4] == _GRANTED and e[3] == _GET and e[12] == _CALL
        }
        uses = {e[10]: e[0] for e in entries if e[10] is not None}
        times = [e[0] for e in entries]
        if times[0] < self._newest or times != sorted(times):
            calls, uses = self._latest(entries)
        self._newest = max(self._newest, *times)
        self._calls.update(calls)
        self._uses.update(uses)
        self._note("k", {e[2] for e in entries})
        self._note("s", {e[1] for e in entries})
        self._note("a", {e[6] for e in entries})
        self._note("t", uses)
        self._note("n", {e[3] for e in entries if e[3] != _GET})
        self._note("x", {e[4] for e in entries if e[4] != _GRANTED})
        if self._is_late(times):
            self._note("l", (LATE,))
        self._entries, self._blocks, self._chunk = [], [], -1

    def _note(self, kind: str, names: Iterable[str]) -> None:
        chunks, chunk = self._chunks, self._chunk
        for name in names:
            ids = chunks.get((kind, name))
            if ids is None:
                chunks[kind, name] = [chunk]
            else:
                ids.append(chunk)

    def _latest(self, entries: Sequence[Entry]) -> tuple[Calls, dict[str, str]]:
        """Calls and uses of entries that are not in order of time, also with what is known."""
        calls, uses = Calls(), dict[str, str]()
        for e in sorted(entries, key=_TIME):
            if e[10] is not None:
                uses[e[10]] = max(e[0], self._uses.get(e[10], ""))
            if e[4] == _GRANTED and e[3] == _GET and e[12] == _CALL:
                calls[e[2], e[1]] = max(e[0], self._calls.get((e[2], e[1]), ""))
        return calls, uses

    def _is_late(self, times: Sequence[str]) -> bool:
        """Whether one of the chunk's entries was written long after its time."""
        if self._blocks[-1][1] - _microseconds(min(times)) <= _LATE_MICROSECONDS:
            return False
        begin = 0
        for end, at in self._blocks:
            if at - _microseconds(min(times[begin:end])) > _LATE_MICROSECONDS:
                return True
            begin = end
        return False

    def flush(self) -> Iterator[None]:
        """Write what was collected, a short transaction at each step, so that commits of the
        ledger come between. Done, or given up by a fault, it leaves the cursor at a place from
        which `catch_up` makes the rest good. While one is under way, another does nothing."""
        if self._is_writing:
            return
        self._is_writing = True
        try:
            yield from self._flush()
        finally:
            self._is_writing = False

    def _flush(self) -> Iterator[None]:
        self._close_chunk()
        chunks, uses, calls = self._chunks, self._uses, self._calls
        known, top = self._known, self._top
        self._chunks, self._uses, self._calls, self._known = {}, {}, {}, 0
        if known == 0:
            return
        if top - self.cursor != known:  # another process wrote blocks between ours
            yield from self.catch_up()
        else:
            yield from self._write(chunks, uses, calls, top)

    def catch_up(self) -> Iterator[None]:
        """Index every block behind the cursor, some at a time."""
        while True:
            rows = self._connection.exec_driver_sql(
                "SELECT block_id, first_at, body FROM ledger_block WHERE block_id > ?"
                " ORDER BY block_id LIMIT ?",
                (self.cursor, _CATCH_UP_BLOCKS),
            ).all()
            if not rows:
                return
            behind = Postings(self._connection)
            for block_id, at, body in rows:
                entries = [parse_canonical(line)[0] for line in body.split(b"\n")]
                behind.add(block_id, entries, at)
            behind._close_chunk()
            yield from self._write(behind._chunks, behind._uses, behind._calls, rows[-1][0])

    def _write(
        self,
        chunks: dict[tuple[str, str], list[int]],
        uses: dict[str, str],
        calls: Calls,
        top: int,
    ) -> Iterator[None]:
        # Fed as JSON to one statement: rows are bound without taking the GIL for each.
        yield from self._write_rows(
            "INSERT OR REPLACE INTO ledger_posting (kind, term, first_chunk, chunks)"
            " SELECT value ->> 0, value ->> 1, value ->> 2, value -> 3 FROM json_each(?)",
            chunks,
            lambda name: [*name, chunks[name][0], chunks[name]],
        )
        yield from self._write_rows(
            "INSERT INTO token_use (token_id, last_used_at)"
            " SELECT value ->> 0, value ->> 1 FROM json_each(?) WHERE true"
            " ON CONFLICT (token_id) DO UPDATE SET last_used_at ="
            " max(last_used_at, excluded.last_used_at)",
            uses,
            lambda token_id: [token_id, _microseconds(uses[token_id])],
        )
        yield from self._write_rows(
            "INSERT INTO service_call (path, environment, service, last_called_at)"
            " SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)"
            " WHERE true ON CONFLICT (path, environment, service) DO UPDATE SET last_called_at ="
            " max(last_called_at, excluded.last_called_at)",
            [call for call in calls if _is_service(call[1]) and "." in call[0]],
            lambda call: [*call[0].rsplit(".", 1), call[1], _microseconds(calls[call])],
        )
        self._commit(
            "INSERT OR REPLACE INTO ledger_cursor (name, block_id) VALUES ('postings', ?)", top
        )
        self.cursor = top

    def _write_rows(
        self, statement: str, names: Iterable[Item], row: Callable[[Item], list[Any]]
    ) -> Iterator[None]:
        """The rows of ``names``, in their order: neighbours in the table are written together."""
        ordered: Iterator[Item] = iter(())
        for each in _ordered(names):
            ordered = each or ordered
            yield
        while part := [row(name) for name in islice(ordered, self._rows)]:
            began = self._monotonic()
            self._commit(statement, _encode(part).decode())
            if self._monotonic() - began < _STEP_SECONDS:
                self._rows = min(self._rows * 2, _MOST_ROWS_PER_STEP)
            else:
                self._rows = max(self._rows // 2, _ROWS_PER_STEP)
            yield

    def _commit(self, statement: str, parameter: str | int) -> None:
        self._connection.exec_driver_sql(statement, (parameter,))  # autocommit: a transaction each

    def _stored_cursor(self) -> int:
        row = self._connection.exec_driver_sql(
            "SELECT block_id FROM ledger_cursor WHERE name = 'postings'"
        ).first()
        return int(row[0]) if row is not None else 0
