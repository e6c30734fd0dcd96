"""psycopg's connections with a real store and a real PostgreSQL that checks passwords."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from tests.functional.app_database import AppDatabase
from tests.functional.postgres import Postgres
from tests.functional.running import RunningStore

from dox_core_store import KeyClient, SyncKeyClient
from dox_core_store.errors import ConfigurationError
from dox_core_store.integrations.database_login import is_refused
from dox_core_store.integrations.psycopg import follow_password, follow_url


@pytest.fixture(scope="module")
def database(postgres: Postgres, shared_store: RunningStore) -> Iterator[AppDatabase]:
    made = AppDatabase(postgres, shared_store, role="app_psycopg")
    yield made
    made.drop()


@pytest.fixture(scope="module")
def token(shared_store: RunningStore, database: AppDatabase) -> str:
    return shared_store.issue("psycopg-app", database.path, database.url_path, "psycopg.wrong")


@pytest.fixture
def client(shared_store: RunningStore, token: str) -> Iterator[SyncKeyClient]:
    with SyncKeyClient("psycopg-app", token, shared_store.url, follow=False) as made:
        yield made


def logs_in(connection_class: type[psycopg.Connection], address: str) -> bool:
    with connection_class.connect(address, autocommit=True) as connection:
        row: tuple[int] = connection.execute("SELECT 1").fetchone()
        return row == (1,)


def test_the_database_checks_passwords(database: AppDatabase) -> None:
    database.change("at-first")
    assert database.lets_in("at-first")
    assert not database.lets_in("another")


def test_a_connection_has_the_password_of_the_moment(
    database: AppDatabase, client: SyncKeyClient
) -> None:
    connection_class = follow_password(client, database.path)
    for password in ("one", "two", "three"):
        database.change(password)
        assert logs_in(connection_class, database.address)
        assert client.get_key(database.path).value == password


def test_a_whole_address_is_followed_and_arguments_come_before_it(
    database: AppDatabase, client: SyncKeyClient
) -> None:
    connection_class = follow_url(client, database.url_path)
    for password in ("four", "five"):
        database.change(password)
        assert logs_in(connection_class, "")
    with connection_class.connect(application_name="tests") as connection:
        said = connection.execute("SHOW application_name").fetchone()
    assert said == ("tests",)


def test_the_one_before_is_used_until_the_database_was_told(
    database: AppDatabase, client: SyncKeyClient
) -> None:
    connection_class = follow_password(client, database.path)
    database.change("before")
    database.store("after")
    client.clear_cache()
    assert logs_in(connection_class, database.address)
    database.alter("after")
    assert logs_in(connection_class, database.address)


def test_a_wrong_password_is_the_databases_own_error(
    database: AppDatabase, client: SyncKeyClient, shared_store: RunningStore
) -> None:
    shared_store.put("psycopg.wrong", "no-such-password", environment="production")
    connection_class = follow_password(client, "psycopg.wrong")
    with pytest.raises(psycopg.OperationalError) as caught:
        connection_class.connect(database.address)
    assert is_refused(caught.value)
    (note,) = caught.value.__notes__
    assert note.startswith("The store has no other value to try (version_not_found): ")
    assert "no-such-password" not in str(caught.value)


def test_what_is_no_refusal_is_raised_at_once(database: AppDatabase, client: SyncKeyClient) -> None:
    database.change("good")
    with pytest.raises(psycopg.OperationalError, match="does not exist") as caught:
        follow_password(client, database.path).connect(database.address + "_absent")
    assert not hasattr(caught.value, "__notes__")


def test_a_value_that_is_no_address_is_not_shown(
    database: AppDatabase, client: SyncKeyClient, shared_store: RunningStore
) -> None:
    shared_store.put("psycopg.wrong", "hidden-and-no-address", environment="production")
    client.clear_cache()
    with pytest.raises(ConfigurationError) as caught:
        follow_url(client, "psycopg.wrong").connect()
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_role_out_of_use_counts_as_refused(database: AppDatabase, postgres: Postgres) -> None:
    database.change("good")
    postgres.run("postgres", f"ALTER ROLE {database.role} NOLOGIN")
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(database.address, password="good")
    postgres.run("postgres", f"ALTER ROLE {database.role} LOGIN")
    assert is_refused(caught.value)


async def _through_a_change(database: AppDatabase, url: str, token: str) -> list[str]:
    seen = []
    async with KeyClient("psycopg-app", token, url, follow=False) as client:
        for make, path in ((follow_password, database.path), (follow_url, database.url_path)):
            connection_class = make(client, path)
            for password in ("six", "seven"):
                await asyncio.to_thread(database.change, password)
                async with await connection_class.connect(database.address) as connection:
                    cursor = await connection.execute("SELECT current_user")
                    seen.append((await cursor.fetchone())[0])
            await asyncio.to_thread(database.store, "eight")
            await client.clear_cache()
            async with await connection_class.connect(database.address):
                pass
            await asyncio.to_thread(database.alter, "eight")
    return seen


def test_asynchronous_connections_follow_too(
    database: AppDatabase, shared_store: RunningStore, token: str
) -> None:
    seen = asyncio.run(_through_a_change(database, shared_store.url, token))
    assert seen == [database.role] * 4
