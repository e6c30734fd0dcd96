"""Where a version lies in OpenBao, and what says later that it is still the same one.

A place is JSON: the path below the prefix, the engine's version number, the field, and when the
engine says that it was written, with a SHA-256 digest of the value. A path that was deleted and
made anew counts from 1 again, so a number alone could lead to a value that was never ours. Places
are kept sealed: a digest of a guessable value would tell it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec

from dox_core_store.errors import InternalError
from dox_core_store.server.adapters.vaults.openbao_policy import PENDING
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import Home

__all__ = [
    "FIELD",
    "Place",
    "Target",
    "digest_of",
    "pending_path",
    "read_place",
    "target_of",
    "value_in",
]

FIELD = "value"
"""What `bao kv get -field=value` shows; the store's own entries have no other."""


class Target(msgspec.Struct, frozen=True):
    """Where a key's current version is: its own path, or the entry that it was adopted from.
    ``shared`` entries are not the store's to change."""

    path: str
    field: str
    adopted: bool
    shared: bool


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``home`` is set while the version waits for promotion: where it will be current."""

    path: str
    version: int
    field: str
    created: str
    digest: str
    shared: bool = False
    home: Target | None = None

    def holds(self, value: bytes) -> bool:
        return hmac.compare_digest(digest_of(value), self.digest)

    def encoded(self) -> bytes:
        return msgspec.json.encode(self)


def digest_of(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


def pending_path(binding: Binding) -> str:
    return f"{PENDING}/{binding.version_id}"


def target_of(binding: Binding, home: Home | None) -> Target:
    if home is not None:
        return Target(home.path, home.field or FIELD, adopted=True, shared=home.shared)
    path = f"{binding.environment}/{binding.key_path.replace('.', '/')}"
    return Target(path, FIELD, adopted=False, shared=False)


def read_place(place: bytes) -> Place:
    """Raises `InternalError` ``value_damaged``."""
    try:
        return msgspec.json.decode(place, type=Place)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InternalError("value_damaged", "What is kept is no place in OpenBao.") from None


def value_in(fields: dict[str, Any], field: str) -> bytes | None:
    """What a field holds, as bytes: text as it is, anything else as JSON."""
    if field not in fields:
        return None
    held = fields[field]
    return held.encode(errors="replace") if isinstance(held, str) else msgspec.json.encode(held)
