"""SQLAlchemy engines whose pool follows the password, or the whole address, that the store keeps.

::

    import os

    from sqlalchemy import create_engine, text

    from dox_core_store import SyncKeyClient
    from dox_core_store.integrations.sqlalchemy import follow_password

    client = SyncKeyClient("jules-mcp")
    engine = create_engine(os.environ["DATABASE_URL"], pool_recycle=3600)  # a URL with no password
    follow_password(engine, client, "database_passwords.app")

    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1

By the event ``do_connect`` each new connection of the pool asks the client, so a change needs no
new engine and breaks no connection that is open. See `database_login` for what happens where the
database refuses, and for how to change a password without a gap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import Engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from dox_core_store.client import Key, KeyClient, SyncKey, SyncKeyClient
from dox_core_store.errors import ConfigurationError
from dox_core_store.integrations.database_login import REASON, logged_in

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["follow_password", "follow_url"]

Arguments = tuple[list[Any], dict[str, Any]]
Merge = Callable[[Dialect, list[Any], dict[str, Any], str], Arguments]
"""The arguments of a connection, from the engine's own and a key's value."""


@overload
def follow_password(engine: Engine, client: SyncKeyClient, key_path: str) -> None: ...
@overload
def follow_password(engine: AsyncEngine, client: KeyClient, key_path: str) -> None: ...
def follow_password(
    engine: Engine | AsyncEngine, client: SyncKeyClient | KeyClient, key_path: str
) -> None:
    """Connect ``engine`` with the value of ``key_path`` as the password, from now on."""
    _follow(engine, client, key_path, _with_password)


@overload
def follow_url(engine: Engine, client: SyncKeyClient, key_path: str) -> None: ...
@overload
def follow_url(engine: AsyncEngine, client: KeyClient, key_path: str) -> None: ...
def follow_url(
    engine: Engine | AsyncEngine, client: SyncKeyClient | KeyClient, key_path: str
) -> None:
    """Connect ``engine`` to the address that is the value of ``key_path``, from now on. Its driver
    is the engine's, whatever the address says: ``create_engine("postgresql+psycopg://")``."""
    _follow(engine, client, key_path, _with_url)


def _follow(
    engine: Engine | AsyncEngine, client: SyncKeyClient | KeyClient, key_path: str, merge: Merge
) -> None:
    is_blocking = isinstance(engine, Engine)
    if is_blocking is not isinstance(client, SyncKeyClient):
        raise TypeError("an Engine needs a SyncKeyClient, and an AsyncEngine a KeyClient")

    @event.listens_for(engine if isinstance(engine, Engine) else engine.sync_engine, "do_connect")
    def connect(
        dialect: Dialect, _entry: ConnectionPoolEntry, args: list[Any], params: dict[str, Any]
    ) -> DBAPIConnection:
        def open_with(key: SyncKey | Key) -> DBAPIConnection:
            merged_args, merged_params = merge(dialect, args, params, key.value)
            return dialect.connect(*merged_args, **merged_params)

        if isinstance(client, SyncKeyClient):
            return logged_in(lambda ttl: client.get_key(key_path, ttl), open_with, _rejected)
        # The engine's own way to wait where its drivers do.
        return logged_in(
            lambda ttl: await_only(client.get_key(key_path, ttl)), open_with, _rejected_async
        )


def _rejected(key: SyncKey) -> SyncKey:
    return key.rejected(REASON)


def _rejected_async(key: Key) -> Key:
    return await_only(key.rejected(REASON))


def _with_password(
    _dialect: Dialect, args: list[Any], params: dict[str, Any], value: str
) -> Arguments:
    return args, {**params, "password": value}


def _with_url(dialect: Dialect, _args: list[Any], params: dict[str, Any], value: str) -> Arguments:
    try:
        args, found = dialect.create_connect_args(make_url(value))
    except Exception:  # noqa: BLE001 - whatever it is, its text may quote the value
        raise ConfigurationError(
            "bad_setting", "The key's value is not an address of a database."
        ) from None
    return list(args), {**params, **found}
