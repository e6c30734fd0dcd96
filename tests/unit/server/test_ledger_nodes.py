"""A ledger that several nodes write: what is searched, indexed, exported and shipped is all of it.

Blocks of nodes stand between one another, ids have gaps, times go back by some seconds, and any
node may go on with the index, also one that was stopped in the middle of it.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.server.engines import Emptied, FreshDatabases
from tests.unit.server.test_ledger_search import (
    BEGAN,
    ENVIRONMENTS,
    FILTERS,
    SERVICES,
    Block,
    Ledger,
    made,
    open_stream,
)

from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.block_walk import patient_top
from dox_core_store.server.adapters.sql.horizon import settled_top
from dox_core_store.server.adapters.sql.postings import CHUNK_BLOCKS, Postings
from dox_core_store.server.adapters.sql.search import LedgerSearch
from dox_core_store.server.adapters.sql.shipping import SqlShippingSource
from dox_core_store.server.adapters.sql.transacting import APPENDING
from dox_core_store.server.domain.ledger import Chain, Entry, genesis
from dox_core_store.server.domain.shipping import BEGINNING
from dox_core_store.server.ports import LedgerFilter
from dox_core_store.server.web.request import RequestIds


@pytest.fixture(scope="module")
def shared(databases: FreshDatabases) -> Emptied:
    return Emptied("postgresql", databases.create)


class Node(Ledger):
    """One node's part in a ledger: its own stream, ids of requests and idea of the index."""

    def __init__(self, connection: sa.Connection, number: int, blocks: list[Block]) -> None:
        super().__init__(connection)
        self.chain = Chain(f"str_{number}", genesis("store_1", f"str_{number}"))
        self.ids = RequestIds()
        self.blocks = blocks
        self._under_way: Iterator[None] = iter(())
        self._committed = list[tuple[int, Sequence[Entry], int]]()

    def hand_over(self, block_id: int, entries: Sequence[Entry], at: int) -> None:
        self._committed.append((block_id, entries, at))

    def flush(self, steps: int | None = None) -> None:
        self._leave()
        super().flush(steps)

    def _leave(self) -> None:
        """As threads leave blocks behind that commit beside one another."""
        for block in self._committed[::2] + self._committed[1::2]:
            self.postings.leave(*block)
        self._committed.clear()

    def flush_in_part(self, steps: int) -> None:
        """Begin to write the index, and be stopped."""
        self._leave()
        self._under_way = self.postings.flush()
        for _ in itertools.islice(self._under_way, steps):
            pass

    def finish(self) -> None:
        for _ in self._under_way:
            pass


def several_nodes(seed: int, blocks: int, connection: sa.Connection) -> Node:
    """What three nodes wrote; returns one of them."""
    draw = random.Random(seed)  # noqa: S311 - names, not secrets
    written = list[Block]()
    nodes = [Node(connection, number, written) for number in range(3)]
    at = BEGAN
    open_stream(nodes[0], at)
    for _ in range(blocks):
        node = draw.choice(nodes)
        stopped = timedelta(seconds=draw.choice((0, 0, 0, 3, 30)))
        count = draw.randrange(1, 4)
        node.add([made(draw, at - stopped, node.ids(), draw.choice) for _ in range(count)],
                 at - stopped)  # fmt: skip
        if draw.random() < 0.1:
            connection.exec_driver_sql("SELECT nextval('ledger_block_block_id_seq')")
        at += timedelta(seconds=draw.choice((0, 0, 1, 40)))
        chance = draw.random()
        if chance < 0.15:
            node.flush()
        elif chance < 0.2:  # stopped in the middle; another goes on meanwhile
            node.flush_in_part(draw.randrange(8))
            draw.choice(nodes).flush()
            node.finish()
        elif chance < 0.25:
            node.ids = RequestIds()
            node.postings = Postings(node.connection)
    return nodes[0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    blocks=st.integers(1, 6 * CHUNK_BLOCKS),
    filters=st.lists(FILTERS, min_size=8, max_size=8),
    size=st.integers(1, 40),
)
def test_a_search_finds_what_all_nodes_wrote(
    shared: Emptied, seed: int, blocks: int, filters: list[LedgerFilter], size: int
) -> None:
    node = several_nodes(seed, blocks, shared())
    for wanted in filters:
        assert node.found(wanted, size) == node.looked_through(wanted)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), blocks=st.integers(1, 4 * CHUNK_BLOCKS))
def test_every_request_is_found_by_its_id_whichever_node_took_it(
    shared: Emptied, seed: int, blocks: int
) -> None:
    node = several_nodes(seed, blocks, shared())
    for block in node.blocks:
        wanted = LedgerFilter(request_id=block.entries[-1].request_id)
        assert node.found(wanted) == node.looked_through(wanted)


