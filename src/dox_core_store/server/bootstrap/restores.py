"""A backup made into a store again, in a new epoch; and the sign-off of an epoch.

Everything is done in a draft beside: loaded, looked over as in a drill, told what a restored store
has to be told (``usecases.restore``). Then it is put in its place at once (`restore_targets`).
Whoever is killed in between leaves no store, or a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.backup.archive import Checked, check_origin
from dox_core_store.server.adapters.backup.draft import open_head
from dox_core_store.server.adapters.backup.review import Progress
from dox_core_store.server.adapters.backup.rows import damaged
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.jose import generate_signing_key
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.custody import RingSealer
from dox_core_store.server.adapters.sql.epochs import begin_epoch
from dox_core_store.server.adapters.sql.history import Seen
from dox_core_store.server.adapters.sql.inspection import checkpoint_keys
from dox_core_store.server.adapters.sql.place import Place
from dox_core_store.server.adapters.sql.slots import remove_slot
from dox_core_store.server.adapters.sql.store import OpenedStore, open_store
from dox_core_store.server.adapters.sql.transacting import writing
from dox_core_store.server.adapters.sql.transaction import RecordReader, SqlTransaction
from dox_core_store.server.bootstrap.drills import BackupFile, fill_and_open, look_over
from dox_core_store.server.bootstrap.place import place_of
from dox_core_store.server.bootstrap.restore_targets import target_of
from dox_core_store.server.bootstrap.unlock import Ask, unlock_of
from dox_core_store.server.domain.epoch import Cause, EpochRecord
from dox_core_store.server.domain.ledger import Action, Entry, changes_stream
from dox_core_store.server.domain.restore import Since, SinceBackup
from dox_core_store.server.domain.signing_key import SigningKeyRecord
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.restore import (
    abort_imports,
    mark_unverified,
    renew_keys,
    sign_off,
)
from dox_core_store.server.usecases.restore_since import take_away
from dox_core_store.server.usecases.signing_key import (
    MadeKey,
    is_compromise,
    rotate_signing_key,
)

__all__ = ["Orders", "Restored", "restore_backup", "sign_off_epoch"]


class Orders(NamedTuple):
    """How to restore: ``since`` is a file of ledger entries, ``sign_off`` a person's reason."""

    identity: Path | None = None
    as_new: bool = False
    since: Path | None = None
    sign_off: str | None = None


class Restored(NamedTuple):
    """A store that was restored into ``place``. ``taken`` of the entries since the backup took
    something away again, ``left`` could not be applied exactly. ``unverified`` open databases."""

    place: str
    checked: Checked
    epoch: int
    reviewed_by: str | None
    since: Since | None
    taken: int
    left: list[str]
    unverified: list[str]
    imports: int
    tokens: int | None


def restore_backup(
    settings: Settings, address: str, orders: Orders, *, ask: Ask | None, progress: Progress
) -> Restored:
    """Make the store of a backup in the folder or database of ``settings``, which holds none.

    Raises `ConfigurationError` ``store_exists``, ``backup_damaged``, ``backup_encrypted``,
    ``bad_checkpoints``, ``store_locked``, ``store_read_only``, ``database_unreachable``, and what
    opening raises.
    """
    place = place_of(settings)
    target = target_of(place, Path(settings.data))
    target.check_free()
    file = BackupFile(address, identity=orders.identity)
    checked = file.check(progress)
    opened, _slots = open_head(checked, unlock_of(settings, ask))
    check_origin(checked, opened.ring)
    with target.draft() as draft:
        alarms: list[str] = []
        store = fill_and_open(file, draft, checked, opened, alarms, progress)
        looked = look_over(store, alarms, progress)
        if looked.faults:
            raise damaged(f"{looked.faults[0]} ({len(looked.faults)} in all)")
        since = None if orders.since is None else _read_since(orders.since, store, progress)
        with progress("written anew"):
            after = max(0 if since is None else since.last_epoch, _seen(place, store.store_id))
            target.follow(clock := SystemClock())
            restored = _begin(
                store, checked, looked.versions.databases, orders, since, after, clock.now()
            )
        target.put(store, draft, progress)
    return restored._replace(place=place.shown)


def sign_off_epoch(settings: Settings, *, ask: Ask | None, reason: str) -> EpochRecord | None:
    """Sign off the store's epoch; None if there is nothing to sign off."""
    clock = SystemClock()
    store = open_store(
        place_of(settings), unlock=unlock_of(settings, ask), alarm=lambda _table, _row: None
    )
    caller = local_caller()

    def work(tx: SqlTransaction) -> EpochRecord:
        return sign_off(tx, caller, store.epoch, by=caller.name, reason=reason)

    return None if store.epoch == 1 else store.write(work, clock)  # type: ignore[arg-type]


