"""Searching and exporting the ledger.

A search walks blocks from the newest back: those not indexed yet one by one, then those that the
postings of the terms have in common. Blocks are decoded and filtered entry by entry,
so the index only ever narrows and never decides. A page scans a bounded number of blocks and says
where to go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from dox_core_store.errors import InvalidRequestError
from dox_core_store.server.adapters.sql.postings import CHUNK_BLOCKS
from dox_core_store.server.adapters.sql.tables import Instant
from dox_core_store.server.adapters.sql.transaction import timestamp
from dox_core_store.server.domain.ledger import Action, Entry, Status, link, parse_canonical
from dox_core_store.server.ports import LedgerFilter, StoredEntry

__all__ = ["Block", "LedgerSearch", "decode_block"]

_SCAN_BLOCKS = 5_000
"""How many blocks one page reads at most before it hands back a cursor."""


_SLACK_MICROSECONDS = 10_000_000
"""Blocks are stored in order of time, give or take what waits for one commit."""


_CURSOR = re.compile(r"([0-9]{1,18})\.([0-9]{1,9})", re.ASCII)
"""Block and place; both fit SQLite's 64-bit integers."""


class Block(NamedTuple):
    block_id: int
    stream: str
    prev: bytes
    head: bytes
    body: bytes


def decode_block(block: Block) -> list[StoredEntry]:
    """The entries of a block, in order, each with its hash recomputed; the last one with the hash
    that is stored, so that whoever checks the entries finds what was changed."""
    found, prev = [], block.prev
    for place, line in enumerate(block.body.split(b"\n")):
        entry, seq, stream = parse_canonical(line)
        head = link(prev, line)
        found.append(StoredEntry(entry, seq, stream, prev, head, f"{block.block_id}.{place}"))
        prev = head
    found[-1] = found[-1]._replace(hash=block.head)
    return found


class LedgerSearch:
    """Searches over one connection. ``environments`` complete a key path named without one."""

    def __init__(self, *, connection: sa.Connection, environments: frozenset[str]) -> None:
        self._run = connection.exec_driver_sql
        self._environments = environments

    def page(
        self, wanted: LedgerFilter, before: str | None, limit: int
    ) -> tuple[list[StoredEntry], str | None]:
        """See `LedgerReader.search`."""
        at, place = _position(before)
        found: list[StoredEntry] = []
        scanned = 0
        wanted_bytes = _needles(wanted, self._environments)
        for block in self._blocks(wanted, at):
            if scanned >= _SCAN_BLOCKS:
                return found, f"{block.block_id + 1}.0"
            scanned += 1
            if not all(any(each in block.body for each in needles) for needles in wanted_bytes):
                continue
            for stored in reversed(decode_block(block)):
                index = int(stored.cursor.partition(".")[2])
                if block.block_id == at and index >= place:
                    continue
                if _matches(stored.entry, wanted, self._environments):
                    if len(found) == limit:
                        return found, found[-1].cursor
                    found.append(stored)
        return found, None

    def export(self, after: int, blocks: int) -> tuple[list[StoredEntry], int]:
        """Every entry of the next ``blocks`` blocks after block ``after``, and the last one's
        id."""
        rows = self._run(
            "SELECT block_id, stream, prev, head, body FROM ledger_block WHERE block_id > ?"
            " ORDER BY block_id LIMIT ?",
            (after, blocks),
        ).all()
        found = [stored for row in rows for stored in decode_block(Block(*row))]
        return found, (rows[-1][0] if rows else after)

    def _blocks(self, wanted: LedgerFilter, at: int) -> Iterator[Block]:
        low, high = self._bounds(wanted)
        high = min(high, at)
        indexed = self._run("SELECT block_id FROM ledger_cursor WHERE name = 'postings'").scalar()
        for row in self._run(
            "SELECT block_id, stream, prev, head, body FROM ledger_block"
            " WHERE block_id > ? AND block_id >= ? AND block_id <= ? ORDER BY block_id DESC",
            (indexed or 0, low, high),
        ):
            yield Block(*row)
        high = min(high, indexed or 0)
        terms = self._terms(wanted)
        if not terms:
            yield from self._stretch(low, high)
            return
        postings = [self._postings(kind, names, low, high) for kind, names in terms]
        for chunk in _common(postings):
            first = chunk * CHUNK_BLOCKS
            yield from self._stretch(max(low, first), min(high, first + CHUNK_BLOCKS - 1))

    def _stretch(self, low: int, high: int) -> Iterator[Block]:
        for row in self._run(
            "SELECT block_id, stream, prev, head, body FROM ledger_block"
            " WHERE block_id BETWEEN ? AND ? ORDER BY block_id DESC",
            (low, high),
        ):
            yield Block(*row)

    def _bounds(self, wanted: LedgerFilter) -> tuple[int, int]:
        """The blocks that may hold the wanted times. Blocks are stored in order of time, give or
        take what waits for one commit, hence the slack."""
        low, high = 0, 2**62
        if wanted.since is not None:
            low = self._first_at_or_after(Instant.microseconds(wanted.since) - _SLACK_MICROSECONDS)
        if wanted.until is not None:
            until = Instant.microseconds(wanted.until) + _SLACK_MICROSECONDS
            high = self._first_at_or_after(until + 1) - 1
        return low, high

    def _first_at_or_after(self, at: int) -> int:
        """The first block of time ``at`` or later, by bisection: ids rise with time."""
        low, high = 1, (self._run("SELECT max(block_id) FROM ledger_block").scalar() or 0) + 1
        while low < high:
            middle = (low + high) // 2
            row = self._run(
                "SELECT block_id, first_at FROM ledger_block WHERE block_id >= ?"
                " ORDER BY block_id LIMIT 1",
                (middle,),
            ).first()
            if row is None or row[1] >= at:
                high = middle
            else:
                low = row[0] + 1
        return low

    def _terms(self, wanted: LedgerFilter) -> list[tuple[str, list[tuple[str, str]]]]:
        """Per kind, the ranges of terms (from, to; inclusive) of which a block needs one."""
        terms: list[tuple[str, list[tuple[str, str]]]] = []
        if wanted.service_name is not None:
            terms.append(("s", [(wanted.service_name, wanted.service_name)]))
        if wanted.key_path is not None:
            paths = _spellings(wanted.key_path, self._environments)
            terms.append(("k", [(path, path) for path in paths]))
        if wanted.prefix is not None:
            terms.append(
                ("k", [(wanted.prefix, wanted.prefix), (f"{wanted.prefix}.", f"{wanted.prefix}.~")])
            )
        if wanted.token_id is not None:
            terms.append(("t", [(wanted.token_id, wanted.token_id)]))
        if wanted.ip_address is not None:
            terms.append(("a", [(wanted.ip_address, wanted.ip_address)]))
        if wanted.action not in (None, Action.GET):
            terms.append(("n", [(str(wanted.action), str(wanted.action))]))
        if wanted.status not in (None, Status.GRANTED):
            terms.append(("x", [(str(wanted.status), str(wanted.status))]))
        return terms

    def _postings(self, kind: str, ranges: list[tuple[str, str]], low: int, high: int) -> list[int]:
        """The chunks under any of the terms, newest first."""
        chunks: set[int] = set()
        low, high = low // CHUNK_BLOCKS, high // CHUNK_BLOCKS
        for first, last in ranges:
            rows = self._run(
                "SELECT chunks FROM ledger_posting WHERE kind = ? AND term BETWEEN ? AND ?"
                " AND first_chunk <= ?",
                (kind, first, last, high),
            )
            for (packed,) in rows:
                chunks.update(each for each in msgspec.json.decode(packed) if low <= each <= high)
        return sorted(chunks, reverse=True)


