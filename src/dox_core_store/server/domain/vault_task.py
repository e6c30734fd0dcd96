"""What a vault is still to be told of a version, and where else a version lies.

The catalog decides and a vault follows, so each step there is written down beside what decided it,
in one transaction, and struck off once the vault has done it. Whoever is killed in between leaves
the task to a sweeper. A version has one task at most: a later one takes the place of an earlier one
that it makes pointless.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum

import msgspec

__all__ = [
    "CopyAct",
    "CopyRecord",
    "HomeRecord",
    "VaultAct",
    "VaultTaskRecord",
    "copy_id_of",
]

_ID_CHARACTERS = 32


class VaultAct(StrEnum):
    STORE = "store"
    """A value is on its way into the vault, and no version of ours names it yet: if none ever
    does, it is erased there."""
    PROMOTE = "promote"
    """It became current: the vault's own tools are to see it as that."""
    WITHDRAW = "withdraw"
    """It was revoked."""
    ERASE = "erase"
    """It was destroyed."""


class VaultTaskRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``sealed`` is the place in the vault where that is not in the version's row: of what is to be
    erased."""

    version_id: str
    act: VaultAct
    path: str
    environment: str
    vault: str
    sealed: bytes | None
    begun_at: datetime


class HomeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The entry of a vault that a key was adopted from: see `Home` in the ports."""

    key_id: int
    vault: str
    path: str
    field: str | None
    shared: bool


class CopyAct(StrEnum):
    MAKE = "make"
    """On its way there; where it lies is not known yet."""
    KEEP = "keep"
    """It lies there."""
    ERASE = "erase"
    """It is being erased: no version may be said to lie there until that is done."""


class CopyRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another place where a version lies, from which it was moved and to which it can go back, or
    to which it is on its way. Without a ``vault`` (empty) its value is sealed here. ``begun_at`` is
    since when it is made or erased; ``sealed`` is None where it has to be found."""

    copy_id: str
    version_id: str
    vault: str
    path: str
    environment: str
    sealed: bytes | None
    act: CopyAct = CopyAct.KEEP
    begun_at: datetime | None = None


def copy_id_of(version_id: str, vault: str) -> str:
    """A version has one copy in a vault at most."""
    return hashlib.sha256(f"{version_id}\n{vault}".encode()).hexdigest()[:_ID_CHARACTERS]
