"""A new root key, enrolled slot by slot, without touching a value.

The new root key waits sealed under the present one (``store.next_root``). Each slot that is opened
gets its copy of it (``seal_slot.next_root``); slots keep their own keys, so files, passphrases and
shares stay what they are. When every slot has its copy, one short transaction changes over: the
ring is sealed under the new root key, and each slot's copy takes the place of the old one.

Every method is one step inside the caller's transaction. All state is in the rows: whoever is
killed between two steps goes on with the next. A slot that is removed meanwhile is not waited for.
"""

from __future__ import annotations

import os

import sqlalchemy as sa

from dox_core_store.errors import error_for
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.custody import (
    current_root,
    open_ring,
    read_slots,
    seal_ring_key,
)
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.envelope import (
    KEY_BYTES,
    DamagedSealError,
    associated_data,
    derive,
    open_box,
    root_check,
    seal_box,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.seal import Slot, UnlockedRoot, open_root, wrap_root
from dox_core_store.server.ports import Transaction
from dox_core_store.server.usecases.registry import subject

__all__ = ["RootRotation", "waiting_slots"]


class RootRotation:
    """See the module. By a process that opened the store with ``unlocked``."""

    def __init__(self, *, store_id: str, unlocked: UnlockedRoot, caller: Caller) -> None:
        self._store_id = store_id
        self._unlocked = unlocked
        self._caller = caller

    def begin(self, tx: Transaction, connection: sa.Connection) -> bool:
        """Make the new root key, unless one is being enrolled already: then False."""
        root = self._root(connection)
        if _next_root(connection) is not None:
            return False
        sealed = seal_box(_keeping(root), os.urandom(KEY_BYTES), self._context())
        connection.execute(sa.update(tables.store).values(next_root=sealed))
        # What another rotation left behind, if one did, is not this one's.
        connection.execute(sa.update(tables.seal_slot).values(next_root=None))
        self._record(tx, "a new root key is being enrolled")
        return True

    def enrol(
        self, tx: Transaction, connection: sa.Connection, slot: Slot, slot_key: bytes
    ) -> bool:
        """Give ``slot`` its copy of the new root key; False if ``slot_key`` is not its own."""
        found = [each for each in read_slots(connection) if each.slot_id == slot.slot_id]
        check = connection.execute(sa.select(tables.store.c.root_check)).scalar_one()
        if open_root(((each, slot_key) for each in found), self._store_id, check) is None:
            return False
        copy = wrap_root(
            self._new_root(connection), slot_key, slot.kind, self._store_id, slot.slot_id
        )
        table = tables.seal_slot
        connection.execute(
            sa.update(table).where(table.c.slot_id == slot.slot_id).values(next_root=copy)
        )
        self._record(tx, f"{slot.slot_id} is enrolled for the new root key")
        return True

    def finish(self, tx: Transaction, connection: sa.Connection) -> bool:
        """Change over to the new root key, if every slot has its copy; whether it did."""
        if waiting_slots(connection) != []:
            return False
        root, before, store_id = self._new_root(connection), self._root(connection), self._store_id
        ring, slot = tables.seal_ring, tables.seal_slot
        for number, key in open_ring(connection, before, store_id).items():
            wrapped = seal_ring_key(root, key, store_id, number)
            connection.execute(
                sa.update(ring).where(ring.c.number == number).values(wrapped=wrapped)
            )
        connection.execute(sa.update(slot).values(wrapped_root=slot.c.next_root, next_root=None))
        connection.execute(
            sa.update(tables.store).values(root_check=root_check(root, store_id), next_root=None)
        )
        self._record(tx, "every slot opens the new root key; the old one is gone")
        return True

    def abort(self, tx: Transaction, connection: sa.Connection) -> bool:
        """Give the new root key up, if one is being enrolled; whether one was."""
        if _next_root(connection) is None:
            return False
        connection.execute(sa.update(tables.store).values(next_root=None))
        connection.execute(sa.update(tables.seal_slot).values(next_root=None))
        self._record(tx, "the new root key was given up; the old one stays")
        return True

    def _root(self, connection: sa.Connection) -> bytes:
        return current_root(connection, self._store_id, self._unlocked)

    def _new_root(self, connection: sa.Connection) -> bytes:
        """The new root key. Raises ``rekey_blocked``."""
        sealed = _next_root(connection)
        if sealed is None:
            raise error_for("rekey_blocked", "No new root key is being enrolled.")
        try:
            return open_box(_keeping(self._root(connection)), sealed, self._context())
        except DamagedSealError as error:
            raise error_for(
                "rekey_blocked",
                "The new root key does not open: it was damaged. `doxstore seal rotate-root"
                " --abort` gives it up.",
            ) from error

    def _context(self) -> bytes:
        return associated_data("next-root", self._store_id)

    def _record(self, tx: Transaction, reason: str) -> None:
        at = subject("seal", "root")
        tx.record(self._caller, {"action": Action.ROTATE_ROOT, "key_path": at, "reason": reason})


def waiting_slots(connection: sa.Connection) -> list[Slot] | None:
    """The slots that have no copy of the new root key yet; None if none is being enrolled."""
    if _next_root(connection) is None:
        return None
    return [slot for slot in read_slots(connection) if slot.next_root is None]


def _next_root(connection: sa.Connection) -> bytes | None:
    found: bytes | None = connection.execute(sa.select(tables.store.c.next_root)).scalar_one()
    return found


def _keeping(root: bytes) -> bytes:
    """What the new root key waits under."""
    return derive(root, "next-root")
