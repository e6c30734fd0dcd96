"""Slots: the ways in which a store's root key is held.

A slot has a 256-bit key of its own, which a key file, a passphrase, shares held by several people,
or a key service gives; that key opens the slot's copy of the root key. Any one slot is enough. What
a slot stores is public: it gives nothing to whoever lacks what opens it. Byte by byte:
``docs/spec/envelope.md``.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from dox_core_store.errors import ConfigurationError, DoxStoreError
from dox_core_store.server.domain.envelope import (
    DamagedSealError,
    associated_data,
    derive,
    open_box,
    root_check,
    seal_box,
)

__all__ = ["AUTOMATIC", "Slot", "SlotKind", "UnlockedRoot", "of_kind", "open_root", "wrap_root"]


class SlotKind(StrEnum):
    KEY_FILE = "key-file"
    PASSPHRASE = "passphrase"  # noqa: S105 - a name, not a secret
    SHARES = "shares"
    TRANSIT = "transit"
    KMS = "kms"


AUTOMATIC = frozenset({SlotKind.KEY_FILE, SlotKind.TRANSIT, SlotKind.KMS})
"""The kinds that open without a person."""


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """One slot as it is stored. ``parameters`` belong to its kind. ``next_root`` holds the root key
    that is about to follow, where this slot is enrolled for it."""

    slot_id: str
    kind: SlotKind
    parameters: dict[str, Any]
    wrapped_root: bytes
    created_at: datetime
    label: str | None = None
    next_root: bytes | None = None


class UnlockedRoot(NamedTuple):
    """The root key, which slot gave it, and that slot's own key."""

    root: bytes
    slot: Slot
    slot_key: bytes


def wrap_root(root: bytes, slot_key: bytes, kind: SlotKind, store_id: str, slot_id: str) -> bytes:
    """A slot's copy of ``root``."""
    return seal_box(_wrapping(slot_key, kind), root, associated_data("root", store_id, slot_id))


def open_root(
    candidates: Iterable[tuple[Slot, bytes]], store_id: str, check: bytes
) -> UnlockedRoot | None:
    """The root key by the first of ``candidates`` (a slot, and a key for it) that opens it.

    Raises what ``candidates`` raise, or `ConfigurationError` ``store_damaged`` if what was opened
    is not the root key of this store: a row from before the last root key, say, which keeps none of
    the other slots from opening.
    """
    stale = None
    try:
        for slot, slot_key in candidates:
            context = associated_data("root", store_id, slot.slot_id)
            try:
                root = open_box(_wrapping(slot_key, slot.kind), slot.wrapped_root, context)
            except DamagedSealError:
                continue  # another slot's key
            if hmac.compare_digest(root_check(root, store_id), check):
                return UnlockedRoot(root, slot, slot_key)
            stale = slot
    except DoxStoreError as error:
        if stale is not None:
            raise _stale(stale) from error
        raise
    if stale is not None:
        raise _stale(stale)
    return None


def of_kind(slots: Iterable[Slot], kind: SlotKind) -> Iterator[Slot]:
    """Those of ``slots`` that are of ``kind``."""
    return (slot for slot in slots if slot.kind is kind)


def _stale(slot: Slot) -> ConfigurationError:
    return ConfigurationError(
        "store_damaged", f"The root check value does not match what slot {slot.slot_id} opens."
    )


def _wrapping(slot_key: bytes, kind: SlotKind) -> bytes:
    return derive(slot_key, f"{kind}-slot")
