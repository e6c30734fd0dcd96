"""Limits that nodes share, in a real PostgreSQL: exact over all connections, and fast."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from tests.functional.postgres import Postgres, serving_postgres

from dox_core_store.errors import StoreUnavailableError
from dox_core_store.server.adapters.postgresql.engine import DatabaseAddress, open_engine
from dox_core_store.server.adapters.postgresql.quota import PostgresQuotas
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.domain.limit import Rate
from dox_core_store.server.domain.quota import NOT_AT_HAND
from dox_core_store.server.ports import Take
from dox_core_store.server.usecases.quota import SharedBucket, SharedBuckets


def engine_of(url: str) -> sa.Engine:
    return open_engine(DatabaseAddress(url))


def make_table(url: str) -> None:
    with engine_of(url).connect() as connection:
        tables.metadata.create_all(connection, tables=[tables.quota])


@pytest.fixture
def quota(database: str) -> str:
    make_table(database)
    return database


@asynccontextmanager
async def nodes_at(url: str, count: int) -> AsyncIterator[list[PostgresQuotas]]:
    nodes = [PostgresQuotas(engine=engine_of(url)) for _ in range(count)]
    try:
        yield nodes
    finally:
        for node in nodes:
            node.close()


def bucket_of(quotas: PostgresQuotas, rate: Rate, row: str = "service:jules") -> SharedBucket:
    bucket = SharedBuckets(quotas=quotas, monotonic=time.monotonic)(rate, "service", row)
    assert isinstance(bucket, SharedBucket)
    return bucket


async def ask(bucket: SharedBucket) -> tuple[bool, bool]:
    """Whether it was let through, and whether the database had to be asked."""
    verdict = bucket.take(time.monotonic())
    if verdict is not NOT_AT_HAND:
        return verdict.allowed, False
    return (await bucket.fetch()).allowed, True


@pytest.mark.parametrize(
    "rate", [Rate(2_000, 1, 500), Rate(100, 1, 400), Rate(30, 1, 7), Rate(1, 3_600, 25)], ids=str
)
def test_many_nodes_together_pass_what_one_would(quota: str, rate: Rate) -> None:
    """Eight callers at each of four nodes, as fast as they can, for a second and a half."""

    async def run() -> tuple[int, float]:
        passed = 0
        async with nodes_at(quota, 4) as nodes:
            buckets = [bucket_of(node, rate) for node in nodes]
            began = time.monotonic()

            async def hammer(bucket: SharedBucket) -> None:
                nonlocal passed
                while time.monotonic() < began + 1.5:
                    is_allowed, _ = await ask(bucket)
                    passed += is_allowed
                    await asyncio.sleep(0 if is_allowed else 0.002)

            await asyncio.gather(*(hammer(bucket) for bucket in buckets for _ in range(8)))
            return passed, time.monotonic() - began

    passed, took = asyncio.run(run())
    per_second = rate.count / rate.period_seconds
    assert passed <= rate.burst + per_second * took
    assert passed >= 0.75 * rate.burst - 1, "what may come at once is a quarter less at most"


def test_a_busy_node_asks_the_database_rarely(quota: str) -> None:
    async def run() -> list[bool]:
        async with nodes_at(quota, 1) as nodes:
            bucket = bucket_of(nodes[0], Rate(1_000_000, 1, 1_000_000))
            asked = []
            for _ in range(3_000):
                is_allowed, is_asked = await ask(bucket)
                assert is_allowed
                asked.append(is_asked)
                await asyncio.sleep(0)
            return asked

    assert sum(asyncio.run(run())) < 100


def test_a_statement_takes_all_or_nothing(quota: str) -> None:
    async def run() -> None:
        async with nodes_at(quota, 2) as (one, other):
            second = 1_000_000
            assert await one.take(Take("a", 6 * second, 10 * second)) == (True, pytest.approx(6))
            refused = await other.take(Take("a", 5 * second, 10 * second))
            assert (refused.granted, refused.ahead_seconds) == (False, pytest.approx(6, abs=0.5))
            assert (await other.take(Take("a", 4 * second, 10 * second))).granted
            assert not (await other.take(Take("b", 11 * second, 10 * second))).granted
            assert (await other.take(Take("b", 10 * second, 10 * second))).granted

    asyncio.run(run())


def test_many_limits_of_many_nodes_never_wait_for_each_other(quota: str) -> None:
    """Each node takes from all rows at once, in another order."""

    async def run() -> list[bool]:
        async with nodes_at(quota, 4) as nodes:
            names = [f"row {number}" for number in range(50)]
            rounds: list[bool] = []
            for _ in range(10):
                takes = [
                    node.take(Take(name, 1_000_000, 15_500_000))
                    for at, node in enumerate(nodes)
                    for name in names[at * 10 :] + names[: at * 10]
                ]
                rounds += [each.granted for each in await asyncio.gather(*takes)]
            return rounds

    granted = asyncio.run(run())
    assert len(granted) == 2_000
    assert 15 * 50 <= sum(granted) <= 17 * 50


def test_a_row_that_is_named_twice_at_once_is_taken_from_twice(quota: str) -> None:
    async def run() -> list[bool]:
        async with nodes_at(quota, 1) as (node,):
            takes = [node.take(Take("a", 1_000_000, 3_500_000)) for _ in range(6)]
            return [each.granted for each in await asyncio.gather(*takes)]

    assert asyncio.run(run()) == [True] * 3 + [False] * 3


def test_rows_that_rest_are_swept(postgres: Postgres, quota: str) -> None:
    postgres.run(
        quota,
        "INSERT INTO quota SELECT 'old ' || n, extract(epoch FROM now() - interval '2 hours')"
        "::bigint * 1000000 FROM generate_series(1, 9) AS n",
    )
    clock = [0.0]

    async def run() -> None:
        node = PostgresQuotas(engine=engine_of(quota), monotonic=lambda: clock[0])
        await node.take(Take("a", 1, 10))
        clock[0] = 61.0
        await node.take(Take("b", 1, 10))
        await node.take(Take("c", 1, 10))  # its turn comes once the sweep is over
        node.close()

    asyncio.run(run())
    assert sorted(postgres.run(quota, "SELECT name FROM quota")) == [("a",), ("b",), ("c",)]


def test_a_database_that_does_not_answer_refuses_within_a_second(quota: str) -> None:
    async def run() -> None:
        async with nodes_at(quota, 1) as (node,):
            bucket = bucket_of(node, Rate(1, 3_600, 3))
            with psycopg.connect(quota) as other:
                other.execute("LOCK TABLE quota IN ACCESS EXCLUSIVE MODE")
                began = time.monotonic()
                with pytest.raises(StoreUnavailableError) as caught:
                    await ask(bucket)
                assert caught.value.code == "ledger_unavailable"
                assert 0.9 < time.monotonic() - began < 1.5
            assert await ask(bucket) == (True, True)

    asyncio.run(run())


@contextmanager
def own_postgres(folder: Path) -> Iterator[tuple[Postgres, str]]:
    with serving_postgres(folder) as server:
        url = server.create_database()
        make_table(url)
        yield server, url


def test_nobody_passes_while_the_database_is_away_and_all_is_well_once_it_is_back(
    tmp_path: Path,
) -> None:
    async def run(stop: Callable[[], None], start: Callable[[], None], url: str) -> None:
        async with nodes_at(url, 1) as (node,):
            bucket = bucket_of(node, Rate(1, 3_600, 3))
            assert await ask(bucket) == (True, True)
            await asyncio.to_thread(stop)
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError) as caught:
                await ask(bucket)
            assert caught.value.code == "ledger_unavailable"
            assert time.monotonic() - began < 1.5
            await asyncio.to_thread(start)
            assert await ask(bucket) == (True, True)  # the first one after it
            await asyncio.to_thread(stop)
            await asyncio.to_thread(start)
            assert [await ask(bucket) for _ in range(2)] == [(True, True), (False, False)]

    with own_postgres(tmp_path / "postgres") as (server, url):
        asyncio.run(run(server.stop, server.start, url))
