"""Proofs of possession at many nodes of one store, in a real PostgreSQL: each is good once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from tests.functional.postgres import Postgres, serving_postgres

from dox_core_store.client.proof import ServiceKey, service_key_from
from dox_core_store.errors import AuthenticationError, DoxStoreError, StoreUnavailableError
from dox_core_store.server.adapters.postgresql.engine import DatabaseAddress, open_engine
from dox_core_store.server.adapters.postgresql.proof_use import PostgresProofUses
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.domain.proof import Proven, token_digest
from dox_core_store.server.usecases.proof import Proofs

TOKEN = "head.body.signature"
ASKED = Proven("GET", "keys.example", "/v1/keys/held.key", None)
SECRET = b"known to all nodes of a store alone"


def engine_of(url: str) -> sa.Engine:
    return open_engine(DatabaseAddress(url))


@pytest.fixture
def store(database: str) -> str:
    make_table(database)
    return database


def make_table(url: str) -> None:
    with engine_of(url).connect() as connection:
        tables.metadata.create_all(connection, tables=[tables.proof_use])


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> ServiceKey:
    path = tmp_path_factory.mktemp("key") / "service.key"
    made = service_key_from({"SERVICE_KEY_FILE": str(path)}, make=True)
    assert made is not None
    return made


class Node:
    """A node's `Proofs`, over an engine of its own."""

    def __init__(self, url: str, *, ahead: float = 0.0) -> None:
        self.uses = PostgresProofUses(engine=engine_of(url))
        self.proofs = Proofs(
            seconds=lambda: time.time() + ahead,
            monotonic=time.monotonic,
            secret=SECRET,
            uses=self.uses,
        )

    async def take(self, key: ServiceKey, raw: str) -> str:
        """``ok``, or the code of what refuses the proof."""
        try:
            use = self.proofs.check(
                raw.encode(),
                ASKED,
                thumbprint=key.thumbprint,
                token_digest=token_digest(TOKEN.encode()),
            )
            assert use is not None
            await self.proofs.claim(use)
        except DoxStoreError as error:
            return error.code
        return "ok"


def proof(key: ServiceKey, node: Node) -> str:
    given: dict[str, Any] = {"method": "GET", "url": "https://keys.example/v1/keys/held.key"}
    nonce = node.proofs.nonce()
    return key.proof(token=TOKEN, nonce=nonce, body=None, now=int(time.time()), **given)


@asynccontextmanager
async def nodes_at(url: str, *ahead: float) -> AsyncIterator[list[Node]]:
    nodes = [Node(url, ahead=each) for each in ahead]
    try:
        yield nodes
    finally:
        for node in nodes:
            node.uses.close()


def test_of_a_thousand_proofs_each_is_taken_by_one_of_two_nodes(
    store: str, key: ServiceKey
) -> None:
    async def run() -> list[list[str]]:
        async with nodes_at(store, 0.0, 0.0) as (one, other):
            told = []
            for _ in range(20):
                proofs = [proof(key, one) for _ in range(50)]
                # The second node gets them in the opposite order.
                taken, again = await asyncio.gather(
                    asyncio.gather(*(one.take(key, raw) for raw in proofs)),
                    asyncio.gather(*(other.take(key, raw) for raw in reversed(proofs))),
                )
                told += [sorted(pair) for pair in zip(taken, reversed(again), strict=True)]
            return told

    assert asyncio.run(run()) == [["ok", "proof_invalid"]] * 1_000


@pytest.mark.parametrize("ahead", [-14.0, -0.25, 0.25, 14.0])
def test_nonces_and_uses_hold_at_all_nodes_though_their_clocks_differ(
    store: str, key: ServiceKey, ahead: float
) -> None:
    async def run() -> None:
        async with nodes_at(store, 0.0, ahead) as nodes:
            for giver in nodes:
                raws = [proof(key, giver) for _ in range(2)]
                for node, raw in zip(nodes, raws, strict=True):
                    assert await node.take(key, raw) == "ok"
                for node, raw in zip(reversed(nodes), raws, strict=True):
                    assert await node.take(key, raw) == "proof_invalid"

    asyncio.run(run())


