"""Real stores for the tests here: a fresh one each (`store`), or one that all share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.running import RunningStore


@pytest.fixture
def idle_store(tmp_path: Path) -> Iterator[RunningStore]:
    """A store that was made and is not served yet."""
    store = RunningStore(tmp_path)
    store.init()
    yield store
    store.dispose()


@pytest.fixture
def store(idle_store: RunningStore) -> RunningStore:
    """A fresh store and its server, for a test that changes or breaks it."""
    idle_store.start()
    return idle_store


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStore]:
    """One server for all tests that leave it as they found it, but for keys of their own."""
    store = RunningStore(tmp_path_factory.mktemp("shared"))
    store.init()
    store.start()
    yield store
    store.dispose()
