"""SQLAlchemy's engines with a real store and a real PostgreSQL that checks passwords."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from tests.functional.app_database import AppDatabase
from tests.functional.postgres import Postgres
from tests.functional.running import RunningStore

from dox_core_store import KeyClient, SyncKeyClient
from dox_core_store.errors import ConfigurationError
from dox_core_store.integrations.sqlalchemy import follow_password, follow_url


@pytest.fixture(scope="module")
def database(postgres: Postgres, shared_store: RunningStore) -> Iterator[AppDatabase]:
    made = AppDatabase(postgres, shared_store, role="app_sqlalchemy")
    yield made
    made.drop()


@pytest.fixture(scope="module")
def token(shared_store: RunningStore, database: AppDatabase) -> str:
    return shared_store.issue("alchemist", database.path, database.url_path, "alchemy.wrong")


@pytest.fixture
def client(shared_store: RunningStore, token: str) -> Iterator[SyncKeyClient]:
    with SyncKeyClient("alchemist", token, shared_store.url, follow=False) as made:
        yield made


def driven(address: str) -> str:
    return address.replace("postgresql:", "postgresql+psycopg:", 1)


@pytest.fixture
def engine(database: AppDatabase) -> Iterator[Engine]:
    made = create_engine(driven(database.address))
    yield made
    made.dispose()


def asks_anew(engine: Engine) -> Any:
    """By a connection that was made just now."""
    engine.dispose()
    with engine.connect() as connection:
        return connection.scalar(text("SELECT current_user"))


def test_each_new_connection_has_the_password_of_the_moment(
    database: AppDatabase, client: SyncKeyClient, engine: Engine
) -> None:
    follow_password(engine, client, database.path)
    for password in ("one", "two"):
        database.change(password)
        assert asks_anew(engine) == database.role


def test_a_connection_that_is_open_outlives_a_change(
    database: AppDatabase, client: SyncKeyClient, engine: Engine
) -> None:
    database.change("one")
    follow_password(engine, client, database.path)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
        database.change("two")
        assert connection.scalar(text("SELECT 2")) == 2


def test_the_one_before_is_used_until_the_database_was_told(
    database: AppDatabase, client: SyncKeyClient, engine: Engine
) -> None:
    follow_password(engine, client, database.path)
    database.change("before")
    database.store("after")
    client.clear_cache()
    assert asks_anew(engine) == database.role
    database.alter("after")
    assert asks_anew(engine) == database.role


def test_a_whole_address_is_followed(database: AppDatabase, client: SyncKeyClient) -> None:
    engine = create_engine("postgresql+psycopg://", connect_args={"application_name": "tests"})
    follow_url(engine, client, database.url_path)
    for password in ("three", "four"):
        database.change(password)
        assert asks_anew(engine) == database.role
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW application_name")) == "tests"
    engine.dispose()


def test_a_wrong_password_is_the_databases_own_error(
    client: SyncKeyClient, engine: Engine, shared_store: RunningStore
) -> None:
    shared_store.put("alchemy.wrong", "no-such-password", environment="production")
    follow_password(engine, client, "alchemy.wrong")
    with pytest.raises(OperationalError, match="password authentication failed") as caught:
        asks_anew(engine)
    assert "no-such-password" not in str(caught.value)


@pytest.mark.parametrize("value", ["hidden-and-no-address", "x://hidden:hidden@h:hidden/d"])
def test_a_value_that_is_no_address_is_not_shown(
    client: SyncKeyClient, engine: Engine, shared_store: RunningStore, value: str
) -> None:
    shared_store.put("alchemy.wrong", value, environment="production")
    client.clear_cache()
    follow_url(engine, client, "alchemy.wrong")
    with pytest.raises(ConfigurationError) as caught:
        asks_anew(engine)
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_engine_and_client_have_to_be_of_a_kind(
    client: SyncKeyClient, engine: Engine, shared_store: RunningStore, token: str
) -> None:
    with pytest.raises(TypeError, match="an AsyncEngine a KeyClient"):
        follow_password(create_async_engine("postgresql+psycopg://"), client, "any.path")
    with pytest.raises(TypeError, match="an Engine needs a SyncKeyClient"):
        follow_url(engine, KeyClient("alchemist", token, shared_store.url), "any.path")


async def _through_changes(database: AppDatabase, url: str, token: str) -> list[Any]:
    seen = []
    async with KeyClient("alchemist", token, url, follow=False) as client:
        by_password = create_async_engine(driven(database.address))
        follow_password(by_password, client, database.path)
        by_url = create_async_engine("postgresql+psycopg://")
        follow_url(by_url, client, database.url_path)
        await asyncio.to_thread(database.change, "five")
        for number, engine in enumerate((by_password, by_url)):
            for change in (database.change, database.store, database.alter):
                await asyncio.to_thread(change, f"six-{number}")
                await engine.dispose()
                async with engine.connect() as connection:
                    seen.append(await connection.scalar(text("SELECT current_user")))
            await engine.dispose()
    return seen


def test_asynchronous_engines_follow_too(
    database: AppDatabase, shared_store: RunningStore, token: str
) -> None:
    seen = asyncio.run(_through_changes(database, shared_store.url, token))
    assert seen == [database.role] * 6
