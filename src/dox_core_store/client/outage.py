"""`Outage`: what may still be served while the store cannot be asked.

Only where there is no answer of the store (`ConnectionFailedError`), or where it answers that it
cannot serve now (503) or not so often (429); any other answer counts, and is told. What is served
is marked so, and never later than the grace after the last moment at which the value is known to
have been true, nor past its own expiry: first what this process holds, then what lies in its sealed
files, if it has some.

A token that the store refuses (401) ends all of it until a token is accepted again; the files stay
where they are until their grace is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from dox_core_store.client.cache import KeyCache, Make
from dox_core_store.client.key import HeldKey
from dox_core_store.client.tally import Tally
from dox_core_store.errors import (
    ConnectionFailedError,
    DoxStoreError,
    RateLimitError,
    StoreUnavailableError,
)
from dox_core_store.wire import KeyValue

__all__ = ["Outage", "OutageFiles", "is_borne"]

K = TypeVar("K", bound=HeldKey)

_RESTAMP_SECONDS = 60.0


class OutageFiles(Protocol):
    """Keys kept over the end of a process. No method raises: what cannot be kept is not kept, and
    what cannot be believed is not there. Times are seconds since 1970."""

    def keep(self, spelling: str, answer: KeyValue, true_at: float) -> None:
        """Keep ``answer`` to ``spelling``, which was true at ``true_at``."""

    def find(self, spelling: str) -> tuple[KeyValue, float] | None:
        """What was kept of ``spelling`` and when it was true; None if that was longer ago than its
        grace, lies ahead, or it has expired."""

    def erase(self, spelling: str) -> None:
        """Let nobody find ``spelling`` any more, nor the key that it stands for; a bare path stands
        for its key in every environment."""

    def erase_all(self) -> None:
        """The same for everything."""


def is_borne(error: DoxStoreError) -> bool:
    """Whether a key may be served in spite of ``error``."""
    return isinstance(error, ConnectionFailedError | StoreUnavailableError | RateLimitError)


class Outage(Generic[K]):
    """See the module. ``elapsed`` measures ages, ``wall`` is the time of day."""

    def __init__(
        self,
        *,
        cache: KeyCache[K],
        files: OutageFiles | None,
        tally: Tally,
        make: Make[K],
        elapsed: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._cache = cache
        self._files = files
        self._tally = tally
        self._make = make
        self._elapsed = elapsed
        self._wall = wall
        self._is_barred = False
        self._erasures = 0
        self._stamped_at = elapsed()

    def stale(self, spelling: str) -> K | None:
        """What may be served of ``spelling`` now."""
        if self._is_barred:
            return None
        held = self._cache.held(spelling)
        if held is not None:
            now = self._elapsed()
            if now < held.true_at(self._cache.heard_at) + held.answer.outage_grace_seconds and (
                held.expires_at is None or self._wall() < held.expires_at
            ):
                return self._make(held.answer, "outage", held.fetched_at)
        found = None if self._files is None else self._files.find(spelling)
        if found is None:
            return None
        answer, true_at = found
        age = max(0.0, self._wall() - true_at)
        return self._make(answer, "outage", self._elapsed() - age)

    def served(self, key: HeldKey) -> None:
        """``key`` was handed to a caller."""
        self._tally.outage(key, self._wall())

    def answered(self) -> None:
        """The store answered us with a value."""
        self._is_barred = False

    def erase(self, spelling: str | None) -> None:
        """The store does not hand it out any more; None: everything."""
        if self._files is None:
            return
        self._erasures += 1
        if spelling is None:
            self._files.erase_all()
        else:
            self._files.erase(spelling)

    def bar(self) -> None:
        """The store refused our token."""
        self._is_barred = True

    def write(self, spelling: str) -> None:
        """Put what is held of ``spelling`` into its file. Blocks for some milliseconds."""
        held = self._cache.held(spelling)
        if held is None or self._files is None:
            return
        age, before = self._elapsed() - held.true_at(self._cache.heard_at), self._erasures
        self._files.keep(held.spelling, held.answer, self._wall() - age)
        if self._erasures != before and self._cache.held(spelling) is None:
            self._files.erase(held.spelling)  # the store took it away meanwhile

    @property
    def is_restamp_due(self) -> bool:
        return self._files is not None and self._elapsed() >= self._stamped_at + _RESTAMP_SECONDS

    def restamp(self) -> None:
        """Now and then, while the stream is followed: what is held is known to be true still."""
        self._stamped_at = self._elapsed()
        for held in self._cache.all_held():
            self.write(held.name)
