"""Keys: what their current version is. Storing, proposing, promoting, rolling back.

Every change is one transaction in which the rules of ``domain.key`` are applied to what is stored
at that moment, so two writers can't both win. What was there before a refused write is there after
it. How versions end is `key_version`'s.

Where the value goes is `stored_value`'s. A value out of another vault cannot be had inside a
transaction, so a rollback there opens it before, and makes sure inside that it is still what is
rolled back to.
"""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from dox_core_store.errors import ConflictError, NotFoundError
from dox_core_store.key_path import KeyAddress, prefixes
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.key import (
    Act,
    KeyRecord,
    State,
    VersionRecord,
    check_promotion,
    check_value,
    fresh_key,
    next_state,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.vault_task import VaultAct
from dox_core_store.server.ports import About, Transaction
from dox_core_store.server.usecases.key_retention import Retention
from dox_core_store.server.usecases.stored_key import KeyShelf, StoredKey, Written
from dox_core_store.server.usecases.stored_value import Begin, Placed, StoredValues, about_next
from dox_core_store.server.usecases.vault_task import owe

__all__ = ["Keys"]

_NAMED = 10
"""Pending versions that a refusal names."""


class Keys:
    """See the module."""

    def __init__(self, *, shelf: KeyShelf, stored: StoredValues, retention: Retention) -> None:
        self._shelf = shelf
        self._stored = stored
        self._retention = retention

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
            key = self._found_or_fresh(tx, caller, path, environment, if_version)
            created = key.record.head is None
            key.record = replace(
                key.record, owner=owner or key.record.owner, usage=usage or key.record.usage
            )
            version = _next(
                tx, caller, key, placed, State.CURRENT, self._shelf.until(tx, expires_at)
            )
            self._promote(tx, caller, key, version, Action.PUT, reason)
            return Written(key.address, version, created)

        begin = self._begin(path, environment, if_version, owner=owner, usage=usage)
        async with self._stored.placing(raw, begin) as placed:
            return await self._shelf.write(work)

    async def propose(
        self,
        caller: Caller,
        path: str,
        value: Sensitive,
        *,
        environment: str | None = None,
        expires_at: datetime | None = None,
        reason: str | None = None,
    ) -> Written:
        """Store a pending version: nobody is handed it until it is promoted. Without
        ``expires_at`` its life begins when it is."""
        require(caller.roles, Permission.WRITE_KEYS)
        raw = check_value(value)

        def work(tx: Transaction) -> Written:
            key = self._found_or_fresh(tx, caller, path, environment, None)
            until = None if expires_at is None else self._shelf.until(tx, expires_at)
            version = _next(tx, caller, key, placed, State.PENDING, until)
            key.add(version)
            key.entry(caller, Action.PROPOSE, version, reason)
            return Written(key.address, version, created=False)

        async with self._stored.placing(raw, self._begin(path, environment, None)) as placed:
            return await self._shelf.write(work)

    async def promote(
        self,
        caller: Caller,
        path: str,
        *,
        version: int | None = None,
        environment: str | None = None,
        if_version: int | None = None,
        reason: str | None = None,
    ) -> Written:
        """Make a pending version current; without a number, the only one that is pending."""
        require(caller.roles, Permission.WRITE_KEYS)

        def work(tx: Transaction) -> Written:
            key = self._shelf.existing(tx, caller, path, environment)
            key.check_version(if_version)
            pending = _only_pending(key) if version is None else key.version(version)
            check_promotion(pending, key.head(), tx.now)
            promoted = replace(
                pending,
                state=next_state(pending.state, Act.PROMOTE),
                expires_at=pending.expires_at or self._shelf.until(tx, None),
            )
            if promoted.vault is not None:
                about_next(tx, promoted.vault, key.record)  # may it be written there
                owe(tx, VaultAct.PROMOTE, promoted, key.address)
            self._promote(tx, caller, key, promoted, Action.PROMOTE, reason)
            return Written(key.address, promoted, created=False)

        written = await self._shelf.write(work)
        await self._stored.promoted(written.version)
        return written

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

        def found(tx: Transaction) -> tuple[StoredKey, VersionRecord]:
            key = self._shelf.existing(tx, caller, path, environment)
            key.check_version(if_version)
            target = _before_current(key) if to_version is None else key.version(to_version)
            next_state(target.state, Act.ROLL_BACK)
            if target.sealed is None:
                raise ConflictError("illegal_transition", "A destroyed version cannot come back.")
            return key, target

        def written(
            tx: Transaction, key: StoredKey, target: VersionRecord, placed: Placed
        ) -> Written:
            until = self._shelf.until(tx, None)
            version = _next(tx, caller, key, placed, State.CURRENT, until, target.number)
            self._promote(tx, caller, key, version, Action.ROLLBACK, reason)
            return Written(key.address, version, created=False)

        def at_once(tx: Transaction) -> Written:
            key, target = found(tx)
            raw = self._stored.open_here(key.address, target)
            return written(tx, key, target, self._stored.placed_here(raw))

        if self._stored.are_here:
            return await self._shelf.write(at_once)

        def sought(tx: Transaction) -> tuple[KeyAddress, VersionRecord]:
            key, target = found(tx)
            return key.address, target

        def work(tx: Transaction) -> Written:
            key, target = found(tx)
            if target.version_id != opened.version_id:
                raise ConflictError(
                    "version_conflict", f"{key.address} was changed while its value was fetched."
                )
            return written(tx, key, target, placed)

        address, opened = await self._shelf.look(sought)
        raw = await self._stored.open(address, opened)
        async with self._stored.placing(raw, self._begin(path, environment, if_version)) as placed:
            return await self._shelf.write(work)

    def _begin(
        self,
        path: str,
        environment: str | None,
        if_version: int | None,
        *,
        owner: str | None = None,
        usage: str | None = None,
    ) -> Begin:
        """Which key a value is for, before it goes to another vault. What would be refused in the
        end is refused here, as far as it can be told without changing anything."""

        def begin(tx: Transaction) -> tuple[KeyAddress, About]:
            address = self._shelf.address(tx, path, environment)
            record = tx.get(KeyRecord, path=address.path, environment=address.environment)
            if record is None or record.staged_import is None:
                StoredKey(tx, address, record or fresh_key(0, address, tx.now)).check_version(
                    if_version
                )
            return address, about_next(tx, self._stored.vault, record, owner=owner, usage=usage)

        return begin

    def _found_or_fresh(
        self,
        tx: Transaction,
        caller: Caller,
        path: str,
        environment: str | None,
        if_version: int | None,
    ) -> StoredKey:
        """The key at ``path``, made if it is not there."""
        address = self._shelf.address(tx, path, environment)
        key = self._shelf.find(tx, caller, address)
        made = key or StoredKey(tx, address, fresh_key(0, address, tx.now))
        made.check_version(if_version)
        if key is None:
            tx.spell(prefixes(address.path))
            made.record = replace(made.record, key_id=tx.new_key_id())
        return made

    def _promote(
        self,
        tx: Transaction,
        caller: Caller,
        key: StoredKey,
        version: VersionRecord,
        action: Action,
        reason: str | None,
    ) -> None:
        key.make_current(version)
        key.entry(caller, action, version, reason)
        self._retention.after_promotions(tx, caller, [key.record])


def _next(
    tx: Transaction,
    caller: Caller,
    key: StoredKey,
    placed: Placed,
    state: State,
    expires_at: datetime | None,
    rolled_back_from: int | None = None,
) -> VersionRecord:
    """The key's next version, not written yet."""
    kept = placed.kept(tx, key.address, current=state is State.CURRENT)
    return VersionRecord(
        version_id=kept.version_id,
        key_id=key.record.key_id,
        number=key.record.last_number + 1,
        state=state,
        created_at=tx.now,
        created_by=caller.name,
        expires_at=expires_at,
        rolled_back_from=rolled_back_from,
        sealed=kept.sealed,
        vault=kept.vault,
    )


def _only_pending(key: StoredKey) -> VersionRecord:
    pending = key.newest(State.PENDING, limit=_NAMED + 1)
    if not pending:
        raise NotFoundError("version_not_found", f"{key.record.path} has no pending version.")
    if len(pending) > 1:
        names = ", ".join(str(version.number) for version in reversed(pending[:_NAMED]))
        more = " and older ones" if len(pending) > _NAMED else ""
        raise ConflictError(
            "illegal_transition", f"Versions {names}{more} are pending: say which one."
        )
    return pending[0]


def _before_current(key: StoredKey) -> VersionRecord:
    """What a rollback without a number means: the previous version, else the last one retired."""
    if key.record.head is None:
        key.version(None)  # says that there is nothing
    for state in (State.PREVIOUS, State.RETIRED):
        for version in key.newest(state):
            return version
    raise NotFoundError("version_not_found", f"{key.record.path} has no earlier version.")
