"""What goes over all of a store, in either engine: rewrapping, accounts, retention, the index."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
import sqlalchemy as sa
from msgspec.structs import replace
from tests.unit.server.engine_catalog import (
    CALLER,
    DAY,
    KEYS,
    NOW,
    STORE,
    Catalog,
    addresses,
    no_alarm,
    version,
)
from tests.unit.server.test_ledger_search import Ledger, made, open_stream

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.account import Account
from dox_core_store.server.adapters.sql.driver import Driver
from dox_core_store.server.adapters.sql.posting_lists import PostingList
from dox_core_store.server.adapters.sql.pruning import Planner, drop, drop_postings, idle_postings
from dox_core_store.server.adapters.sql.reader import SqlReader
from dox_core_store.server.adapters.sql.records import RecordReader
from dox_core_store.server.adapters.sql.rewrap import rewrappers
from dox_core_store.server.adapters.sql.room import used_bytes
from dox_core_store.server.adapters.sql.transacting import writing
from dox_core_store.server.domain.envelope import Ring
from dox_core_store.server.domain.key import (
    State,
    TombstoneRecord,
)
from dox_core_store.server.domain.ledger import Action, Chain, genesis
from dox_core_store.server.ports import LedgerFilter

# --- what goes over all of it ---------------------------------------------------------------------


def test_rows_are_brought_under_a_new_key(catalog: Catalog) -> None:
    catalog.keep(*addresses(20))
    ring = Ring(STORE, KEYS | {2: b"2" * 32})
    dialect = type(catalog.connection.dialect)
    done = 0
    for each in rewrappers(ring, dialect):
        after = None
        while batch := each.read(catalog.connection, after, 7):
            after = batch.after
            assert not batch.left
            with writing(catalog.connection):
                each.write(catalog.connection, batch)
            done += len(batch.updates)
        assert each.count(catalog.connection) == 0
    assert done == 40 + 80 + 40
    only_new = RecordReader(ring=Ring(STORE, {2: b"2" * 32}), alarm=no_alarm)
    reader = SqlReader(connection=catalog.connection, records=only_new)
    assert len(reader.keys(None, None, None, 100)) == 40


def test_a_row_that_says_less_than_the_ledger_is_named(catalog: Catalog) -> None:
    (key,) = catalog.keep(KeyAddress("a.b", "production"))
    with catalog.transaction() as tx:
        tx.record(CALLER, {"action": Action.REVOKE, "key_path": "a.b.production", "version": 2})
        tx.finish()
    account = Account()
    assert list(account.follow(catalog.connection)) == [1]
    assert list(account.compare(catalog.connection)) == [
        "a.b.production version 2 was revoked, and its row says current"
    ]
    with catalog.transaction() as tx:
        tx.put(replace(version(key, 2), state=State.REVOKED))
        tx.put(TombstoneRecord(version_id="a.b.production/2", state=State.REVOKED, buried_at=NOW))
    assert list(account.compare(catalog.connection)) == []


@pytest.mark.parametrize("has_idle_node", [False, True])
def test_what_is_old_goes_but_not_the_end_of_an_open_stream(
    engine: sa.Engine, *, has_idle_node: bool
) -> None:
    draw = random.Random(1)  # noqa: S311 - names, not secrets
    with engine.connect() as connection:
        ledger = Ledger(connection)
        open_stream(ledger, NOW)
        if has_idle_node:
            ledger.connection.execute(
                sa.update(tables.ledger_stream).values(stream=ledger.chain.stream)
            )
        for hour in range(10 * 24):
            at = NOW + timedelta(hours=hour)
            if has_idle_node and hour == 60:  # nothing follows in the first stream
                ledger.chain = Chain("str_2", genesis("store_1", "str_2"))
            entry = made(draw, at, f"req_{hour}", draw.choice)
            ledger.add([entry._replace(key_path=f"old.k{hour}")], at)
        ledger.flush()
        planner = Planner(store_id="store_1", keep_days=2)
        while plan := planner.plan(connection, NOW + 10 * DAY, 50):
            with writing(connection):
                drop(connection, plan)
            planner.dropped(plan)
        left = [row.block_id for row in ledger.rows("ledger_block")]
        assert left[0] == (60 if has_idle_node else 8 * 24 + 1)
        before = len(ledger.rows("ledger_posting"))
        for names in idle_postings(connection):
            with writing(connection):
                drop_postings(connection, names)
        rows = ledger.rows("ledger_posting")
        assert len(rows) < before
        gone = {f"old.k{hour}" for hour in range(left[0] // 16 * 16 - 1)}
        assert not gone & {row.term for row in rows}
        ledger.blocks = ledger.blocks[left[0] - 1 :]
        for hour in (left[0], 200):
            wanted = LedgerFilter(key_path=f"old.k{hour}")
            assert ledger.found(wanted) == ledger.looked_through(wanted) != []


def test_a_prefix_of_too_many_keys_has_no_list(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        connection.execute(
            sa.insert(tables.ledger_posting),
            [
                {"kind": "k", "term": f"a.k{n}", "first_chunk": m, "chunks": f"[{m},{m + 1}]"}
                for n in range(5)
                for m in range(0, 60, 2)
            ],
        )
        driver = Driver(connection)
        assert PostingList.under(driver, "k", "a", 4, 100) is None
        found = PostingList.under(driver, "k", "a", 5, 100)
        assert found is not None
        assert [found.at_or_below(chunk) for chunk in (100, 57, 3, 0)] == [59, 57, 3, 0]
        nothing = PostingList.under(driver, "k", "b", 5, 100)
        assert nothing is not None
        assert nothing.at_or_below(100) is None


def test_what_is_free_again_does_not_count_as_used(engine: sa.Engine) -> None:
    block = {"stream": "str_1", "first_at": 0, "prev": b"", "head": b""}
    with engine.connect() as connection:
        empty = used_bytes(engine)
        connection.execute(
            sa.insert(tables.ledger_block),
            [
                block | {"first_seq": n, "last_seq": n, "body": (n % 251).to_bytes() * 10 + bytes(
                    (n * k) % 251 for k in range(1_500))}
                for n in range(1, 3_001)
            ],
        )  # fmt: skip
        full = used_bytes(engine)
        assert full - empty > 4_000_000
        connection.exec_driver_sql("DELETE FROM ledger_block WHERE block_id > 300")
        assert used_bytes(engine) - empty < (full - empty) / 2
