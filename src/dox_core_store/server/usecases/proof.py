"""Which proofs count now: each once, with a nonce that this store gave out (RFC 9449, 8 and 11.1).

A proof is remembered for as long as its nonce counts (`usecases.nonce`), so it can be replayed
neither within that time nor after it. A node that is alone remembers in memory. Where there are
several, each proof is also put on record in the store before its request goes on: the one who puts
it there first goes on, at whatever node, and nobody where the store does not answer.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import NamedTuple

from dox_core_store.errors import AuthenticationError
from dox_core_store.server.domain.proof import (
    HolderKey,
    Proven,
    check_said,
    invalid_proof,
    read_said,
    split_proof,
)
from dox_core_store.server.ports import ProofUses
from dox_core_store.server.usecases.nonce import OwnWindows, StoreWindows, Windows

__all__ = ["Proofs", "Use"]

_SEEN_BYTES = 16
_MAX_KEYS = 10_000


class Use(NamedTuple):
    """A proof that holds as far as this node knows: `Proofs.claim` has to take it, before
    anything is done for it. ``until`` is in seconds since 1970."""

    proof: str
    until: float


class Proofs:
    """Lives on the event loop. ``seconds`` is the wall clock, ``monotonic`` never goes back.

    Among other nodes, ``secret`` is what all of them know and nobody else, and ``uses`` is where
    they put on record which proofs were used.
    """

    def __init__(
        self,
        *,
        seconds: Callable[[], float],
        monotonic: Callable[[], float],
        secret: bytes = b"",
        uses: ProofUses | None = None,
    ) -> None:
        self._seconds = seconds
        self._uses = uses
        self._keys: dict[bytes, HolderKey] = {}
        self._windows: Windows
        if uses is None:
            self._windows = OwnWindows(monotonic=monotonic)
        elif secret:
            self._windows = StoreWindows(seconds=seconds, secret=secret)
        else:
            raise ValueError("nodes need a secret of their store")
        self.nonce: Callable[[], str] = self._windows.newest
        """What the next proof should carry."""

    def check(self, raw: bytes, asked: Proven, *, thumbprint: str, token_digest: str) -> Use | None:
        """Take the proof ``raw`` for ``asked``, once. Where it is not None that comes back, other
        nodes may have taken it too: it is good once `claim` returns.

        Raises `AuthenticationError` ``nonce_needed`` where all is well but its nonce, else
        ``proof_invalid``.
        """
        header, signed, payload, signature = split_proof(raw)
        key = self._keys.get(header)
        if key is None:
            key = HolderKey(header)
        if key.thumbprint != thumbprint:
            raise invalid_proof("another key than the token's")
        key.verify(signed, signature)
        if len(self._keys) >= _MAX_KEYS:
            self._keys.clear()
        self._keys[header] = key
        said = read_said(payload)
        check_said(said, asked, token_digest=token_digest, now=self._seconds())
        window = self._windows.find(said.nonce)
        if window is None:
            raise AuthenticationError(
                "nonce_needed", "Make the proof with the nonce of the header DPoP-Nonce."
            )
        digest = hashlib.sha256(f"{thumbprint}{said.jti}".encode()).digest()
        if not window.is_new(digest[:_SEEN_BYTES]):
            raise invalid_proof("used before")
        if window.until is None:
            return None
        return Use(base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), window.until)

    async def claim(self, use: Use) -> None:
        """Put ``use`` on record. Raises `AuthenticationError` ``proof_invalid`` if it was there,
        `StoreUnavailableError` where that cannot be known."""
        if self._uses is not None and not await self._uses.first(use.proof, use.until):
            raise invalid_proof("used before, at another node")
