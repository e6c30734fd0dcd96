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
from typing import NamedTuple

import msgspec

from dox_core_store.server.adapters.sql.driver import Driver

__all__ = ["PostingList", "Step", "in_common"]

_ROWS = 8
"""How many rows of a term are read at once: a rare one has a chunk in each."""

_BELOW = (
    "SELECT chunks FROM ledger_posting WHERE kind = ? AND term = ? AND first_chunk <= ?"
    " ORDER BY first_chunk DESC LIMIT ?"
)
# Steps into the index for each term, not one for each row. One row is answered: behind a busy event
# loop each row that is fetched waits for the interpreter's lock.
_UNDER = (
    "WITH RECURSIVE under (term) AS ("
    " SELECT (SELECT term FROM ledger_posting WHERE kind = ?1 AND term >= ?2 AND term < ?3"
    " ORDER BY kind, term LIMIT 1)"
    " UNION ALL SELECT (SELECT term FROM ledger_posting WHERE kind = ?1 AND term > under.term"
    " AND term < ?3 ORDER BY kind, term LIMIT 1)"
    " FROM under WHERE under.term IS NOT NULL LIMIT ?4)"
    " SELECT json_group_array(json_array(under.term, ("
    " SELECT json(chunks) FROM ledger_posting AS row WHERE row.kind = ?1"
    " AND row.term = under.term AND first_chunk <= ?5 ORDER BY first_chunk DESC LIMIT 1)))"
    " FROM under WHERE under.term IS NOT NULL"
)


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

    def at_or_below(self, chunk: int) -> int | None:
        place = bisect_right(self._chunks, chunk)
        if place == 0 and not self._is_read:
            self._load(chunk)
            place = bisect_right(self._chunks, chunk)
        del self._chunks[place:]  # what is above is not asked for again
        return self._chunks[-1] if place else None

    def _load(self, chunk: int) -> None:
        rows = self._driver.rows(_BELOW, (self._kind, self._term, chunk, _ROWS))
        self._is_read = len(rows) < _ROWS
        self._chunks = sorted({each for (row,) in rows for each in msgspec.json.decode(row)})


class PostingList:
    """The chunks that hold any of some terms, from the newest down."""

    def __init__(self, terms: Sequence[_Term]) -> None:
        self._terms = terms
        self._heap: list[tuple[int, int]] | None = None

    @classmethod
    def of(cls, driver: Driver, kind: str, terms: Iterable[str]) -> PostingList:
        """Of the ``terms`` named."""
        return cls([_Term(driver, kind, term) for term in terms])

    @classmethod
    def under(
        cls, driver: Driver, kind: str, prefix: str, most: int, chunk: int
    ) -> PostingList | None:
        """Of ``prefix`` and the terms that go on from it with a dot, to be asked for ``chunk`` and
        what is below; None if they are more than ``most``."""
        # "/" is what follows "." in the order of bytes.
        given = (kind, f"{prefix}.", f"{prefix}/", most + 1, chunk)
        ((packed,),) = driver.rows(_UNDER, given)
        found: list[tuple[str, list[int] | None]] = msgspec.json.decode(packed)
        if len(found) > most:
            return None
        below = [_Term(driver, kind, term, chunks) for term, chunks in found if chunks is not None]
        return cls([_Term(driver, kind, prefix), *below])

    def at_or_below(self, chunk: int) -> int | None:
        """The greatest of them that is not above ``chunk``; asked for ever lower ones."""
        if self._heap is None:
            firsts = [(term.at_or_below(chunk), at) for at, term in enumerate(self._terms)]
            self._heap = [(-found, at) for found, at in firsts if found is not None]
            heapq.heapify(self._heap)
        while self._heap and -self._heap[0][0] > chunk:
            _, index = heapq.heappop(self._heap)
            found = self._terms[index].at_or_below(chunk)
            if found is not None:
                heapq.heappush(self._heap, (-found, index))
        return -self._heap[0][0] if self._heap else None


class Step(NamedTuple):
    """How far down a walk has come: everything above ``chunk`` is done, and whether ``chunk`` is
    in all of the lists."""

    chunk: int
    is_common: bool


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
