"""The migrations, the tables and the list of known schemas say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.sql import migrate
from dox_core_store.server.adapters.sql.tables import SCHEMAS, metadata


@pytest.fixture
def connection(tmp_path: Path) -> sa.Connection:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'store.db'}", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


def test_the_migrations_build_the_tables(connection: sa.Connection) -> None:
    migrate.upgrade(connection)
    assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert migrate.current_revision(connection) == SCHEMAS[-1]


def test_upgrading_again_changes_nothing(connection: sa.Connection) -> None:
    migrate.upgrade(connection)
    before = connection.exec_driver_sql("PRAGMA schema_version").scalar()
    migrate.upgrade(connection)
    assert connection.exec_driver_sql("PRAGMA schema_version").scalar() == before


def test_every_revision_is_known() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    revisions = [each.revision for each in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(revisions)) == SCHEMAS


def test_a_newer_schema_is_refused_and_left_alone(connection: sa.Connection) -> None:
    migrate.upgrade(connection)
    connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match="9999") as refused:
        migrate.upgrade(connection)
    assert refused.value.code == "store_newer"
    assert migrate.current_revision(connection) == "9999"
