"""The nonces that proofs carry (RFC 9449, 8): each is good in its window of time and in the next.

A node that is alone makes random ones (`OwnWindows`): a restarted one knows no old nonce, so
nothing from before it is good any more. Its memory is bounded: a window ends early when as many
proofs were seen in it as it is willing to remember.

Nodes of one store derive them from a secret of the store (`StoreWindows`): whoever knows the time
and the secret knows the nonce of a window, so each node accepts what another gave out, and a client
may be anywhere. Windows lie on the wall clock, which nodes take from the database. One that is
ahead gives out the next window's nonce, so that counts too: clocks may differ by a window, and lose
nothing but some of a nonce's life. What a node remembers there is a short cut, bounded too: that a
proof is used once is decided by the store (`ports.ProofUses`), for as long as any node, by whatever
clock, takes its nonce.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Final, Protocol

from dox_core_store.server.domain.proof import LEEWAY_SECONDS

__all__ = ["WINDOW_SECONDS", "OwnWindows", "StoreWindows", "Window", "Windows"]

WINDOW_SECONDS: Final = 15.0
_MAX_SEEN = 200_000
_NONCE_BYTES = 16


class Window:
    """A nonce and the proofs with it that this node saw. ``until`` (seconds since 1970) is when no
    node takes it any more; None where there is but one."""

    __slots__ = ("began", "nonce", "seen", "until")

    def __init__(self, began: float, nonce: str, until: float | None = None) -> None:
        self.began = began
        self.nonce = nonce
        self.until = until
        self.seen: set[bytes] = set()

    def is_new(self, proof: bytes) -> bool:
        """Whether ``proof`` was not seen here; from now on it was, as long as there is room."""
        if proof in self.seen:
            return False
        if self.until is None or len(self.seen) < _MAX_SEEN:
            self.seen.add(proof)
        return True


class Windows(Protocol):
    """Which nonces count now. Lives on the event loop."""

    def newest(self) -> str:
        """What the next proof should carry."""

    def find(self, nonce: str | None) -> Window | None:
        """The window of ``nonce``; None if it does not count (any more)."""


class OwnWindows:
    """Of a node that is alone. ``monotonic`` never goes back."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._newest = self._before = _random(monotonic())

    def newest(self) -> str:
        now, newest = self._monotonic(), self._newest
        if now - newest.began >= WINDOW_SECONDS or len(newest.seen) >= _MAX_SEEN:
            # After a pause the one before is as old as the pause: no proof of it counts any more.
            is_stale = now - newest.began >= 2 * WINDOW_SECONDS
            self._before = _random(now) if is_stale else newest
            self._newest = _random(now)
        return self._newest.nonce

    def find(self, nonce: str | None) -> Window | None:
        self.newest()
        return _among((self._newest, self._before), nonce)


class StoreWindows:
    """Of all nodes of a store. ``seconds`` is the time that they agree on; ``secret`` is known to
    them alone."""

    def __init__(self, *, seconds: Callable[[], float], secret: bytes) -> None:
        self._seconds = seconds
        self._secret = secret
        self._windows: dict[int, Window] = {}
        self._number = -1
        self._turn()

    def newest(self) -> str:
        self._turn()
        return self._windows[self._number].nonce

    def find(self, nonce: str | None) -> Window | None:
        self._turn()
        return _among(tuple(self._windows.values()), nonce)

    def _turn(self) -> None:
        """Have the windows around the present one, with what was seen in them."""
        number = int(self._seconds() // WINDOW_SECONDS)
        if number != self._number:
            around = (number, number - 1, number + 1)
            self._windows = {each: self._windows.get(each) or self._make(each) for each in around}
            self._number = number

    def _make(self, number: int) -> Window:
        digest = hmac.digest(self._secret, number.to_bytes(8), hashlib.sha256)[:_NONCE_BYTES]
        nonce = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        # Good until the next one ends, by a clock that is as far behind as any node's may be.
        until = (number + 2) * WINDOW_SECONDS + LEEWAY_SECONDS
        return Window(number * WINDOW_SECONDS, nonce, until)


def _random(began: float) -> Window:
    return Window(began, secrets.token_urlsafe(_NONCE_BYTES))


def _among(windows: tuple[Window, ...], nonce: str | None) -> Window | None:
    if nonce is None or not nonce.isascii():
        return None
    return next((each for each in windows if hmac.compare_digest(each.nonce, nonce)), None)
