"""What the store keeps of backups and drills: an entry on the ledger, and when the last one was.

Never what is in one: a name, its digest and its size say which file is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import Transaction
from dox_core_store.server.usecases.registry import subject

__all__ = ["BACKUP", "DRILL", "enter_backup", "enter_drill"]

BACKUP, DRILL = "backup", "drill"
"""The names of the custody events."""


def enter_backup(tx: Transaction, caller: Caller, made: Mapping[str, Any]) -> None:
    """A backup lies where it should."""
    _enter(tx, caller, Action.BACKUP, BACKUP, made)


def enter_drill(tx: Transaction, caller: Caller, found: Mapping[str, Any]) -> None:
    """A backup was opened, and looked over."""
    _enter(tx, caller, Action.DRILL, DRILL, found)


def _enter(
    tx: Transaction, caller: Caller, action: Action, name: str, detail: Mapping[str, Any]
) -> None:
    tx.record(
        caller,
        {
            "action": action,
            "key_path": subject("backups", str(detail["sha256"])),
            "reason": msgspec.json.encode(detail).decode(),
        },
    )
    tx.note(name, detail)
