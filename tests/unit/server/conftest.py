"""Real stores for tests that ask one without a socket, and for tests of what runs on any engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.functional.postgres import serving_postgres
from tests.unit.server.asking import Asking, MovedClock
from tests.unit.server.engine_catalog import Catalog
from tests.unit.server.engines import ENGINES, Emptied, FreshDatabases, sqlite_engine
from tests.unit.server.vaulted import Vaulted, WatchedVault, vaults_are

from dox_core_store.server.bootstrap import node, vaults


@pytest.fixture
def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    monkeypatch.setattr(node, "SystemClock", MovedClock)
    monkeypatch.setattr(MovedClock, "ahead_minutes", 0)
    with asyncio.Runner() as runner:
        asking = Asking(tmp_path, runner)
        yield asking
        asking.stop()


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshDatabases]:
    """A real PostgreSQL that copies an empty store as often as one is wanted."""
    with serving_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield FreshDatabases(server)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """An empty store in each engine."""
    if request.param == "sqlite":
        yield sqlite_engine()
        return
    databases: FreshDatabases = request.getfixturevalue("databases")
    made = databases.create()
    yield made
    databases.drop(made)


@pytest.fixture
def catalog(engine: sa.Engine) -> Iterator[Catalog]:
    """The tables of a catalog in each engine."""
    catalog = Catalog(engine)
    yield catalog
    catalog.connection.close()


@pytest.fixture
def many_nodes(databases: FreshDatabases) -> Iterator[sa.Engine]:
    """An empty store that many nodes can share."""
    made = databases.create()
    yield made
    databases.drop(made)


@pytest.fixture(scope="session", params=ENGINES)
def emptied(request: pytest.FixtureRequest) -> Emptied:
    """Empty stores in each engine, for tests that want many."""
    if request.param == "sqlite":
        return Emptied("sqlite", sqlite_engine)
    databases: FreshDatabases = request.getfixturevalue("databases")
    return Emptied("postgresql", databases.create)


@pytest.fixture
def vaulted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vaulted]:
    """The same, with its values in a vault; only the test sweeps, and goes round."""
    monkeypatch.setattr(node, "SystemClock", MovedClock)
    monkeypatch.setattr(vaults, "_SWEEP_SECONDS", 3_600.0)
    monkeypatch.setattr(vaults, "_WATCH_SECONDS", 3_600.0)
    monkeypatch.setattr(MovedClock, "ahead_minutes", 0)
    vault = WatchedVault()
    vaults_are(monkeypatch, vault)
    with asyncio.Runner() as runner:
        asking = Asking(tmp_path, runner)
        yield Vaulted(asking, vault)
        vault.spare()
        asking.stop()
