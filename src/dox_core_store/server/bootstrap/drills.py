"""Rehearsing a restore, and what a restore has in common with it.

A backup is read twice. The first time says whether it is whole, before anything is written and
before any key is asked for; then its head is opened, and the MAC over it tells whether this store
wrote it. Only the second time it becomes a database, in a folder that is thrown away (here) or
renamed into its place when everything about it holds (`restores`).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import sqlalchemy as sa

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.backup.archive import Checked, check, check_origin
from dox_core_store.server.adapters.backup.draft import fill, open_head, same_slot
from dox_core_store.server.adapters.backup.flow import decrypted, is_encrypted
from dox_core_store.server.adapters.backup.places import file_at
from dox_core_store.server.adapters.backup.review import (
    Differences,
    Progress,
    Versions,
    check_rows,
    compare,
    open_versions,
)
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.sql.custody import Opened
from dox_core_store.server.adapters.sql.inspection import StoreInspection, checkpoint_keys
from dox_core_store.server.adapters.sql.place import Place
from dox_core_store.server.adapters.sql.store import OpenedStore, open_store, stored_slots
from dox_core_store.server.adapters.sql.transacting import snapshot
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.bootstrap.ledger_check import check_ledger
from dox_core_store.server.bootstrap.place import place_of
from dox_core_store.server.bootstrap.unlock import Ask, unlock_of
from dox_core_store.server.domain.checkpoint import LedgerVerifier, Verified
from dox_core_store.server.domain.ledger import BrokenChainError
from dox_core_store.server.domain.seal import AUTOMATIC, Slot, open_root
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.backup import enter_drill

__all__ = [
    "BackupFile",
    "Drilled",
    "Looked",
    "drill_backup",
    "fill_and_open",
    "look_over",
]


class Looked(NamedTuple):
    """A copy that was looked over; `faults` names what is wrong with it."""

    rows: int
    versions: Versions
    ledger: Verified | None
    faults: list[str]


class Drilled(NamedTuple):
    """A drill. ``differences`` are from the live store, or say why there is none to compare with;
    ``recorded`` is None if the drill is on its ledger, else why not."""

    checked: Checked
    looked: Looked
    slots: list[tuple[Slot, str]]
    differences: Differences | str
    recorded: str | None
    live: str
    """Where the live store is, or would be."""


class BackupFile:
    """One backup, in a folder or a bucket, to be read more than once."""

    def __init__(self, address: str, *, identity: Path | None) -> None:
        self._place, self.name = file_at(address)
        self._identity = identity

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """From its first byte on, decrypted."""
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(self._place.open(self.name))
            if not is_encrypted(raw):
                yield raw
                return
            yield stack.enter_context(decrypted(raw, self._identity))

    def check(self, progress: Progress) -> Checked:
        """Whether it is whole, and what it is."""
        with progress("backup read"), self.open() as stream:
            return check(stream)


def drill_backup(
    settings: Settings,
    address: str,
    *,
    identity: Path | None,
    ask: Ask | None,
    progress: Progress,
) -> Drilled:
    """Open a backup in a temporary folder, look it over, and compare it with the store of the
    settings, if there is one, which gets nothing but an entry that says so."""
    place = place_of(settings)
    live = _live(place)
    file = BackupFile(address, identity=identity)
    checked = file.check(progress)
    opened, slots = open_head(checked, unlock_of(settings, ask))
    check_origin(checked, opened.ring)
    tried = _tried(settings, opened, checked, slots)
    with tempfile.TemporaryDirectory(prefix="doxstore-drill-") as text:  # 0700
        folder, alarms = Path(text), list[str]()
        store = fill_and_open(file, folder, checked, opened, alarms, progress)
        looked = look_over(store, alarms, progress)
        differences = _compared(live, store, progress)
    recorded: str | None = "there is no live store to say it to"
    if not isinstance(live, str) and isinstance(differences, Differences):
        recorded = _record_drill(live, opened, file, checked, looked)
    return Drilled(checked, looked, tried, differences, recorded, place.shown)


def fill_and_open(
    file: BackupFile,
    folder: Path,
    checked: Checked,
    opened: Opened,
    alarms: list[str],
    progress: Progress,
) -> OpenedStore:
    """The store of a backup, in ``folder``, opened as the backup's head was."""
    total = checked.ending.records
    with progress("records loaded", total=total) as step, file.open() as stream:
        fill(folder, stream, checked, step)
    return open_store(
        SqlitePlace(folder),
        unlock=same_slot(opened.unlocked),
        alarm=lambda table, identity: alarms.append(f"{table} {identity}"),
    )


