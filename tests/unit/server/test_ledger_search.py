"""What a search finds is what a look at every entry finds, however the index came to be."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.server.engines import Emptied, sqlite_engine

from dox_core_store.errors import InvalidRequestError
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.postings import CHUNK_BLOCKS, Postings
from dox_core_store.server.adapters.sql.search import LedgerSearch
from dox_core_store.server.adapters.sql.tables import Instant
from dox_core_store.server.adapters.sql.transaction import timestamp
from dox_core_store.server.domain.ledger import Action, Chain, Entry, Status, genesis
from dox_core_store.server.ports import LedgerFilter, StoredEntry
from dox_core_store.server.web.request import RequestIds

BEGAN = datetime(2025, 1, 1, tzinfo=UTC)
ENVIRONMENTS = frozenset({"production", "staging"})
SERVICES = ("jules", "jules-mcp", "operator:alice", 'who"said\\so')
PATHS = (
    "api", "api.a", "api.a.production", "api.a.staging", "api.b.production", "api-b.production",
    "apis.a.production", "api.~", "api.\u00e9", "api.a.b.production", "other.a.production", "api/",
)  # fmt: skip
ADDRESSES = ("10.0.0.1", "10.0.0.11", "", "fe80::1")
TOKENS = ("tok_1", "tok_11", None)
STATUSES = (*[Status.GRANTED] * 6, Status.DENIED, Status.LIMITED)
ACTIONS = (*[Action.GET] * 6, Action.PUT, Action.LIST)


class Block(NamedTuple):
    block_id: int
    entries: list[Entry]


class Ledger:
    """Blocks as the writer leaves them, in a database of their own."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.chain = Chain("str_1", genesis("store_1", "str_1"))
        self.blocks: list[Block] = []
        self.postings = Postings(self.connection)

    def add(self, entries: Sequence[Entry], at: datetime) -> None:
        body, after = self.chain.extend(entries)
        done = self.connection.execute(
            sa.insert(tables.ledger_block).values(
                stream=self.chain.stream,
                first_seq=self.chain.seq + 1,
                last_seq=after.seq,
                first_at=Instant.microseconds(at),
                prev=self.chain.head,
                head=after.head,
                body=body,
            )
        )
        self.chain = after
        (block_id,) = done.inserted_primary_key or (0,)
        self.blocks.append(Block(block_id, list(entries)))
        self.hand_over(block_id, entries, Instant.microseconds(at))

    def hand_over(self, block_id: int, entries: Sequence[Entry], at: int) -> None:
        self.postings.add(block_id, entries, at)

    def flush(self, steps: int | None = None) -> None:
        """Write the index; ``steps``: the process dies after so many."""
        for _ in itertools.islice(self.postings.flush(), steps):
            pass
        if steps is not None:
            self.restart()

    def restart(self) -> None:
        self.postings = Postings(self.connection)
        for _ in self.postings.catch_up():
            pass

    def rows(self, table: str) -> list[Any]:
        order = ", ".join(tables.metadata.tables[table].primary_key.columns.keys())
        return list(
            self.connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY {order}")  # noqa: S608
        )

    def search(
        self, wanted: LedgerFilter, size: int, step: float = 0.0
    ) -> Iterator[list[StoredEntry]]:
        """Page after page; ``step`` seconds go by whenever the time is asked for."""
        before, reached = None, None
        while True:
            passing = itertools.count(0.0, step).__next__ if step else lambda: 0.0
            page, before = LedgerSearch(
                connection=self.connection, environments=ENVIRONMENTS, monotonic=passing
            ).page(wanted, before, size)
            assert len(page) <= size
            yield page
            if before is None:
                return
            place = [int(number) for number in before.split(".")]
            assert reached is None or place < reached, "it goes on, whatever it found"
            reached = place

    def found(self, wanted: LedgerFilter, size: int = 100, step: float = 0.0) -> list[Entry]:
        return [each.entry for page in self.search(wanted, size, step) for each in page]

    def looked_through(self, wanted: LedgerFilter) -> list[Entry]:
        """All entries, newest first, by the words of the filter alone."""
        entries = [entry for block in reversed(self.blocks) for entry in reversed(block.entries)]
        return [entry for entry in entries if fits(entry, wanted)]


