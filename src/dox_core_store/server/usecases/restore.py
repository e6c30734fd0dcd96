"""What a restored store is told before anybody may open it.

Imports that were under way are given up. What opens a database may have another password since, and
is marked as unverified. A copy that is to live beside its original gets signing keys of its own,
and every token dies. And somebody, or the ledger after the backup (`restore_since`), signs off that
nothing is handed out which was revoked in the meantime.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from msgspec.structs import replace

from dox_core_store.server.domain.access import (
    Caller,
    TokenRecord,
)
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.epoch import Cause, EpochRecord
from dox_core_store.server.domain.key import (
    ImportRecord,
    KeyRecord,
    State,
    UpkeepRecord,
    VersionRecord,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.signing_key import SigningKeyRecord
from dox_core_store.server.ports import Sealer, Transaction
from dox_core_store.server.usecases.key_import import ABORTED, OPEN
from dox_core_store.server.usecases.registry import subject
from dox_core_store.server.usecases.signing_key import MadeKey, enter_signing_key
from dox_core_store.server.usecases.store_secret import (
    CHECKPOINT_KEY,
    forget_secret,
    keep_secret,
    signing_key_address,
)

__all__ = [
    "abort_imports",
    "mark_unverified",
    "renew_keys",
    "sign_off",
]


def abort_imports(tx: Transaction) -> int:
    """Give up every import that was open; the server's sweeper tidies up behind."""
    found = tx.find(ImportRecord, status=OPEN)
    for record in found:
        tx.put(replace(record, status=ABORTED))
    return len(found)


def mark_unverified(tx: Transaction, key_ids: Iterable[int]) -> None:
    """Note that what these keys open may have another password since."""
    for key_id in key_ids:
        upkeep = tx.get(UpkeepRecord, key_id=key_id) or UpkeepRecord(key_id=key_id)
        tx.put(replace(upkeep, unverified_since=tx.now))


def sign_off(tx: Transaction, caller: Caller, epoch: int, *, by: str, reason: str) -> EpochRecord:
    """What may be handed out in ``epoch`` was looked at. Repeating it changes nothing."""
    record = tx.get(EpochRecord, epoch=epoch)
    if record is not None and record.reviewed_at is not None:
        return record
    if record is None:  # missing, or its MAC does not hold: whoever signs off knows that
        record = EpochRecord(epoch=epoch, cause=Cause.RESTORE, began_at=tx.now)
    record = replace(record, reviewed_at=tx.now, reviewed_by=by)
    tx.put(record)
    tx.record(
        caller,
        {
            "action": Action.REVIEW,
            "key_path": subject("epochs", str(epoch)),
            "reason": reason,
        },
    )
    return record


def renew_keys(
    tx: Transaction,
    caller: Caller,
    sealer: Sealer,
    store_id: str,
    *,
    signing_key: MadeKey,
    checkpoint_key: bytes,
) -> int:
    """A signing key and a checkpoint key of its own; how many tokens died.

    The private halves of the old signing keys go: the original still trusts what they sign. The old
    checkpoint key stays as an earlier version, since the ledger until now is signed with it.
    """
    for old in tx.find(SigningKeyRecord):
        tx.put(
            replace(
                old,
                retired_at=old.retired_at or tx.now,
                compromised_at=old.compromised_at or tx.now,
            )
        )
        forget_secret(tx, signing_key_address(old.kid))
    enter_signing_key(tx, caller, sealer, store_id, signing_key, at=tx.now)
    _replace_checkpoint_key(tx, caller, sealer, store_id, checkpoint_key)
    died = 0
    for token in tx.find(TokenRecord):
        if token.revoked_at is None:
            tx.put(replace(token, revoked_at=tx.now))
            died += token.expires_at > tx.now
    return died


def _replace_checkpoint_key(
    tx: Transaction, caller: Caller, sealer: Sealer, store_id: str, raw: bytes
) -> None:
    path, environment = CHECKPOINT_KEY
    key = tx.get(KeyRecord, path=path, environment=environment)
    if key is None:
        keep_secret(tx, caller, sealer, store_id, CHECKPOINT_KEY, raw)
        return
    for version in tx.find(VersionRecord, key_id=key.key_id, state=State.CURRENT):
        tx.put(replace(version, state=State.PREVIOUS))
    version_id = secrets.token_hex(16)
    version = VersionRecord(
        version_id=version_id,
        key_id=key.key_id,
        number=key.last_number + 1,
        state=State.CURRENT,
        created_at=tx.now,
        created_by=caller.name,
        expires_at=None,
        rolled_back_from=None,
        sealed=sealer.store(Binding(store_id, path, environment, version_id), raw),
    )
    tx.put(replace(key, head=version_id, last_number=version.number, rotated_at=tx.now))
    tx.put(version)