def _common(postings: list[list[int]]) -> Iterator[int]:
    postings.sort(key=len)
    others = [frozenset(ids) for ids in postings[1:]]
    return (chunk for chunk in postings[0] if all(chunk in ids for ids in others))


def _position(cursor: str | None) -> tuple[int, int]:
    if cursor is None:
        return 2**62, 0
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InvalidRequestError("invalid_parameter", "cursor is not one of ours.")
    return int(match[1]), int(match[2])


def _spellings(path: str, environments: frozenset[str]) -> list[str]:
    """How entries may name the key ``path``: with its environment, as asked, or in each one."""
    if path.rpartition(".")[2] in environments:
        return [path]
    return [path, *(f"{path}.{environment}" for environment in sorted(environments))]


def _needles(wanted: LedgerFilter, environments: frozenset[str]) -> list[list[bytes]]:
    """Per filter, bytes of which a block's body must contain one: far cheaper than decoding it."""
    exact = (wanted.service_name, wanted.action, wanted.status, wanted.token_id,
             wanted.ip_address, wanted.request_id)  # fmt: skip
    needles = [[msgspec.json.encode(each)] for each in exact if each is not None]
    if wanted.key_path is not None:
        paths = _spellings(wanted.key_path, environments)
        needles.append([msgspec.json.encode(path) for path in paths])
    if wanted.prefix is not None:
        needles.append([msgspec.json.encode(wanted.prefix)[:-1]])
    return needles


def _matches(entry: Entry, wanted: LedgerFilter, environments: frozenset[str]) -> bool:
    path = entry.key_path
    return (
        wanted.service_name in (None, entry.service_name)
        and wanted.environment in (None, entry.environment)
        and wanted.action in (None, entry.action)
        and wanted.status in (None, entry.status)
        and wanted.token_id in (None, entry.token_id)
        and wanted.ip_address in (None, entry.ip_address)
        and wanted.request_id in (None, entry.request_id)
        and (wanted.key_path is None or path in _spellings(wanted.key_path, environments))
        and (wanted.prefix is None or path == wanted.prefix or path.startswith(f"{wanted.prefix}."))
        and (wanted.since is None or entry.timestamp >= timestamp(wanted.since))
        and (wanted.until is None or entry.timestamp <= timestamp(wanted.until))
    )
