"""Schema migrations, by Alembic. The revisions are in ``migrations/versions``."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from dox_core_store.errors import ConfigurationError

__all__ = ["current_revision", "is_newer", "upgrade"]

_SCRIPTS = Path(__file__).parent / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config


def current_revision(connection: sa.Connection) -> str | None:
    """The revision that the database is at; None for one without our tables."""
    return MigrationContext.configure(connection).get_current_revision()


def is_newer(connection: sa.Connection) -> bool:
    """Whether the database is at a revision that this release does not know."""
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    current = current_revision(connection)
    return current is not None and current not in known


def upgrade(connection: sa.Connection) -> None:
    """Bring the database to this release's revision, in one transaction.

    Raises `ConfigurationError` ``store_newer``; the database is then untouched.
    """
    if is_newer(connection):
        raise ConfigurationError(
            "store_newer",
            f"The store's schema is {current_revision(connection)}, which this release does not"
            " know.",
        )
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
