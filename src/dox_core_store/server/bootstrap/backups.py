"""Making a backup of the store on this machine, by a command or by the node itself.

What is read is one snapshot, so nobody is kept from writing. It goes to its place piece by piece,
encrypted on the way if it is for a recipient. What the ledger says of it is written afterwards.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.backup.archive import (
    ArchiveWriter,
)
from dox_core_store.server.adapters.backup.flow import (
    Pieces,
    check_recipient,
    encrypted,
)
from dox_core_store.server.adapters.backup.places import BackupPlace, file_at
from dox_core_store.server.adapters.backup.review import (
    Progress,
)
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.sql.store import OpenedStore, follow_clock, open_store
from dox_core_store.server.adapters.sql.transacting import snapshot, take_time
from dox_core_store.server.bootstrap.place import place_of
from dox_core_store.server.bootstrap.unlock import Ask, unlock_of
from dox_core_store.server.domain.backup import Ending
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.backup import enter_backup

__all__ = ["Made", "create_backup", "write_backup"]


class Made(NamedTuple):
    """A backup that was made."""

    name: str
    store_id: str
    epoch: int
    records: int
    counts: dict[str, int]
    bytes: int
    sha256: str
    recipient: str | None
    created_at: str

    def on_record(self) -> dict[str, Any]:
        """What the ledger says of it."""
        names = ("name", "sha256", "bytes", "records", "recipient")
        return {name: getattr(self, name) for name in names}


def create_backup(
    settings: Settings,
    address: str,
    *,
    ask: Ask | None,
    recipient: str | None,
    force: bool,
    progress: Progress,
) -> Made:
    """Make a backup of the store, beside a running server or without one, and put it on record."""
    place, name = file_at(address)
    if recipient is not None:
        check_recipient(recipient)
    if place.has(name) and not force:
        raise ConfigurationError(
            "backup_target", f"{address} exists; it is replaced only if you say so (--force)."
        )
    clock = SystemClock()
    store = open_store(place_of(settings), unlock=unlock_of(settings, ask), alarm=_unheard)
    with store.engine.connect() as connection:
        follow_clock(store.place, connection, clock)
    made = write_backup(store, place, name, recipient=recipient, clock=clock, progress=progress)
    store.write(lambda tx: enter_backup(tx, local_caller(), made.on_record()), clock)
    return made


def write_backup(
    store: OpenedStore,
    place: BackupPlace,
    name: str,
    *,
    recipient: str | None,
    clock: SystemClock,
    progress: Progress | None = None,
    pause: Callable[[], None] = lambda: None,
) -> Made:
    """Write what the store holds now to ``place``. One read transaction: a snapshot, which keeps
    nobody from writing."""
    engine = store.place.engine(read_only=True)
    try:
        with engine.connect() as connection, contextlib.ExitStack() as stack:
            stack.enter_context(snapshot(connection))
            take_time(connection)  # the target may be slow
            writer = ArchiveWriter(connection, ring=store.ring, now=clock.now(), pause=pause)
            if progress is not None:
                total = sum(writer.header.counts.values())
                writer.step = stack.enter_context(progress("records written", total=total))
            pieces = Pieces(writer.chunks())
            plain = recipient is None
            source = io.BufferedReader(pieces) if plain else encrypted(pieces, str(recipient))
            with source:
                size = place.write(name, source)
            ending = _ended(writer.ending)
    except sa.exc.DBAPIError as error:
        raise store.place.unusable(error) from error
    return Made(
        name=name,
        store_id=writer.header.store_id,
        epoch=writer.header.epoch,
        records=ending.records,
        counts=writer.header.counts,
        bytes=size,
        sha256=ending.sha256,
        recipient=recipient,
        created_at=writer.header.created_at,
    )


def _ended(ending: Ending | None) -> Ending:
    if ending is None:
        raise ConfigurationError("backup_target", "The target took only a part of the backup.")
    return ending


def _unheard(_table: str, _identity: str) -> None:
    """What a damaged row means is for `doctor` and a drill to say, not for who makes a backup."""
