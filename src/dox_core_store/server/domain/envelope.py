"""The sealing format: which bytes protect a value, a data key, a key-encryption key.

Every version has its own 256-bit data key. AES-256-GCM (NIST SP 800-38D) with random 96-bit nonces;
each key seals little: a data key one value, a key-encryption key data keys, the root key the ring.
The associated data is the canonical encoding of (purpose, store id, key path, environment, version
id), computed from what was asked for and never from the row, so a blob moved or replayed under
another name does not open. Byte by byte, with vectors: ``docs/spec/envelope.md``.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dox_core_store.errors import DoxStoreError

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
    return _START + _encoded((purpose, *fields))


def _encoded(fields: Iterable[str]) -> bytes:
    raw = [field.encode() for field in fields]
    return b"".join([part for each in raw for part in (len(each).to_bytes(4), each)])


_START = b"doxstore/envelope/1"
_DATA_KEY, _VALUE = associated_data("data-key"), associated_data("value")
"""What the two boxes of a sealed value begin with; the binding behind it is encoded once."""


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


class _Keys(NamedTuple):
    """One state of a ring. Never changed, only replaced: threads use it while it is rotated."""

    keys: dict[int, bytes]
    mac_keys: dict[int, bytes]
    newest: int


class Ring:
    """The numbered key-encryption keys, opened. New values use the highest number.

    ``more`` returns the keys as the store has them now: they are rotated under a running server,
    which meets a number that it does not know yet. A key that the store has no longer is kept until
    `settle`: somebody may still hold what was read before it was rewrapped.
    """

    def __init__(
        self,
        store_id: str,
        keys: Mapping[int, bytes],
        more: Callable[[], Mapping[int, bytes]] | None = None,
    ) -> None:
        self.store_id = store_id
        self._more = more
        self._contexts: dict[str, bytes] = {}
        self._now = _opened(keys)

    @property
    def numbers(self) -> list[int]:
        """Of the keys it holds, in order."""
        return sorted(self._now.keys)

    @property
    def newest(self) -> int:
        """The number under which it seals."""
        return self._now.newest

    def refresh(self) -> None:
        """Take the keys that the store has now, beside those that are here."""
        if self._more is not None:
            self._now = _opened({**self._now.keys, **self._more()})

    def settle(self) -> None:
        """Take the keys that the store has now, and no others."""
        if self._more is not None:
            self._now = _opened(self._more())

    def only(self, numbers: Collection[int]) -> Ring:
        """The keys ``numbers`` alone. Raises `DamagedSealError` if one of them is unknown."""
        keys = {number: self._knowing(number).keys.get(number) for number in numbers}
        known = {number: key for number, key in keys.items() if key is not None}
        if len(known) < len(keys):
            raise DamagedSealError("a key of the ring is unknown")
        return Ring(self.store_id, known)

    def _knowing(self, number: int) -> _Keys:
        """The keys, read again if ``number`` is not among them."""
        if number not in self._now.keys:
            # Where they cannot be read, the number stays unknown, and what names it closed.
            with contextlib.suppress(DoxStoreError):
                self.refresh()
        return self._now

    def seal(self, plaintext: bytes, binding: Binding) -> bytes:
        """``format || number || wrapped data key || sealed value``, bound to ``binding``."""
        data_key, now, bound = os.urandom(KEY_BYTES), self._now, _encoded(binding)
        header = _HEADER.pack(FORMAT, now.newest)
        wrapped = seal_box(now.keys[now.newest], data_key, header + _DATA_KEY + bound)
        return header + wrapped + seal_box(data_key, plaintext, _VALUE + bound)

    def open(self, sealed: bytes, binding: Binding) -> bytes:
        """The value. Raises `DamagedSealError`, also where ``binding`` is another's."""
        if len(sealed) < _HEADER.size + _WRAPPED_BYTES:
            raise DamagedSealError("too short to be sealed")
        header, rest = sealed[: _HEADER.size], sealed[_HEADER.size :]
        key, bound = self._key_of(header), _encoded(binding)
        data_key = open_box(key, rest[:_WRAPPED_BYTES], header + _DATA_KEY + bound)
        return open_box(data_key, rest[_WRAPPED_BYTES:], _VALUE + bound)

    def rewrap(self, sealed: bytes, binding: Binding) -> bytes:
        """``sealed`` with its data key wrapped under the newest key; the value is not touched.

        Raises `DamagedSealError`.
        """
        if len(sealed) < _HEADER.size + _WRAPPED_BYTES:
            raise DamagedSealError("too short to be sealed")
        header, rest = sealed[: _HEADER.size], sealed[_HEADER.size :]
        key, now = self._key_of(header), self._now
        context = _DATA_KEY + _encoded(binding)
        data_key = open_box(key, rest[:_WRAPPED_BYTES], header + context)
        header = _HEADER.pack(FORMAT, now.newest)
        wrapped = seal_box(now.keys[now.newest], data_key, header + context)
        return header + wrapped + rest[_WRAPPED_BYTES:]

    def mac(self, table: str, row: bytes) -> bytes:
        """``number || HMAC-SHA256`` over a row that decides, for storing beside it."""
        now = self._now
        return struct.pack(">I", now.newest) + self._tag(now.mac_keys[now.newest], table, row)

    def mac_holds(self, table: str, row: bytes, mac: bytes) -> bool:
        """Whether ``mac`` was made by `mac` for this row of this table of this store."""
        if len(mac) != 4 + hashlib.sha256().digest_size:
            return False
        number = mac_number(mac)
        key = self._knowing(number).mac_keys.get(number)
        return key is not None and hmac.compare_digest(mac[4:], self._tag(key, table, row))

    def _key_of(self, header: bytes) -> bytes:
        """The key-encryption key that ``header`` names."""
        version, number = _HEADER.unpack(header)
        key = self._knowing(number).keys.get(number) if version == FORMAT else None
        if key is None:
            raise DamagedSealError("sealed in an unknown format or under an unknown key")
        return key

    def _tag(self, key: bytes, table: str, row: bytes) -> bytes:
        context = self._contexts.get(table)
        if context is None:  # made once: this runs for every row that is read
            context = self._contexts[table] = associated_data("row", self.store_id, table)
        return hmac.digest(key, context + row, hashlib.sha256)


def _opened(keys: Mapping[int, bytes]) -> _Keys:
    macs = {number: derive(key, "row-mac") for number, key in keys.items()}
    return _Keys(dict(keys), macs, max(keys))
