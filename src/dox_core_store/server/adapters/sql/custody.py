"""The seal's tables: which slots open the root key, and the ring that the root key opens.

root key -> ring of key-encryption keys -> data key of each version. Opening writes nothing: a wrong
key file is told from damage by the root check value, before anything is touched.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError, InternalError
from dox_core_store.server.adapters.sql import tables
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

__all__ = ["EmbeddedVault", "Opened", "create_custody", "open_custody"]

KEY_FILE_SLOT = "key-file"


class Opened(NamedTuple):
    """A store whose seal is open."""

    store_id: str
    default_environment: str
    ring: Ring


def create_custody(
    connection: sa.Connection, *, default_environment: str, slot_key: bytes, now: datetime
) -> Opened:
    """A new store's identity, root key, first slot and ring. Inside the caller's transaction."""
    store_id = f"store_{secrets.token_hex(16)}"
    root, first = os.urandom(KEY_BYTES), os.urandom(KEY_BYTES)
    slot_id = f"slot_{secrets.token_hex(8)}"
    connection.execute(
        sa.insert(tables.store).values(
            store_id=store_id,
            created_at=now,
            epoch=1,
            root_check=root_check(root, store_id),
            default_environment=default_environment,
        )
    )
    connection.execute(
        sa.insert(tables.seal_slot).values(
            slot_id=slot_id,
            kind=KEY_FILE_SLOT,
            parameters=msgspec.json.encode({}).decode(),
            wrapped_root=seal_box(
                derive(slot_key, "key-file-slot"),
                root,
                associated_data("root", store_id, slot_id),
            ),
            created_at=now,
        )
    )
    connection.execute(
        sa.insert(tables.seal_ring).values(
            number=1,
            wrapped=seal_box(derive(root, "ring"), first, associated_data("ring", store_id, "1")),
            created_at=now,
        )
    )
    return Opened(store_id, default_environment, Ring(store_id, {1: first}))


def open_custody(connection: sa.Connection, slot_key: bytes) -> Opened:
    """Open the seal with a key file's key.

    Raises `ConfigurationError` ``wrong_key_file`` or ``store_damaged``.
    """
    store = connection.execute(sa.select(tables.store)).one()
    root = _open_root(connection, store.store_id, slot_key)
    if not hmac.compare_digest(root_check(root, store.store_id), store.root_check):
        raise ConfigurationError("store_damaged", "The root check value does not match.")
    ring_key, keys = derive(root, "ring"), {}
    for row in connection.execute(sa.select(tables.seal_ring)):
        context = associated_data("ring", store.store_id, str(row.number))
        try:
            keys[row.number] = open_box(ring_key, row.wrapped, context)
        except DamagedSealError as error:
            raise ConfigurationError(
                "store_damaged", f"Key-encryption key {row.number} does not open: {error}."
            ) from error
    if not keys:
        raise ConfigurationError("store_damaged", "The store has no key-encryption key.")
    return Opened(store.store_id, store.default_environment, Ring(store.store_id, keys))


def _open_root(connection: sa.Connection, store_id: str, slot_key: bytes) -> bytes:
    query = sa.select(tables.seal_slot).where(tables.seal_slot.c.kind == KEY_FILE_SLOT)
    for slot in connection.execute(query):
        context = associated_data("root", store_id, slot.slot_id)
        try:
            return open_box(derive(slot_key, "key-file-slot"), slot.wrapped_root, context)
        except DamagedSealError:
            continue  # another slot's file
    raise ConfigurationError("wrong_key_file", "The key file opens no slot of this store.")


class EmbeddedVault:
    """The `Vault` port: values sealed by us, in the version's own row. One that does not open was
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
