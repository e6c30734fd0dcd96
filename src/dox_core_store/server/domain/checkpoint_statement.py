"""What a checkpoint states, and whether it is signed: for whoever checks a ledger from outside.

An entry of an export is taken back to its canonical form here, so that its hash can be computed
from what it says and not from what it claims. Bytes: ``docs/spec/ledger.md``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dox_core_store import wire
from dox_core_store.server.domain.ledger import (
    FORMAT,
    BrokenChainError,
    Entry,
    canonical,
    checkpoint_message,
    link,
)

__all__ = ["Heads", "Signatures", "entry_hash"]

Heads = dict[str, tuple[int, str]]
"""Per stream the last ``seq`` and ``hash`` (hex)."""


class _Statement(msgspec.Struct):
    heads: Heads
    signature: str


class Signatures:
    """Of one store's checkpoints. Without any key nothing is checked but the form."""

    def __init__(self, store_id: str, keys: Sequence[Ed25519PublicKey]) -> None:
        self._store_id = store_id
        self._keys = keys

    def heads(self, record: wire.LedgerRecord) -> Heads:
        """What the checkpoint ``record`` signs. Raises `BrokenChainError`."""
        stream, seq = record.stream, record.seq
        try:
            statement = msgspec.json.decode(record.reason or "", type=_Statement)
            signature = base64.b64decode(statement.signature, validate=True)
        except (msgspec.DecodeError, binascii.Error) as error:
            raise BrokenChainError(stream, seq, "is no readable checkpoint") from error
        message = checkpoint_message(self._store_id, record.timestamp, statement.heads)
        if self._keys and not any(_holds(key, signature, message) for key in self._keys):
            raise BrokenChainError(stream, seq, "has a signature that does not hold")
        return statement.heads


def entry_hash(record: wire.LedgerRecord) -> str:
    """The hash (hex) that the entry's content has after its ``prev``. Raises `BrokenChainError`
    where that cannot be said."""
    if record.format != FORMAT:
        why = f"is of format {record.format}, not {FORMAT}"
        raise BrokenChainError(record.stream, record.seq, why)
    try:
        prev = bytes.fromhex(record.prev)
    except ValueError as error:
        why = "has no readable hash before it"
        raise BrokenChainError(record.stream, record.seq, why) from error
    return link(prev, canonical(_entry(record), record.seq, record.stream)).hex()


def _holds(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _entry(record: wire.LedgerRecord) -> Entry:
    return Entry(
        timestamp=record.timestamp,
        service_name=record.service_name,
        key_path=record.key_path,
        action=record.action,
        status=record.status,
        request_id=record.request_id,
        ip_address=record.ip_address,
        user_agent=record.user_agent,
        environment=record.environment,
        version=record.version,
        token_id=record.token_id,
        correlation_id=record.correlation_id,
        reason=record.reason,
        count=record.count,
    )
