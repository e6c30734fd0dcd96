"""What is derived from the ledger beside the index: last calls, last uses, and who is told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.server.asking import Asking
from tests.unit.server.engines import sqlite_engine

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.adapters.sql import key_queries, tables, use_queries
from dox_core_store.server.adapters.sql.driver import Driver

NOW = datetime(2025, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def connection(engine: sa.Engine) -> Iterator[sa.Connection]:
    with engine.connect() as connection:
        yield connection


def called(connection: sa.Connection, *rows: tuple[str, str, str, datetime]) -> None:
    names = ("path", "environment", "service", "last_called_at")
    connection.execute(
        sa.insert(tables.service_call), [dict(zip(names, row, strict=True)) for row in rows]
    )


def stretches(driver: Driver, service: str, prefix: str | None) -> list[list[str]]:
    first: str | None = ""
    found = []
    while first is not None:
        page = use_queries.calls(driver, service, prefix, "production", NOW - 90 * DAY, first)
        found.append(page.paths)
        first = page.next_path
    return found


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 1_000])
def test_the_calls_of_a_service_are_those_since_under_a_prefix(
    connection: sa.Connection, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(use_queries, "_STRETCH_ROWS", rows)
    paths = ("a", "a-b", "a.b", "a.b.c", "a.c", "a_", "ab", "b")
    for path in paths:
        called(
            connection,
            (path, "production", "jules", NOW),
            (path, "production", "other", NOW),
            (path, "staging", "jules", NOW),
            (f"{path}.old", "production", "jules", NOW - 91 * DAY),
        )
    driver = Driver(connection)
    for prefix, expected in (
        (None, set(paths)),
        ("a", {"a", "a.b", "a.b.c", "a.c"}),
        ("a.b", {"a.b", "a.b.c"}),
        ("c", set()),
    ):
        pages = stretches(driver, "jules", prefix)
        found = [path for page in pages for path in page]
        assert set(found) == expected
        assert len(found) == len(expected)
        if prefix is None:
            assert found == sorted(found)
            assert (len(pages) > 1) == (rows < 1_000)
    assert stretches(driver, "nobody", None)[-1] == []


def test_only_tokens_that_were_used_have_a_last_use(connection: sa.Connection) -> None:
    connection.execute(sa.insert(tables.token_use), [{"token_id": "tok_1", "last_used_at": NOW}])
    driver = Driver(connection)
    assert use_queries.token_uses(driver, ["tok_1", "tok_2"]) == {"tok_1": NOW}
    assert use_queries.token_uses(driver, []) == {}
    assert use_queries.token_uses(driver, [f"tok_{n}" for n in range(80)]) == {"tok_1": NOW}


# --- keys, and when they were last read -----------------------------------------------------------


def test_the_last_read_of_a_key_is_the_last_call_of_any_service(asking: Asking) -> None:
    for path in ("a.old", "a.both", "a.new", "a.never"):
        assert asking("PUT", f"/v1/keys/{path}", {"value": "x"}).status == 201
    day = {name: NOW + number * DAY for number, name in enumerate(("first", "second", "third"))}
    with sa.create_engine(f"sqlite:///{asking.data / 'store.db'}").begin() as connection:
        connection.execute(
            sa.insert(tables.key_read),
            [
                {"path": "a.old", "environment": "production", "last_read_at": day["first"]},
                {"path": "a.both", "environment": "production", "last_read_at": day["third"]},
                {"path": "a.new", "environment": "production", "last_read_at": day["first"]},
            ],
        )
        called(
            connection,
            ("a.both", "production", "jules", day["second"]),
            ("a.new", "production", "jules", day["second"]),
            ("a.new", "production", "other", day["third"]),
            ("a.new", "staging", "other", day["third"] + DAY),
        )
    listed = asking("GET", "/v1/keys?prefix=a").json["items"]
    told = {row["key_path"]: row["last_read_at"] for row in listed}
    assert {path: at and datetime.fromisoformat(at) for path, at in told.items()} == {
        "a.old": day["first"],
        "a.both": day["third"],
        "a.new": day["third"],
        "a.never": None,
    }
    described = asking("GET", "/v1/keys/a.new/description").json
    assert datetime.fromisoformat(described["last_read_at"]) == day["third"]


def test_the_catalog_tells_of_calls_and_uses(asking: Asking) -> None:
    assert asking("PUT", "/v1/keys/a.b", {"value": "x"}).status == 201
    assert asking("GET", "/v1/keys/a.b", token=asking.service).status == 200
    asking.index()
    catalog = asking.catalog
    token_id = asking("GET", "/v1/ledger?service_name=model").json["items"][0]["token_id"]

    async def told() -> tuple[Any, list[str]]:
        since = datetime.now(UTC) - DAY
        paths = [
            path async for page in catalog.calls("model", "a", "production", since) for path in page
        ]
        return await catalog.token_uses([token_id]), paths

    uses, paths = asking.run(told())
    assert paths == ["a.b"]
    assert abs(uses[token_id] - datetime.now(UTC)) < DAY


# --- SQLite's plans -------------------------------------------------------------------------------


@pytest.fixture
def file() -> Iterator[sa.Connection]:
    with sqlite_engine().connect() as connection:
        yield connection


def plan(connection: sa.Connection, text: str) -> list[str]:
    given = (None,) * text.count("?")
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", given)
    return [row[3] for row in rows]


@pytest.mark.parametrize("prefix", [None, "a"])
@pytest.mark.parametrize("environment", [None, "production"])
@pytest.mark.parametrize("after", [None, KeyAddress("a.b", "staging")])
def test_a_page_of_keys_is_ranges_of_indexes(
    file: sa.Connection,
    prefix: str | None,
    environment: str | None,
    after: KeyAddress | None,
) -> None:
    for stretch in key_queries.stretches(prefix, environment, after):
        told = plan(file, key_queries.page(type(file.dialect), stretch.shape))
        assert any(line.startswith("SEARCH key USING INDEX") for line in told), told
        assert any("SEARCH service_call USING PRIMARY KEY" in line for line in told), told
        assert not any("SCAN" in line or "TEMP B-TREE" in line for line in told), told


def test_a_stretch_of_calls_is_a_range_of_the_primary_key(file: sa.Connection) -> None:
    dialect = type(file.dialect)
    for text in (use_queries._calls(dialect), use_queries._end(dialect)):
        told = plan(file, text)
        assert all("SEARCH service_call USING PRIMARY KEY (path>? AND path<?)" in e for e in told)
