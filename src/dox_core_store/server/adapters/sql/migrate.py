"""Schema migrations, by Alembic. The revisions are in ``migrations/versions``.

Alembic is only imported where there is something to migrate: a start on a current schema compares
one row with `SCHEMAS`, and a command on the store need not wait for a library it does not use.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.sql.tables import SCHEMAS

__all__ = ["check_schema", "current_revision", "upgrade"]

_SCRIPTS = Path(__file__).parent / "migrations"


def current_revision(connection: sa.Connection) -> str | None:
    """The revision that the database is at; None for one without our tables."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if revision is None else str(revision)


def check_schema(connection: sa.Connection) -> None:
    """Raise `ConfigurationError` ``store_newer`` if this release does not know the schema."""
    revision = current_revision(connection)
    if revision is not None and revision not in SCHEMAS:
        raise ConfigurationError(
            "store_newer", f"The store's schema is {revision}, which this release does not know."
        )


def upgrade(connection: sa.Connection) -> None:
    """Bring the database to this release's revision, in one transaction.

    Raises `ConfigurationError` ``store_newer``; the database is then untouched.
    """
    check_schema(connection)
    if current_revision(connection) == SCHEMAS[-1]:
        return
    from alembic import command  # noqa: PLC0415 - see the module
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
