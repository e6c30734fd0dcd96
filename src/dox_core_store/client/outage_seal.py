"""The format of sealed outage files: how one is named, sealed and opened.

Specified byte by byte in ``docs/spec/outage-file.md``. A file opens only for the service, store and
environment that it was sealed for, under its own name, with the secret that sealed it. Its name
tells nothing without the folder's salt, its size little.

No files and no clock here: `SealedOutageFiles` reads, writes, and judges what it finds.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dox_core_store.client.outage_secret import Principal
from dox_core_store.key_path import KeyAddress
from dox_core_store.wire import KeyValue, decode, encode

__all__ = [
    "LARGEST_BYTES",
    "Namer",
    "OutageRecord",
    "open_record",
    "seal_record",
]

_HALF_HEX = 32
"""Of each half of a name: 128 bits."""

_FORMAT = b"\x01"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_OVERHEAD_BYTES = len(_FORMAT) + _NONCE_BYTES + _TAG_BYTES
_BUCKETS = tuple(1024 << power for power in range(10))
"""1 KiB to 512 KiB: a value of 64 KiB takes 384 KiB where JSON has to escape each byte of it."""

_SIZES = frozenset(bucket + _OVERHEAD_BYTES for bucket in _BUCKETS)
LARGEST_BYTES = max(_SIZES)


class OutageRecord(msgspec.Struct, kw_only=True):
    """What a file holds. Times are seconds since 1970."""

    key: KeyValue
    true_at: float
    """When the value was known to be the right one."""
    written_at: float

    @property
    def ends_at(self) -> float:
        """From when on nobody may be served it."""
        grace_until = self.true_at + self.key.outage_grace_seconds
        expires_at = self.key.expires_at
        return grace_until if expires_at is None else min(grace_until, expires_at.timestamp())


class Namer:
    """Names of files. They come from the folder's ``salt``, not from a secret, so that a key can
    be erased whatever token its file was sealed under."""

    def __init__(self, salt: bytes, principal: Principal) -> None:
        self._key = _derived(salt, _context("name", principal.store_id, principal.service))

    def prefix(self, path: str) -> str:
        """How the names for ``path`` begin, in whatever environment."""
        return self._half("path", path)

    def name(self, address: KeyAddress) -> str:
        return self.prefix(address.path) + self._half("key", address.path, address.environment)

    def _half(self, *fields: str) -> str:
        return hmac.digest(self._key, _context(*fields), hashlib.sha256).hex()[:_HALF_HEX]


def seal_record(
    secret: bytes, principal: Principal, name: str, record: OutageRecord, *, nonce: bytes = b""
) -> bytes | None:
    """The content of the file ``name``; None for what is larger than any key of a store.
    ``nonce`` is random but for vectors."""
    plain = encode(record)
    bucket = next((size for size in _BUCKETS if len(plain) <= size), None)
    if bucket is None:
        return None
    nonce = nonce or os.urandom(_NONCE_BYTES)
    context = _file_context(principal, name)
    # JSON ends where blanks begin, so nothing has to say how long it is.
    sealed = _aead(secret, context).encrypt(nonce, plain.ljust(bucket), _FORMAT + context)
    return _FORMAT + nonce + sealed


def open_record(
    secret: bytes, principal: Principal, name: str, content: bytes
) -> OutageRecord | None:
    """What `seal_record` sealed; None for anything else, whatever is wrong with it."""
    if len(content) not in _SIZES or not content.startswith(_FORMAT):
        return None
    nonce, sealed = content[1 : 1 + _NONCE_BYTES], content[1 + _NONCE_BYTES :]
    context = _file_context(principal, name)
    try:
        plain = _aead(secret, context).decrypt(nonce, sealed, _FORMAT + context)
        return decode(OutageRecord, plain)
    except (InvalidTag, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _file_context(principal: Principal, name: str) -> bytes:
    return _context("file", *principal, name)


def _aead(secret: bytes, context: bytes) -> AESGCM:
    # A key of its own for each file: with the keys of a large platform written anew each minute,
    # random nonces under one key would come near their limit (2^32, NIST SP 800-38D) in some years.
    return AESGCM(_derived(secret, context))


def _derived(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def _context(*fields: str) -> bytes:
    """One encoding for each list of fields. The first is a purpose."""
    raw = [field.encode() for field in fields]
    return b"doxstore/outage/1" + b"".join(struct.pack(">I", len(each)) + each for each in raw)
