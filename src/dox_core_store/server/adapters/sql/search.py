"""Searching and exporting the ledger.

A search walks blocks from the newest back: those not indexed yet, then those that the postings of
the terms have in common. Whether a block holds the bytes of every term is asked of the database,
line by line then of what it returns; only lines that may match are decoded, and their fields alone
decide (`search_match`). So the index and the bytes only ever narrow.

A page takes no longer than `_PAGE_SECONDS`, whatever it finds: where little matches it ends with
fewer entries than asked for, or none, and says where to go on. The walk is then taken up there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import sqlalchemy as sa

from dox_core_store.errors import InvalidRequestError
from dox_core_store.server.adapters.sql.block_times import BlockTimes
from dox_core_store.server.adapters.sql.block_walk import next_blocks
from dox_core_store.server.adapters.sql.driver import Driver, worded
from dox_core_store.server.adapters.sql.posting_lists import PostingList, in_common
from dox_core_store.server.adapters.sql.postings import CHUNK_BLOCKS, LATE
from dox_core_store.server.adapters.sql.search_match import (
    Needle,
    line_test,
    matches,
    needles_of,
    spellings,
)
from dox_core_store.server.domain.ledger import Action, Entry, Status, link, parse_canonical
from dox_core_store.server.ports import LedgerFilter, StoredEntry

__all__ = ["Block", "LedgerSearch", "decode_block"]

_PAGE_SECONDS = 0.05
"""After this a page ends; what stands around it (HTTP, the record of the search) takes the rest of
the 100 ms that a page may take."""

_STRETCH_BLOCKS = 32
"""Blocks that are asked for at once where no index leads to them."""

_MOST_TERMS = 4_000
"""Keys of one prefix; they are looked up for each page. More than that are read so often that
walking all blocks finds them."""

_SELECT = "SELECT block_id, stream, prev, head, body FROM ledger_block"
_HOLDS = {"sqlite": " AND instr(body, ?)", "postgresql": " AND position(? in body) > 0"}
_CURSOR = re.compile(r"([0-9]{1,18})\.([0-9]{1,9})", re.ASCII)
"""Block and place; both fit integers of 64 bits."""


class Block(NamedTuple):
    block_id: int
    stream: str
    prev: bytes
    head: bytes
    body: bytes


class _Range(NamedTuple):
    """Blocks to look at, both ends included; none if ``low`` is above ``high``. Everything above
    is done."""

    low: int
    high: int


def decode_block(block: Block) -> list[StoredEntry]:
    """The entries of a block, in order, each with its hash recomputed; the last one with the hash
    that is stored, so that whoever checks the entries finds what was changed."""
    return _decoded(block, lambda _line: True, lambda _entry: True)


class LedgerSearch:
    """Searches over one connection. ``environments`` complete a key path named without one."""

    def __init__(
        self,
        *,
        connection: sa.Connection,
        environments: frozenset[str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._driver = Driver(connection)
        self._times = BlockTimes(self._driver)
        self._environments = environments
        self._monotonic = monotonic

    def page(
        self, wanted: LedgerFilter, before: str | None, limit: int
    ) -> tuple[list[StoredEntry], str | None]:
        """See `LedgerReader.search`."""
        until = self._monotonic() + _PAGE_SECONDS
        high, place = _position(before)
        needles = needles_of(wanted, self._environments)
        is_candidate = line_test(wanted, needles)
        found: list[StoredEntry] = []
        for part in self._ranges(wanted, high):
            for block in self._blocks(part, needles):
                hits = _decoded(block, is_candidate, lambda e: self._matches(e, wanted))
                for stored in reversed(hits):
                    if block.block_id == high and int(stored.cursor.partition(".")[2]) >= place:
                        continue
                    if len(found) == limit:
                        return found, found[-1].cursor
                    found.append(stored)
                if self._monotonic() > until:
                    return found, f"{block.block_id}.0"
            if self._monotonic() > until:
                return found, f"{min(part.low, part.high + 1)}.0"
        return found, None

    def export(self, after: int, blocks: int) -> tuple[list[StoredEntry], int]:
        """Every entry of the next ``blocks`` blocks after block ``after``, and the last one's
        id."""
        text = worded(
            self._driver.dialect,
            f"{_SELECT} WHERE block_id > ? AND block_id <= ? ORDER BY block_id LIMIT ?",
        )
        rows = next_blocks(
            self._connection, lambda top: self._driver.rows(text, (after, top, blocks)), after
        )
        found = [stored for row in rows for stored in decode_block(Block(*row))]
        return found, (rows[-1][0] if rows else after)

    def _matches(self, entry: Entry, wanted: LedgerFilter) -> bool:
        return matches(entry, wanted, self._environments)

    def _ranges(self, wanted: LedgerFilter, high: int) -> Iterator[_Range]:
        """What to look at, newest first."""
        low, top = self._times.bounds(wanted.since, wanted.until)
        if wanted.request_id is not None:
            low, top = self._times.of_request(wanted.request_id, low, top)
        indexed = self._indexed()
        high = min(high, self._times.top)
        if top < self._times.top:  # what was written late stands behind
            above = max(low, top + 1)
            yield from _stretches(max(above, indexed + 1), high)
            yield from _common([self._late()], above, min(high, indexed))
        high = min(high, top)
        yield from _stretches(max(low, indexed + 1), high)
        high = min(high, indexed)
        lists = self._lists(wanted, high) if low <= high else []
        yield from _common(lists, low, high) if lists else _stretches(low, high)

    def _late(self) -> PostingList:
        return PostingList.of(self._driver, "l", [LATE])

    def _indexed(self) -> int:
        rows = self._driver.rows("SELECT block_id FROM ledger_cursor WHERE name = 'postings'", ())
        return int(rows[0][0]) if rows else 0

    def _blocks(self, part: _Range, needles: list[Needle]) -> Iterator[Block]:
        """The blocks of ``part``, newest first, that may hold a needle of each filter."""
        if part.low > part.high:
            return
        # The database looks into the bodies: it needs no interpreter's lock for that, and each row
        # that it returns waits for one.
        holds = [needle.rough for needle in needles]
        dialect = self._driver.dialect
        text = (
            f"{_SELECT} WHERE block_id BETWEEN ? AND ?{_HOLDS[dialect.name] * len(holds)}"
            " ORDER BY block_id DESC"
        )
        rows = self._driver.rows(worded(dialect, text), (*part, *holds))
        for row in rows:
            yield Block(*row)

    def _lists(self, wanted: LedgerFilter, high: int) -> list[PostingList]:
        """Per filter that has an index, where to look; of a prefix only if it is narrow."""
        terms: list[tuple[str, list[str]]] = []
        if self._times.process is not None:
            terms.append(("p", [self._times.process]))
        if wanted.token_id is not None:
            terms.append(("t", [wanted.token_id]))
        if wanted.ip_address is not None:
            terms.append(("a", [wanted.ip_address]))
        if wanted.key_path is not None:
            terms.append(("k", spellings(wanted.key_path, self._environments)))
        if wanted.service_name is not None:
            terms.append(("s", [wanted.service_name]))
        if wanted.action not in (None, Action.GET):
            terms.append(("n", [str(wanted.action)]))
        if wanted.status not in (None, Status.GRANTED):
            terms.append(("x", [str(wanted.status)]))
        lists = [PostingList.of(self._driver, kind, names) for kind, names in terms]
        if wanted.prefix is not None:
            under = PostingList.under(
                self._driver, "k", wanted.prefix, _MOST_TERMS, high // CHUNK_BLOCKS
            )
            lists += [] if under is None else [under]
        return lists


def _common(lists: list[PostingList], low: int, high: int) -> Iterator[_Range]:
    """The blocks of the chunks that are in all of ``lists``, and how far the walk is."""
    if high < low:  # though they may be of one chunk
        return
    for chunk, is_common in in_common(lists, low // CHUNK_BLOCKS, high // CHUNK_BLOCKS):
        first, last = chunk * CHUNK_BLOCKS, (chunk + 1) * CHUNK_BLOCKS - 1
        if is_common:
            yield _Range(max(low, first), min(high, last))
        else:
            yield _Range(last + 1, last)


def _stretches(low: int, high: int) -> Iterator[_Range]:
    while high >= low:
        first = max(low, high - _STRETCH_BLOCKS + 1)
        yield _Range(first, high)
        high = first - 1


def _decoded(
    block: Block, is_candidate: Callable[[bytes], bool], matches: Callable[[Entry], bool]
) -> list[StoredEntry]:
    """The entries of ``block`` that match, in order. Hashes are made up to the last of them."""
    lines = block.body.split(b"\n")
    hits: dict[int, tuple[Entry, int, str]] = {}
    for place, line in enumerate(lines):
        if is_candidate(line):
            parsed = parse_canonical(line)
            if matches(parsed[0]):
                hits[place] = parsed
    if not hits:
        return []
    found, prev, last = [], block.prev, max(hits)
    for place, line in enumerate(lines[: last + 1]):
        head = link(prev, line)
        if place in hits:
            found.append(StoredEntry(*hits[place], prev, head, f"{block.block_id}.{place}"))
        prev = head
    if last == len(lines) - 1:
        found[-1] = found[-1]._replace(hash=block.head)
    return found


def _position(cursor: str | None) -> tuple[int, int]:
    """The newest block to look at, and the place in it before which to go on."""
    if cursor is None:
        return 2**62, 0
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InvalidRequestError("invalid_parameter", "cursor is not one of ours.")
    block, place = int(match[1]), int(match[2])
    return (block, place) if place else (block - 1, 2**62)
