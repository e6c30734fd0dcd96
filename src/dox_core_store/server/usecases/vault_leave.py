"""Leaving a place for good: the former copies of keys that were moved are erased, if asked for.

A copy is erased only where its version opens at the place that counts, and only once it is made
sure that both places are not one under two names. From then on there is no way back but by moving.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from msgspec.structs import replace

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.key import KeyRecord, VersionRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.vault_task import CopyAct, CopyRecord
from dox_core_store.server.ports import Catalog, Erasure, Transaction
from dox_core_store.server.usecases.stored_value import StoredValues
from dox_core_store.server.usecases.vault_copy import ENDED, VaultCopies, strike
from dox_core_store.server.usecases.vault_name import HERE, VaultNames
from dox_core_store.server.usecases.vault_walk import KeyBatch, Moved, Walk

__all__ = ["VaultLeave"]


class VaultLeave:
    """See the module."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        stored: StoredValues,
        copies: VaultCopies,
        names: VaultNames,
        batch: KeyBatch,
    ) -> None:
        self._catalog = catalog
        self._stored = stored
        self._copies = copies
        self._names = names
        self._batch = batch

    async def erase(self, caller: Caller, stay: str, walk: Walk, reason: str | None) -> Moved:
        """Erase the copies of versions that lie in ``stay`` and are kept anywhere else."""
        require(caller.roles, Permission.MANAGE_VAULTS)
        target = self._names.place(stay)

        async def work(key: KeyRecord) -> bool:
            return await self._erased(caller, key, target, reason)

        return await self._batch.run(walk, work)

    async def _erased(
        self, caller: Caller, key: KeyRecord, target: str, reason: str | None
    ) -> bool:
        found = await self._catalog.write(lambda tx: _kept(tx, key.key_id, target))
        for version, copies in found:
            for vault in {each.vault for each in copies}:
                if vault and target:
                    await self._copies.check_apart(target, vault)
            await self._stored.open(KeyAddress(key.path, key.environment), version)
            until = self._copies.deadline()
            told = functools.partial(_told, caller=caller, key=key, reason=reason)
            claimed = await self._catalog.write(
                lambda tx, version=version, told=told: _claimed(tx, version, told)  # type: ignore[misc]
            )
            for copy in claimed:
                erasure = await self._copies.erase(copy, until)
                await self._catalog.write(functools.partial(told, copy=copy, erasure=erasure))
        return bool(found)


def _kept(
    tx: Transaction, key_id: int, target: str
) -> list[tuple[VersionRecord, list[CopyRecord]]]:
    """The versions that lie in ``target``, with their copies anywhere else."""
    found = []
    for version in tx.find(VersionRecord, key_id=key_id):
        if version.sealed is None or version.state in ENDED or (version.vault or "") != target:
            continue
        copies = tx.find(CopyRecord, version_id=version.version_id)
        if kept := [each for each in copies if each.act is CopyAct.KEEP]:
            found.append((version, kept))
    return found


def _claimed(
    tx: Transaction, version: VersionRecord, told: Callable[..., None]
) -> list[CopyRecord]:
    """The copies in vaults that are to be erased now, which says so in their records; those here
    are gone with it. None where the version was moved meanwhile."""
    now = tx.get(VersionRecord, version_id=version.version_id)
    if now is None or now.vault != version.vault or now.state in ENDED:
        return []
    claimed = []
    for kept in tx.find(CopyRecord, version_id=version.version_id):
        if kept.act is CopyAct.KEEP and kept.vault != (version.vault or ""):
            copy = replace(kept, act=CopyAct.ERASE, begun_at=tx.now)
            tx.put(copy)
            if copy.vault:
                claimed.append(copy)
            else:
                told(tx, copy=copy, erasure=None)
    return claimed


def _told(
    tx: Transaction,
    *,
    copy: CopyRecord,
    erasure: Erasure | None,
    caller: Caller,
    key: KeyRecord,
    reason: str | None,
) -> None:
    """Put on record what became of a copy, and take it off the books."""
    if not strike(tx, copy):
        return
    version = tx.get(VersionRecord, version_id=copy.version_id)
    told = f"the copy in {copy.vault or HERE} was {erasure or Erasure.ERASED}"
    tx.record(
        caller,
        {
            "action": Action.MOVE,
            "key_path": str(KeyAddress(key.path, key.environment)),
            "environment": key.environment,
            "version": None if version is None else version.number,
            "reason": told if reason is None else f"{told}: {reason}",
        },
    )
