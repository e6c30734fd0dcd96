"""Versions that end: what is written with it, and how many that are out of use a key keeps.

Whatever ends a version for good also writes its tombstone, in the same transaction, so that putting
an older copy of its row back into the database revives nothing. A key keeps so many retired and
revoked versions, by its own number or the store's setting, and 0 keeps all. Older ones are
destroyed when a version becomes current, some at a time, for a transaction is short; versions in
use are never touched.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.key import (
    OUT_OF_USE,
    Act,
    KeyRecord,
    State,
    TombstoneRecord,
    UpkeepRecord,
    VersionRecord,
    next_state,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.vault_task import VaultAct
from dox_core_store.server.ports import Transaction
from dox_core_store.server.usecases.vault_copy import let_go
from dox_core_store.server.usecases.vault_task import owe

__all__ = ["Retention", "bury"]

STEP = 20
"""Versions destroyed in one transaction."""

_AT_LEAST = 2
"""Versions destroyed of each key where many are settled together: one more than are added."""

_ENDS = {Act.REVOKE: State.REVOKED, Act.DESTROY: State.DESTROYED}
_TOLD = {Act.REVOKE: VaultAct.WITHDRAW, Act.DESTROY: VaultAct.ERASE}


def bury(tx: Transaction, version: VersionRecord, act: Act) -> VersionRecord:
    """``version``, revoked or destroyed for good. Repeating it changes nothing. A vault in which
    its value lies is told later.

    Raises `ConflictError` ``illegal_transition``.
    """
    end = _ENDS[act]
    value = None if end is State.DESTROYED else version.sealed
    if version.state is not end or version.sealed is not value:
        if version.state is not end:
            next_state(version.state, act)
        _tell(tx, version, act)
        let_go(tx, version)
        version = replace(version, state=end, sealed=value)
        tx.put(version)
    elif tx.get(TombstoneRecord, version_id=version.version_id) is not None:
        return version
    tx.put(TombstoneRecord(version_id=version.version_id, state=end, buried_at=tx.now))
    return version


def _tell(tx: Transaction, version: VersionRecord, act: Act) -> None:
    if version.vault is None or version.sealed is None:
        return
    key = tx.get(KeyRecord, key_id=version.key_id)
    if key is not None:
        owe(tx, _TOLD[act], version, KeyAddress(key.path, key.environment))


class Retention:
    """See the module. ``keep_versions`` is the store's setting."""

    def __init__(self, *, keep_versions: int) -> None:
        self._keep = keep_versions

    def after_promotions(self, tx: Transaction, caller: Caller, keys: Sequence[KeyRecord]) -> None:
        """What follows when versions of ``keys`` became current: they are no longer in doubt, and
        of each the versions that are now too many are destroyed."""
        keys = [key for key in keys if key.last_number > 1]
        if not keys:
            return  # nothing was there before, so there is nothing to tidy up
        found = tx.find_among(UpkeepRecord, "key_id", [key.key_id for key in keys])
        upkeep = {each.key_id: each for each in found}
        for key_id, each in upkeep.items():
            if each.unverified_since is not None:
                upkeep[key_id] = replace(each, unverified_since=None)
                tx.put(upkeep[key_id])
        limit = max(_AT_LEAST, STEP // len(keys))
        for key in keys:
            self._prune(tx, caller, key, upkeep.get(key.key_id), limit)

    def prune(self, tx: Transaction, caller: Caller, key: KeyRecord) -> bool:
        """Destroy what is too old, as far as one transaction goes; whether there may be more."""
        upkeep = tx.get(UpkeepRecord, key_id=key.key_id)
        return self._prune(tx, caller, key, upkeep, STEP) == STEP

    def _prune(
        self,
        tx: Transaction,
        caller: Caller,
        key: KeyRecord,
        upkeep: UpkeepRecord | None,
        limit: int,
    ) -> int:
        own = None if upkeep is None else upkeep.keep_versions
        keep = self._keep if own is None else own
        if not keep or key.last_number <= keep:
            return 0
        surplus = tx.latest(
            VersionRecord, "number", skip=keep, limit=limit, key_id=key.key_id, state=OUT_OF_USE
        )
        surplus = [version for version in surplus if version.version_id != key.head]
        for version in surplus:
            bury(tx, version, Act.DESTROY)
            tx.record(
                caller,
                {
                    "action": Action.DESTROY,
                    "key_path": str(KeyAddress(key.path, key.environment)),
                    "environment": key.environment,
                    "version": version.number,
                    "reason": "retention",
                },
            )
        return len(surplus)
