"""Walking the search index from the newest chunk down.

`postings` writes, for each term and each ten seconds of traffic, a row with the chunks that hold
the term; rows of one term do not overlap but at a shared chunk. So the next chunk at or below a
place is found by one step into the primary key, whatever the size of the ledger, and what several
terms have in common by stepping each of them to where the others are: nothing is loaded that a page
does not come to.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from dox_core_store.server.adapters.sql.driver import Driver, worded
from dox_core_store.server.adapters.sql.posting_writes import indexable

__all__ = ["PostingList", "Step", "in_common", "lowest_chunk"]

_ROWS = 8
"""How many rows of a term are read at once: a rare one has a chunk in each."""

_BELOW = (
    "SELECT chunks FROM ledger_posting WHERE kind = ? AND term = ? AND first_chunk <= ?"
    " ORDER BY first_chunk DESC LIMIT ?"
)
_LOWEST = (
    "SELECT first_chunk FROM ledger_posting WHERE kind = ? AND term = ?"
    " ORDER BY first_chunk LIMIT 1"
)
_BELOW_EACH = (
    "SELECT coalesce(json_agg(json_build_array(wanted.term, (SELECT json_agg(chunks::json) FROM ("
    " SELECT chunks FROM ledger_posting AS here WHERE here.kind = %s AND here.term = wanted.term"
    " AND first_chunk <= %s ORDER BY first_chunk DESC LIMIT %s) AS found)))::text, '[]')"
    " FROM unnest(%s::text[]) AS wanted (term)"
)
"""The same for many terms, where each question is a way there and back."""

# Steps into the index for each term, not one for each row. One row is answered: behind a busy event
# loop each row that is fetched waits for the interpreter's lock.
_UNDER = {
    "sqlite": (
        "WITH RECURSIVE under (term) AS ("
        " SELECT (SELECT term FROM ledger_posting WHERE kind = ?1 AND term >= ?2 AND term < ?3"
        " ORDER BY kind, term LIMIT 1)"
        " UNION ALL SELECT (SELECT term FROM ledger_posting WHERE kind = ?1 AND term > under.term"
        " AND term < ?3 ORDER BY kind, term LIMIT 1)"
        " FROM under WHERE under.term IS NOT NULL LIMIT ?4)"
        " SELECT json_group_array(json_array(under.term, ("
        " SELECT json(chunks) FROM ledger_posting AS here WHERE here.kind = ?1"
        " AND here.term = under.term AND first_chunk <= ?5 ORDER BY first_chunk DESC LIMIT 1)))"
        " FROM under WHERE under.term IS NOT NULL"
    ),
    "postgresql": (
        "WITH RECURSIVE under (term) AS ("
        " SELECT (SELECT term FROM ledger_posting WHERE kind = %(kind)s AND term >= %(low)s"
        " AND term < %(high)s ORDER BY kind, term LIMIT 1)"
        " UNION ALL SELECT (SELECT term FROM ledger_posting WHERE kind = %(kind)s"
        " AND term > under.term AND term < %(high)s ORDER BY kind, term LIMIT 1)"
        " FROM under WHERE under.term IS NOT NULL),"
        " found AS MATERIALIZED ("
        " SELECT term FROM under WHERE term IS NOT NULL LIMIT %(most)s)"
        # If they are too many, nobody asks where they are.
        " SELECT CASE WHEN (SELECT count(*) FROM found) < %(most)s THEN coalesce((SELECT"
        " json_agg(json_build_array(found.term, (SELECT chunks::json FROM ledger_posting AS here"
        " WHERE here.kind = %(kind)s AND here.term = found.term AND first_chunk <= %(chunk)s"
        " ORDER BY first_chunk DESC LIMIT 1))) FROM found)::text, '[]') END"
    ),
}


class _Term:
    """One term, stepped downwards. ``chunks`` are those that are known; None: none are."""

    __slots__ = ("_chunks", "_driver", "_is_read", "_kind", "_term")

    def __init__(
        self, driver: Driver, kind: str, term: str, chunks: list[int] | None = None
    ) -> None:
        self._driver = driver
        self._kind = kind
        self._term = term
        self._chunks = chunks or []
        self._is_read = False

    @property
    def name(self) -> str:
        return self._term

    def at_or_below(self, chunk: int) -> int | None:
        if self.has_to_load(chunk):
            text = worded(self._driver.dialect, _BELOW)
            rows = self._driver.rows(text, (self._kind, self._term, chunk, _ROWS))
            self.take([msgspec.json.decode(row) for (row,) in rows])
        place = bisect_right(self._chunks, chunk)
        del self._chunks[place:]  # what is above is not asked for again
        return self._chunks[-1] if place else None

    def has_to_load(self, chunk: int) -> bool:
        """Whether what is known says nothing of ``chunk``."""
        return not self._is_read and bisect_right(self._chunks, chunk) == 0

    def take(self, rows: Sequence[list[int]]) -> None:
        """The chunks of the next rows."""
        self._is_read = len(rows) < _ROWS
        self._chunks = sorted({each for row in rows for each in row})


class PostingList:
    """The chunks that hold any of some terms, from the newest down."""

    def __init__(self, driver: Driver, kind: str, terms: Sequence[_Term]) -> None:
        self._driver = driver
        self._kind = kind
        self._terms = terms
        self._heap: list[tuple[int, int]] | None = None

    @classmethod
    def of(cls, driver: Driver, kind: str, terms: Iterable[str]) -> PostingList:
        """Of the ``terms`` named."""
        if driver.is_far:
            terms = {indexable(term) for term in terms}
        return cls(driver, kind, [_Term(driver, kind, term) for term in terms])

    @classmethod
    def under(
        cls, driver: Driver, kind: str, prefix: str, most: int, chunk: int
    ) -> PostingList | None:
        """Of ``prefix`` and the terms that go on from it with a dot, to be asked for ``chunk`` and
        what is below; None if they are more than ``most``."""
        # "/" is what follows "." in the order of bytes.
        if driver.is_far:
            prefix = indexable(prefix)
        given: dict[str, Any] = {
            "kind": kind,
            "low": f"{prefix}.",
            "high": f"{prefix}/",
            "most": most + 1,
            "chunk": chunk,
        }
        text = _UNDER[driver.dialect.name]
        ((packed,),) = driver.rows(text, given if driver.is_far else tuple(given.values()))
        if packed is None:
            return None
        found: list[tuple[str, list[int] | None]] = msgspec.json.decode(packed)
        if len(found) > most:
            return None
        below = [_Term(driver, kind, term, chunks) for term, chunks in found if chunks is not None]
        return cls(driver, kind, [_Term(driver, kind, prefix), *below])

    def at_or_below(self, chunk: int) -> int | None:
        """The greatest of them that is not above ``chunk``; asked for ever lower ones."""
        if self._heap is None:
            self._heap = []
            self._push(range(len(self._terms)), chunk)
        while self._heap and -self._heap[0][0] > chunk:
            due = []
            while self._heap and -self._heap[0][0] > chunk:
                due.append(heapq.heappop(self._heap)[1])
            self._push(due, chunk)
        return -self._heap[0][0] if self._heap else None

    def _push(self, indexes: Iterable[int], chunk: int) -> None:
        heap = self._heap = self._heap or []
        terms = [(index, self._terms[index]) for index in indexes]
        if self._driver.is_far:
            self._load([term for _, term in terms if term.has_to_load(chunk)], chunk)
        for index, term in terms:
            found = term.at_or_below(chunk)
            if found is not None:
                heapq.heappush(heap, (-found, index))

    def _load(self, terms: Sequence[_Term], chunk: int) -> None:
        if len(terms) > 1:
            named = {term.name: term for term in terms}
            ((packed,),) = self._driver.rows(_BELOW_EACH, (self._kind, chunk, _ROWS, list(named)))
            found: list[tuple[str, list[list[int]] | None]] = msgspec.json.decode(packed)
            for name, rows in found:
                named[name].take(rows or [])


class Step(NamedTuple):
    """How far down a walk has come: everything above ``chunk`` is done, and whether ``chunk`` is
    in all of the lists."""

    chunk: int
    is_common: bool


def lowest_chunk(driver: Driver, kind: str, term: str) -> int | None:
    """The first chunk of one term; None if it is in none."""
    rows = driver.rows(worded(driver.dialect, _LOWEST), (kind, term))
    return int(rows[0][0]) if rows else None


def in_common(lists: Sequence[PostingList], low: int, high: int) -> Iterator[Step]:
    """Walk down from ``high`` to ``low``. Every step is told, so that a walk that meets nothing
    can be ended in between too."""
    chunk = high
    while chunk >= low:
        common = True
        for each in lists:
            found = each.at_or_below(chunk)
            if found is None:
                return
            common = common and found == chunk
            chunk = found
        if chunk < low:
            return
        yield Step(chunk, common)
        chunk -= common
