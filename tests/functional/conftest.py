"""Real stores for the tests here: a fresh one each (`store`), or one that all share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.postgres import Postgres, serving_postgres
from tests.functional.real_servers import Moto, OpenBao, serving_moto, serving_openbao
from tests.functional.running import RunningStore

pytest.register_assert_rewrite(
    *(f"dox_core_store.testing.store_{name}" for name in ("conformance", "imports", "versions"))
)


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> RunningStore:
    """What ``init`` makes, to be copied and never served itself."""
    store = RunningStore(tmp_path_factory.mktemp("made"))
    store.init()
    return store


@pytest.fixture
def idle_store(tmp_path: Path, made_store: RunningStore) -> Iterator[RunningStore]:
    """A store that is not served yet."""
    store = RunningStore(tmp_path / "store")
    store.copy_of(made_store)
    yield store
    store.dispose()


@pytest.fixture
def store(idle_store: RunningStore) -> RunningStore:
    """A fresh store and its server, for a test that changes or breaks it."""
    idle_store.start()
    return idle_store


@pytest.fixture(scope="session")
def shared_store(
    tmp_path_factory: pytest.TempPathFactory, made_store: RunningStore
) -> Iterator[RunningStore]:
    """One server for all tests that leave it as they found it, but for keys of their own."""
    store = RunningStore(tmp_path_factory.mktemp("shared") / "store")
    store.copy_of(made_store)
    store.start()
    yield store
    store.dispose()


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A real OpenBao with a Transit key ``doxstore``; who seals it unseals it again."""
    with serving_openbao(tmp_path_factory.mktemp("openbao")) as bao:
        yield bao


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """AWS's API over a real socket."""
    with serving_moto(tmp_path_factory.mktemp("moto")) as aws:
        yield aws


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A real PostgreSQL that nobody stops."""
    with serving_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The address of an empty database."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)
