"""The seal's tables: the slots that open the root key, and the ring that the root key opens.

root key -> ring of key-encryption keys -> data key of each version. Opening writes nothing: a wrong
key is told from damage by the root check value, before anything is touched. Changing slots and the
root key is `slots`, a new key-encryption key is `rekey`.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec
import sqlalchemy as sa

from dox_core_store.errors import (
    ConfigurationError,
    InternalError,
    StoreUnavailableError,
    error_for,
)
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.transacting import snapshot
from dox_core_store.server.domain.envelope import (
    KEY_BYTES,
    Binding,
    DamagedSealError,
    Ring,
    associated_data,
    derive,
    open_box,
    root_check,
    seal_box,
)
from dox_core_store.server.domain.seal import Slot, SlotKind, UnlockedRoot, open_root, wrap_root

__all__ = [
    "NewSlot",
    "Opened",
    "RingSealer",
    "Unlock",
    "create_custody",
    "current_root",
    "new_store_id",
    "open_custody",
    "open_ring",
    "read_slots",
    "seal_ring_key",
    "slot_row",
]


class NewSlot(NamedTuple):
    """A slot that is not stored yet, with its own key."""

    slot_id: str
    kind: SlotKind
    parameters: dict[str, Any]
    slot_key: bytes
    label: str | None = None


class Unlock(Protocol):
    """What a process was given to open a store: offers slots and keys for them, best first."""

    def __call__(self, store_id: str, slots: Sequence[Slot]) -> Iterator[tuple[Slot, bytes]]:
        """Slots of ``slots``, each with a key that may be its own. Raises `ConfigurationError`
        (which says what to do) instead of ending: whoever asks for more found none that fits."""


class Opened(NamedTuple):
    """A store whose seal is open."""

    store_id: str
    default_environment: str
    epoch: int
    ring: Ring
    unlocked: UnlockedRoot


def new_store_id() -> str:
    return f"store_{secrets.token_hex(16)}"


def create_custody(
    connection: sa.Connection,
    *,
    store_id: str,
    default_environment: str,
    slot: NewSlot,
    now: datetime,
) -> Opened:
    """A new store's identity, root key, first slot and ring. Inside the caller's transaction."""
    root, first = os.urandom(KEY_BYTES), os.urandom(KEY_BYTES)
    connection.execute(
        sa.insert(tables.store).values(
            store_id=store_id,
            created_at=now,
            epoch=1,
            root_check=root_check(root, store_id),
            default_environment=default_environment,
            readable_by=tables.READABLE_BY,
        )
    )
    row = slot_row(slot, root, store_id, now)
    connection.execute(sa.insert(tables.seal_slot).values(row))
    connection.execute(
        sa.insert(tables.seal_ring).values(
            number=1, wrapped=seal_ring_key(root, first, store_id, 1), created_at=now
        )
    )
    (stored,) = read_slots(connection)
    return Opened(
        store_id=store_id,
        default_environment=default_environment,
        epoch=1,
        ring=Ring(store_id, {1: first}),
        unlocked=UnlockedRoot(root, stored, slot.slot_key),
    )


def open_custody(connection: sa.Connection, engine: sa.Engine, unlock: Unlock) -> Opened:
    """Open the seal with what ``unlock`` offers; ``engine`` serves the ring when its keys change.

    Raises what ``unlock`` raises, or `ConfigurationError` ``store_damaged``.
    """
    with snapshot(connection):
        store = connection.execute(
            sa.select(
                tables.store.c.store_id,
                tables.store.c.default_environment,
                tables.store.c.epoch,
                tables.store.c.root_check,
            )
        ).one()
        slots = read_slots(connection)
    unlocked = open_root(unlock(store.store_id, slots), store.store_id, store.root_check)
    if unlocked is None:
        raise ConfigurationError("wrong_key_file", "Nothing that was given opens this store.")
    with snapshot(connection):  # another one: a person may have been asked, for hours
        unlocked = unlocked._replace(root=current_root(connection, store.store_id, unlocked))
        keys = open_ring(connection, unlocked.root, store.store_id)
    return Opened(
        store_id=store.store_id,
        default_environment=store.default_environment,
        epoch=store.epoch,
        ring=Ring(store.store_id, keys, more=_follow(engine, store.store_id, unlocked)),
        unlocked=unlocked,
    )


def read_slots(connection: sa.Connection) -> list[Slot]:
    """All slots, oldest first."""
    names = {column["name"] for column in sa.inspect(connection).get_columns("seal_slot")}
    columns = [column for column in tables.seal_slot.c if column.name in names]  # 0001 had fewer
    query = sa.select(*columns).order_by(tables.seal_slot.c.created_at, tables.seal_slot.c.slot_id)
    slots = []
    for row in connection.execute(query).mappings():
        stored = {str(name): row[name] for name in row}
        stored["parameters"] = msgspec.json.decode(stored["parameters"])
        try:
            slots.append(msgspec.convert(stored, Slot))
        except msgspec.ValidationError as error:
            raise ConfigurationError(
                "store_damaged", f"Slot {stored['slot_id']} cannot be understood: {error}."
            ) from error
    return slots


def slot_row(slot: NewSlot, root: bytes, store_id: str, now: datetime) -> dict[str, Any]:
    """The columns of a new slot that opens ``root``."""
    return {
        "slot_id": slot.slot_id,
        "kind": slot.kind,
        "parameters": msgspec.json.encode(slot.parameters).decode(),
        "wrapped_root": wrap_root(root, slot.slot_key, slot.kind, store_id, slot.slot_id),
        "created_at": now,
        "label": slot.label,
    }


def open_ring(connection: sa.Connection, root: bytes, store_id: str) -> dict[int, bytes]:
    """Every key-encryption key by number. Raises `ConfigurationError` ``store_damaged``."""
    ring_key, keys = derive(root, "ring"), {}
    for row in connection.execute(sa.select(tables.seal_ring)):
        context = associated_data("ring", store_id, str(row.number))
        try:
            keys[row.number] = open_box(ring_key, row.wrapped, context)
        except DamagedSealError as error:
            raise ConfigurationError(
                "store_damaged", f"Key-encryption key {row.number} does not open: {error}."
            ) from error
    if not keys:
        raise ConfigurationError("store_damaged", "The store has no key-encryption key.")
    return keys


def seal_ring_key(root: bytes, key: bytes, store_id: str, number: int) -> bytes:
    """A key-encryption key as it is stored."""
    return seal_box(derive(root, "ring"), key, associated_data("ring", store_id, str(number)))


def current_root(connection: sa.Connection, store_id: str, unlocked: UnlockedRoot) -> bytes:
    """The root key as the store has it now, for who opened it earlier: by the same slot, whose own
    key does not change with the root key. Where that slot is gone, the root key as it was, if it
    is the same still; raises ``rekey_blocked`` if not. Inside the caller's transaction."""
    check = connection.execute(sa.select(tables.store.c.root_check)).scalar_one()
    slots = [slot for slot in read_slots(connection) if slot.slot_id == unlocked.slot.slot_id]
    again = open_root(((slot, unlocked.slot_key) for slot in slots), store_id, check)
    if again is not None:
        return again.root
    if hmac.compare_digest(root_check(unlocked.root, store_id), check):
        return unlocked.root
    raise error_for(
        "rekey_blocked",
        f"The root key has changed, and slot {unlocked.slot.slot_id}, which opened the store here,"
        " is gone.",
    )


