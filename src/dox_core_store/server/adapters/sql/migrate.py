"""Schema migrations, by Alembic. The revisions are in ``migrations/versions``.

Alembic is only imported where there is something to migrate: a start on a current schema compares
one row with `SCHEMAS`, and a command on the store need not wait for a library it does not use.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.sql.tables import SCHEMAS
from dox_core_store.server.adapters.sql.transacting import writing

__all__ = ["check_schema", "current_revision", "migrate", "upgrade"]

_SCRIPTS = Path(__file__).parent / "migrations"


def current_revision(connection: sa.Connection) -> str | None:
    """The revision that the database is at; None for one without our tables."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if revision is None else str(revision)


def check_schema(connection: sa.Connection) -> None:
    """Raise `ConfigurationError` ``store_newer`` if this release must not work on the schema.

    A newer schema may say that this release will do (``store.readable_by``): nodes are upgraded one
    after the other, and one of the release before may start again meanwhile.
    """
    revision = current_revision(connection)
    if revision is None or revision in SCHEMAS or _readable_by(connection, revision) in SCHEMAS:
        return
    raise ConfigurationError(
        "store_newer", f"The store's schema is {revision}, which this release does not know."
    )


def upgrade(connection: sa.Connection) -> None:
    """Bring the database to this release's revision, in one transaction; a newer one stays.

    Raises `ConfigurationError` ``store_newer``; the database is then untouched.
    """
    if _is_behind(connection):
        # Said to the driver, which is in autocommit: each statement would else be a transaction,
        # and a power cut between two would leave a schema that no release knows.
        with writing(connection):
            migrate(connection)


def migrate(connection: sa.Connection) -> None:
    """The same inside the caller's transaction."""
    if not _is_behind(connection):  # another process was first
        return
    from alembic import command  # noqa: PLC0415 - see the module
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _is_behind(connection: sa.Connection) -> bool:
    check_schema(connection)
    revision = current_revision(connection)
    return revision is None or revision in SCHEMAS[:-1]


def _readable_by(connection: sa.Connection, revision: str) -> str | None:
    """The oldest revision whose release may work on ``revision``, if the store says so."""
    columns = {column["name"] for column in sa.inspect(connection).get_columns("store")}
    if "readable_by" not in columns:
        return None
    said = str(connection.exec_driver_sql("SELECT readable_by FROM store").scalar())
    written_at, _, oldest = said.partition(":")
    return oldest if written_at == revision else None
