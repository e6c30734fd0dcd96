"""A pool of PostgreSQL connections through twenty changes of its password, with no failed query.

A change is in the store before it is in the database, so there is a gap in which the current
password is not yet let in. Each gap here is held open until connections were made in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
from sqlalchemy import Engine, create_engine, event, text
from tests.functional.app_database import AppDatabase
from tests.functional.postgres import Postgres
from tests.functional.running import RunningStore

from dox_core_store import SyncKeyClient
from dox_core_store.integrations.sqlalchemy import follow_password

CHANGES = 20
CONNECTIONS = 5
RECYCLE_SECONDS = 0.1
DEADLINE_SECONDS = 30


@pytest.fixture
def database(postgres: Postgres, shared_store: RunningStore) -> Iterator[AppDatabase]:
    made = AppDatabase(postgres, shared_store, role="app_rotation")
    made.change("password-0")
    yield made
    made.drop()


class Traffic:
    """Threads that query all the time; what failed, and how often something was made or asked."""

    def __init__(self, engine: Engine) -> None:
        self.failures: list[BaseException] = []
        self.queries = 0
        self.connected = 0
        self._engine = engine
        self._counting = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._query) for _ in range(CONNECTIONS)]
        event.listen(engine, "connect", self._connect)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)

    def more_connections(self, number: int) -> None:
        """Return once ``number`` more were made than until now."""
        until = self.connected + number
        self.wait_for(lambda: self.connected >= until or bool(self.failures))

    def wait_for(self, come: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not come():
            assert time.monotonic() < deadline, "nothing goes on"
            time.sleep(0.005)

    def _connect(self, *_: Any) -> None:
        with self._counting:
            self.connected += 1

    def _query(self) -> None:
        while not self._ended.is_set():
            try:
                with self._engine.connect() as connection:
                    assert connection.scalar(text("SELECT current_user")) == "app_rotation"
                    connection.execute(text("SELECT pg_sleep(0.002)"))
            except BaseException as error:  # noqa: BLE001 - counted, and the test fails of it
                self.failures.append(error)
                return
            with self._counting:
                self.queries += 1


def test_a_pool_stays_alive_through_twenty_changes_of_its_password(
    database: AppDatabase, shared_store: RunningStore
) -> None:
    token = shared_store.issue("rotated-app", database.path)
    address = database.address.replace("postgresql:", "postgresql+psycopg:", 1)
    engine = create_engine(
        address, pool_size=CONNECTIONS, max_overflow=0, pool_recycle=RECYCLE_SECONDS
    )
    with SyncKeyClient("rotated-app", token, shared_store.url) as client:
        follow_password(engine, client, database.path)
        with Traffic(engine) as traffic:
            traffic.more_connections(CONNECTIONS)
            for number in range(1, CHANGES + 1):
                database.store(f"password-{number}")
                # The pool has it at once, as it would by the stream of changes; what was under way
                # before is not counted.
                assert client.get_key(database.path, cache_ttl=0).value == f"password-{number}"
                traffic.more_connections(CONNECTIONS + 1)  # in the gap
                database.alter(f"password-{number}")
                traffic.more_connections(CONNECTIONS + 1)
                assert traffic.failures == []
        assert traffic.failures == []
        assert client.get_key(database.path).value == f"password-{CHANGES}"
    engine.dispose()
    assert traffic.connected >= 2 * CHANGES * (CONNECTIONS + 1)
    assert traffic.queries >= traffic.connected
    assert not database.lets_in(f"password-{CHANGES - 1}")
    # Each gap was met. The store was told of it, but not by each of the connections.
    told = [each for each in shared_store.export() if each["action"] == "REJECT"]
    mine = [each for each in told if each["service_name"] == "rotated-app"]
    assert CHANGES <= len(mine) <= 3 * CHANGES
