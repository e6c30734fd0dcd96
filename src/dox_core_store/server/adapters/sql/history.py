"""Whether the database is still the one that was seen last, and whether the clock can be right.

A small file beside the database, the witness, says how far the ledger had come. It is written after
commits and never before, so a database that is behind it, or has something else in the same place,
is an older copy or another one: its history was lost. The store then goes on in a new epoch, and
hands out nothing until somebody has signed that off. Whoever puts back the witness too is not found
out here, but by a ledger's export or checkpoint that is kept elsewhere.

The witness is not synced: a power cut may leave an older one, or none that can be read, and both
are as good as none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.epochs import begin_epoch
from dox_core_store.server.adapters.sql.transacting import writing
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.envelope import Ring
from dox_core_store.server.domain.epoch import Cause
from dox_core_store.server.domain.ledger import changes_stream
from dox_core_store.server.ports import Clock

__all__ = ["WITNESS_FILE", "History", "Seen", "newest_entry", "refuse_clock_behind", "unnoticed"]

WITNESS_FILE = "seen.json"
CLOCK_SLACK = timedelta(seconds=60)
"""What machines differ by anyway, and a restart on another one must forgive."""

_SHOWN_CHARACTERS = 12


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a store's ledger had come: the end of the epoch's `changes` stream, and the newest
    block of all. Heads are hexadecimal."""

    store_id: str
    epoch: int
    changes_seq: int
    changes_head: str
    block_id: int
    stream: str
    seq: int
    head: str

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch}, {changes_stream(self.epoch)} #{self.changes_seq}"
            f" {self.changes_head[:_SHOWN_CHARACTERS]},"
            f" {self.stream} #{self.seq} {self.head[:_SHOWN_CHARACTERS]}"
        )


class History:
    """Of one store, as this machine knows it by the file ``witness``. ``notice`` hears
    ``witness_damaged`` and ``history_lost`` with what there is to say of them."""

    def __init__(self, witness: Path, *, notice: Callable[[str, str], None]) -> None:
        self._path = witness
        self._notice = notice
        self._noted: Seen | None = None
        self.lost: str | None = None
        """What was seen and what is there instead, if history was lost."""
        self._seen_epoch = 0

    def look(self, connection: sa.Connection) -> None:
        """Compare the witness with the database, writing nothing. The witness is read first: a
        running server may be ahead of it, and never behind."""
        seen = self._read()
        if seen is None:
            return
        there = observed(connection)
        if seen.store_id == there.store_id and _is_lost(connection, seen, there):
            self.lost = f"seen: {seen}; there: {there}"
            self._seen_epoch = seen.epoch

    def go_on(
        self, connection: sa.Connection, *, ring: Ring, caller: Caller, clock: Clock
    ) -> int | None:
        """Begin a new epoch if history was lost, in a transaction of its own; its number."""
        if self.lost is None:
            return None
        reason = self.lost
        with writing(connection):
            epoch: int = connection.execute(sa.select(tables.store.c.epoch)).scalar_one()
            if epoch <= self._seen_epoch:  # or another node found it out before this one
                epoch = begin_epoch(
                    connection,
                    ring=ring,
                    cause=Cause.HISTORY_LOST,
                    caller=caller,
                    now=clock.now(),
                    reason=reason,
                    after=self._seen_epoch,
                )
        self.lost = None
        self.note(connection)
        self._notice("history_lost", reason)
        return epoch

    def note(self, connection: sa.Connection) -> None:
        """Have the witness say what ``connection`` sees. Never fails: the next one comes soon."""
        if self.lost is not None:
            return  # it is the only one who knows
        with contextlib.suppress(sa.exc.SQLAlchemyError, OSError):
            seen = observed(connection)
            if seen == self._noted:
                return
            if self._noted is not None and _is_behind(seen, self._noted):
                return  # what was seen before must not be forgotten because of it
            draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            try:
                draft.touch(0o600)
                draft.write_bytes(msgspec.json.encode(seen))
                draft.replace(self._path)
            finally:
                draft.unlink(missing_ok=True)
            self._noted = seen

    def _read(self) -> Seen | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Seen)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            self._notice("witness_damaged", type(error).__name__)
            return None


def _is_behind(seen: Seen, before: Seen) -> bool:
    """Whether the ledger cannot have come from ``before`` to ``seen``."""
    if seen.epoch != before.epoch:
        return seen.epoch < before.epoch
    return seen.block_id < before.block_id or seen.changes_seq < before.changes_seq


def unnoticed(_event: str, _detail: str) -> None:
    """For who only looks, and says what was found in another way."""


def observed(connection: sa.Connection) -> Seen:
    """How far the ledger in the database has come."""
    store, stream, block = tables.store.c, tables.ledger_stream.c, tables.ledger_block.c
    store_id, epoch = connection.execute(sa.select(store.store_id, store.epoch)).one()
    changes = connection.execute(
        sa.select(stream.last_seq, stream.head).where(stream.stream == changes_stream(epoch))
    ).one()
    newest = connection.execute(
        sa.select(block.block_id, block.stream, block.last_seq, block.head)
        .order_by(block.block_id.desc())
        .limit(1)
    ).first()
    block_id, name, seq, head = newest or (0, "", 0, b"")  # a ledger that was emptied
    return Seen(
        store_id=store_id,
        epoch=epoch,
        changes_seq=changes.last_seq,
        changes_head=changes.head.hex(),
        block_id=block_id,
        stream=name,
        seq=seq,
        head=head.hex(),
    )


def newest_entry(connection: sa.Connection) -> datetime | None:
    """When the newest block of the ledger was written."""
    block = tables.ledger_block.c
    query = sa.select(sa.type_coerce(block.first_at, tables.Instant))
    return connection.execute(query.order_by(block.block_id.desc()).limit(1)).scalar()


def refuse_clock_behind(connection: sa.Connection, clock: Clock) -> datetime | None:
    """When the newest entry was made.

    Raises `ConfigurationError` ``clock_behind`` if that lies in the future: what has expired would
    come back, and entries would lie about when they were made.
    """
    newest, now = newest_entry(connection), clock.now()
    if newest is None or newest <= now + CLOCK_SLACK:
        return newest
    behind = newest - now
    raise ConfigurationError(
        "clock_behind",
        f"The clock says {now:%Y-%m-%dT%H:%M:%SZ}, which is {behind.total_seconds():.0f} s before"
        " the newest entry of the store. Nothing was written.",
    )


def _is_lost(connection: sa.Connection, seen: Seen, there: Seen) -> bool:
    if there.epoch != seen.epoch:
        return there.epoch < seen.epoch  # a later one was begun on purpose, and says why
    if there.block_id < seen.block_id or there.changes_seq < seen.changes_seq:
        return True
    block = tables.ledger_block.c
    newest = connection.execute(
        sa.select(block.stream, block.last_seq, block.head).where(block.block_id == seen.block_id)
    ).first()
    if newest is not None and (*newest[:2], newest.head.hex()) != (
        seen.stream,
        seen.seq,
        seen.head,
    ):
        return True
    name = changes_stream(seen.epoch)
    change = connection.execute(
        sa.select(block.first_seq, block.last_seq, block.head)
        .where(tables.FEED, block.stream == name, block.last_seq >= seen.changes_seq)
        .order_by(block.last_seq)
        .limit(1)
    ).first()
    if change is None or change.first_seq > seen.changes_seq:
        return False  # nothing stands there any more
    return (change.last_seq, change.head.hex()) != (seen.changes_seq, seen.changes_head)