def _begin(
    store: OpenedStore,
    checked: Checked,
    databases: dict[int, str],
    orders: Orders,
    since: Since | None,
    after: int,
    now: datetime,
) -> Restored:
    """The new epoch, later than ``after``, and all that belongs to it, in one transaction."""
    caller = local_caller()
    entries: list[Entry] = []
    left: list[str] = []
    taken, tokens, reviewed_by = 0, None, None
    with store.engine.connect() as connection, writing(connection):
        epoch = begin_epoch(
            connection,
            ring=store.ring,
            cause=Cause.RESTORE,
            caller=caller,
            now=now,
            reason=_reason(connection, store, checked, as_new=orders.as_new),
            after=after,
        )
        records = RecordReader(ring=store.ring, alarm=_unheard, changes=changes_stream(epoch))
        tx = SqlTransaction(connection=connection, reader=records, now=now)
        tx.keep_up()
        imports = abort_imports(tx)
        mark_unverified(tx, databases)
        if since is not None:
            entries, left = _without_slots(tx, connection, store, since.taken)
            entries = _without_signing_keys(tx, store, entries)
            taken, more = take_away(tx, caller, entries)
            taken += len(since.taken) - len(entries) - len(left)
            unknown = [f"{action}, which this release does not know" for action in since.unknown]
            left += [*more, *unknown]
            if not left:
                reviewed_by = f"checkpoints up to {since.until}"
                reason = f"{since.entries} entries since the backup, {taken} of them applied"
                sign_off(tx, caller, epoch, by=reviewed_by, reason=reason)
        if orders.as_new:
            tokens = renew_keys(
                tx,
                caller,
                RingSealer(store.ring, _unheard),
                store.store_id,
                signing_key=MadeKey(*generate_signing_key()),
                checkpoint_key=Ed25519PrivateKey.generate().private_bytes_raw(),
            )
        if reviewed_by is None and orders.sign_off is not None:
            reviewed_by = caller.name
            sign_off(tx, caller, epoch, by=caller.name, reason=orders.sign_off)
        tx.finish()
    return Restored(
        place="",
        checked=checked,
        epoch=epoch,
        reviewed_by=reviewed_by,
        since=since,
        taken=taken,
        left=left,
        unverified=sorted(databases.values()),
        imports=imports,
        tokens=tokens,
    )


def _reason(
    connection: sa.Connection, store: OpenedStore, checked: Checked, *, as_new: bool
) -> str:
    """What RESTORE says: which backup, and where its history ends."""
    name = changes_stream(store.epoch)
    stream = tables.ledger_stream.c
    query = sa.select(stream.last_seq, stream.head).where(stream.stream == name)
    end = connection.execute(query).one()
    said = {
        "backup": checked.ending.sha256,
        "created_at": checked.header.created_at,
        "stream": name,
        "seq": end.last_seq,
        "head": end.head.hex(),
        "as_new": as_new,
    }
    return msgspec.json.encode(said).decode()


def _without_slots(
    tx: SqlTransaction, connection: sa.Connection, store: OpenedStore, taken: Sequence[Entry]
) -> tuple[list[Entry], list[str]]:
    """Remove the slots that were removed since; the rest of the entries, and what was left."""
    entries, left = [], []
    own = store.unlocked.slot.slot_id
    there = set(connection.execute(sa.select(tables.seal_slot.c.slot_id)).scalars())
    for entry in taken:
        slot_id = entry.key_path.split(".", 2)[-1]
        if entry.action != Action.REMOVE_SLOT:
            entries.append(entry)
        elif slot_id == own:
            left.append(f"slot {own}, which opened the backup, was removed at {entry.timestamp}")
        elif slot_id in there:
            remove_slot(tx, connection, local_caller(), slot_id=slot_id)
            there.discard(slot_id)
    return entries, left


def _without_signing_keys(
    tx: SqlTransaction, store: OpenedStore, taken: Sequence[Entry]
) -> list[Entry]:
    """Compromise the signing keys again that were since; the rest of the entries. The one that
    signed at the time of the backup gets another in its place."""
    entries = []
    for entry in taken:
        kid = entry.key_path.split(".", 2)[-1]
        if entry.action != Action.ROTATE_SIGNING_KEY:
            entries.append(entry)
        elif is_compromise(entry.reason) and tx.get(SigningKeyRecord, kid=kid) is not None:
            rotate_signing_key(
                tx,
                local_caller(),
                RingSealer(store.ring, _unheard),
                store.store_id,
                MadeKey(*generate_signing_key()),
                compromised=True,
                kid=kid,
                reason=f"since the backup, by {entry.service_name}",
            )
    return entries


def _seen(place: Place, store_id: str) -> int:
    """The epoch in which a store was seen in this place before it was lost."""
    try:
        seen = msgspec.json.decode(place.witness.read_bytes(), type=Seen)
    except (OSError, msgspec.DecodeError):
        return 0
    return seen.epoch if seen.store_id == store_id else 0


def _read_since(path: Path, store: OpenedStore, progress: Progress) -> Since:
    """What the ledger says after the backup. Raises ``bad_checkpoints``."""
    name = changes_stream(store.epoch)
    stream = tables.ledger_stream.c
    with store.engine.connect() as connection:
        query = sa.select(stream.last_seq, stream.head).where(stream.stream == name)
        end = connection.execute(query).one()
    verifier = SinceBackup(
        store_id=store.store_id,
        epoch=store.epoch,
        seq=end.last_seq,
        head=end.head,
        checkpoint_keys=checkpoint_keys(store),
    )
    try:
        with path.open("rb") as file, progress("entries read") as step:
            for line in file:
                verifier.take_line(line)
                step(1)
    except OSError as error:
        raise ConfigurationError("bad_checkpoints", f"{path}: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            "bad_checkpoints", f"{path} holds what is no entry of a ledger."
        ) from error
    return verifier.finish()


def _unheard(_table: str, _identity: str) -> None:
    """The copy was looked over before."""
