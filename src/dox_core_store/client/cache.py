"""`KeyCache`: which held key may be served to whom, and what forgets it. No I/O, no own clock.

A key is held once, under its canonical name (``path.environment``). Spellings lead to it: the
canonical name always does, the bare path once an answer has told which environment it means.

Freshness is judged at each look-up, by the caller's own limit. Never served: what is older than
that, older than the store's ceiling, or past the key's own expiry. An age counts from the moment
the request was *sent*, the last one at which the value is known to have been true.

While the store's stream is followed (``trusted_until`` lies ahead) a change would have been heard.
Where it is not, what was asked for longer than ``window_seconds`` ago is asked for again first.

Forgetting must also reach answers that are still on their way. So each request notes the `epoch`
in which it was sent, and an answer from an earlier epoch is not kept.

Look-ups take no lock: each is two reads of dictionaries. Changes take one, since several event
loops in several threads may share a cache.
"""

from __future__ import annotations

import itertools
import math
import random
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from dox_core_store.client.forking import begin_anew_in_child
from dox_core_store.client.key import HeldKey, Source
from dox_core_store.key_path import KeyAddress
from dox_core_store.wire import KeyValue

__all__ = ["Held", "KeyCache", "Make"]

K = TypeVar("K", bound=HeldKey)

UNFOLLOWED_SECONDS = 5.0
"""How long after it was asked for a value is served without asking again, with no stream."""

_REFRESH_AT = (0.75, 0.85)
"""Of a key's life: when it is asked for again ahead of its end. Not all clients at once."""

_SUPERSEDED_SECONDS = 1.0
"""How long a value is served on of which it is known that it was replaced."""

_MOST_NOTED = 1_000
"""Changes that are remembered for the sake of answers that are under way."""

_FORKED_SECONDS = 1.0
"""How long a process that was forked serves what its parent held."""

Make = Callable[[KeyValue, Source, float], K]
"""Makes a key of an answer, its source, and when it was asked for."""


class Held(Generic[K]):
    """One key in the cache. ``reads`` counts look-ups that it answered; what else is asked of it
    is asked under the cache's lock. ``spelling`` is how it was asked for."""

    __slots__ = (
        "answer",
        "expires_at",
        "fetched_at",
        "key",
        "name",
        "reads",
        "refresh_at",
        "serve_until",
        "settled",
        "since",
        "spelling",
        "superseded_at",
        "ttl_seconds",
        "used_at",
    )

    def __init__(
        self, name: str, spelling: str, answer: KeyValue, *, key: K, sent_at: float, since: float
    ) -> None:
        self.name = name
        self.spelling = spelling
        self.answer = answer
        self.key = key
        self.fetched_at = sent_at
        self.serve_until = sent_at + answer.cache_ttl_ceiling_seconds
        self.expires_at = None if answer.expires_at is None else answer.expires_at.timestamp()
        self.superseded_at = math.inf
        self.ttl_seconds = self.used_at = 0.0
        self.refresh_at = random.uniform(*_REFRESH_AT)  # noqa: S311 - jitter
        self.reads = itertools.count()
        self.settled = 0
        self.since = since

    def true_at(self, heard_at: float) -> float:
        """The last moment at which the value is known to have been true; ``heard_at``: when the
        stream was heard of last."""
        return max(self.fetched_at, min(heard_at, self.superseded_at))


