"""Statements on what lies in vaults: counted, never looked into."""

from __future__ import annotations

from collections import Counter

import sqlalchemy as sa

from dox_core_store.key_path import RESERVED_PREFIX
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.ports import Lying

__all__ = ["lying"]


def lying(connection: sa.Connection) -> dict[str, Lying]:
    """See `Catalog.lying`. The store's own secrets are no keys."""
    there = sa.func.coalesce(tables.version.c.vault, "")
    has_value = tables.version.c.sealed.is_not(None)
    versions = _counted(connection, there, has_value)
    versions[""] -= _own(connection)
    copies = _counted(connection, tables.version_copy.c.vault)
    tasks = _counted(connection, tables.vault_task.c.vault)
    names = {*versions, *copies, *tasks}
    return {name: Lying(versions[name], copies[name], tasks[name]) for name in sorted(names)}


def _own(connection: sa.Connection) -> int:
    version, key = tables.version.c, tables.key.c
    query = (
        sa.select(sa.func.count())
        .select_from(tables.version.join(tables.key, key.key_id == version.key_id))
        .where(key.path >= f"{RESERVED_PREFIX}.", key.path < f"{RESERVED_PREFIX}/")
        .where(version.sealed.is_not(None), version.vault.is_(None))
    )
    return int(connection.execute(query).scalar_one())


def _counted(
    connection: sa.Connection, name: sa.ColumnElement[str], *where: sa.ColumnElement[bool]
) -> Counter[str]:
    query = sa.select(name, sa.func.count()).where(*where).group_by(name)
    return Counter({str(vault): int(count) for vault, count in connection.execute(query)})
