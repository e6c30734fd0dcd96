"""The flip: versions of a key come to lie where they were carried, in one short transaction.

Only what is as it was when it was begun is flipped. What ended meanwhile is erased where it
arrived; what another mover was faster with is left as it is; what changed is done again by who
moves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.key import KeyRecord, VersionRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.vault_task import (
    CopyAct,
    CopyRecord,
    VaultAct,
    VaultTaskRecord,
    copy_id_of,
)
from dox_core_store.server.ports import About, Transaction
from dox_core_store.server.usecases.vault_copy import ENDED
from dox_core_store.server.usecases.vault_name import HERE
from dox_core_store.server.usecases.vault_task import owe

__all__ = ["Flipped", "Leg", "flip", "is_movable"]


class Leg(NamedTuple):
    """One version on its way. ``kept`` is the sealed place that it has there already; ``about``
    what the vault is told of it where it has none."""

    version: VersionRecord
    about: About
    kept: bytes | None
    is_head: bool


class Flipped(NamedTuple):
    """How many versions, and which of them their vault is to be told of."""

    flips: int
    told: list[str]


def flip(
    tx: Transaction,
    caller: Caller,
    key_id: int,
    carried: Mapping[str, tuple[Leg, bytes]],
    target: str,
    reason: str | None,
) -> Flipped:
    """Have the versions lie where they were carried, if nothing happened to them meanwhile."""
    key = tx.get(KeyRecord, key_id=key_id)
    if key is None:
        return Flipped(0, [])
    count, told = 0, list[str]()
    ids = list(carried)
    copies = {
        each.version_id: each for each in tx.find_among(CopyRecord, "version_id", ids, vault=target)
    }
    for version in tx.find_among(VersionRecord, "version_id", ids):
        leg, sealed = carried[version.version_id]
        if (version.vault or "") == target:  # another one moved it: there is more to tidy up
            if target and is_movable(version) and key.head == version.version_id:
                owe(tx, VaultAct.PROMOTE, version, KeyAddress(key.path, key.environment))
                told.append(version.version_id)
        elif not is_movable(version):
            _leave(tx, key, version, target, sealed)
        elif _is_as_begun(version, copies.get(version.version_id), leg, target):
            _flip(tx, key, version, target, sealed)
            count += 1
            told.append(version.version_id)
    if count:
        _record(tx, caller, key, target, reason)
    return Flipped(count, told if target else [])


def is_movable(version: VersionRecord) -> bool:
    return version.sealed is not None and version.state not in ENDED


def _is_as_begun(version: VersionRecord, copy: CopyRecord | None, leg: Leg, target: str) -> bool:
    """Whether nothing happened to a version, and to its copy there, since it was begun."""
    if (version.vault, version.sealed) != (leg.version.vault, leg.version.sealed):
        return False
    if leg.kept is not None:
        return copy is not None and copy.act is CopyAct.KEEP and copy.sealed == leg.kept
    return not target or (copy is not None and copy.act is CopyAct.MAKE)


def _flip(
    tx: Transaction, key: KeyRecord, version: VersionRecord, target: str, sealed: bytes
) -> None:
    address = KeyAddress(key.path, key.environment)
    former = version.vault or ""
    flipped = replace(version, vault=target or None, sealed=sealed)
    tx.put(flipped)
    tx.remove(CopyRecord, copy_id=copy_id_of(version.version_id, target))
    tx.put(
        CopyRecord(
            copy_id=copy_id_of(version.version_id, former),
            version_id=version.version_id,
            vault=former,
            path=key.path,
            environment=key.environment,
            sealed=version.sealed,
        )
    )
    tx.remove(VaultTaskRecord, version_id=version.version_id)  # the former vault's
    if key.head == version.version_id:
        owe(tx, VaultAct.PROMOTE, flipped, address)


def _leave(
    tx: Transaction, key: KeyRecord, version: VersionRecord, target: str, sealed: bytes
) -> None:
    """What ended on its way is erased where it arrived."""
    if not target:
        return
    tx.put(
        CopyRecord(
            copy_id=copy_id_of(version.version_id, target),
            version_id=version.version_id,
            vault=target,
            path=key.path,
            environment=key.environment,
            sealed=sealed,
            act=CopyAct.ERASE,
            begun_at=tx.now,
        )
    )


def _record(
    tx: Transaction, caller: Caller, key: KeyRecord, target: str, reason: str | None
) -> None:
    told = f"to {target or HERE}"
    tx.record(
        caller,
        {
            "action": Action.MOVE,
            "key_path": str(KeyAddress(key.path, key.environment)),
            "environment": key.environment,
            "reason": told if reason is None else f"{told}: {reason}",
        },
    )
