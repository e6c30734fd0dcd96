"""The store's own secrets: token signing keys, the checkpoint key.

They are ordinary sealed versions under the reserved prefix ``_store``, which no grant, read, list
or import can name, in an environment of the same name that nobody can declare.
"""

from __future__ import annotations

import secrets

from msgspec.structs import replace

from dox_core_store.errors import ConfigurationError, InternalError
from dox_core_store.key_path import RESERVED_PREFIX, KeyAddress
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.key import KeyRecord, State, VersionRecord, fresh_key
from dox_core_store.server.ports import Found, Sealer, Transaction

__all__ = [
    "CHECKPOINT_KEY",
    "forget_secret",
    "keep_secret",
    "open_secret",
    "signing_key_address",
]


def _address(name: str) -> KeyAddress:
    return KeyAddress(f"{RESERVED_PREFIX}.{name}", RESERVED_PREFIX)


CHECKPOINT_KEY = _address("checkpoint_key")


def signing_key_address(kid: str) -> KeyAddress:
    """Where the private half of the signing key ``kid`` lies."""
    return _address(f"signing_keys.{kid}")


def keep_secret(
    tx: Transaction, caller: Caller, sealer: Sealer, store_id: str, address: KeyAddress, raw: bytes
) -> None:
    """Seal ``raw`` as the only version at ``address``."""
    version_id = secrets.token_hex(16)
    key = fresh_key(tx.new_key_id(), address, tx.now)
    key = replace(key, rotated_at=tx.now, last_number=1, head=version_id)
    version = VersionRecord(
        version_id=version_id,
        key_id=key.key_id,
        number=1,
        state=State.CURRENT,
        created_at=tx.now,
        created_by=caller.name,
        expires_at=None,
        rolled_back_from=None,
        sealed=sealer.store(Binding(store_id, *address, version_id), raw),
    )
    tx.put(key)
    tx.put(version)


def forget_secret(tx: Transaction, address: KeyAddress) -> None:
    """Erase what is at ``address``, if there is anything."""
    key = tx.get(KeyRecord, path=address.path, environment=address.environment)
    if key is not None:
        tx.remove(VersionRecord, key_id=key.key_id)
        tx.remove(KeyRecord, key_id=key.key_id)


def open_secret(sealer: Sealer, store_id: str, address: KeyAddress, found: Found | None) -> bytes:
    """The secret at ``address``. Raises `ConfigurationError` ``store_damaged`` if it is not
    there."""
    if found is None or found.version.sealed is None:
        raise ConfigurationError("store_damaged", f"{address.path} is missing from the store.")
    binding = Binding(store_id, *address, found.version.version_id)
    try:
        return sealer.open(binding, found.version.sealed)
    except InternalError as error:
        raise ConfigurationError("store_damaged", error.detail) from error
