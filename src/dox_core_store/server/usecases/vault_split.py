"""Splitting a key from the entry of a vault that it shares with others: it may be written then.

What it has is stored as the next version of it, in an entry of its own, in the way of every value.
That the entry was its home is forgotten in the transaction that names the new version, so whoever
is killed before it has changed nothing. The entry itself stays as it is.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from dox_core_store.errors import ConflictError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.key import KeyRecord, State, VersionRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.vault_task import HomeRecord
from dox_core_store.server.ports import About, Transaction
from dox_core_store.server.usecases.key_retention import Retention
from dox_core_store.server.usecases.stored_key import KeyShelf, Written, not_found
from dox_core_store.server.usecases.stored_value import StoredValues

__all__ = ["VaultSplit"]


class _Shared(NamedTuple):
    address: KeyAddress
    version: VersionRecord
    home: HomeRecord


class VaultSplit:
    """See the module."""

    def __init__(
        self, *, shelf: KeyShelf, stored: StoredValues, retention: Retention, expiry_days: int
    ) -> None:
        self._shelf = shelf
        self._stored = stored
        self._retention = retention
        self._expiry = timedelta(days=expiry_days) if expiry_days else None

    async def split(
        self, caller: Caller, path: str, *, environment: str | None, reason: str | None
    ) -> Written | None:
        """Give the key an entry of its own; None where it does not share one."""
        require(caller.roles, Permission.MANAGE_VAULTS)
        shared = await self._shelf.look(lambda tx: self._shared(tx, caller, path, environment))
        if shared is None:
            return None

        def begin(tx: Transaction) -> tuple[KeyAddress, About]:
            key = tx.get(KeyRecord, key_id=shared.home.key_id)
            if key is None:
                raise not_found(shared.address)
            return shared.address, About(key.last_number + 1, key.owner, key.usage, None)

        def work(tx: Transaction) -> Written:
            key = self._shelf.existing(tx, caller, path, environment)
            head = key.version(None)
            if head.version_id != shared.version.version_id or head.state is not State.CURRENT:
                raise ConflictError(
                    "version_conflict", f"{key.address} was changed while its value was fetched."
                )
            tx.remove(HomeRecord, key_id=key.record.key_id)
            kept = placed.kept(tx, key.address, current=True)
            version = VersionRecord(
                version_id=kept.version_id,
                key_id=key.record.key_id,
                number=key.record.last_number + 1,
                state=State.CURRENT,
                created_at=tx.now,
                created_by=caller.name,
                expires_at=None if self._expiry is None else tx.now + self._expiry,
                rolled_back_from=None,
                sealed=kept.sealed,
                vault=kept.vault,
            )
            key.make_current(version)
            told = f"split from {shared.home.path}"
            key.entry(caller, Action.PUT, version, told if reason is None else f"{told}: {reason}")
            self._retention.after_promotions(tx, caller, [key.record])
            return Written(key.address, version, created=False)

        raw = await self._stored.open(shared.address, shared.version)
        async with self._stored.placing(raw, begin) as placed:
            return await self._shelf.write(work)

    def _shared(
        self, tx: Transaction, caller: Caller, path: str, environment: str | None
    ) -> _Shared | None:
        key = self._shelf.existing(tx, caller, path, environment)
        home = tx.get(HomeRecord, key_id=key.record.key_id)
        if home is None or not home.shared:
            return None
        head = key.version(None)
        if head.state is State.CURRENT:
            return _Shared(key.address, head, home)
        # It has no value to take along: its next one is its own.
        tx.remove(HomeRecord, key_id=key.record.key_id)
        key.entry(caller, Action.ADOPT, head, f"split from {home.path}")
        return None
