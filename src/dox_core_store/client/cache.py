"""`KeyCache`: which held key may be served to whom, and what forgets it. No I/O, no own clock.

A key is held once, under its canonical name (``path.environment``). Spellings lead to it: the
canonical name always does, the bare path once an answer has told which environment it means.

Freshness is judged at each look-up, by the caller's own limit. Never served: what is older than
that, older than the store's ceiling, or past the key's own expiry. An age counts from the moment
the request was *sent*, the last one at which the value is known to have been true.

Forgetting must also reach answers that are still on their way. So each request notes the `epoch`
in which it was sent, and an answer from an earlier epoch is not kept.

Look-ups take no lock: each is two reads of dictionaries. Changes take one, since several event
loops in several threads may share a cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from dox_core_store.client.key import Key
from dox_core_store.key_path import KeyAddress
from dox_core_store.wire import KeyValue

__all__ = ["KeyCache"]


class _Held:
    __slots__ = ("expires_at", "fetched_at", "key", "serve_until")

    def __init__(
        self, *, key: Key, fetched_at: float, serve_until: float, expires_at: float | None
    ) -> None:
        self.key = key
        self.fetched_at = fetched_at
        self.serve_until = serve_until
        self.expires_at = expires_at


class KeyCache:
    """Held keys by canonical name. ``monotonic`` measures ages, ``wall`` judges expiry times."""

    def __init__(self, *, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._held: dict[str, _Held] = {}
        self._names: dict[str, str] = {}
        self._changing = threading.Lock()
        self.epoch = 0

    def lookup(self, spelling: str, ttl_seconds: float) -> Key | None:
        """The held key, if it may be served to a caller who accepts ``ttl_seconds`` of age."""
        # The hot path of the whole client: two dictionary look-ups and one clock.
        held = self._held.get(self._names.get(spelling, spelling))
        if held is None:
            return None
        now = self._monotonic()
        if (
            now - held.fetched_at < ttl_seconds
            and now < held.serve_until
            and (held.expires_at is None or self._wall() < held.expires_at)
        ):
            return held.key
        return None

    def name(self, spelling: str) -> str:
        """What ``spelling`` is known to stand for, else itself: equal names are the same key."""
        return self._names.get(spelling, spelling)

    def keep(self, spelling: str, answer: KeyValue, *, sent_at: float, epoch: int) -> None:
        """Hold ``answer`` to a request for ``spelling`` that was sent at ``sent_at``."""
        name = str(KeyAddress(answer.key_path, answer.environment))
        held = _Held(
            key=Key(answer, source="cache", fetched_at=sent_at, monotonic=self._monotonic),
            fetched_at=sent_at,
            serve_until=sent_at + answer.cache_ttl_ceiling_seconds,
            expires_at=None if answer.expires_at is None else answer.expires_at.timestamp(),
        )
        with self._changing:
            if epoch != self.epoch:
                return
            self._drop_outlived()
            self._names[spelling] = name
            known = self._held.get(name)
            if known is None or known.fetched_at <= sent_at:  # else a later question came first
                self._held[name] = held

    def refused(self, spelling: str) -> None:
        """The store will not hand out ``spelling`` (any more): whoever holds it must let go."""
        with self._changing:
            if self._held.pop(self.name(spelling), None) is not None:
                self.epoch += 1

    def forget(self, spelling: str) -> None:
        """Let go of what ``spelling`` names; a bare path names its key in every environment."""
        with self._changing:
            self.epoch += 1
            self._held.pop(self.name(spelling), None)
            for name, held in list(self._held.items()):
                if held.key.key_path == spelling:
                    del self._held[name]

    def forget_all(self) -> None:
        """Let go of everything, also of what spellings stand for."""
        with self._changing:
            self.epoch += 1
            self._held.clear()
            self._names.clear()

    def _drop_outlived(self) -> None:
        # Values that nobody can be served any more must not lie about in memory.
        now, today = self._monotonic(), self._wall()
        for name, held in list(self._held.items()):
            if now >= held.serve_until or (
                held.expires_at is not None and today >= held.expires_at
            ):
                del self._held[name]