def fits(entry: Entry, wanted: LedgerFilter) -> bool:
    for name in ("service_name", "environment", "action", "status", "token_id", "ip_address",
                 "request_id"):  # fmt: skip
        if getattr(wanted, name) not in (None, getattr(entry, name)):
            return False
    path = entry.key_path
    if wanted.key_path is not None:
        names = {wanted.key_path}
        if wanted.key_path.split(".")[-1] not in ENVIRONMENTS:
            names |= {f"{wanted.key_path}.{each}" for each in ENVIRONMENTS}
        if path not in names:
            return False
    if wanted.prefix is not None and not f"{path}.".startswith(f"{wanted.prefix}."):
        return False
    if wanted.since is not None and entry.timestamp < timestamp(wanted.since):
        return False
    return wanted.until is None or entry.timestamp <= timestamp(wanted.until)


def made(
    draw: random.Random, at: datetime, request_id: str, pick: Callable[[Sequence[Any]], Any]
) -> Entry:
    return Entry(
        timestamp=timestamp(at + timedelta(milliseconds=draw.randrange(3_000))),
        service_name=pick(SERVICES),
        key_path=pick(PATHS),
        action=str(pick(ACTIONS)),
        status=str(pick(STATUSES)),
        request_id=request_id,
        ip_address=pick(ADDRESSES),
        user_agent="",
        environment=pick(("production", "staging", None)),
        token_id=pick(TOKENS),
        reason=pick(("call", "refresh", None)),
    )


def random_ledger(seed: int, blocks: int, connection: sa.Connection) -> Ledger:
    draw = random.Random(seed)  # noqa: S311 - names, not secrets
    ledger = Ledger(connection)
    ids, kept = RequestIds(), list[Entry]()
    at = BEGAN
    open_stream(ledger, at)
    for number in range(blocks):
        if draw.random() < 0.02:
            ids = RequestIds()
            kept.clear()  # a process that ends has written it, or never will
            at += timedelta(seconds=20)
            open_stream(ledger, at)
        count = draw.randrange(1, 4)
        waiting = [ids() for _ in range(count)]
        draw.shuffle(waiting)
        entries = [made(draw, at, each, draw.choice) for each in waiting]
        if draw.random() < 0.1:  # kept while the disk was full, or folded
            kept.append(entries.pop())
        if kept and draw.random() < 0.1:
            entries.insert(0, kept.pop(0))
        if entries:
            ledger.add(entries, at)
        at += timedelta(seconds=draw.choice((0, 0, 1, 40)))
        chance = draw.random()
        if chance < 0.1:
            ledger.flush()
        elif chance < 0.13:
            ledger.flush(steps=draw.randrange(8))
        elif chance < 0.15 and number:
            ledger.restart()
    return ledger


def open_stream(ledger: Ledger, at: datetime) -> None:
    name = f"str_{len(ledger.rows('ledger_stream')):016x}"
    ledger.connection.execute(
        sa.insert(tables.ledger_stream).values(stream=name, opened_at=at, last_seq=0, head=b"")
    )


def maybe(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), st.none(), st.sampled_from(values))


TIMES = st.one_of(
    st.none(), st.integers(-30, 4_000).map(lambda seconds: BEGAN + timedelta(seconds=seconds))
)
FILTERS = st.builds(
    LedgerFilter,
    service_name=maybe((*SERVICES, "nobody")),
    key_path=maybe((*PATHS, "api.a.b")),
    prefix=maybe(("api", "api.a", "other", "api.a.production", "ap")),
    environment=maybe(("production", "staging")),
    action=maybe([str(each) for each in set(ACTIONS)]),
    status=maybe([str(each) for each in set(STATUSES)]),
    token_id=maybe(("tok_1", "tok_11", "tok_9")),
    ip_address=maybe(ADDRESSES),
    since=TIMES,
    until=TIMES,
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    blocks=st.integers(1, 6 * CHUNK_BLOCKS),
    filters=st.lists(FILTERS, min_size=8, max_size=8),
    size=st.integers(1, 40),
    step=st.sampled_from((0.0, 0.01, 1.0)),
)
def test_a_search_finds_what_a_look_at_every_entry_finds(
    emptied: Emptied, seed: int, blocks: int, filters: list[LedgerFilter], size: int, step: float
) -> None:
    ledger = random_ledger(seed, blocks, emptied())
    for wanted in filters:
        assert ledger.found(wanted, size, step) == ledger.looked_through(wanted)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), blocks=st.integers(1, 6 * CHUNK_BLOCKS))