def test_terms_that_no_index_takes_are_found(shared: Emptied) -> None:
    node = several_nodes(1, 0, shared())
    draw = random.Random(1)  # noqa: S311 - names, not secrets
    names = ("a\0b", "a\ufffdb", "\xe9" * 5_000, f"{'k' * 600}.x", f"{'k' * 600}.y", "k" * 599)
    for name in names:
        entry = made(draw, BEGAN, node.ids(), draw.choice)
        node.add([entry._replace(key_path=name, token_id=name)], BEGAN)
    node.flush()
    for name in names:
        for wanted in (LedgerFilter(key_path=name), LedgerFilter(prefix=name),
                       LedgerFilter(token_id=name)):  # fmt: skip
            assert node.found(wanted) == node.looked_through(wanted)
            assert node.found(wanted)


def test_who_has_only_own_blocks_behind_the_cursor_reads_none(many_nodes: sa.Engine) -> None:
    with many_nodes.connect() as connection:
        mine = several_nodes(3, 0, connection)
        theirs = Node(connection, 8, mine.blocks)
        read: list[str] = []
        draw = random.Random(3)  # noqa: S311 - names, not secrets

        def write(node: Node) -> None:
            node.add([made(draw, BEGAN, node.ids(), draw.choice)], BEGAN)

        @sa.event.listens_for(connection, "before_cursor_execute")
        def _(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            if "body FROM ledger_block" in statement:
                read.append(statement)

        def reads(flushing: Node) -> bool:
            read.clear()
            flushing.flush()
            assert Postings(connection).cursor == settled_top(connection)
            return bool(read)

        for _ in range(5):
            write(mine)
        assert not reads(mine)
        write(theirs)
        write(mine)
        assert reads(mine)
        write(mine)
        assert not reads(mine)
        connection.exec_driver_sql("SELECT nextval('ledger_block_block_id_seq')")
        write(mine)
        assert reads(mine)
        write(theirs)
        write(mine)  # indexed by the other one, then a block of the other one, and one of ours
        assert reads(theirs)
        write(theirs)
        write(mine)
        assert reads(mine)
        for wanted in (LedgerFilter(service_name=each) for each in SERVICES):
            assert mine.found(wanted) == mine.looked_through(wanted)


# --- while a block is on its way ------------------------------------------------------------------


class Held:
    """A block whose commit somebody is still in the middle of; others were committed after it."""

    def __init__(self, engine: sa.Engine) -> None:
        self.node = several_nodes(2, 0, engine.connect())
        self._connection = engine.connect()
        run = self._connection.exec_driver_sql
        run(f"BEGIN; SELECT pg_advisory_xact_lock_shared({APPENDING})")
        own = Node(self._connection, 9, self.node.blocks)
        draw = random.Random(2)  # noqa: S311 - names, not secrets
        own.add([made(draw, BEGAN, own.ids(), draw.choice)], BEGAN)
        for _ in range(3):
            self.node.add([made(draw, BEGAN, self.node.ids(), draw.choice)], BEGAN)

    def end(self) -> None:
        self._connection.exec_driver_sql("COMMIT")
        self._connection.close()


def test_the_index_waits_for_what_is_on_its_way(many_nodes: sa.Engine) -> None:
    held = Held(many_nodes)
    with many_nodes.connect() as connection:
        postings = Postings(connection)
        with pytest.raises(sa.exc.OperationalError):
            list(postings.flush())
        with pytest.raises(sa.exc.OperationalError):
            settled_top(connection)
        assert Postings(connection).cursor == 0
        held.end()
        list(postings.flush())
        assert Postings(connection).cursor == settled_top(connection) == 4
    for service in {entry.service_name for block in held.node.blocks for entry in block.entries}:
        wanted = LedgerFilter(service_name=service)
        assert held.node.found(wanted) == held.node.looked_through(wanted)


def test_an_export_waits_for_what_is_on_its_way(many_nodes: sa.Engine) -> None:
    held = Held(many_nodes)
    waits = threading.Event()
    got: list[int] = []

    def export() -> None:
        with many_nodes.connect() as connection:
            search = LedgerSearch(connection=connection, environments=ENVIRONMENTS)
            waits.set()
            entries, last = search.export(0, 100)
            got.extend((len(entries), last))

    thread = threading.Thread(target=export)
    thread.start()
    waits.wait()
    held.end()
    thread.join()
    assert got == [sum(len(block.entries) for block in held.node.blocks), 4]


def test_who_asks_for_the_top_asks_again(many_nodes: sa.Engine) -> None:
    held = Held(many_nodes)
    with many_nodes.connect() as connection:
        assert patient_top(connection, lambda _seconds: held.end()) == 4


def test_what_is_shipped_waits_for_what_is_on_its_way(many_nodes: sa.Engine) -> None:
    held = Held(many_nodes)
    with many_nodes.connect() as connection:
        connection.execute(sa.update(tables.ledger_block).values(stream="changes"))
    source = SqlShippingSource(
        engine=many_nodes,
        store_id="store_1",
        encode=lambda stored: stored.entry.request_id.encode(),
        write=lambda _work: None,
        lost=lambda: "",
    )
    with pytest.raises(Exception, match="lock timeout"):
        source.after(BEGINNING)
    held.end()
    batch = source.after(BEGINNING)
    assert batch.is_last
    assert batch.place.block_id == 4
    assert len(batch.entries) == 3  # the held one is of no stream that is shipped
