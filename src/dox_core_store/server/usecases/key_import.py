"""Imports: many keys, all or nothing, whatever their number.

Slices arrive one by one, each a short transaction: their versions are written as pending and their
keys *staged*. The commit is one short transaction that marks the import as committed; from then on
a staged version is its key's current one, although its row still says pending. `settle` writes that
out for a key, when the key is next changed or when the sweeper comes by. An import that is aborted
or given up leaves nothing. A key that somebody else changes in between loses its stage, and the
import can then only be aborted: nothing is overwritten unseen.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import NamedTuple

from msgspec.structs import replace

from dox_core_store.errors import ConflictError, InvalidRequestError, NotFoundError
from dox_core_store.key_path import KeyAddress, prefixes
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.domain.access import Caller, Permission, require
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
from dox_core_store.server.domain.ledger import Action, Status
from dox_core_store.server.domain.vault_task import VaultAct
from dox_core_store.server.ports import Catalog, Transaction
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.key_import_value import (
    STANDING,
    NotReadyError,
    Slice,
    SliceHere,
    SliceValues,
    ready,
)
from dox_core_store.server.usecases.key_retention import Retention
from dox_core_store.server.usecases.registry import subject
from dox_core_store.server.usecases.stored_value import Kept, StoredValues
from dox_core_store.server.usecases.vault_copy import let_go
from dox_core_store.server.usecases.vault_task import owe

__all__ = [
    "ABORTED",
    "MAX_SLICE",
    "OPEN",
    "Imports",
    "ToImport",
    "settle",
    "settle_committed",
    "supersede",
]

MAX_SLICE = 200
"""Keys in one slice."""

_STEP = 25
"""Keys that are looked up, staged or settled together."""

_HELD_SECONDS = 0.008
"""After a step that ends behind this, the transaction ends too: reads wait for it meanwhile."""

_IDLE = timedelta(hours=1)
_GIVEN_UP_AT_ONCE = 20
_TRIES = 3
"""How often a slice is made ready anew while others change its keys."""

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
        default_environment: str,
        expiry_days: int,
        catalog: Catalog,
        stored: StoredValues,
        feed: Feed,
        retention: Retention,
    ) -> None:
        self._default = default_environment
        self._expiry = timedelta(days=expiry_days) if expiry_days else None
        self._catalog = catalog
        self._stored = stored
        self._here = SliceHere(stored)
        self._feed = feed
        self._retention = retention
        self.ended = asyncio.Event()
        """Set when one has ended and there may be something to `sweep`, so also at first."""
        self.ended.set()

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
        staging = _Staging(self._stage, caller, import_id, sequence, entries)
        if self._stored.are_here:
            await staging.run(self._catalog, self._here)
            return staging.record or record
        for _ in range(_TRIES):
            try:
                async with ready(
                    self._stored,
                    self._catalog,
                    lambda tx: self._standing(tx, import_id, entries[staging.done :]),
                ) as values:
                    await staging.run(self._catalog, values)
            except NotReadyError:
                continue
            return staging.record or record
        raise ConflictError("version_conflict", "Keys of this slice are changed all the time.")

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
        self.ended.set()
        await self._feed.catch_up()
        return record

    async def abort(
        self, caller: Caller, import_id: str, reason: str | None = None
    ) -> ImportRecord:
        """Leave nothing of it."""
        require(caller.roles, Permission.WRITE_KEYS)

        def work(tx: Transaction) -> ImportRecord:
            record = replace(_open(tx, import_id), status=ABORTED)
            tx.put(record)
            tx.record(
                caller,
                {
                    "action": Action.IMPORT,
                    "status": Status.ABORTED,
                    "key_path": subject("imports", import_id),
                    "reason": reason,
                    "correlation_id": import_id,
                },
            )
            return record

        aborted = await self._catalog.write(work, urgent=True)
        self.ended.set()
        return aborted

    async def sweep(self) -> None:
        """Write out what committed imports mean for their keys, clear what others left behind;
        some keys a transaction, until nothing is left."""
        while await self._catalog.write(lambda tx: _sweep(tx, self._retention)):
            await self._feed.catch_up()

    def _slots(
        self, tx: Transaction, entries: Sequence[ToImport]
    ) -> list[tuple[KeyAddress, bytes]]:
        environments = tx.environments()
        return [
            (
                writable_address(
                    each.key_path, environments, default=self._default, explicit=each.environment
                ),
                check_value(each.value),
            )
            for each in entries
        ]

    def _standing(
        self, tx: Transaction, import_id: str, entries: Sequence[ToImport]
    ) -> list[Slice]:
        """What ``entries`` may be compared to, once they are staged."""
        slots = self._slots(tx, entries)
        keys, versions = _standing(tx, [address for address, _ in slots], import_id)
        found = []
        for address, raw in slots:
            key = keys.get(address)
            staged = None
            if key is not None and key.staged_import not in (None, import_id):
                staged = tx.get(VersionRecord, version_id=key.staged_head)
            ids = () if key is None else (key.head, key.staged_head)
            known = [staged, *(versions.get(each) for each in ids)]
            standing = {e.version_id: e for e in known if e is not None and _stands(e)}
            found.append(Slice(address, raw, key, list(standing.values())))
        return found

    def _stage(
        self,
        tx: Transaction,
        caller: Caller,
        import_id: str,
        entries: Sequence[ToImport],
        values: SliceValues,
    ) -> list[bool | None]:
        """Stage ``entries``: for each True if its key is new, False if replaced, None if it has the
        value."""
        slots = self._slots(tx, entries)
        keys, versions = _standing(tx, [address for address, _ in slots], import_id)
        staged: list[bool | None] = []
        changed: dict[KeyAddress, KeyRecord] = {}
        added: list[VersionRecord] = []
        names: list[str] = []
        for address, raw in slots:
            key = keys.get(address)
            if key is not None and key.staged_import == import_id:
                if _has(values, versions.get(key.staged_head), address, raw):
                    staged.append(None)  # sent again, after an answer that was lost
                    continue
                raise InvalidRequestError("malformed_import", f"{address} stands there twice.")
            if key is not None and key.staged_import is not None:
                key = settle(tx, key)
                versions[key.head] = tx.get(VersionRecord, version_id=key.head)
            if key is None:
                names += prefixes(address.path)
                key = fresh_key(tx.new_key_id(), address, tx.now)
            elif _has(values, versions.get(key.head), address, raw):
                keys[address] = key
                staged.append(None)
                continue
            staged.append(key.head is None)
            version = self._version(tx, caller, key, values.kept(tx, address, raw))
            versions[version.version_id] = version
            added.append(version)
            changed[address] = keys[address] = replace(
                key,
                last_number=version.number,
                staged_head=version.version_id,
                staged_import=import_id,
            )
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
        tx.spell(names)
        tx.put_all(list(changed.values()))
        tx.put_all(added)
        return staged

    def _version(
        self, tx: Transaction, caller: Caller, key: KeyRecord, kept: Kept
    ) -> VersionRecord:
        """The pending version that is to become the key's current one."""
        return VersionRecord(
            version_id=kept.version_id,
            key_id=key.key_id,
            number=key.last_number + 1,
            state=State.PENDING,
            created_at=tx.now,
            created_by=caller.name,
            expires_at=None if self._expiry is None else tx.now + self._expiry,
            rolled_back_from=None,
            sealed=kept.sealed,
            vault=kept.vault,
        )


