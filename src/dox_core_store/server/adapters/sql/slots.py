"""Adding and removing slots, each in one transaction with its entry on the ledger.

A new slot wraps the root key as the store has it at that moment, not as it was when this process
opened it: another may have changed it since. Removing one takes nothing back from whoever kept the
file or the shares and an older copy of the database; only a new root key does.
"""

from __future__ import annotations

import sqlalchemy as sa

from dox_core_store.errors import ConflictError, NotFoundError, error_for
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.custody import (
    NewSlot,
    current_root,
    read_slots,
    slot_row,
)
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.seal import Slot, UnlockedRoot
from dox_core_store.server.ports import Transaction
from dox_core_store.server.usecases.registry import subject

__all__ = ["add_slot", "remove_slot"]


def add_slot(
    tx: Transaction,
    connection: sa.Connection,
    caller: Caller,
    *,
    store_id: str,
    unlocked: UnlockedRoot,
    slot: NewSlot,
) -> Slot:
    """Store ``slot``, which opens the store from now on.

    Raises ``rekey_blocked`` while a new root key is being enrolled, which would have to wait for
    this slot too, or where the root key has changed and the slot that opened this process's store
    is gone.
    """
    if connection.execute(sa.select(tables.store.c.next_root)).scalar_one() is not None:
        raise error_for(
            "rekey_blocked",
            "A new root key is being enrolled: `doxstore seal rotate-root` finishes it.",
        )
    root = current_root(connection, store_id, unlocked)
    row = slot_row(slot, root, store_id, tx.now)
    connection.execute(sa.insert(tables.seal_slot).values(row))
    (stored,) = (each for each in read_slots(connection) if each.slot_id == slot.slot_id)
    _record(tx, caller, Action.ADD_SLOT, stored)
    return stored


def remove_slot(
    tx: Transaction, connection: sa.Connection, caller: Caller, *, slot_id: str
) -> Slot:
    """Remove a slot; the store opens by the others only. Raises ``slot_not_found``, ``last_slot``.

    Whether another one still opens is for the caller to know: a file may have been lost.
    """
    slots = read_slots(connection)
    found = next((each for each in slots if each.slot_id == slot_id), None)
    if found is None:
        raise NotFoundError("slot_not_found", f"There is no slot {slot_id[:80]!a}.")
    if len(slots) == 1:
        raise ConflictError("last_slot", f"{slot_id} is the only slot of this store.")
    connection.execute(sa.delete(tables.seal_slot).where(tables.seal_slot.c.slot_id == slot_id))
    _record(tx, caller, Action.REMOVE_SLOT, found)
    return found


def _record(tx: Transaction, caller: Caller, action: Action, slot: Slot) -> None:
    tx.record(
        caller,
        {"action": action, "key_path": subject("slots", slot.slot_id), "reason": slot.kind.value},
    )
