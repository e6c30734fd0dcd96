"""Moving values from one place to another: copied, verified and flipped, key by key, online.

For some versions of a key at a time:

1. a transaction writes down that copies are on their way (`CopyRecord`, act ``make``),
2. each value is read where it lies, stored in the other place and opened there again,
3. a short transaction *flips*: the version's row names the new place, and the copy's record the
   former one. What was changed in between is not flipped, and done again,
4. the vault is told of what is current (`VaultTasks`).

Until the third everybody reads at the former place, afterwards at the new one, and who is late
finds the value in both. Everything goes by version id, so it may be killed anywhere and done again,
by several at once. Where a copy is kept already, nothing is copied: that it opens is enough, for
its place says what value it has. So the way back needs nothing of the vault that is left.
"""

from __future__ import annotations

import hmac
from collections.abc import Container, Mapping, Sequence

from dox_core_store.errors import ConflictError, DoxStoreError, error_for
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.key import KeyRecord, VersionRecord
from dox_core_store.server.domain.vault_task import (
    CopyAct,
    CopyRecord,
    copy_id_of,
)
from dox_core_store.server.ports import About, Catalog, Transaction
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.stored_value import StoredValues, about_next
from dox_core_store.server.usecases.vault import REFUSALS, Vaults
from dox_core_store.server.usecases.vault_flip import Leg, flip, is_movable
from dox_core_store.server.usecases.vault_name import VaultNames
from dox_core_store.server.usecases.vault_task import VaultTasks
from dox_core_store.server.usecases.vault_walk import KeyBatch, Moved, Walk

__all__ = ["VaultMove"]

_VERSIONS = 20
"""Versions of one key that are flipped in one transaction."""

_TRIES = 5
"""How often a key is done again because somebody changed it meanwhile."""

_DAMAGED = frozenset({"vault_value_missing", "value_damaged"})