Stage = Callable[[Transaction, Caller, str, Sequence[ToImport], SliceValues], "list[bool | None]"]


class _Staging:
    """One slice on its way: ``done`` of its entries are staged, and ``record`` says so."""

    def __init__(
        self,
        stage: Stage,
        caller: Caller,
        import_id: str,
        sequence: int,
        entries: Sequence[ToImport],
    ) -> None:
        self._stage = stage
        self._caller = caller
        self._import_id = import_id
        self._sequence = sequence
        self._entries = entries
        self.done = 0
        self.record: ImportRecord | None = None

    async def run(self, catalog: Catalog, values: SliceValues) -> None:
        """Stage what is not staged yet, in short transactions."""
        while self.record is None or self.record.next_sequence == self._sequence:
            begin = self.done
            self.record, self.done = await catalog.write(
                lambda tx, begin=begin: self._step(tx, begin, values)  # type: ignore[misc]
            )

    def _step(self, tx: Transaction, begin: int, values: SliceValues) -> tuple[ImportRecord, int]:
        entries, staged = self._entries, list[bool | None]()
        for at in range(begin, len(entries), _STEP):
            part = entries[at : at + _STEP]
            staged += self._stage(tx, self._caller, self._import_id, part, values)
            if tx.held_seconds > _HELD_SECONDS:
                break
        done = begin + len(staged)
        record = _in_sequence(tx, self._import_id, self._sequence)
        record = replace(
            record,
            touched_at=tx.now,
            next_sequence=self._sequence + int(done >= len(entries)),
            created=record.created + staged.count(True),
            replaced=record.replaced + staged.count(False),
            unchanged=record.unchanged + staged.count(None),
        )
        tx.put(record)
        return record, done


def _stands(version: VersionRecord) -> bool:
    return version.state in STANDING and version.sealed is not None


def _has(
    values: SliceValues, version: VersionRecord | None, address: KeyAddress, raw: bytes
) -> bool:
    """Whether ``version`` still stands and holds ``raw``."""
    return version is not None and _stands(version) and values.has(version, address, raw)


