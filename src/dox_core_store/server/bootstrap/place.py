"""Where the settings say that a store lies: in a folder, or in a database for many nodes."""

from __future__ import annotations

from pathlib import Path

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.sql.place import Place
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.settings import Settings

__all__ = ["check_database", "place_of"]


def check_database() -> None:
    """Raise `ConfigurationError` ``bad_setting`` where no database can be spoken to from here."""
    try:
        import psycopg  # noqa: F401, PLC0415 - only who has such a store needs the library
    except ImportError as error:
        raise ConfigurationError(
            "bad_setting",
            f"database needs {error.name}, which is not installed:"
            " pip install 'dox-core-store[postgres]'.",
        ) from None


def place_of(settings: Settings, *, serving: bool = False) -> Place:
    """The place of the store. A server keeps connections, a command makes what it needs.

    Raises `ConfigurationError` ``bad_setting``.
    """
    folder = Path(settings.data)
    if not settings.database:
        return SqlitePlace(folder)
    check_database()
    from dox_core_store.server.adapters.postgresql.engine import DatabaseAddress  # noqa: PLC0415
    from dox_core_store.server.adapters.postgresql.place import PostgresPlace  # noqa: PLC0415

    address = DatabaseAddress(settings.database, password_file=settings.database_password_file)
    return PostgresPlace(
        address, folder=folder, connections=settings.database_connections if serving else 0
    )
