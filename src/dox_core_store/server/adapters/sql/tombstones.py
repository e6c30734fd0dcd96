"""Tombstones for versions that were revoked or destroyed by a release that wrote none.

Once for each store: a mark says that it was done. Rows whose own MAC does not hold get none; they
count as absent anyway.
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from dox_core_store.server.adapters.sql.custody_event import note_event, read_event
from dox_core_store.server.adapters.sql.records import RecordReader
from dox_core_store.server.adapters.sql.transacting import writing
from dox_core_store.server.adapters.sql.transaction import SqlTransaction
from dox_core_store.server.domain.key import State, TombstoneRecord, VersionRecord

__all__ = ["bury_the_dead", "mark_buried"]

_MARK = "tombstones"
_DEAD = (State.REVOKED, State.DESTROYED)


def bury_the_dead(connection: sa.Connection, records: RecordReader) -> None:
    """Give every dead version its tombstone, in one transaction, unless that was done."""
    if _is_marked(connection):
        return
    with writing(connection):
        if not _is_marked(connection):
            # The wall clock, whatever the caller's says: nothing is decided by when it was done.
            now = datetime.now(UTC)
            transaction = SqlTransaction(connection=connection, reader=records, now=now)
            transaction.keep_up()
            for version in transaction.find_among(VersionRecord, "state", [str(s) for s in _DEAD]):
                if transaction.get(TombstoneRecord, version_id=version.version_id) is None:
                    transaction.put(
                        TombstoneRecord(
                            version_id=version.version_id, state=version.state, buried_at=now
                        )
                    )
            mark_buried(connection, now)


def mark_buried(connection: sa.Connection, now: datetime) -> None:
    """Remember that no version lacks its tombstone; a store that is made has none to lack."""
    note_event(connection, _MARK, now, {})


def _is_marked(connection: sa.Connection) -> bool:
    return read_event(connection, _MARK) is not None