def _standing(
    tx: Transaction, addresses: Sequence[KeyAddress], import_id: str
) -> tuple[dict[KeyAddress, KeyRecord], dict[str | None, VersionRecord | None]]:
    """The keys that are there already, and the versions that this import would replace."""
    paths: dict[str, list[str]] = {}
    for address in addresses:
        paths.setdefault(address.environment, []).append(address.path)
    keys = {
        KeyAddress(key.path, key.environment): key
        for environment, each in paths.items()
        for key in tx.find_among(KeyRecord, "path", each, environment=environment)
    }
    wanted = [k.staged_head if k.staged_import == import_id else k.head for k in keys.values()]
    versions: dict[str | None, VersionRecord | None] = {
        version.version_id: version
        for version in tx.find_among(
            VersionRecord, "version_id", [each for each in wanted if each is not None]
        )
    }
    return keys, versions


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
        current = _as_current(staged)
        tx.put(current)
        _tell(tx, key, current)
        key = _promoted(tx, key)
    else:
        if record is not None and record.status == OPEN:
            tx.put(replace(record, conflict=f"{key.path} in {key.environment}"))
        if staged is not None and staged.sealed is not None:
            owe(tx, VaultAct.ERASE, staged, KeyAddress(key.path, key.environment))
            let_go(tx, staged)
        tx.remove(VersionRecord, version_id=key.staged_head)
        number = 0 if key.is_only_staged else key.last_number  # a number is never given out again
        key = replace(key, last_number=number, staged_head=None, staged_import=None)
    tx.put(key)
    return key


def settle_committed(tx: Transaction, key: KeyRecord) -> KeyRecord:
    """``key`` as it is by an import that took effect; the stage of any other stays where it is."""
    record = tx.get(ImportRecord, import_id=key.staged_import) if key.staged_import else None
    took_effect = record is not None and record.status in (COMMITTED, SETTLED)
    return settle(tx, key) if took_effect else key


def _sweep(tx: Transaction, retention: Retention) -> bool:
    """Settle some keys of one ended import; whether there is more to do."""
    for record in tx.find(ImportRecord, status=OPEN, limit=_GIVEN_UP_AT_ONCE):
        if tx.now - record.touched_at > _IDLE:
            tx.put(replace(record, status=ABORTED))
    for status, ended in ((COMMITTED, SETTLED), (ABORTED, CLEARED)):
        found = tx.get(ImportRecord, status=status)
        if found is None:
            continue
        while keys := tx.find(KeyRecord, staged_import=found.import_id, limit=_STEP):
            settled = _settle_all(tx, keys, found)
            if found.status == COMMITTED:
                retention.after_promotions(tx, _importer(found), settled)
            for left in settled:
                if left.is_only_staged:  # and its stage is gone: it never was
                    tx.remove(KeyRecord, key_id=left.key_id)
                    tx.unspell(left.path)
            if tx.held_seconds > _HELD_SECONDS:
                return True
        tx.put(replace(found, status=ended))
        return True
    return False


def _importer(record: ImportRecord) -> Caller:
    """Whose doing it is that a version became current."""
    return Caller(
        name=record.created_by,
        roles=(),
        request_id=f"req_{secrets.token_hex(8)}",
        ip_address="",
        user_agent="doxstore",
        correlation_id=record.import_id,
    )


def _settle_all(
    tx: Transaction, keys: Sequence[KeyRecord], record: ImportRecord
) -> list[KeyRecord]:
    """`settle` for each of ``keys``, which ``record`` has staged; what can be done for many at
    once is."""
    ids = [key.staged_head for key in keys] if record.status == COMMITTED else []
    staged = {each.version_id: each for each in tx.find_among(VersionRecord, "version_id", ids)}
    promoted, changed, left = [], [], []
    for key in keys:
        version = staged.get(key.staged_head or "")
        if version is None:
            left.append(settle(tx, key))
            continue
        promoted.append(_as_current(version))
        _tell(tx, key, promoted[-1])
        changed.append(_promoted(tx, key))
    before = [key.key_id for key in keys if key.head is not None and key.staged_head in staged]
    tx.put_all(_superseded(tx, before))
    tx.put_all(promoted)
    tx.put_all(changed)
    return left + changed


def _tell(tx: Transaction, key: KeyRecord, promoted: VersionRecord) -> None:
    """Have the vault told, where what an import brought lies in one."""
    if promoted.vault is not None and promoted.state is State.CURRENT:
        owe(tx, VaultAct.PROMOTE, promoted, KeyAddress(key.path, key.environment))


def _as_current(staged: VersionRecord) -> VersionRecord:
    """``staged`` once its import took effect; one that was buried meanwhile stays so."""
    if staged.state is not State.PENDING:
        return staged
    return replace(staged, state=next_state(staged.state, Act.PROMOTE))


def _promoted(tx: Transaction, key: KeyRecord) -> KeyRecord:
    """``key`` once its staged version is its current one."""
    return replace(
        key, head=key.staged_head, rotated_at=tx.now, staged_head=None, staged_import=None
    )


def _superseded(tx: Transaction, key_ids: Sequence[int]) -> list[VersionRecord]:
    """The current and previous versions of keys, as they are once others became current."""
    return [
        replace(version, state=next_state(state, Act.SUPERSEDE))
        for state in (State.PREVIOUS, State.CURRENT)
        for version in tx.find_among(VersionRecord, "key_id", key_ids, state=state)
    ]


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
