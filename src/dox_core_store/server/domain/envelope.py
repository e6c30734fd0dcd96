"""The sealing format: which bytes protect a value, a data key, a key-encryption key.

Every version has its own 256-bit data key. AES-256-GCM (NIST SP 800-38D) with random 96-bit nonces;
each key seals little: a data key one value, a key-encryption key data keys, the root key the ring.
The associated data is the canonical encoding of (purpose, store id, key path, environment, version
id), computed from what was asked for and never from the row, so a blob moved or replayed under
another name does not open. Byte by byte, with vectors: ``docs/spec/envelope.md``.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = [
    "FORMAT",
    "KEY_BYTES",
    "NONCE_BYTES",
    "Binding",
    "DamagedSealError",
    "Ring",
    "associated_data",
    "derive",
    "mac_number",
    "open_box",
    "root_check",
    "seal_box",
    "sealed_number",
]

FORMAT = 1
KEY_BYTES = 32
NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER = struct.Struct(">BI")  # format, number of the key-encryption key
_WRAPPED_BYTES = NONCE_BYTES + KEY_BYTES + _TAG_BYTES


class DamagedSealError(ValueError):
    """A sealed blob does not open under the name it was asked for: damaged, moved or foreign."""


class Binding(NamedTuple):
    """What a sealed value is tied to."""

    store_id: str
    key_path: str
    environment: str
    version_id: str


def associated_data(purpose: str, *fields: str) -> bytes:
    """Each field as a 32-bit big-endian length and its UTF-8 bytes: no two lists encode alike."""
    parts = [b"doxstore/envelope/1"]
    for field in (purpose, *fields):
        raw = field.encode()
        parts += (struct.pack(">I", len(raw)), raw)
    return b"".join(parts)


def seal_box(key: bytes, plaintext: bytes, context: bytes, nonce: bytes | None = None) -> bytes:
    """``nonce || ciphertext || tag``. ``nonce`` is random; only vectors pass one."""
    nonce = os.urandom(NONCE_BYTES) if nonce is None else nonce
    return nonce + AESGCM(key).encrypt(nonce, plaintext, context)


def open_box(key: bytes, box: bytes, context: bytes) -> bytes:
    """The inverse of `seal_box`. Raises `DamagedSealError`."""
    if len(box) < NONCE_BYTES + _TAG_BYTES:
        raise DamagedSealError("too short to be sealed")
    try:
        return AESGCM(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], context)
    except InvalidTag as error:
        raise DamagedSealError("does not open under this name") from error


def derive(key: bytes, purpose: str) -> bytes:
    """A 256-bit key for ``purpose`` from ``key`` (HKDF-SHA256, RFC 5869, no salt)."""
    return HKDF(SHA256(), KEY_BYTES, None, f"doxstore/{purpose}/1".encode()).derive(key)


def root_check(root: bytes, store_id: str) -> bytes:
    """Tells a wrong root key from a damaged store, and nothing else."""
    return hmac.digest(derive(root, "root-check"), store_id.encode(), hashlib.sha256)


def sealed_number(sealed: bytes) -> int:
    """The number of the key-encryption key under which ``sealed`` stands; 0 if it is too short."""
    return _HEADER.unpack(sealed[: _HEADER.size])[1] if len(sealed) >= _HEADER.size else 0


def mac_number(mac: bytes) -> int:
    """The number of the key under which a row's MAC was made."""
    return int.from_bytes(mac[:4])


class Ring:
    """The numbered key-encryption keys, opened. New values use the highest number.

    ``more`` returns the keys as the store has them now: they are rotated under a running server,
    which meets a number that it does not know yet.
    """

    def __init__(
        self,
        store_id: str,
        keys: Mapping[int, bytes],
        more: Callable[[], Mapping[int, bytes]] | None = None,
    ) -> None:
        self.store_id = store_id
        self._more = more
        self._take(keys)

    @property
    def numbers(self) -> list[int]:
        """Of the keys it holds, in order."""
        return sorted(self._keys)

    def refresh(self) -> None:
        """Take the keys as the store has them now."""
        if self._more is not None:
            self._take(self._more())

    def _take(self, keys: Mapping[int, bytes]) -> None:
        self._mac_keys = {number: derive(key, "row-mac") for number, key in keys.items()}
        self._keys = dict(keys)
        self.newest = max(keys)  # last: whoever seals meanwhile uses a key that is there

    def _knows(self, number: int) -> bool:
        if number not in self._keys:
            self.refresh()
        return number in self._keys

    def seal(self, plaintext: bytes, binding: Binding) -> bytes:
        """``format || number || wrapped data key || sealed value``, bound to ``binding``."""
        data_key = os.urandom(KEY_BYTES)
        header = _HEADER.pack(FORMAT, self.newest)
        wrapped = seal_box(
            self._keys[self.newest], data_key, header + associated_data("data-key", *binding)
        )
        return header + wrapped + seal_box(data_key, plaintext, associated_data("value", *binding))

    def open(self, sealed: bytes, binding: Binding) -> bytes:
        """The value. Raises `DamagedSealError`, also where ``binding`` is another's."""
        if len(sealed) < _HEADER.size + _WRAPPED_BYTES:
            raise DamagedSealError("too short to be sealed")
        header, rest = sealed[: _HEADER.size], sealed[_HEADER.size :]
        version, number = _HEADER.unpack(header)
        if version != FORMAT or not self._knows(number):
            raise DamagedSealError("sealed in an unknown format or under an unknown key")
        data_key = open_box(
            self._keys[number],
            rest[:_WRAPPED_BYTES],
            header + associated_data("data-key", *binding),
        )
        return open_box(data_key, rest[_WRAPPED_BYTES:], associated_data("value", *binding))

    def rewrap(self, sealed: bytes, binding: Binding) -> bytes:
        """``sealed`` with its data key wrapped under the newest key; the value is not touched.

        Raises `DamagedSealError`.
        """
        if len(sealed) < _HEADER.size + _WRAPPED_BYTES:
            raise DamagedSealError("too short to be sealed")
        header, rest = sealed[: _HEADER.size], sealed[_HEADER.size :]
        version, number = _HEADER.unpack(header)
        if version != FORMAT or not self._knows(number):
            raise DamagedSealError("sealed in an unknown format or under an unknown key")
        context = associated_data("data-key", *binding)
        data_key = open_box(self._keys[number], rest[:_WRAPPED_BYTES], header + context)
        header = _HEADER.pack(FORMAT, self.newest)
        wrapped = seal_box(self._keys[self.newest], data_key, header + context)
        return header + wrapped + rest[_WRAPPED_BYTES:]

    def mac(self, table: str, row: bytes) -> bytes:
        """``number || HMAC-SHA256`` over a row that decides, for storing beside it."""
        return struct.pack(">I", self.newest) + self._tag(self.newest, table, row)

    def mac_holds(self, table: str, row: bytes, mac: bytes) -> bool:
        """Whether ``mac`` was made by `mac` for this row of this table of this store."""
        if len(mac) != 4 + hashlib.sha256().digest_size:
            return False
        (number,) = struct.unpack(">I", mac[:4])
        if not self._knows(number):
            return False
        return hmac.compare_digest(mac[4:], self._tag(number, table, row))

    def _tag(self, number: int, table: str, row: bytes) -> bytes:
        context = associated_data("row", self.store_id, table)
        return hmac.digest(self._mac_keys[number], context + row, hashlib.sha256)
