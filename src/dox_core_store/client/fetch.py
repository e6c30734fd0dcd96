"""`Fetch`: asks the store for keys, and does with its answers what follows from them.

A value is held from then on. What the store refuses (403, 404, 410) is let go at once, everywhere;
if it refuses the token (401) nothing is served any more until it takes one. Whatever else goes
wrong leaves everything as it was, and what is known may be served in spite of it (`Outage`). Errors
are never kept. What is held already is asked for by its version's id, and not sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from dox_core_store.client.breaker import Breaker
from dox_core_store.client.cache import KeyCache, Make
from dox_core_store.client.connection import StoreConnection
from dox_core_store.client.key import HeldKey
from dox_core_store.client.outage import Outage, is_borne
from dox_core_store.client.protocol import (
    Outcome,
    Unchanged,
    Why,
    read_batch,
    read_key,
    read_value,
    to_batch_get,
    to_get_key,
)
from dox_core_store.errors import (
    AuthenticationError,
    ConnectionFailedError,
    DoxStoreError,
    GoneError,
    NotFoundError,
    UnauthorizedError,
)
from dox_core_store.wire import tag_of

__all__ = ["Fetch"]

K = TypeVar("K", bound=HeldKey)

Ask = Callable[[Sequence[str], Mapping[str, str]], Coroutine[Any, Any, Mapping[str, Outcome]]]
"""Asks for spellings, with the version ids that are held of some."""

_LONGEST_WAIT_SECONDS = 60.0

_REFUSALS = (UnauthorizedError, NotFoundError, GoneError)


class Fetch(Generic[K]):
    """See the module. ``kept`` hears of each spelling whose value has just been confirmed."""

    def __init__(
        self,
        *,
        connection: StoreConnection,
        cache: KeyCache[K],
        outage: Outage[K],
        breaker: Breaker,
        make: Make[K],
        elapsed: Callable[[], float],
        kept: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._outage = outage
        self._breaker = breaker
        self._make = make
        self._elapsed = elapsed
        self._kept = kept
        self.asked_not_before = float("-inf")
        """When the store wants to be asked again, as it said last."""

    async def one(
        self, spellings: Sequence[str], *, ttl: float | None = None
    ) -> Mapping[str, K | DoxStoreError]:
        """The key of the one spelling in ``spellings``, for a caller who accepts ``ttl``."""
        return await self._asked(spellings, ttl, self._ask_for_one)

    async def batch(
        self, spellings: Sequence[str], *, ttl: float | None = None, why: Why = "call"
    ) -> Mapping[str, K | DoxStoreError]:
        """The same for up to a hundred."""
        return await self._asked(spellings, ttl, partial(self._ask_for_many, why))

    async def version(self, spelling: str, number: int) -> K:
        """A version by its number, which is not kept."""
        sent_at = self._elapsed()
        call = to_get_key(spelling, version=number)
        answer = await self._connection.ask(call, partial(read_value, spelling))
        return self._make(answer, "service", sent_at)

    def in_spite(self, spelling: str) -> K | DoxStoreError | None:
        """What to tell of ``spelling`` without asking, where asking is known to be of no use."""
        if self._elapsed() < self._cache.trusted_until:  # the store is there: one call failed
            return None
        error = self._breaker.blocks()
        if error is None:
            return None
        return self._outage.stale(spelling) or (error if self._breaker.is_costly else None)

    async def _asked(
        self, spellings: Sequence[str], ttl: float | None, ask: Ask
    ) -> Mapping[str, K | DoxStoreError]:
        known = {
            spelling: tag_of(held.answer.version_id, held.answer.expires_at)
            for spelling in spellings
            if (held := self._cache.held(spelling)) is not None
        }
        sent_at, epoch = self._elapsed(), self._cache.epoch
        outcomes = await _or_error(ask, spellings, known)
        settled = self._settled(outcomes, known, ttl=ttl, sent_at=sent_at, epoch=epoch)
        lost = [spelling for spelling in spellings if spelling not in settled]
        if lost:  # let go, or revoked, while the answer was under way
            sent_at, epoch = self._elapsed(), self._cache.epoch
            outcomes = await _or_error(ask, lost, {})
            settled |= self._settled(outcomes, {}, ttl=ttl, sent_at=sent_at, epoch=epoch)
        for spelling in lost:
            settled.setdefault(spelling, GoneError("version_revoked", "The version was revoked."))
        return settled

    async def _ask_for_one(
        self, spellings: Sequence[str], known: Mapping[str, str]
    ) -> Mapping[str, Outcome]:
        (spelling,) = spellings
        call = to_get_key(spelling, known=known.get(spelling))
        return {spelling: await self._connection.ask(call, partial(read_key, spelling, known))}

    async def _ask_for_many(
        self, why: Why, spellings: Sequence[str], known: Mapping[str, str]
    ) -> Mapping[str, Outcome]:
        call = to_batch_get(spellings, known=known, why=why)
        return await self._connection.ask(call, partial(read_batch, spellings, known))

    def _settled(
        self,
        outcomes: Mapping[str, Outcome],
        known: Mapping[str, str],
        *,
        ttl: float | None,
        sent_at: float,
        epoch: int,
    ) -> dict[str, K | DoxStoreError]:
        settled: dict[str, K | DoxStoreError] = {}
        for spelling, outcome in outcomes.items():
            answer = outcome
            if isinstance(answer, Unchanged):
                held = self._cache.held(spelling)
                if held is None or known[spelling] != tag_of(
                    held.answer.version_id, held.answer.expires_at
                ):
                    continue
                answer = held.answer
            if isinstance(answer, DoxStoreError):
                settled[spelling] = answer
                continue
            if self._cache.is_revoked(answer, sent_at):
                continue
            is_timely = epoch == self._cache.epoch
            self._cache.keep(spelling, answer, sent_at=sent_at, epoch=epoch, ttl=ttl)
            settled[spelling] = self._make(answer, "service", sent_at)
            if is_timely:
                self._outage.answered()
            self._kept(spelling)
        # Refusals last: they start a new epoch, in which this answer would come too late.
        for spelling, outcome in outcomes.items():
            if isinstance(outcome, DoxStoreError):
                settled[spelling] = self._after(spelling, outcome, self._elapsed() - sent_at)
        if any(not isinstance(each, ConnectionFailedError) for each in outcomes.values()):
            self._breaker.worked()
        return settled

    def _after(self, spelling: str, error: DoxStoreError, took: float) -> K | DoxStoreError:
        """What to tell of ``spelling`` where the answer was ``error``."""
        if isinstance(error, AuthenticationError):
            self._outage.bar()
            self._cache.forget_all()
        elif isinstance(error, _REFUSALS):
            self._cache.refused(spelling)
            self._outage.erase(spelling)
        elif is_borne(error):
            if isinstance(error, ConnectionFailedError):
                self._breaker.failed(error, took)
            wait = getattr(error, "retry_after_seconds", None) or 0.0
            self.asked_not_before = self._elapsed() + min(wait, _LONGEST_WAIT_SECONDS)
            return self._outage.stale(spelling) or error
        return error


async def _or_error(
    ask: Ask, spellings: Sequence[str], known: Mapping[str, str]
) -> Mapping[str, Outcome]:
    try:
        return await ask(spellings, known)
    except DoxStoreError as error:
        return dict.fromkeys(spellings, error)
