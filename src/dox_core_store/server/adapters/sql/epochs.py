"""Beginning a new epoch: after a restore, or when the database is found behind what was seen of it.

The streams of the epoch before are closed where they stand, without a CLOSE entry: in the history
that was lost, another entry may have that place, and two histories must never share one. Everything
goes on in new streams; the first entry of the new `changes` stream says why, and what is known of
the end of the old one. Until somebody signs the epoch off, nothing is handed out.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.transacting import snapshot
from dox_core_store.server.adapters.sql.transaction import RecordReader, SqlTransaction
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.envelope import Ring
from dox_core_store.server.domain.epoch import Cause, EpochRecord
from dox_core_store.server.domain.ledger import (
    CHANGES,
    Action,
    changes_stream,
    genesis,
    is_changes,
)
from dox_core_store.server.usecases.registry import subject

__all__ = ["begin_epoch", "check_epoch"]

_ACTIONS: Mapping[Cause, Action] = {
    Cause.RESTORE: Action.RESTORE,
    Cause.HISTORY_LOST: Action.HISTORY_LOST,
}


def begin_epoch(
    connection: sa.Connection,
    *,
    ring: Ring,
    cause: Cause,
    caller: Caller,
    now: datetime,
    reason: str,
    after: int = 0,
    reviewed_by: str | None = None,
) -> int:
    """Begin the epoch after the store's own and after ``after``; returns its number.

    Inside the caller's transaction, on a schema that is up to date. ``after``: the last epoch that
    is known from elsewhere. ``reviewed_by`` signs it off at once, where what was revoked in the
    lost part is known. Whoever goes on writing needs a `RecordReader` on the new epoch's stream.
    """
    store, stream = tables.store.c, tables.ledger_stream
    store_id, before = connection.execute(sa.select(store.store_id, store.epoch)).one()
    epoch = max(before, after) + 1
    name = changes_stream(epoch)
    _close_streams(connection, now)
    connection.execute(sa.update(tables.store).values(epoch=epoch))
    connection.execute(
        sa.insert(stream).values(
            stream=name, opened_at=now, last_seq=0, head=genesis(store_id, name)
        )
    )
    records = RecordReader(ring=ring, alarm=_no_alarm, changes=name)
    transaction = SqlTransaction(connection=connection, reader=records, now=now)
    transaction.keep_up()
    transaction.put(
        EpochRecord(
            epoch=epoch,
            cause=cause,
            began_at=now,
            reviewed_at=None if reviewed_by is None else now,
            reviewed_by=reviewed_by,
        )
    )
    entry: dict[str, Any] = {
        "action": _ACTIONS[cause],
        "key_path": subject("epochs", str(epoch)),
        "reason": reason,
    }
    transaction.record(caller, entry)
    transaction.finish()
    return int(epoch)


def check_epoch(connection: sa.Connection) -> int:
    """The store's epoch. Raises `ConfigurationError` ``store_damaged`` if a later one has left
    traces: the store's own row carries no MAC, and set back it would pass a review that nobody
    made."""
    stream = tables.ledger_stream.c.stream
    with snapshot(connection):  # another node may be beginning one
        epoch: int = connection.execute(sa.select(tables.store.c.epoch)).scalar_one()
        names = connection.execute(
            sa.select(stream).where(stream > f"{CHANGES}-", stream < f"{CHANGES}.")
        )
        begun = [int(name.partition("-")[2]) for name in names.scalars() if is_changes(name)]
        recorded = connection.execute(sa.select(sa.func.max(tables.epoch.c.epoch))).scalar() or 1
    if max(recorded, *begun, 1) > epoch:
        raise ConfigurationError(
            "store_damaged", f"The store says that it is in epoch {epoch}, and was in a later one."
        )
    return epoch


def _close_streams(connection: sa.Connection, now: datetime) -> None:
    """Close every open stream at its last block; a server's own row does not follow its blocks."""
    stream, block = tables.ledger_stream, tables.ledger_block.c
    names = connection.execute(sa.select(stream.c.stream).where(stream.c.closed_at.is_(None)))
    for name in names.scalars().all():
        last = connection.execute(
            sa.select(block.last_seq, block.head)
            .where(block.stream == name)
            .order_by(block.block_id.desc())
            .limit(1)
        ).first()
        values = {"closed_at": now}
        if last is not None:
            values |= {"last_seq": last.last_seq, "head": last.head}
        connection.execute(sa.update(stream).where(stream.c.stream == name).values(values))


def _no_alarm(_table: str, _identity: str) -> None:
    """Nothing is read here."""