class KeyCache(Generic[K]):
    """Held keys by canonical name. ``elapsed`` measures ages, ``wall`` judges expiry times.
    ``dropped`` hears of each key that is let go or replaced, with the time of day."""

    def __init__(
        self,
        *,
        elapsed: Callable[[], float],
        wall: Callable[[], float],
        make: Make[K],
        dropped: Callable[[Held[K], float], None] = lambda _held, _now: None,
    ) -> None:
        self._elapsed = elapsed
        self._wall = wall
        self._make = make
        self._dropped = dropped
        self._held: dict[str, Held[K]] = {}
        self._names: dict[str, str] = {}
        self._revoked_at: dict[str, float] = {}
        self._changed_at: dict[str, float] = {}
        self._doubted_at = -math.inf
        self._changing = threading.RLock()
        self.epoch = 0
        self.heard_at = -math.inf
        """When the stream, and all that it said, was heard of last."""
        self.trusted_until = -math.inf
        self.window_seconds = UNFOLLOWED_SECONDS
        begin_anew_in_child(self)

    def lookup(self, spelling: str, ttl_seconds: float) -> K | None:
        """The held key, if it may be served to a caller who accepts ``ttl_seconds`` of age."""
        # The hot path of the whole client: two dictionary look-ups and one clock.
        held = self._held.get(self._names.get(spelling, spelling))
        if held is None:
            return None
        now = self._elapsed()
        age = now - held.fetched_at
        if (
            age < ttl_seconds
            and now < held.serve_until
            and (now < self.trusted_until or age < self.window_seconds)
            and (held.expires_at is None or self._wall() < held.expires_at)
        ):
            next(held.reads)
            return held.key
        return None

    def name(self, spelling: str) -> str:
        """What ``spelling`` is known to stand for, else itself: equal names are the same key."""
        return self._names.get(spelling, spelling)

    def held(self, spelling: str) -> Held[K] | None:
        """What is held of it, fresh or not."""
        return self._held.get(self.name(spelling))

    def all_held(self) -> list[Held[K]]:
        return list(self._held.values())

    def keep(
        self,
        spelling: str,
        answer: KeyValue,
        *,
        sent_at: float,
        epoch: int,
        ttl: float | None = None,
    ) -> None:
        """Hold ``answer`` to a request for ``spelling`` that was sent at ``sent_at``; for a caller
        who accepts ``ttl`` seconds, or for nobody in particular."""
        name = str(KeyAddress(answer.key_path, answer.environment))
        with self._changing:
            if epoch != self.epoch:
                return
            self.drop_outlived()
            self._names[spelling] = name
            known = self._held.get(name)
            if known is not None and known.fetched_at > sent_at:  # a later question came first
                return
            made = Held(
                name,
                spelling if known is None else known.spelling,
                answer,
                key=self._make(answer, "cache", sent_at),
                sent_at=sent_at,
                since=self._wall(),
            )
            self._held[name] = made
            if known is not None:
                self._dropped(known, self._wall())
                made.ttl_seconds, made.used_at = known.ttl_seconds, known.used_at
                if known.superseded_at < math.inf:
                    _note(self._changed_at, name, known.superseded_at)
            if sent_at <= max(self._changed_at.get(name, -math.inf), self._doubted_at):
                self.superseded(name)  # what was asked before that may be what it replaced
            if ttl is not None:
                made.ttl_seconds, made.used_at = max(ttl, made.ttl_seconds), sent_at

    def superseded(self, name: str) -> Held[K] | None:
        """Another version than the one that is held took its place, or may have."""
        with self._changing:
            held = self._held.get(name)
            if held is None:
                _note(self._changed_at, name, self._elapsed())
            else:
                now = self._elapsed()
                held.superseded_at = min(held.superseded_at, now)
                held.serve_until = min(held.serve_until, now + _SUPERSEDED_SECONDS)
            return held

    def revoked(self, name: str, version_id: str | None) -> bool:
        """Nobody may be served that version (None: any) any more; whether it was held."""
        with self._changing:
            self.epoch += 1
            _note(self._revoked_at, version_id or name, self._elapsed())
            held = self._held.get(name)
            if held is None or version_id not in (None, held.answer.version_id):
                return False
            self._drop(name)
            return True

    def is_revoked(self, answer: KeyValue, sent_at: float) -> bool:
        """Whether it was heard that ``answer`` is revoked since it was asked for at ``sent_at``."""
        name = str(KeyAddress(answer.key_path, answer.environment))
        heard_at = (self._revoked_at.get(each, -math.inf) for each in (answer.version_id, name))
        return max(heard_at) >= sent_at

    def doubt(self) -> None:
        """What happened is not known: nothing is trusted, and what is under way not for long."""
        with self._changing:
            self._doubted_at = self._elapsed()
            self.trusted_until = -math.inf

    def refused(self, spelling: str) -> None:
        """The store will not hand out ``spelling`` (any more): whoever holds it must let go."""
        with self._changing:
            if self._drop(self.name(spelling)):
                self.epoch += 1

    def forget(self, spelling: str) -> None:
        """Let go of what ``spelling`` names; a bare path names its key in every environment."""
        with self._changing:
            self.epoch += 1
            self._drop(self.name(spelling))
            for name, held in list(self._held.items()):
                if held.answer.key_path == spelling:
                    self._drop(name)

    def forget_all(self) -> None:
        """Let go of everything, also of what spellings stand for."""
        with self._changing:
            self.epoch += 1
            for name in list(self._held):
                self._drop(name)
            self._names.clear()

    def begin_anew(self) -> None:
        """In a process that was forked: its parent's threads may have held the lock; and it hears
        of no change before it asks for something, which it soon has to."""
        self._changing = threading.RLock()
        until = self._elapsed() + _FORKED_SECONDS
        self.trusted_until = min(self.trusted_until, until)
        for held in self._held.values():
            held.serve_until = min(held.serve_until, until)
            # What was served before is its parent's to report.
            held.reads, held.settled, held.since = itertools.count(), 0, self._wall()

    def _drop(self, name: str) -> bool:
        held = self._held.pop(name, None)
        if held is not None:
            self._dropped(held, self._wall())
        return held is not None

    def drop_outlived(self) -> None:
        """Values that nobody can be served any more must not lie about in memory. Past their
        ceiling they may be needed for as long as an outage is borne."""
        now, today = self._elapsed(), self._wall()
        for name, held in list(self._held.items()):
            grace_until = held.true_at(self.heard_at) + held.answer.outage_grace_seconds
            if now >= max(held.serve_until, grace_until) or (
                held.expires_at is not None and today >= held.expires_at
            ):
                self._drop(name)


def _note(moments: dict[str, float], what: str, now: float) -> None:
    moments.pop(what, None)  # the oldest stands first
    moments[what] = now
    if len(moments) > _MOST_NOTED:
        del moments[next(iter(moments))]
