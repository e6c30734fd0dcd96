"""The ledger's search index, built behind the writes.

For each (kind, term), the list of chunks that hold it; a chunk is `CHUNK_BLOCKS` consecutive
blocks. Inline indexes with random keys would cost the door more than the ledger itself; here the
terms of some seconds of traffic are collected in memory, once a chunk, and written in sorted order.
A crash loses nothing: `catch_up` rebuilds from the blocks behind the cursor, and a search reads
blocks that are not indexed yet one by one.

Kinds: ``s`` service, ``k`` key path, ``t`` token, ``a`` address, ``n`` action other than GET,
``x`` status other than GRANTED; ``l`` has one term, `LATE`: chunks with an entry that was written
long after its time (folded refusals, what was kept while the disk was full). Where many nodes
write, ``p``: the process that took a request, by what the ids of its requests begin with.

Derived in the same way: when a token was last seen (``token_use``: whatever was answered), and when
a service last read a key by a call of its own (``service_call``: refreshes in the background do not
show that anybody needs the key; what its client reports to have answered from its cache does).

The writer's thread holds the interpreter's lock while it is here, so a commit only leaves its
entries behind, and what they say is looked at once a chunk.

On PostgreSQL one node at a time writes the index, and nothing depends on that being so: two that
begin at the same cursor write lists of which one is the beginning of the other, and the longer one
stays. Whoever has no block of another node behind the cursor writes what it remembers; a gap in the
ids is as good as another's block, and then all of them are read.
"""

from __future__ import annotations

import functools
import heapq
import operator
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from dox_core_store.server.adapters.sql.driver import worded
from dox_core_store.server.adapters.sql.horizon import settled_top
from dox_core_store.server.adapters.sql.posting_writes import POSTING_WRITES, indexable
from dox_core_store.server.adapters.sql.tables import Instant
from dox_core_store.server.domain.ledger import Action, Entry, Status, parse_canonical

__all__ = ["CHUNK_BLOCKS", "LATE", "LATE_SECONDS", "Postings"]

CHUNK_BLOCKS = 16
"""What a search reads for a hit, against what the writer notes for every read."""

LATE = "late"
LATE_SECONDS = 10.0
"""How long after its time an entry may be written without being late."""

_PROCESS = 16
"""What an id of a request begins with that names its process: ``req_`` and its 12 characters."""

_COUNTED = _PROCESS + 6
"""Ids that count have at least so many characters; those of commands and checkpoints have less."""

_LATE_MICROSECONDS = int(LATE_SECONDS * 1e6)
_GET, _GRANTED, _CALL = str(Action.GET), str(Status.GRANTED), "call"
_REPORTED = str(Status.REPORTED)
_CATCH_UP_BLOCKS = 2_000
_NONE = 2**63
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


_BEHIND = (
    "SELECT block_id, first_at, body FROM ledger_block WHERE block_id > ? AND block_id <= ?"
    " ORDER BY block_id LIMIT ?"
)


class Postings:
    """Collects terms and writes them. Lives in one thread; only `leave` is called on any."""

    def __init__(
        self, connection: sa.Connection, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self._is_shared = connection.dialect.name != "sqlite"
        self._words = POSTING_WRITES[connection.dialect.name]
        self._behind = worded(type(connection.dialect), _BEHIND)
        self._left: deque[tuple[int, Sequence[Entry], int]] = deque()
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
        self._lowest = _NONE
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
        self._top = max(self._top, block_id)
        self._lowest = min(self._lowest, block_id)

    def leave(self, block_id: int, entries: Sequence[Entry], at: int) -> None:
        """The same from another thread: it is looked at when the index is written."""
        self._left.append((block_id, entries, at))

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
        statuses = {e[4] for e in entries if e[4] != _GRANTED}
        times = [e[0] for e in entries]
        if _REPORTED in statuses or times[0] < self._newest or times != sorted(times):
            calls, uses = self._latest(entries)
        self._newest = max(self._newest, *times)
        self._calls.update(calls)
        self._uses.update(uses)
        self._note("k", {e[2] for e in entries})
        self._note("s", {e[1] for e in entries})
        self._note("a", {e[6] for e in entries})
        self._note("t", uses)
        self._note("n", {e[3] for e in entries if e[3] != _GET})
        self._note("x", statuses)
        if self._is_shared:
            self._note("p", {e[5][:_PROCESS] for e in entries if len(e[5]) >= _COUNTED})
        if self._is_late(times):
            self._note("l", (LATE,))
        self._entries, self._blocks, self._chunk = [], [], -1

    def _note(self, kind: str, names: Iterable[str]) -> None:
        chunks, chunk = self._chunks, self._chunk
        if self._is_shared:
            names = {indexable(name) for name in names}
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
            if e[3] == _GET and (e[4] == _REPORTED or (e[4] == _GRANTED and e[12] == _CALL)):
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
        left = sorted(self._left.popleft() for _ in range(len(self._left)))  # by their ids
        for number, block in enumerate(left):
            self.add(*block)
            if number % CHUNK_BLOCKS == 0:
                yield
        self._close_chunk()
        chunks, uses, calls = self._chunks, self._uses, self._calls
        known, top, lowest = self._known, self._top, self._lowest
        self._chunks, self._uses, self._calls, self._known = {}, {}, {}, 0
        self._lowest = _NONE
        if self._is_shared:  # another node may have gone on with it
            self.cursor = self._stored_cursor()
        elif known == 0:
            return
        if known and top - self.cursor == known and lowest > self.cursor:
            yield from self._write(chunks, uses, calls, top)
        else:  # another process wrote blocks between ours
            yield from self.catch_up()

    def catch_up(self) -> Iterator[None]:
        """Index every block behind the cursor that is settled now, some at a time."""
        top = settled_top(self._connection)
        while True:
            rows = self._connection.exec_driver_sql(
                self._behind, (self.cursor, top, _CATCH_UP_BLOCKS)
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
        words = self._words
        yield from self._write_rows(
            words.posting, chunks, lambda name: [*name, chunks[name][0], chunks[name]]
        )
        yield from self._write_rows(
            words.use,
            [each for each in uses if not self._is_shared or indexable(each) == each],
            lambda token_id: [token_id, _microseconds(uses[token_id])],
        )
        yield from self._write_rows(
            words.call,
            [call for call in calls if _is_service(call[1]) and "." in call[0]],
            lambda call: [*call[0].rsplit(".", 1), call[1], _microseconds(calls[call])],
        )
        self._commit(words.cursor, top)
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