def test_the_same_proof_many_times_at_once_in_one_statement(store: str) -> None:
    async def run() -> list[bool]:
        uses = PostgresProofUses(engine=engine_of(store))
        until = time.time() + 60
        first = asyncio.create_task(uses.first("another", until))  # the others go with the next
        told = await asyncio.gather(*(uses.first("a", until) for _ in range(100)))
        assert await first
        uses.close()
        return told

    assert sum(asyncio.run(run())) == 1


def test_what_is_past_its_time_is_swept_in_batches(postgres: Postgres, store: str) -> None:
    postgres.run(
        store, "INSERT INTO proof_use SELECT 'old ' || n, n FROM generate_series(1, 2500) n"
    )
    clock = [0.0]

    async def run() -> list[int]:
        left = []
        uses = PostgresProofUses(engine=engine_of(store), monotonic=lambda: clock[0])
        for number in range(5):
            await uses.first(f"new {number}", time.time() + 60)
            await uses.first(f"newer {number}", time.time() + 60)  # the sweep before it is over
            ((count,),) = postgres.run(store, "SELECT count(*) FROM proof_use WHERE until < 9999")
            left.append(count)
            clock[0] = 2.0
        uses.close()
        return left

    left = asyncio.run(run())
    assert left[0] == 2500
    assert left[-1] == 0
    assert postgres.run(store, "SELECT count(*) FROM proof_use") == [(10,)]


def test_a_database_that_does_not_answer_takes_no_proof(store: str, key: ServiceKey) -> None:
    async def run() -> None:
        async with nodes_at(store, 0.0) as (node,):
            with psycopg.connect(store) as other:
                other.execute("LOCK TABLE proof_use IN ACCESS EXCLUSIVE MODE")
                began = time.monotonic()
                assert await node.take(key, proof(key, node)) == "ledger_unavailable"
                assert 1.9 < time.monotonic() - began < 3.0
            assert await node.take(key, proof(key, node)) == "ok"

    asyncio.run(run())


def test_no_proof_is_taken_twice_across_a_crash_of_the_database(
    tmp_path: Path, key: ServiceKey
) -> None:
    async def run(server: Postgres, url: str) -> None:
        async with nodes_at(url, 0.0, 0.0) as (one, other):
            raws = [proof(key, one) for _ in range(50)]
            told = await asyncio.gather(*(one.take(key, raw) for raw in raws))
            assert told == ["ok"] * 50
            await asyncio.to_thread(server.kill)
            assert await one.take(key, proof(key, one)) == "ledger_unavailable"
            await asyncio.to_thread(server.start)
            told = await asyncio.gather(*(other.take(key, raw) for raw in raws))
            assert told == ["proof_invalid"] * 50
            assert await one.take(key, proof(key, one)) == "ok"

    with serving_postgres(tmp_path / "postgres") as server:
        url = server.create_database()
        make_table(url)
        asyncio.run(run(server, url))


def test_what_broke_off_is_never_told_as_a_first_use(store: str) -> None:
    """The connection is cut after the insert was sent: it may have been committed or not."""

    async def run() -> None:
        uses = PostgresProofUses(engine=engine_of(store))
        assert await uses.first("warm", time.time() + 60)
        with psycopg.connect(store, autocommit=True) as other:
            other.execute("INSERT INTO proof_use VALUES ('there', 9999999999999999)")
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with pytest.raises(StoreUnavailableError) as caught:
            await uses.first("there", time.time() + 60)
        assert caught.value.code == "ledger_unavailable"
        assert not await uses.first("there", time.time() + 60)
        assert await uses.first("free", time.time() + 60)
        uses.close()

    asyncio.run(run())


def test_a_replay_is_refused_like_any_bad_proof(store: str, key: ServiceKey) -> None:
    async def run() -> AuthenticationError:
        async with nodes_at(store, 0.0, 0.0) as (one, other):
            raw = proof(key, one)
            assert await one.take(key, raw) == "ok"
            digest = token_digest(TOKEN.encode())
            use = other.proofs.check(
                raw.encode(), ASKED, thumbprint=key.thumbprint, token_digest=digest
            )
            assert use is not None
            with pytest.raises(AuthenticationError) as caught:
                await other.proofs.claim(use)
            return caught.value

    error = asyncio.run(run())
    assert (error.code, error.detail) == (
        "proof_invalid",
        "The proof is not valid for this request.",
    )