class VaultMove:
    """See the module."""

    def __init__(
        self,
        *,
        vaults: Vaults,
        catalog: Catalog,
        stored: StoredValues,
        tasks: VaultTasks,
        feed: Feed,
        batch: KeyBatch,
        names: VaultNames,
    ) -> None:
        self._vaults = vaults
        self._catalog = catalog
        self._stored = stored
        self._tasks = tasks
        self._feed = feed
        self._batch = batch
        self._names = names

    async def move(
        self, caller: Caller, to: str, walk: Walk, *, back: bool, reason: str | None
    ) -> Moved:
        """Have the keys of ``walk`` lie in ``to``; ``back``: by copies that are kept there alone.
        A key whose versions lie there all is skipped."""
        require(caller.roles, Permission.MANAGE_VAULTS)
        target = self._names.place(to)

        async def work(key: KeyRecord) -> bool:
            return await self._move(caller, key, target, back=back, reason=reason)

        done = await self._batch.run(walk, work)
        if done.moved:
            await self._feed.catch_up()
        return done

    async def _move(
        self, caller: Caller, key: KeyRecord, target: str, *, back: bool, reason: str | None
    ) -> bool:
        moved, tries = False, 0
        stuck: dict[str, DoxStoreError] = {}
        while legs := await self._catalog.write(
            lambda tx: self._planned(tx, key.key_id, target, stuck, back=back)
        ):
            carried = await self._carried(key, legs, target, stuck, back=back)
            flipped = await self._catalog.write(
                lambda tx, carried=carried: flip(  # type: ignore[misc]
                    tx, caller, key.key_id, carried, target, reason
                )
            )
            if flipped.told:
                await self._tasks.finish(flipped.told)
            moved = moved or flipped.flips > 0
            tries = 0 if flipped.flips or not carried else tries + 1
            if tries >= _TRIES:
                raise ConflictError("version_conflict", "This key is changed all the time.")
        for error in stuck.values():
            raise error
        return moved

    def _planned(
        self,
        tx: Transaction,
        key_id: int,
        target: str,
        stuck: Container[str],
        *,
        back: bool,
    ) -> list[Leg]:
        """The next versions that do not lie in ``target``; it is written down that they are on
        their way there."""
        key = tx.get(KeyRecord, key_id=key_id)
        if key is None:
            return []
        found = tx.find(VersionRecord, key_id=key_id)
        away = [
            each
            for each in found
            if is_movable(each) and (each.vault or "") != target and each.version_id not in stuck
        ]
        away = sorted(away, key=lambda each: each.number)[:_VERSIONS]
        copies = {
            each.version_id: each
            for each in tx.find_among(
                CopyRecord, "version_id", [each.version_id for each in away], vault=target
            )
        }
        legs = []
        for version in away:
            copy = copies.get(version.version_id)
            if copy is not None and copy.act is CopyAct.ERASE:
                raise ConflictError(
                    "vault_conflict", "Its former copy there is being erased: try again later."
                )
            kept = copy.sealed if copy is not None and copy.act is CopyAct.KEEP else None
            if kept is None and back:
                raise error_for(
                    "vault_value_missing", f"No copy of version {version.number} is kept there."
                )
            legs.append(self._leg(tx, key, version, target, kept))
        return legs

    def _leg(
        self,
        tx: Transaction,
        key: KeyRecord,
        version: VersionRecord,
        target: str,
        kept: bytes | None,
    ) -> Leg:
        about = About(version.number, key.owner, key.usage, None)
        if target and kept is None:
            home = about_next(tx, target, key).home
            about = about._replace(home=home)
            self._intend(tx, key, version, target)
        return Leg(version, about, kept, key.head == version.version_id)

    def _intend(self, tx: Transaction, key: KeyRecord, version: VersionRecord, target: str) -> None:
        tx.put(
            CopyRecord(
                copy_id=copy_id_of(version.version_id, target),
                version_id=version.version_id,
                vault=target,
                path=key.path,
                environment=key.environment,
                sealed=None,
                act=CopyAct.MAKE,
                begun_at=tx.now,
            )
        )

    async def _carried(
        self,
        key: KeyRecord,
        legs: Sequence[Leg],
        target: str,
        stuck: dict[str, DoxStoreError],
        *,
        back: bool,
    ) -> Mapping[str, tuple[Leg, bytes]]:
        """Each version with where it lies in ``target`` now, sealed. One that cannot be had is
        ``stuck`` and holds up no other; a vault that does not answer holds up all."""
        address = KeyAddress(key.path, key.environment)
        carried = {}
        for leg in legs:
            try:
                place = None
                if leg.kept is not None:
                    place = await self._found(address, leg, leg.kept, target, back=back)
                if place is None:
                    place = await self._copied(address, leg, target)
            except DoxStoreError as error:
                if error.code in REFUSALS:
                    raise
                told = f"Version {leg.version.number}: {error.detail}"
                stuck[leg.version.version_id] = error_for(error.code, told)
                continue
            carried[leg.version.version_id] = leg, place
        return carried

    async def _found(
        self, address: KeyAddress, leg: Leg, kept: bytes, target: str, *, back: bool
    ) -> bytes | None:
        """The copy that is kept, if it still opens. Raises ``vault_conflict`` where somebody gave
        the key another value there since: that would become current with it."""
        binding = self._vaults.binding(address, leg.version.version_id)
        opened = self._vaults.sealer.open(binding, kept)
        if not target:
            return kept
        try:
            held = await self._vaults.ask(target, lambda vault: vault.open(binding, opened))
        except DoxStoreError as error:
            if back or error.code not in _DAMAGED:
                raise
            return None
        if held.superseded and leg.is_head:
            raise ConflictError("vault_conflict", f"{address} was changed in {target} since.")
        return kept

    async def _copied(self, address: KeyAddress, leg: Leg, target: str) -> bytes:
        """Copy the value of a version there, and make sure that it opens."""
        binding = self._vaults.binding(address, leg.version.version_id)
        sealer = self._vaults.sealer
        raw = await self._stored.open(address, leg.version)
        if not target:
            sealed = sealer.store(binding, raw)
            opened = sealer.open(binding, sealed)
        else:
            place = await self._vaults.ask(target, lambda v: v.store(binding, raw, leg.about))
            opened = (await self._vaults.ask(target, lambda v: v.open(binding, place))).value
            sealed = sealer.store(binding, place)
        if not hmac.compare_digest(opened, raw):
            raise error_for("value_damaged", f"{address} opens to another value where it is now.")
        return sealed
