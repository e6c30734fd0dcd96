"""Adopting what lies in a vault already: a key and its first version, where the value lies.

Nothing is copied. The version's place is the one that the vault has, and the key's *home* is the
entry, so its next version goes there too. An entry of several fields is the home of several keys; a
new version of one would be one of all, so those are read and not written, until they are *split*
from it (`vault_split`).

Whether it is done or only planned, the same rules are asked, inside the transaction that would do
it. What is taken over already is said to be so, and nothing is done twice.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from dox_core_store.errors import ConflictError, DoxStoreError, InvalidRequestError, error_for
from dox_core_store.key_path import KeyAddress, prefixes
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.key import (
    MAX_VALUE_BYTES,
    KeyRecord,
    State,
    VersionRecord,
    fresh_key,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.vault_task import HomeRecord, VaultAct
from dox_core_store.server.ports import Catalog, Home, Transaction, VaultHead
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.stored_key import KeyShelf, StoredKey
from dox_core_store.server.usecases.vault import REFUSALS, Vaults
from dox_core_store.server.usecases.vault_name import VaultNames
from dox_core_store.server.usecases.vault_task import VaultTasks, owe

__all__ = ["MAX_ADOPTED", "Adopted", "Outcome", "ToAdopt", "VaultAdopt"]

MAX_ADOPTED = 100
"""Keys in one call."""

_STEP = 25
"""Keys that are taken over in one transaction."""

_AT_ONCE = 8


class ToAdopt(NamedTuple):
    """A field of an entry, and the key that it is to be. ``shared``: the entry has other fields."""

    path: str
    field: str | None
    shared: bool
    key_path: str
    environment: str | None


class Outcome(StrEnum):
    ADOPTED = "adopted"
    """It is the key's value now; in a plan: it would be."""
    KNOWN = "known"
    """It was taken over before."""
    REFUSED = "refused"


class Adopted(NamedTuple):
    """What became of one. ``address`` is None where the key has no name that can be."""

    asked: ToAdopt
    address: KeyAddress | None
    outcome: Outcome
    error: DoxStoreError | None = None


class _Found(NamedTuple):
    asked: ToAdopt
    head: VaultHead | None
    error: DoxStoreError | None


class _PlannedError(Exception):
    """What would have been done, which nothing is left of."""

    def __init__(self, planned: list[Adopted]) -> None:
        super().__init__()
        self.planned = planned