def test_every_request_is_found_by_its_id(emptied: Emptied, seed: int, blocks: int) -> None:
    ledger = random_ledger(seed, blocks, emptied())
    for block in ledger.blocks:
        for entry in block.entries:
            wanted = LedgerFilter(request_id=entry.request_id)
            assert ledger.found(wanted) == ledger.looked_through(wanted)
    for unknown in ("req_" + "0" * 18, "req_1234", "of the caller", RequestIds()()):
        assert ledger.found(LedgerFilter(request_id=unknown)) == []


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(0, 12))
def test_a_crash_while_the_index_is_written_leaves_what_no_crash_leaves(
    emptied: Emptied, seed: int, steps: int
) -> None:
    crashed = random_ledger(seed, 0, emptied())
    smooth = random_ledger(seed, 0, sqlite_engine().connect())
    draw = random.Random(seed)  # noqa: S311 - names, not secrets
    for number in range(3 * CHUNK_BLOCKS):
        at = BEGAN + timedelta(seconds=number)
        entries = [made(draw, at, f"req_{number}", draw.choice) for _ in range(2)]
        smooth.add(entries, at)
        crashed.add(entries, at)
        if number == CHUNK_BLOCKS + 5:
            smooth.flush()
            crashed.flush(steps=steps)
    smooth.flush()
    crashed.restart()
    for table in ("token_use", "service_call"):
        assert crashed.rows(table) == smooth.rows(table)
        assert smooth.rows(table)
    assert terms(crashed) == terms(smooth)


def terms(ledger: Ledger) -> set[tuple[str, str, int]]:
    rows = ledger.rows("ledger_posting")
    return {
        (row.kind, row.term, chunk)
        for row in rows
        if row.kind != "p"
        for chunk in msgspec.json.decode(row.chunks)
    }


def test_a_page_that_finds_nothing_says_where_to_go_on(emptied: Emptied) -> None:
    ledger = random_ledger(1, 6 * CHUNK_BLOCKS, emptied())
    pages = list(ledger.search(LedgerFilter(environment="nowhere"), 10, step=1.0))
    assert len(pages) > 1
    assert not any(pages)


def test_a_prefix_of_very_many_keys_is_found_without_its_index(
    emptied: Emptied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dox_core_store.server.adapters.sql.search._MOST_TERMS", 2)
    ledger = random_ledger(2, 4 * CHUNK_BLOCKS, emptied())
    ledger.flush()
    wanted = LedgerFilter(prefix="api")
    assert ledger.found(wanted, 7) == ledger.looked_through(wanted)


def test_entries_come_with_the_hashes_that_are_stored(emptied: Emptied) -> None:
    ledger = random_ledger(3, 2 * CHUNK_BLOCKS, emptied())
    stored = [each for page in ledger.search(LedgerFilter(), 9) for each in page][::-1]
    heads = [row.head for row in ledger.rows("ledger_block")]
    assert {each.hash for each in stored} >= set(heads)
    assert [each.prev for each in stored][1:] == [each.hash for each in stored][:-1]


def test_only_calls_of_services_say_that_a_key_is_needed(emptied: Emptied) -> None:
    ledger = random_ledger(4, 0, emptied())
    read = Entry(timestamp(BEGAN), "jules", "api.a.production", "GET", "GRANTED", "req_1", "", "",
                 "production", 1, "tok_1", None, "call")  # fmt: skip
    later = timestamp(BEGAN + timedelta(hours=1))
    for entry in (
        read,
        read._replace(timestamp=later, reason="refresh"),
        read._replace(timestamp=later, status="DENIED"),
        read._replace(timestamp=later, service_name="operator:alice", token_id="tok_2"),
        read._replace(timestamp=later, key_path="api.b.staging"),
    ):
        ledger.add([entry], BEGAN)
    ledger.flush()
    at, hour = Instant.microseconds(BEGAN), 3_600_000_000
    assert ledger.rows("service_call") == [
        ("api.a", "production", "jules", at),
        ("api.b", "staging", "jules", at + hour),
    ]
    assert ledger.rows("token_use") == [("tok_1", at + hour), ("tok_2", at + hour)]
    assert ledger.rows("key_read") == []


@pytest.mark.parametrize("cursor", ["", "1", "1.", "-1.0", "a.b", "1.0 ", "9" * 19 + ".0"])
def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    search = LedgerSearch(
        connection=Ledger(sqlite_engine().connect()).connection, environments=ENVIRONMENTS
    )
    with pytest.raises(InvalidRequestError):
        search.page(LedgerFilter(), cursor, 1)
