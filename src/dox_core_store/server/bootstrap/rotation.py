"""Changing the keys that seal a store, from a command on its machine: `rekey` and `rotate_root`.

One such command at a time works on a store. Both may be ended anywhere and are then run again: what
was done stays, and is not done twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from msgspec.structs import replace

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.sql.rekey import Rekey, Rekeyed
from dox_core_store.server.adapters.sql.root_rotation import RootRotation, waiting_slots
from dox_core_store.server.adapters.sql.store import OpenedStore
from dox_core_store.server.bootstrap.unlock import unlock_of
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.seal import AUTOMATIC, Slot
from dox_core_store.server.ports import Clock
from dox_core_store.server.settings import Settings

__all__ = ["Progress", "RootRotated", "Rotation", "Waiting", "silent"]


Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Shows how much of so many rows is done; what it gives is told how many more are."""


def silent(_total: int) -> AbstractContextManager[Callable[[int], None]]:
    """The `Progress` of who shows none."""
    return nullcontext(lambda _step: None)


class Waiting(NamedTuple):
    """A slot that has no copy of the new root key yet, and why it could not be opened, if that was
    tried."""

    slot: Slot
    why: str


class RootRotated(NamedTuple):
    """How far a root rotation got. ``begun``: by this call. It is over when nobody is waited for:
    then the store has its new root key."""

    begun: bool
    enrolled: list[Slot]
    waiting: list[Waiting]

    @property
    def finished(self) -> bool:
        return not self.waiting


class Rotation:
    """Over one opened store."""

    def __init__(
        self, *, store: OpenedStore, settings: Settings, caller: Caller, clock: Clock
    ) -> None:
        self._store = store
        self._settings = settings
        self._caller = caller
        self._clock = clock

    def rekey(self, progress: Progress, *, give_up: bool) -> tuple[Rekeyed, bool]:
        """A new key-encryption key and everything under it; and whether it was begun before.

        See `Rekey.run` for ``give_up``. Raises ``rekey_blocked``."""
        with self._store.place.sealing_alone():
            rekey = Rekey(store=self._store, caller=self._caller, clock=self._clock)
            _number, resumed = rekey.begin()
            with progress(rekey.count()) as step:
                return rekey.run(step, give_up=give_up), resumed

    def rotate_root(self) -> RootRotated:
        """A new root key, for every slot that opens: the one that opened the store, and those that
        need no person. Raises ``rekey_blocked``."""
        store, root = self._store, self._root_rotation()
        with store.place.sealing_alone():
            begun = store.write_seal(root.begin, self._clock)
            enrolled, waiting = [], []
            for slot in self._waiting():
                why = self._enrol(root, slot)
                if why:
                    waiting.append(Waiting(slot, why))
                else:
                    enrolled.append(slot)
            if not waiting:
                store.write_seal(root.finish, self._clock)
        return RootRotated(begun, enrolled, waiting)

    def abort_root(self) -> bool:
        """Give up a new root key that is being enrolled; whether one was."""
        with self._store.place.sealing_alone():
            return self._store.write_seal(self._root_rotation().abort, self._clock)

    def _root_rotation(self) -> RootRotation:
        store = self._store
        return RootRotation(store_id=store.store_id, unlocked=store.unlocked, caller=self._caller)

    def _waiting(self) -> list[Slot]:
        with self._store.engine.connect() as connection:
            return waiting_slots(connection) or []

    def _enrol(self, root: RootRotation, slot: Slot) -> str:
        """Enrol ``slot`` with the first key that is its own; says what kept it from that."""
        try:
            for slot_key in self._keys_of(slot):
                enrol = functools.partial(root.enrol, slot=slot, slot_key=slot_key)
                if self._store.write_seal(enrol, self._clock):
                    return ""
        except DoxStoreError as error:
            return error.detail
        return "it takes a person to open it"

    def _keys_of(self, slot: Slot) -> Iterator[bytes]:
        """What may be the key of ``slot``, without asking anybody."""
        if slot.slot_id == self._store.unlocked.slot.slot_id:
            yield self._store.unlocked.slot_key
        if slot.kind in AUTOMATIC:
            # However this store was opened: the others may open by what there is besides.
            unlock = unlock_of(replace(self._settings, unseal_with=""), None)
            for _slot, key in unlock(self._store.store_id, [slot]):
                yield key
