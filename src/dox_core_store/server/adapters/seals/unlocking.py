"""Opening a store with what a process was given: the holders of slot keys, tried in order.

Several ways may be at hand (a key file and a key service), and several slots of a kind. Each is
offered in turn; what keeps one from being offered is not an error as long as another opens. Where
none does, the error says of each what was wrong; its code is that of a way that is worth trying
again, else of the first.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

from dox_core_store.errors import (
    ConfigurationError,
    DoxStoreError,
    StoreUnavailableError,
    error_for,
)
from dox_core_store.server.adapters.sql.custody import NewSlot
from dox_core_store.server.domain.seal import Slot, SlotKind, of_kind
from dox_core_store.server.ports import SlotHolder

__all__ = ["Unlocking", "new_slot"]

_OPENS_NONE = {
    SlotKind.KEY_FILE: ("wrong_key_file", "The key file opens no slot of this store."),
    SlotKind.PASSPHRASE: ("wrong_passphrase", "The passphrase opens no slot of this store."),
    SlotKind.SHARES: ("wrong_share", "The shares open no slot of this store."),
    SlotKind.TRANSIT: ("slot_refused", "The Transit key opens no slot of this store."),
    SlotKind.KMS: ("slot_refused", "The KMS key opens no slot of this store."),
}


class Unlocking:
    """The `Unlock` of ``holders``; ``only`` one slot, if its id is given."""

    def __init__(self, holders: Sequence[SlotHolder], *, only: str | None = None) -> None:
        self._holders = holders
        self._only = only

    def __call__(self, store_id: str, slots: Sequence[Slot]) -> Iterator[tuple[Slot, bytes]]:
        slots = [slot for slot in slots if self._only in (None, slot.slot_id)]
        refusals: list[DoxStoreError] = []
        for holder in self._holders:
            offered = False
            for slot in of_kind(slots, holder.kind):
                try:
                    key = holder.open(store_id, slot)
                except DoxStoreError as error:
                    refusals.append(error)
                    continue
                offered = True
                yield slot, key
            if offered:
                refusals.append(error_for(*_OPENS_NONE[holder.kind]))
        kinds = {holder.kind for holder in self._holders}
        raise _worth_most(refusals, [s for s in slots if s.kind not in kinds]) or _no_way(slots)


def new_slot(holder: SlotHolder, store_id: str, *, label: str | None) -> NewSlot:
    """A new slot by ``holder``, not stored yet."""
    slot_id = f"slot_{secrets.token_hex(8)}"
    key, parameters = holder.make(store_id, slot_id)
    return NewSlot(slot_id, holder.kind, parameters, key, label)


def _worth_most(refusals: Sequence[DoxStoreError], untried: Sequence[Slot]) -> DoxStoreError | None:
    if not refusals:
        return None
    again = [each for each in refusals if isinstance(each, StoreUnavailableError)]
    first = (again or refusals)[0]
    details = dict.fromkeys(each.detail for each in (first, *refusals))
    if untried:
        details[f"Not tried, as nothing was given for it: {_kinds(untried)}."] = None
    return error_for(first.code, " ".join(details))


def _no_way(slots: Sequence[Slot]) -> ConfigurationError:
    if not slots:
        return ConfigurationError("store_damaged", "The store has no slot that could open it.")
    return ConfigurationError(
        "slot_needed", f"What was given opens no kind of slot that there is ({_kinds(slots)})."
    )


def _kinds(slots: Sequence[Slot]) -> str:
    return ", ".join(sorted({slot.kind for slot in slots}))
