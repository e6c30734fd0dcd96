"""Versions of keys: how they end, and when.

Retiring, revoking and destroying one, and moving the end of the current one's life. Each is one
transaction under the rules of ``domain.key``. Repeating a change that was made already is no error
and changes nothing. A vault in which the value lies is told afterwards: revoking and destroying
never wait for one.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from msgspec.structs import replace

from dox_core_store.errors import NotFoundError
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.key import Act, State, VersionRecord, next_state
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import Transaction
from dox_core_store.server.usecases.key_retention import bury
from dox_core_store.server.usecases.stored_key import KeyShelf, StoredKey, Written
from dox_core_store.server.usecases.stored_value import StoredValues

__all__ = ["KeyVersions"]

Change = Callable[[Transaction, StoredKey], VersionRecord]

_TAKES_AWAY = frozenset({Action.RETIRE, Action.REVOKE, Action.DESTROY, Action.EXPIRE})
"""What is done on a full disk too."""

_ENDS = frozenset({Action.REVOKE, Action.DESTROY})
"""What a vault is told of."""


class KeyVersions:
    """See the module."""

    def __init__(self, *, shelf: KeyShelf, stored: StoredValues) -> None:
        self._shelf = shelf
        self._stored = stored

    async def retire(
        self,
        caller: Caller,
        path: str,
        *,
        version: int | None = None,
        environment: str | None = None,
        reason: str | None = None,
    ) -> Written:
        """End the overlap: services are not handed this version any more, by number either.
        Without a number, the previous one."""
        require(caller.roles, Permission.WRITE_KEYS)

        def change(tx: Transaction, key: StoredKey) -> VersionRecord:
            found = _previous(key) if version is None else key.version(version)
            if found.state is not State.RETIRED:
                found = replace(found, state=next_state(found.state, Act.RETIRE))
                tx.put(found)
            return found

        return await self._changed(caller, path, environment, reason, Action.RETIRE, change)

    async def revoke(
        self,
        caller: Caller,
        path: str,
        *,
        version: int | None = None,
        environment: str | None = None,
        reason: str | None = None,
    ) -> Written:
        """From its commit on, this version is handed out nowhere. Without a number, the head."""
        require(caller.roles, Permission.REVOKE_KEYS)
        return await self._changed(
            caller,
            path,
            environment,
            reason,
            Action.REVOKE,
            lambda tx, key: bury(tx, key.version(version), Act.REVOKE),
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
        """Erase the sealed value and its data key; the row stays. A pending version is thereby
        discarded."""
        require(caller.roles, Permission.WRITE_KEYS)
        return await self._changed(
            caller,
            path,
            environment,
            reason,
            Action.DESTROY,
            lambda tx, key: bury(tx, key.version(version), Act.DESTROY),
        )

    async def expire(
        self,
        caller: Caller,
        path: str,
        *,
        environment: str | None = None,
        reason: str | None = None,
    ) -> Written:
        """End the current version's life now; extending it brings it back."""
        require(caller.roles, Permission.WRITE_KEYS)

        def change(tx: Transaction, key: StoredKey) -> VersionRecord:
            version = key.version(None)
            next_state(version.state, Act.EXPIRE)
            if version.expires_at is None or version.expires_at > tx.now:
                version = replace(version, expires_at=tx.now)
                tx.put(version)
            return version

        return await self._changed(caller, path, environment, reason, Action.EXPIRE, change)

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

        def change(tx: Transaction, key: StoredKey) -> VersionRecord:
            version = key.version(None)
            next_state(version.state, Act.EXTEND)
            version = replace(version, expires_at=self._shelf.until(tx, expires_at))
            tx.put(version)
            return version

        return await self._changed(caller, path, environment, reason, Action.EXTEND, change)

    async def _changed(
        self,
        caller: Caller,
        path: str,
        environment: str | None,
        reason: str | None,
        action: Action,
        change: Change,
    ) -> Written:
        def work(tx: Transaction) -> Written:
            key = self._shelf.existing(tx, caller, path, environment)
            version = change(tx, key)
            key.entry(caller, action, version, reason)
            return Written(key.address, version, created=False)

        written = await self._shelf.write(work, urgent=action in _TAKES_AWAY)
        if action in _ENDS:
            self._stored.forget(written.version)
        return written


def _previous(key: StoredKey) -> VersionRecord:
    for version in key.newest(State.PREVIOUS):
        return version
    raise NotFoundError("version_not_found", f"{key.record.path} has no previous version.")
