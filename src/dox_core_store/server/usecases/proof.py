"""Which proofs count now: nonces that this node gave out, each proof once (RFC 9449, 8 and 11.1).

A nonce is random and good for the window in which it is the newest and for the next one. A proof is
remembered for as long as its nonce counts, so it can be replayed neither within that time nor after
it. A window ends after `WINDOW_SECONDS`, or when as many proofs were seen as we are willing to
remember: memory is bounded, whatever the load. A restarted node knows no old nonce, so nothing
from before it is good any more.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from dox_core_store.errors import AuthenticationError
from dox_core_store.server.domain.proof import (
    HolderKey,
    Proven,
    check_said,
    invalid_proof,
    read_said,
    split_proof,
)

__all__ = ["WINDOW_SECONDS", "Proofs"]

WINDOW_SECONDS = 15.0
_MAX_SEEN = 200_000
_SEEN_BYTES = 16
_MAX_KEYS = 10_000


class _Window:
    __slots__ = ("began", "nonce", "seen")

    def __init__(self, began: float) -> None:
        self.began = began
        self.nonce = secrets.token_urlsafe(16)
        self.seen: set[bytes] = set()


class Proofs:
    """Lives on the event loop. ``seconds`` is the wall clock, ``monotonic`` never goes back."""

    def __init__(self, *, seconds: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._seconds = seconds
        self._monotonic = monotonic
        self._keys: dict[bytes, HolderKey] = {}
        self._newest = self._before = _Window(monotonic())

    def nonce(self) -> str:
        """What the next proof should carry."""
        now = self._monotonic()
        if now - self._newest.began >= WINDOW_SECONDS or len(self._newest.seen) >= _MAX_SEEN:
            # After a pause the one before is as old as the pause: no proof of it counts any more.
            stale = now - self._newest.began >= 2 * WINDOW_SECONDS
            self._before = _Window(now) if stale else self._newest
            self._newest = _Window(now)
        return self._newest.nonce

    def check(self, raw: bytes, asked: Proven, *, thumbprint: str, token_digest: str) -> None:
        """Take the proof ``raw`` for ``asked``, once.

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
        self.nonce()
        window = next((each for each in (self._newest, self._before) if each.nonce == said.nonce),
                      None)  # fmt: skip
        if window is None:
            raise AuthenticationError(
                "nonce_needed", "Make the proof with the nonce of the header DPoP-Nonce."
            )
        seen = hashlib.sha256(f"{thumbprint}{said.jti}".encode()).digest()[:_SEEN_BYTES]
        if seen in window.seen:
            raise invalid_proof("used before")
        window.seen.add(seen)
