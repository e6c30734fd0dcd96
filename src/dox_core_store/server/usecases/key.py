"""Keys: writing, rolling back, revoking, destroying, extending.

Every change is one transaction in which the rules of ``domain.key`` are applied to what is stored
at that moment, so two writers can't both win. What was there before a refused write is there after
it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from msgspec.structs import replace

from dox_core_store.errors import ConflictError, InvalidRequestError, NotFoundError
from dox_core_store.key_path import (
    KeyAddress,
    prefixes,
)
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.key import (
    Act,
    KeyRecord,
    State,
    VersionRecord,
    check_value,
    fresh_key,
    next_state,
    writable_address,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import Catalog, Transaction, Vault
from dox_core_store.server.usecases.key_import import settle, supersede
from dox_core_store.server.usecases.registry import Feed

__all__ = ["Keys", "Written"]

_COMES_BACK = (State.PREVIOUS, State.RETIRED)


class Written(NamedTuple):
    """A version as written, and whether it is the key's first."""

    address: KeyAddress
    version: VersionRecord
    created: bool


class Keys:
    """See the module."""

    def __init__(
        self,
        *,
        store_id: str,
        default_environment: str,
        expiry_days: int,
        catalog: Catalog,
        vault: Vault,
        feed: Feed,
    ) -> None:
        self._store_id = store_id
        self._default = default_environment
        self._expiry = timedelta(days=expiry_days) if expiry_days else None
        self._catalog = catalog
        self._vault = vault
        self._feed = feed

    async def put(
        self,
        caller: Caller,
        path: str,
        value: Sensitive,
        *,
        environment: str | None = None,
        if_version: int | None = None,
        owner: str | None = None,
        usage: str | None = None,
        expires_at: datetime | None = None,
        reason: str | None = None,
    ) -> Written:
        """Store a new current version. ``if_version`` 0 means: only if there is none yet."""
        require(caller.roles, Permission.WRITE_KEYS)
        raw = check_value(value)

        def work(tx: Transaction) -> Written:
            address = writable_address(
                path, tx.environments(), default=self._default, explicit=environment
            )
            key = self._key(tx, address)
            self._check_version(tx, key, if_version)
            if key is None:
                tx.spell(prefixes(address.path))
                key = fresh_key(tx.new_key_id(), address, tx.now)
            key = replace(key, owner=owner or key.owner, usage=usage or key.usage)
            version = self._promote(
                tx, caller, key, address, raw, self._until(tx, expires_at), None
            )
            tx.record(caller, _entry(Action.PUT, address, version, reason))
            return Written(address, version, version.number == 1)

        return await self._write(work)

    async def rollback(
        self,
        caller: Caller,
        path: str,
        *,
        to_version: int | None = None,
        environment: str | None = None,
        if_version: int | None = None,
        reason: str | None = None,
    ) -> Written:
        """A new version with the value of an earlier one; revoked and destroyed ones stay gone."""
        require(caller.roles, Permission.WRITE_KEYS)

        def work(tx: Transaction) -> Written:
            address, key = self._existing(tx, path, environment)
            self._check_version(tx, key, if_version)
            target = self._target(tx, key, to_version)
            if target.sealed is None:
                raise ConflictError("illegal_transition", "A destroyed version cannot come back.")
            raw = self._vault.open(self._binding(address, target.version_id), target.sealed)
            version = self._promote(
                tx, caller, key, address, raw, self._until(tx, None), target.number
            )
            tx.record(caller, _entry(Action.ROLLBACK, address, version, reason))
            return Written(address, version, created=False)

        return await self._write(work)

    async def revoke(
        self,
        caller: Caller,
        path: str,
        *,
        version: int | None = None,
        environment: str | None = None,
        reason: str | None = None,
    ) -> Written:
        """From its commit on, this version is handed out nowhere. Repeating it changes nothing."""
        require(caller.roles, Permission.REVOKE_KEYS)
        return await self._write(
            self._change(caller, path, version, environment, reason, Act.REVOKE, Action.REVOKE)
        )

    async def destroy(
        self,
        caller: Caller,
        path: str,
        *,
        version: int | None = None,
        environment: str | None = None,
        reason: str | None = None,
    ) -> Written:
        """Erase the sealed value and its data key; the row stays."""
        require(caller.roles, Permission.WRITE_KEYS)
        return await self._write(
            self._change(caller, path, version, environment, reason, Act.DESTROY, Action.DESTROY)
        )

    async def extend(
        self,
        caller: Caller,
        path: str,
        expires_at: datetime,
        *,
        environment: str | None = None,
        reason: str | None = None,
    ) -> Written:
        """Let the current version live until ``expires_at``."""
        require(caller.roles, Permission.WRITE_KEYS)

        def work(tx: Transaction) -> Written:
            address, key = self._existing(tx, path, environment)
            version = self._version(tx, key, None)
            if version.state is not State.CURRENT:
                raise ConflictError(
                    "illegal_transition", f"A {version.state} version cannot be extended."
                )
            version = replace(version, expires_at=self._until(tx, expires_at))
            tx.put(version)
            tx.record(caller, _entry(Action.EXTEND, address, version, reason))
            return Written(address, version, created=False)

        return await self._write(work)

    async def _write(self, work: Callable[[Transaction], Written]) -> Written:
        written = await self._catalog.write(work)
        await self._feed.catch_up()
        return written

    def _change(
        self,
        caller: Caller,
        path: str,
        number: int | None,
        environment: str | None,
        reason: str | None,
        act: Act,
        action: Action,
    ) -> Callable[[Transaction], Written]:
        after = {Act.REVOKE: State.REVOKED, Act.DESTROY: State.DESTROYED}[act]

        def work(tx: Transaction) -> Written:
            address, key = self._existing(tx, path, environment)
            version = self._version(tx, key, number)
            if version.state is not after:
                version = replace(version, state=next_state(version.state, act))
                if act is Act.DESTROY:
                    version = replace(version, sealed=None)
                tx.put(version)
            tx.record(caller, _entry(action, address, version, reason))
            return Written(address, version, created=False)

        return work

    def _key(self, tx: Transaction, address: KeyAddress) -> KeyRecord | None:
        key = tx.get(KeyRecord, path=address.path, environment=address.environment)
        return None if key is None else settle(tx, key)

    def _existing(
        self, tx: Transaction, path: str, environment: str | None
    ) -> tuple[KeyAddress, KeyRecord]:
        address = writable_address(
            path, tx.environments(), default=self._default, explicit=environment
        )
        key = self._key(tx, address)
        if key is None or key.head is None:
            raise _not_found(address)
        return address, key

    def _version(self, tx: Transaction, key: KeyRecord, number: int | None) -> VersionRecord:
        where = {"version_id": key.head} if number is None else {"number": number}
        version = None
        if number is None or 1 <= number <= key.last_number:  # any other may not even fit a column
            version = tx.get(VersionRecord, key_id=key.key_id, **where)
        if version is None:
            raise NotFoundError("version_not_found", f"{key.path} has no such version.")
        return version

    def _target(self, tx: Transaction, key: KeyRecord, number: int | None) -> VersionRecord:
        if number is None:
            earlier = [
                version
                for version in tx.find(VersionRecord, key_id=key.key_id)
                if version.state in _COMES_BACK
            ]
            if not earlier:
                raise NotFoundError("version_not_found", f"{key.path} has no earlier version.")
            return max(earlier, key=lambda version: version.number)
        target = self._version(tx, key, number)
        if target.state not in _COMES_BACK:
            raise ConflictError("illegal_transition", f"A {target.state} version cannot come back.")
        return target

    def _check_version(
        self, tx: Transaction, key: KeyRecord | None, if_version: int | None
    ) -> None:
        if if_version is None:
            return
        actual = 0 if key is None or key.head is None else self._version(tx, key, None).number
        if actual != if_version:
            raise ConflictError(
                "version_conflict",
                f"The key is at version {actual}, not {if_version}.",
                actual_version=actual,
            )

    def _promote(
        self,
        tx: Transaction,
        caller: Caller,
        key: KeyRecord,
        address: KeyAddress,
        raw: bytes,
        expires_at: datetime | None,
        rolled_back_from: int | None,
    ) -> VersionRecord:
        """Store ``raw`` as the key's new current version; what was current becomes previous."""
        supersede(tx, key)
        version_id = secrets.token_hex(16)
        version = VersionRecord(
            version_id=version_id,
            key_id=key.key_id,
            number=key.last_number + 1,
            state=State.CURRENT,
            created_at=tx.now,
            created_by=caller.name,
            expires_at=expires_at,
            rolled_back_from=rolled_back_from,
            sealed=self._vault.store(self._binding(address, version_id), raw),
        )
        tx.put(replace(key, head=version_id, last_number=version.number, rotated_at=tx.now))
        tx.put(version)
        return version

    def _until(self, tx: Transaction, expires_at: datetime | None) -> datetime | None:
        if expires_at is None:
            return None if self._expiry is None else tx.now + self._expiry
        if expires_at.tzinfo is None:
            raise InvalidRequestError("invalid_field", "expires_at needs an offset, such as Z.")
        if expires_at <= tx.now:
            raise InvalidRequestError("invalid_field", "expires_at lies in the past.")
        try:
            return expires_at.astimezone(UTC)
        except OverflowError:
            raise InvalidRequestError(
                "invalid_field", "expires_at lies beyond the year 9999 in UTC."
            ) from None

    def _binding(self, address: KeyAddress, version_id: str) -> Binding:
        return Binding(self._store_id, *address, version_id)


def _entry(
    action: Action, address: KeyAddress, version: VersionRecord, reason: str | None
) -> dict[str, object]:
    return {
        "action": action,
        "key_path": str(address),
        "environment": address.environment,
        "version": version.number,
        "reason": reason,
    }


def _not_found(address: KeyAddress) -> NotFoundError:
    return NotFoundError("key_not_found", f"There is no {address.path} in {address.environment}.")
