"""Imports: many keys, all or nothing, whatever their number.

Slices arrive one by one, each a short transaction: their versions are written as pending and their
keys *staged*. The commit is one short transaction that marks the import as committed; from then on
a staged version is its key's current one, although its row still says pending. `settle` writes that
out for a key, when the key is next changed or when the sweeper comes by. An import that is aborted
or given up leaves nothing. A key that somebody else changes in between loses its stage, and the
import can then only be aborted: nothing is overwritten unseen.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from msgspec.structs import replace

from dox_core_store.errors import ConflictError, InvalidRequestError, NotFoundError
from dox_core_store.key_path import KeyAddress, prefixes
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.key import (
    Act,
    ImportRecord,
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
from dox_core_store.server.usecases.registry import Feed, subject

__all__ = ["MAX_SLICE", "Imports", "ToImport", "settle", "supersede"]

MAX_SLICE = 200
"""Keys in one slice."""

_STEP = 25
"""Keys in one transaction: what is written in well under 50 ms, for reads wait meanwhile."""

_IDLE = timedelta(hours=1)
_SWEEP_KEYS = 20
_STANDING = (State.CURRENT, State.PENDING)

OPEN, COMMITTED, ABORTED = "open", "committed", "aborted"
SETTLED, CLEARED = "settled", "cleared"
"""A committed or aborted import none of whose keys is staged any more."""


class ToImport(NamedTuple):
    key_path: str
    environment: str
    value: Sensitive


class Imports:
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

    async def open(self, caller: Caller) -> ImportRecord:
        """Begin an import; one that is idle for an hour is given up."""
        require(caller.roles, Permission.WRITE_KEYS)

        def work(tx: Transaction) -> ImportRecord:
            record = ImportRecord(
                import_id=f"imp_{secrets.token_hex(8)}",
                status=OPEN,
                created_by=caller.name,
                created_at=tx.now,
                touched_at=tx.now,
                next_sequence=0,
                created=0,
                replaced=0,
                unchanged=0,
                conflict=None,
            )
            tx.put(record)
            return record

        return await self._catalog.write(work)

    async def add(
        self, caller: Caller, import_id: str, sequence: int, entries: Sequence[ToImport]
    ) -> ImportRecord:
        """Stage a slice. Slices are numbered from 0; the last one may be sent again."""
        require(caller.roles, Permission.WRITE_KEYS)
        if len(entries) > MAX_SLICE:
            raise InvalidRequestError("invalid_field", f"A slice has at most {MAX_SLICE} entries.")
        if sequence < 0:
            raise InvalidRequestError("invalid_field", "Slices are numbered from 0.")

        record = await self._catalog.write(lambda tx: _in_sequence(tx, import_id, sequence))
        if sequence == record.next_sequence - 1:
            return record
        for at in range(0, len(entries), _STEP):
            part, last = entries[at : at + _STEP], int(at + _STEP >= len(entries))

            def work(
                tx: Transaction, part: Sequence[ToImport] = part, last: int = last
            ) -> ImportRecord:
                staged = [self._stage(tx, caller, import_id, entry) for entry in part]
                record = _in_sequence(tx, import_id, sequence)
                record = replace(
                    record,
                    touched_at=tx.now,
                    next_sequence=sequence + last,
                    created=record.created + staged.count(True),
                    replaced=record.replaced + staged.count(False),
                    unchanged=record.unchanged + staged.count(None),
                )
                tx.put(record)
                return record

            record = await self._catalog.write(work)
        return record

    async def commit(self, caller: Caller, import_id: str, reason: str | None) -> ImportRecord:
        """Make everything visible at once. Repeating it changes nothing."""
        require(caller.roles, Permission.WRITE_KEYS)

        def work(tx: Transaction) -> ImportRecord:
            record = tx.get(ImportRecord, import_id=import_id)
            if record is not None and record.status in (COMMITTED, SETTLED):
                return record
            record = _open(tx, import_id)
            if record.conflict is not None:
                raise ConflictError(
                    "version_conflict",
                    f"{record.conflict} was changed meanwhile; nothing was imported.",
                )
            record = replace(record, status=COMMITTED, touched_at=tx.now)
            tx.put(record)
            tx.record(
                caller,
                {
                    "action": Action.IMPORT,
                    "key_path": subject("imports", import_id),
                    "reason": reason,
                    "correlation_id": import_id,
                },
            )
            return record

        record = await self._catalog.write(work)
        await self._feed.catch_up()
        return record

    async def abort(self, caller: Caller, import_id: str) -> ImportRecord:
        """Leave nothing of it."""
        require(caller.roles, Permission.WRITE_KEYS)

        def work(tx: Transaction) -> ImportRecord:
            record = replace(_open(tx, import_id), status=ABORTED)
            tx.put(record)
            return record

        return await self._catalog.write(work)

    async def sweep(self) -> None:
        """Write out what committed imports mean for their keys, clear what others left behind;
        some keys a transaction, until nothing is left."""
        while await self._catalog.write(_sweep):
            await self._feed.catch_up()

    def _stage(
        self, tx: Transaction, caller: Caller, import_id: str, entry: ToImport
    ) -> bool | None:
        """Stage one entry: True if the key is new, False if replaced, None if it has the value."""
        address = writable_address(
            entry.key_path, tx.environments(), default=self._default, explicit=entry.environment
        )
        raw = check_value(entry.value)
        key = tx.get(KeyRecord, path=address.path, environment=address.environment)
        if key is not None and key.staged_import == import_id:
            if self._has(tx, key.staged_head, address, raw):
                return None  # sent again, after an answer that was lost
            raise InvalidRequestError("malformed_import", f"{address} stands there twice.")
        if key is not None and key.staged_import is not None:
            key = settle(tx, key)
        if key is None:
            tx.spell(prefixes(address.path))
            key = fresh_key(tx.new_key_id(), address, tx.now)
        elif self._has(tx, key.head, address, raw):
            return None
        version_id = secrets.token_hex(16)
        version = VersionRecord(
            version_id=version_id,
            key_id=key.key_id,
            number=key.last_number + 1,
            state=State.PENDING,
            created_at=tx.now,
            created_by=caller.name,
            expires_at=None if self._expiry is None else tx.now + self._expiry,
            rolled_back_from=None,
            sealed=self._vault.store(Binding(self._store_id, *address, version_id), raw),
        )
        tx.put(
            replace(
                key,
                last_number=version.number,
                staged_head=version_id,
                staged_import=import_id,
            )
        )
        tx.put(version)
        tx.record(
            caller,
            {
                "action": Action.PUT,
                "key_path": str(address),
                "environment": address.environment,
                "version": version.number,
                "reason": "import",
                "correlation_id": import_id,
            },
        )
        return key.head is None

    def _has(
        self, tx: Transaction, version_id: str | None, address: KeyAddress, raw: bytes
    ) -> bool:
        """Whether the version still stands and holds ``raw``."""
        version = None if version_id is None else tx.get(VersionRecord, version_id=version_id)
        if version is None or version.state not in _STANDING or version.sealed is None:
            return False
        binding = Binding(self._store_id, *address, version.version_id)
        return hmac.compare_digest(self._vault.open(binding, version.sealed), raw)


def supersede(tx: Transaction, key: KeyRecord) -> None:
    """Another version is about to become current: current becomes previous, previous retired."""
    for state in (State.PREVIOUS, State.CURRENT):
        for version in tx.find(VersionRecord, key_id=key.key_id, state=state):
            tx.put(replace(version, state=next_state(state, Act.SUPERSEDE)))


def settle(tx: Transaction, key: KeyRecord) -> KeyRecord:
    """``key`` without a stage: promoted if its import took effect, else cleared.

    Clearing the stage of an import that is still open marks that import as in conflict.
    """
    if key.staged_import is None:
        return key
    record = tx.get(ImportRecord, import_id=key.staged_import)
    staged = tx.get(VersionRecord, version_id=key.staged_head)
    if staged is not None and record is not None and record.status in (COMMITTED, SETTLED):
        supersede(tx, key)
        tx.put(replace(staged, state=next_state(staged.state, Act.PROMOTE)))
        key = replace(
            key, head=staged.version_id, rotated_at=tx.now, staged_head=None, staged_import=None
        )
    else:
        if record is not None and record.status == OPEN:
            tx.put(replace(record, conflict=f"{key.path} in {key.environment}"))
        tx.remove(VersionRecord, version_id=key.staged_head)
        number = key.last_number - 1 if key.head is None else key.last_number
        key = replace(key, last_number=number, staged_head=None, staged_import=None)
    tx.put(key)
    return key


def _sweep(tx: Transaction) -> bool:
    """Settle some keys of one ended import; whether there is more to do."""
    for record in tx.find(ImportRecord, status=OPEN, limit=_SWEEP_KEYS):
        if tx.now - record.touched_at > _IDLE:
            tx.put(replace(record, status=ABORTED))
    for status, ended in ((COMMITTED, SETTLED), (ABORTED, CLEARED)):
        found = tx.get(ImportRecord, status=status)
        if found is None:
            continue
        keys = tx.find(KeyRecord, staged_import=found.import_id, limit=_SWEEP_KEYS)
        for key in keys:
            left = settle(tx, key)
            if left.head is None:
                tx.remove(KeyRecord, key_id=left.key_id)
                tx.unspell(left.path)
        if not keys:
            tx.put(replace(found, status=ended))
        return True
    return False


def _open(tx: Transaction, import_id: str) -> ImportRecord:
    record = tx.get(ImportRecord, import_id=import_id)
    if record is None or record.status != OPEN:
        raise NotFoundError("import_not_found", f"There is no open import {import_id[:80]!a}.")
    return record


def _in_sequence(tx: Transaction, import_id: str, sequence: int) -> ImportRecord:
    """The open import, if slice ``sequence`` is its next or its last one."""
    record = _open(tx, import_id)
    if sequence not in (record.next_sequence - 1, record.next_sequence):
        raise ConflictError("version_conflict", f"The next slice is number {record.next_sequence}.")
    return record
