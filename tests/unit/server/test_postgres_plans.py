"""PostgreSQL answers by ranges of its indexes: with the values given, and not knowing them.

What is asked often is prepared after some times, and planned without its values if that looks no
dearer; so both plans are looked at, on tables that are large enough for a scan to be a mistake.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.server.engines import FreshDatabases

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.adapters.sql import (
    block_times,
    key_queries,
    posting_lists,
    postings,
    pruning,
    search,
    shipping,
    token_queries,
    use_queries,
)
from dox_core_store.server.adapters.sql.driver import worded

_FILL = r"""
INSERT INTO key (key_id, path, environment, created_at, last_number, head, mac)
    SELECT n, 'a.k' || n, 'production', n, 2, 'v2.' || n, '\x00' FROM generate_series(1, 40000) n;
INSERT INTO key (key_id, path, environment, created_at, last_number, head, mac)
    SELECT 40000 + n, 'a.k' || n, 'staging', n, 2, 'v2.' || 40000 + n, '\x00'
    FROM generate_series(1, 40000) n;
INSERT INTO version (version_id, key_id, number, state, created_at, created_by, sealed, mac)
    SELECT 'v' || m || '.' || n, n, m, 'current', n, 'x', '\x00', '\x00'
    FROM generate_series(1, 80000) n, generate_series(1, 2) m;
INSERT INTO tombstone
    SELECT 'v1.' || n, 'revoked', n, '\x00' FROM generate_series(1, 9000) n;
INSERT INTO key_read SELECT 'a.k' || n, 'production', n FROM generate_series(1, 20000) n;
INSERT INTO service_call
    SELECT 'a.k' || n, 'production', 's' || m, n
    FROM generate_series(1, 40000) n, generate_series(1, 3) m;
INSERT INTO token
    SELECT 'tok_' || n, 'service', 's' || n % 100, NULL, n, n + 1000, 'x', NULL, '\x00'
    FROM generate_series(1, 100000) n;
INSERT INTO token_use SELECT 'tok_' || n, n FROM generate_series(1, 50000) n;
INSERT INTO ledger_block (stream, first_seq, last_seq, first_at, prev, head, body)
    SELECT CASE WHEN n % 50 = 0 THEN 'changes' ELSE 'str_' || n % 3 END, n, n, n * 1000,
        '\x00', '\x00', decode(repeat(md5(n::text), 40), 'hex')
    FROM generate_series(1, 100000) n;
INSERT INTO ledger_posting
    SELECT 'k', 'a.k' || n % 5000, n / 16, '[1,2,3]' FROM generate_series(1, 100000) n;
INSERT INTO ledger_posting
    SELECT 's', 's' || n % 5, n / 16, '[1,2,3]' FROM generate_series(1, 100000) n
    ON CONFLICT DO NOTHING;
"""


@pytest.fixture(scope="module")
def connection(databases: FreshDatabases) -> Iterator[sa.Connection]:
    engine = databases.create()
    with engine.connect() as connection:
        for statement in (_FILL, "VACUUM ANALYZE"):
            connection.connection.driver_connection.execute(statement)  # type: ignore[union-attr]
        yield connection
    databases.drop(engine)


def plans(connection: sa.Connection, text: str, given: Sequence[Any] | dict[str, Any]) -> list[str]:
    """The lines of both plans."""
    run: Any = connection.connection.driver_connection
    names = list(given) if isinstance(given, dict) else []
    unknown = text
    for number, name in enumerate(names, 1):
        unknown = unknown.replace(f"%({name})s", f"${number}")
    numbers = itertools.count(1)
    unknown = "".join(
        part if at == 0 else f"${next(numbers)}{part}"
        for at, part in enumerate(unknown.split("%s"))
    )
    rows = run.execute(f"EXPLAIN {text}", given).fetchall()
    rows += run.execute(f"EXPLAIN (GENERIC_PLAN) {unknown}".encode()).fetchall()
    return [line for (line,) in rows]


@pytest.mark.parametrize("prefix", [None, "a"])
@pytest.mark.parametrize("environment", [None, "production"])
@pytest.mark.parametrize("after", [None, KeyAddress("a.k3", "staging")])
def test_a_page_of_keys_is_ranges_of_indexes(
    connection: sa.Connection,
    prefix: str | None,
    environment: str | None,
    after: KeyAddress | None,
) -> None:
    for stretch in key_queries.stretches(prefix, environment, after):
        text = key_queries.page(type(connection.dialect), stretch.shape)
        told = plans(connection, text, (*stretch.parameters, 100))
        assert sum(bool(re.search(r"Index Scan using \w+ on key ", line)) for line in told) == 2
        assert not any("Sort" in line or "Hash" in line or "Seq Scan" in line for line in told), (
            told
        )


_SQL = type(sa.create_engine("postgresql+psycopg://").dialect)
_BLOCKS = f"{search._SELECT} WHERE block_id BETWEEN ? AND ?{search._HOLDS['postgresql']}"
_KEYED = (
    (key_queries.head(_SQL), ("a.k7", "production")),
    (key_queries.numbered(_SQL), (1, "a.k7", "production")),
    (key_queries.changes(_SQL), ("changes", 90_000, 100)),
    (key_queries.live_tokens(_SQL), (100_500,)),
    (use_queries._end(_SQL), ("a.", "a/", 2_000)),
    (use_queries._calls(_SQL), ("a.k1", "a.k11", "production", "s1", 1)),
    (use_queries._callers(_SQL), ("a.k1", "a.k11", "production", 1)),
    (use_queries._last_calls(_SQL), ("a.k1", "production")),
    (token_queries._page(_SQL, ("kind", "name")), ("service", "s7", "", 100)),
    (worded(_SQL, posting_lists._BELOW), ("k", "a.k7", 2_000, 8)),
    (worded(_SQL, posting_lists._LOWEST), ("k", "a.k7")),
    (
        posting_lists._UNDER["postgresql"],
        {"kind": "k", "low": "a.k1.", "high": "a.k1/", "most": 4_001, "chunk": 2_000},
    ),
    (worded(_SQL, block_times._FIRST_FROM), (500,)),
    (block_times._TOP, ()),
    (worded(_SQL, block_times._BODIES), (500, 99_999, 4)),
    (worded(_SQL, _BLOCKS), (500, 531, b"x")),
    (worded(_SQL, postings._BEHIND), (500, 99_999, 2_000)),
    (shipping._next(_SQL), (500, 1_000, b"x")),
    (shipping._first(_SQL), (500, b"x")),
    (worded(_SQL, pruning._LAST_OF), ("str_1",)),
    (pruning._NEWEST, ()),
    (worded(_SQL, pruning._OLDEST), (500, 90_000, 1_000)),
    (worded(_SQL, pruning._UP_TO), (500,)),
    (pruning._idle(_SQL), (100, "k", "a.k2", 5, 1_000)),
    (pruning._drop(_SQL), ('[["k","a.k7",3]]',)),
)


@pytest.mark.parametrize(("text", "given"), _KEYED)
def test_nothing_is_walked_but_what_an_index_leads_to(
    connection: sa.Connection, text: str, given: Any
) -> None:
    told = plans(connection, text, given)
    assert any("Index" in line for line in told)
    assert not any("Seq Scan" in line for line in told), told
