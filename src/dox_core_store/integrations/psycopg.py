"""psycopg connections with the password, or the whole address, that the store keeps.

::

    import os

    from dox_core_store import SyncKeyClient
    from dox_core_store.integrations.psycopg import follow_password

    client = SyncKeyClient("jules-mcp")
    AppConnection = follow_password(client, "database_passwords.app")

    with AppConnection.connect(os.environ["CONNINFO"]) as connection:  # with no password
        assert connection.execute("SELECT 1").fetchone() == (1,)

What is made is a class, for that is what ``psycopg_pool`` takes, and its pool then follows a
change: ``ConnectionPool(conninfo, connection_class=AppConnection)``. A `KeyClient` makes a subclass
of ``AsyncConnection``. See `database_login` for what happens where the database refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, overload

from psycopg import AsyncConnection, Connection, Error
from psycopg.conninfo import conninfo_to_dict

from dox_core_store.client import Key, KeyClient, SyncKey, SyncKeyClient
from dox_core_store.errors import ConfigurationError
from dox_core_store.integrations.database_login import REASON, logged_in, logged_in_async

__all__ = ["follow_password", "follow_url"]

Parameters = dict[str, Any]


@overload
def follow_password(client: SyncKeyClient, key_path: str) -> type[Connection[Any]]: ...
@overload
def follow_password(client: KeyClient, key_path: str) -> type[AsyncConnection[Any]]: ...
def follow_password(
    client: SyncKeyClient | KeyClient, key_path: str
) -> type[Connection[Any] | AsyncConnection[Any]]:
    """A class of connections whose password is the value of ``key_path`` when they are made."""
    return _following(client, key_path, _password)


@overload
def follow_url(client: SyncKeyClient, key_path: str) -> type[Connection[Any]]: ...
@overload
def follow_url(client: KeyClient, key_path: str) -> type[AsyncConnection[Any]]: ...
def follow_url(
    client: SyncKeyClient | KeyClient, key_path: str
) -> type[Connection[Any] | AsyncConnection[Any]]:
    """A class of connections to the address (or ``conninfo``) that is the value of ``key_path``
    when they are made. Keyword arguments of ``connect`` come before it."""
    return _following(client, key_path, _address)


def _following(
    client: SyncKeyClient | KeyClient, key_path: str, read: Callable[[str], Parameters]
) -> type[Connection[Any] | AsyncConnection[Any]]:
    if isinstance(client, SyncKeyClient):
        return _blocking(client, key_path, read)
    return _asynchronous(client, key_path, read)


def _blocking(
    client: SyncKeyClient, key_path: str, read: Callable[[str], Parameters]
) -> type[Connection[Any]]:
    class FollowingConnection(Connection[Any]):
        @classmethod
        def connect(cls, conninfo: str = "", **arguments: Any) -> Self:
            def open_with(key: SyncKey) -> Any:
                merged = _merged(read(key.value), arguments)
                return super(FollowingConnection, cls).connect(conninfo, **merged)

            made: Self = logged_in(
                lambda ttl: client.get_key(key_path, ttl),
                open_with,
                lambda key: key.rejected(REASON),
            )
            return made

    return FollowingConnection


def _asynchronous(
    client: KeyClient, key_path: str, read: Callable[[str], Parameters]
) -> type[AsyncConnection[Any]]:
    class FollowingAsyncConnection(AsyncConnection[Any]):
        @classmethod
        async def connect(cls, conninfo: str = "", **arguments: Any) -> Self:
            async def open_with(key: Key) -> Any:
                merged = _merged(read(key.value), arguments)
                return await super(FollowingAsyncConnection, cls).connect(conninfo, **merged)

            return await logged_in_async(lambda ttl: client.get_key(key_path, ttl), open_with)

    return FollowingAsyncConnection


def _merged(found: Parameters, arguments: Parameters) -> Parameters:
    return {**found, **{name: each for name, each in arguments.items() if name != "password"}}


def _password(value: str) -> Parameters:
    return {"password": value}


def _address(value: str) -> Parameters:
    try:
        return dict(conninfo_to_dict(value))
    except Error:  # whose text quotes the value
        raise ConfigurationError(
            "bad_setting", "The key's value is not an address of a database."
        ) from None
