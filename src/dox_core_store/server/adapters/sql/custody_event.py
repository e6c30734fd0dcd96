"""What happened last in the custody of the store, by name: nothing is decided by it.

``ring``: which key-encryption key the server has taken up (`RingFollower`).
``tombstones``: that every version which was revoked or destroyed before there were any has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from dox_core_store.server.adapters.sql import tables

__all__ = ["note_event", "read_event"]

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def note_event(
    connection: sa.Connection, name: str, now: datetime, detail: Mapping[str, Any]
) -> None:
    """Keep that ``name`` happened at ``now``, in place of the last time. In the caller's
    transaction."""
    table = tables.custody_event
    connection.execute(sa.delete(table).where(table.c.name == name))
    connection.execute(
        sa.insert(table).values(
            name=name, happened_at=now, detail=msgspec.json.encode(detail).decode()
        )
    )


def read_event(connection: sa.Connection, name: str) -> tuple[datetime, dict[str, Any]] | None:
    """When ``name`` happened last, and what there is to say of it; None if it never did, or if what
    stands there cannot be read: nothing is decided by it, so it is as if it had not happened."""
    event = tables.custody_event.c
    query = sa.select(event.happened_at, event.detail).where(event.name == name)
    row = connection.execute(query).first()
    try:
        return None if row is None else (row.happened_at, _decode(row.detail))
    except msgspec.DecodeError:
        return None
