"""The node's cache of current values: bounded, and sealed under a key that dies with the process.

What is kept is the answer's body as it will be sent, sealed with AES-256-GCM, so a read costs one
open and no encoding, and a memory dump at rest holds no value in clear. Only current versions are
kept, and `forget` is called for every change the feed brings.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from datetime import datetime

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.envelope import KEY_BYTES, NONCE_BYTES
from dox_core_store.server.domain.limit import Bucket
from dox_core_store.wire import tag_of

__all__ = ["Prepared", "ValueCache"]

_MAX_KEYS = 50_000
_MAX_BYTES = 64 * 1024 * 1024
_OVERHEAD_BYTES = 700
"""What one kept answer costs beside its body: measured, rounded up."""


class Prepared:
    """One version, ready to be sent once it may be. ``sealed`` opens only with its cache."""

    __slots__ = ("address", "bucket", "context", "environment", "etag", "expires_seconds",
                 "ledger_path", "nonce", "number", "sealed", "tag", "version_id")  # fmt: skip

    def __init__(
        self,
        *,
        address: KeyAddress,
        version_id: str,
        number: int,
        expires_at: datetime | None,
        nonce: bytes,
        sealed: bytes,
        bucket: Bucket | None = None,
        kept_until: float = math.inf,
    ) -> None:
        self.address = address
        self.bucket = bucket
        """The limit of the key, where it has one of its own."""
        self.environment = address.environment
        self.ledger_path = str(address)
        self.version_id = version_id
        self.context = version_id.encode()
        self.etag = b'"%b"' % self.context
        self.tag = tag_of(version_id, expires_at)
        self.number = number
        ends = math.inf if expires_at is None else expires_at.timestamp()
        self.expires_seconds = min(ends, kept_until)
        """When it is looked up again: it has expired, or was kept as long as it may be."""
        self.nonce = nonce
        self.sealed = sealed


class ValueCache:
    """Sealed answers by path and environment; the oldest leave first. Lives on the event loop."""

    def __init__(self) -> None:
        self._box = AESGCM(os.urandom(KEY_BYTES))
        self._paths: OrderedDict[str, dict[str, Prepared]] = OrderedDict()
        self._bytes = 0
        self.generation = 0
        """Rises with every `forget`: what was read before must not be kept after."""

    def seal(self, body: bytes, version_id: str) -> tuple[bytes, bytes]:
        """Nonce and sealed ``body``, bound to the version."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce, self._box.encrypt(nonce, body, version_id.encode())

    def open(self, prepared: Prepared) -> bytes:
        """The body. Only ever called after the read is on record."""
        return self._box.decrypt(prepared.nonce, prepared.sealed, prepared.context)

    def get(self, address: KeyAddress) -> Prepared | None:
        environments = self._paths.get(address.path)
        return None if environments is None else environments.get(address.environment)

    def keep(self, prepared: Prepared, generation: int) -> None:
        """Keep ``prepared``, unless something was forgotten since ``generation``."""
        if generation != self.generation:
            return
        environments = self._paths.setdefault(prepared.address.path, {})
        before = environments.get(prepared.address.environment)
        self._bytes += _size(prepared) - (_size(before) if before is not None else 0)
        environments[prepared.address.environment] = prepared
        while self._bytes > _MAX_BYTES or len(self._paths) > _MAX_KEYS:
            self._drop(*self._paths.popitem(last=False))

    def forget(self, path: str | None) -> None:
        """Forget ``path`` in every environment; None: everything."""
        self.generation += 1
        if path is None:
            self._paths.clear()
            self._bytes = 0
        elif (environments := self._paths.pop(path, None)) is not None:
            self._drop(path, environments)

    def _drop(self, _path: str, environments: dict[str, Prepared]) -> None:
        self._bytes -= sum(map(_size, environments.values()))


def _size(prepared: Prepared) -> int:
    return len(prepared.sealed) + _OVERHEAD_BYTES
