"""A store on this machine, worked on by a command: made, opened beside a server, looked over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dox_core_store import wire
from dox_core_store.errors import ConfigurationError, NotFoundError
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.seals.shares import SharesHolder
from dox_core_store.server.adapters.seals.unlocking import new_slot
from dox_core_store.server.adapters.sql.custody import NewSlot, Unlock, new_store_id
from dox_core_store.server.adapters.sql.inspection import (
    Condition,
    Custody,
    KnownNode,
    StoreInspection,
    public_checkpoint_key,
)
from dox_core_store.server.adapters.sql.reader import SqlReader
from dox_core_store.server.adapters.sql.rekey import Rekeyed
from dox_core_store.server.adapters.sql.slots import add_slot, remove_slot
from dox_core_store.server.adapters.sql.store import create_store, open_store, stored_slots
from dox_core_store.server.bootstrap.place import place_of
from dox_core_store.server.bootstrap.rotation import Progress, RootRotated, Rotation, silent
from dox_core_store.server.bootstrap.unlock import Ask, NewHolder, holder_for, unlock_of
from dox_core_store.server.domain.access import OperatorRecord, TokenRecord
from dox_core_store.server.domain.seal import Slot, SlotKind
from dox_core_store.server.domain.signing_key import SigningKeyRecord
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.operator import (
    add_operator,
    disable_operator,
    enter_operator_token,
)
from dox_core_store.server.usecases.token_expiry import EXPIRY_DAYS, days_left, wanted_by
from dox_core_store.server.web.ledger_routes import ledger_record

__all__ = [
    "Condition",
    "Custody",
    "KnownNode",
    "LocalStore",
    "MadeSlot",
    "find_slot",
    "init_store",
    "list_slots",
    "local_caller",
]


_PAGE = 10_000
"""Tokens that `doctor` looks at: more that expire within a month it need not name."""


class MadeSlot(NamedTuple):
    """A slot that is not stored yet, and the shares that were made for it."""

    new: NewSlot
    shares: list[Sensitive]


def list_slots(settings: Settings) -> list[Slot]:
    """The slots of the store, which are public: it is not opened."""
    return stored_slots(place_of(settings))[1]


def find_slot(settings: Settings, slot_id: str) -> Slot:
    """The slot named. Raises ``slot_not_found``."""
    found = next((each for each in list_slots(settings) if each.slot_id == slot_id), None)
    if found is None:
        raise NotFoundError("slot_not_found", f"There is no slot {slot_id[:80]!a}.")
    return found


def init_store(
    settings: Settings,
    *,
    operator: str,
    roles: Sequence[str],
    kind: SlotKind = SlotKind.KEY_FILE,
    new: NewHolder | None = None,
    keep: Callable[[Sequence[Sensitive]], object] | None = None,
) -> MadeSlot:
    """Make a store and its first slot. A key file that exists is used, never overwritten.

    The slot's shares are nowhere else: they go to ``keep`` before there is a store, or whoever
    calls this hands them out.
    """
    folder, place = Path(settings.data), place_of(settings)
    place.check_free()  # asked before a key file is made for nothing
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # before a key file is made in it
    except OSError as error:
        raise ConfigurationError(
            "store_read_only", f"{folder} cannot be written: {error.strerror}."
        ) from error
    store_id = new_store_id()
    made = _made_slot(kind, settings, store_id, new=new, label=None)
    if keep is not None and made.shares:
        keep(made.shares)
    create_store(
        place,
        store_id=store_id,
        slot=made.new,
        default_environment=settings.default_environment,
        operator=operator,
        roles=roles,
        caller=local_caller(),
        clock=SystemClock(),
    )
    return made


def _made_slot(
    kind: SlotKind, settings: Settings, store_id: str, *, new: NewHolder | None, label: str | None
) -> MadeSlot:
    holder = holder_for(kind, settings, None, new)
    slot = new_slot(holder, store_id, label=label)
    return MadeSlot(slot, holder.made if isinstance(holder, SharesHolder) else [])


def _just_made(made: MadeSlot) -> Unlock:
    """Opens with the key that was just made, which need not be asked for again."""

    def unlock(store_id: str, slots: Sequence[Slot]) -> Iterator[tuple[Slot, bytes]]:  # noqa: ARG001
        yield from ((slot, made.new.slot_key) for slot in slots)

    return unlock


class LocalStore:
    """A store opened by a command on its own machine, beside a running server or without one.

    By what ``settings`` and ``ask`` give; by ``only`` one slot, if its id is given; or with the
    slot that was just ``made``.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        ask: Ask | None = None,
        only: str | None = None,
        made: MadeSlot | None = None,
    ) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self.alarms: list[str] = []
        self._store = open_store(
            place_of(settings),
            unlock=_just_made(made) if made else unlock_of(settings, ask, only=only),
            alarm=lambda table, identity: self.alarms.append(f"{table} {identity}"),
        )

    @property
    def store_id(self) -> str:
        return self._store.store_id

    @property
    def opened_by(self) -> Slot:
        """The slot that opened it."""
        return self._store.unlocked.slot

    def make_slot(self, kind: SlotKind, new: NewHolder, label: str | None) -> MadeSlot:
        """A new slot, not stored yet: its shares are to be kept first."""
        return _made_slot(kind, self._settings, self.store_id, new=new, label=label)

    def add_slot(self, made: MadeSlot) -> Slot:
        """Store a new slot: it opens the store from now on."""
        return self._store.write_seal(
            lambda tx, connection: add_slot(
                tx,
                connection,
                local_caller(),
                store_id=self.store_id,
                unlocked=self._store.unlocked,
                slot=made.new,
            ),
            self._clock,
        )

    def remove_slot(self, slot_id: str) -> Slot:
        """Remove a slot. Raises ``slot_not_found``, ``last_slot``."""
        return self._store.write_seal(
            lambda tx, connection: remove_slot(tx, connection, local_caller(), slot_id=slot_id),
            self._clock,
        )

    def rekey(self, progress: Progress = silent, *, give_up: bool = False) -> tuple[Rekeyed, bool]:
        """A new key-encryption key, and everything under it; whether it was begun before.

        See `Rotation`. Raises ``rekey_blocked``."""
        return self._rotation.rekey(progress, give_up=give_up)

    def rotate_root(self) -> RootRotated:
        """A new root key, enrolled for this store's slot and for those that open by themselves;
        called again with the others until it is ``finished``. Raises ``rekey_blocked``."""
        return self._rotation.rotate_root()

    def abort_root_rotation(self) -> bool:
        """Give up a new root key that is being enrolled; whether one was."""
        return self._rotation.abort_root()

    @property
    def _rotation(self) -> Rotation:
        return Rotation(
            store=self._store, settings=self._settings, caller=local_caller(), clock=self._clock
        )

    @property
    def inspection(self) -> StoreInspection:
        """Looks it over, reading only. Rows whose MAC does not hold are named in `alarms`."""
        return StoreInspection(self._store)

    def ledger(self) -> Iterator[list[wire.LedgerRecord]]:
        """Every entry in stored order, block by block, as the API tells them."""
        return (
            [ledger_record(each) for each in filed.entries()] for filed in self.inspection.blocks()
        )

    def expiring_tokens(self) -> list[TokenRecord]:
        """Live tokens that expire within the nearest threshold of `token_expiry`."""
        now = self._clock.now()
        with self._store.engine.connect() as connection:
            reader = SqlReader(connection=connection, records=self._store.records)
            keys = reader.page(SigningKeyRecord, None, _PAGE)
            rows = reader.tokens(wanted_by(now), None, _PAGE)
        nearest = min(EXPIRY_DAYS)
        return [row.token for row in rows if nearest in days_left(row, keys, now)]

    @property
    def checkpoint_key(self) -> wire.CheckpointKey:
        """The public half of the key that signs the ledger's checkpoints."""
        return public_checkpoint_key(self._store)

    def operators(self) -> list[OperatorRecord]:
        """All operators, by name."""
        return self._store.write(lambda tx: tx.find(OperatorRecord), self._clock)

    def add_operator(
        self, name: str, roles: Sequence[str], reason: str | None = None
    ) -> OperatorRecord:
        return self._store.write(
            lambda tx: add_operator(tx, local_caller(), name, roles, reason), self._clock
        )

    def disable_operator(self, name: str, reason: str | None) -> OperatorRecord:
        return self._store.write(
            lambda tx: disable_operator(tx, local_caller(), name, reason),
            self._clock,
            urgent=True,
        )

    def operator_token(
        self,
        name: str,
        expires_in: str,
        addresses: Sequence[str] = (),
        reason: str | None = None,
    ) -> str:
        """A new token for an operator; recorded as issued by ``local:<user>``."""
        issued = self._store.write(
            lambda tx: enter_operator_token(
                tx,
                local_caller(),
                self._store.signing,
                name,
                expires_in=expires_in,
                addresses=addresses,
                reason=reason,
            ),
            self._clock,
        )
        return issued.token