def _follow(
    engine: sa.Engine, store_id: str, unlocked: UnlockedRoot
) -> Callable[[], Mapping[int, bytes]]:
    """How a running process reads the ring again, whatever became of the root key since."""
    known = unlocked

    def read() -> Mapping[int, bytes]:
        nonlocal known
        try:
            with engine.connect() as connection, snapshot(connection):
                known = known._replace(root=current_root(connection, store_id, known))
                return open_ring(connection, known.root, store_id)
        except sa.exc.DBAPIError as error:
            raise StoreUnavailableError(
                "ledger_unavailable", f"The sealing keys cannot be read: {error.orig}."
            ) from error

    return read


class RingSealer:
    """The `Sealer` port: values sealed by us, in the version's own row. One that does not open was
    damaged or moved by whoever writes the database, and is reported to ``alarm``."""

    def __init__(self, ring: Ring, alarm: Callable[[str, str], None]) -> None:
        self._ring = ring
        self._alarm = alarm

    def store(self, binding: Binding, value: bytes) -> bytes:
        return self._ring.seal(value, binding)

    def open(self, binding: Binding, kept: bytes) -> bytes:
        try:
            return self._ring.open(kept, binding)
        except DamagedSealError as error:
            self._alarm("version", binding.version_id)
            raise InternalError(
                "value_damaged", f"The stored value of {binding.key_path} {error}."
            ) from error