def look_over(store: OpenedStore, alarms: list[str], progress: Progress) -> Looked:
    """Every version, every row, the whole ledger."""
    versions = open_versions(store, progress)
    alarms.clear()  # versions are named by their keys; the same table is told of below
    rows = check_rows(store, progress)
    faults = [f"{each} does not open" for each in versions.damaged]
    faults += [f"row {each} is not as it was written" for each in sorted(set(alarms))]
    ledger = None
    try:
        ledger = _verified(store, progress)
    except BrokenChainError as error:
        faults.append(f"ledger {error}")
    return Looked(rows, versions, ledger, faults)


def _verified(store: OpenedStore, progress: Progress) -> Verified:
    inspection = StoreInspection(store)
    key, *earlier = checkpoint_keys(store)
    verifier = LedgerVerifier(store_id=store.store_id, checkpoint_key=key, earlier_keys=earlier)
    with progress("blocks checked", total=inspection.count_blocks()) as step:
        return check_ledger(inspection, verifier, step)


def _tried(
    settings: Settings, opened: Opened, checked: Checked, slots: list[Slot]
) -> list[tuple[Slot, str]]:
    """Every slot of the backup, and whether it opens it with what is at hand."""
    (row,) = checked.head["store"]
    found = []
    for slot in slots:
        if slot.slot_id == opened.unlocked.slot.slot_id:
            found.append((slot, "opened it"))
        elif slot.kind not in AUTOMATIC:
            found.append((slot, "not tried: it needs people"))
        else:
            unlock = unlock_of(settings, None, only=slot.slot_id)
            try:
                offered = unlock(opened.store_id, [slot])
                root = open_root(offered, opened.store_id, row["root_check"])
                found.append((slot, "does not open it" if root is None else "opens it"))
            except DoxStoreError as error:
                found.append((slot, f"does not open it here: {error.code}"))
    return found


def _live(place: Place) -> Place | str:
    """The place of the live store, or why there is none: one that is lost is why somebody looks at
    backups."""
    try:
        return place if place.is_taken() else "there is no store"
    except DoxStoreError as error:
        return f"{error.code}: {error.detail}"


def _compared(live: Place | str, store: OpenedStore, progress: Progress) -> Differences | str:
    if isinstance(live, str):
        return live
    try:
        store_id, _slots = stored_slots(live)
        if store_id != store.store_id:
            return f"the store there is another one, {store_id}"
        engine = live.engine(read_only=True)
        with (
            progress("compared"),
            engine.connect() as there,
            store.engine.connect() as here,
            snapshot(there),
        ):
            return compare(there, here)
    except DoxStoreError as error:  # a damaged store is why somebody looks at backups
        return f"{error.code}: {error.detail}"
    except sa.exc.DBAPIError as error:
        return f"the store there cannot be read: {error.orig}"


def _record_drill(
    live: Place, opened: Opened, file: BackupFile, checked: Checked, looked: Looked
) -> str | None:
    found = {
        "name": file.name,
        "sha256": checked.ending.sha256,
        "created_at": checked.header.created_at,
        "versions": looked.versions.opened,
        "slot": opened.unlocked.slot.slot_id,
        "faults": len(looked.faults),
    }
    try:
        store = open_store(live, unlock=same_slot(opened.unlocked), alarm=_unheard)
        store.write(lambda tx: enter_drill(tx, local_caller(), found), SystemClock())
    except DoxStoreError as error:
        return f"{error.code}: {error.detail}"
    return None


def _unheard(_table: str, _identity: str) -> None:
    """What is wrong with the live store is for `doctor` to say."""