class VaultAdopt:
    """See the module."""

    def __init__(
        self,
        *,
        vaults: Vaults,
        catalog: Catalog,
        tasks: VaultTasks,
        feed: Feed,
        shelf: KeyShelf,
        names: VaultNames,
        expiry_days: int,
    ) -> None:
        self._vaults = vaults
        self._catalog = catalog
        self._tasks = tasks
        self._feed = feed
        self._shelf = shelf
        self._names = names
        self._expiry = timedelta(days=expiry_days) if expiry_days else None

    async def adopt(
        self,
        caller: Caller,
        vault: str,
        wanted: Sequence[ToAdopt],
        *,
        dry_run: bool,
        reason: str | None,
    ) -> list[Adopted]:
        """Take over ``wanted``; what became of each, in order. Raises ``unknown_vault``,
        ``vault_unavailable`` and ``vault_refused``."""
        require(caller.roles, Permission.MANAGE_VAULTS)
        if len(wanted) > MAX_ADOPTED:
            raise InvalidRequestError("invalid_field", f"At most {MAX_ADOPTED} keys in one call.")
        name = self._names.vault(vault)
        found = await self._heads(name, wanted)
        done: list[Adopted] = []
        for at in range(0, len(found), _STEP):
            few = found[at : at + _STEP]
            version_ids = [secrets.token_hex(16) for _ in few]
            try:
                done += await self._catalog.write(
                    lambda tx, few=few, ids=version_ids: self._adopted(  # type: ignore[misc]
                        tx, caller, name, few, ids, reason, dry_run=dry_run
                    )
                )
            except _PlannedError as error:
                done += error.planned
            else:
                await self._tasks.finish(version_ids)
        if not dry_run:
            await self._feed.catch_up()
        return done

    async def _heads(self, vault: str, wanted: Sequence[ToAdopt]) -> list[_Found]:
        few = asyncio.Semaphore(_AT_ONCE)

        async def head(asked: ToAdopt) -> _Found:
            home = Home(asked.path, asked.field, asked.shared)
            binding = self._vaults.binding(KeyAddress("", ""), "")  # says nothing beside a home
            async with few:
                try:
                    _check_path(asked.path)
                    found = await self._vaults.ask(vault, lambda v: v.head(binding, home))
                except DoxStoreError as error:
                    if error.code in REFUSALS:
                        raise
                    return _Found(asked, None, error)
            return _Found(asked, found, None)

        return await asyncio.gather(*map(head, wanted))

    def _adopted(
        self,
        tx: Transaction,
        caller: Caller,
        vault: str,
        found: Sequence[_Found],
        version_ids: Sequence[str],
        reason: str | None,
        *,
        dry_run: bool,
    ) -> list[Adopted]:
        paths = sorted({each.asked.path for each in found if each.error is None})
        homes = {
            (each.path, each.field): each.key_id
            for each in tx.find_among(HomeRecord, "path", paths, vault=vault)
        }
        done = []
        for each, version_id in zip(found, version_ids, strict=True):
            asked, address = each.asked, None
            try:
                address = self._shelf.address(tx, asked.key_path, asked.environment)
                known = homes.get((asked.path, asked.field))
                if known is not None:
                    done.append(_known(tx, asked, known))
                    continue
                key_id = self._adopt(tx, caller, vault, address, each, version_id, reason)
                homes[asked.path, asked.field] = key_id
            except DoxStoreError as error:
                done.append(Adopted(asked, address, Outcome.REFUSED, error))
            else:
                done.append(Adopted(asked, address, Outcome.ADOPTED))
        if dry_run:
            raise _PlannedError(done)
        return done

    def _adopt(
        self,
        tx: Transaction,
        caller: Caller,
        vault: str,
        address: KeyAddress,
        found: _Found,
        version_id: str,
        reason: str | None,
    ) -> int:
        """The key's number. Nothing is written before everything that may refuse it."""
        asked, head = found.asked, _checked(found)
        if tx.get(KeyRecord, path=address.path, environment=address.environment) is not None:
            raise ConflictError("already_exists", f"{address} is a key already.")
        tx.spell(prefixes(address.path))
        key = StoredKey(tx, address, fresh_key(tx.new_key_id(), address, tx.now))
        binding = self._vaults.binding(address, version_id)
        version = VersionRecord(
            version_id=version_id,
            key_id=key.record.key_id,
            number=1,
            state=State.CURRENT,
            created_at=tx.now,
            created_by=caller.name,
            expires_at=None if self._expiry is None else tx.now + self._expiry,
            rolled_back_from=None,
            sealed=self._vaults.sealer.store(binding, head.place),
            vault=vault,
        )
        key.make_current(version)
        tx.put(
            HomeRecord(
                key_id=key.record.key_id,
                vault=vault,
                path=asked.path,
                field=asked.field,
                shared=asked.shared,
            )
        )
        if not asked.shared:
            owe(tx, VaultAct.PROMOTE, version, address)  # so that the vault knows it as ours
        key.entry(caller, Action.ADOPT, version, reason or f"lies at {asked.path} in {vault}")
        return key.record.key_id


def _check_path(path: str) -> None:
    """Raise unless ``path`` may be one below a prefix, and nowhere else."""
    if not path.isprintable() or any(each in ("", ".", "..") for each in path.split("/")):
        raise InvalidRequestError("invalid_field", "This is no path of an entry.")


def _checked(found: _Found) -> VaultHead:
    """What is there, if it may be a value: see `check_value`."""
    if found.error is not None:
        raise found.error
    if found.head is None:
        raise error_for("vault_value_missing", "Nothing is there any more.")
    if len(found.head.value) > MAX_VALUE_BYTES:
        raise error_for("value_too_large", "A value is at most 64 KiB of UTF-8.")
    try:
        found.head.value.decode()
    except UnicodeDecodeError:
        is_text = False
    else:
        is_text = True
    if not is_text:  # not chained: the decoder's error carries the value
        raise error_for("invalid_field", "A value is UTF-8 text.")
    return found.head


def _known(tx: Transaction, asked: ToAdopt, key_id: int) -> Adopted:
    """It was taken over before, be it under another name."""
    key = tx.get(KeyRecord, key_id=key_id)
    if key is None:
        return Adopted(asked, None, Outcome.REFUSED, error_for("value_damaged", "Its key is lost."))
    return Adopted(asked, KeyAddress(key.path, key.environment), Outcome.KNOWN)
