"""The limit that a key has of its own, and what it does to a decision.

It counts what would be handed out, so it comes after everything else that may refuse. Where nodes
share it, it may not be at hand; then it is fetched, and what was decided before is decided again by
whoever asks (`reveal`), for that takes its time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from dox_core_store.errors import DoxStoreError, RateLimitError
from dox_core_store.server.domain.limit import Verdict
from dox_core_store.server.domain.quota import NOT_AT_HAND
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.principal import Principal
from dox_core_store.server.usecases.values import Prepared

__all__ = ["KeyLimiter", "verdict_of_key"]

Decided = Prepared | DoxStoreError
"""What may be handed out, or what refuses it."""


def verdict_of_key(error: DoxStoreError) -> Verdict | None:
    """What the key's own limit said, if that is what refused."""
    verdict: Verdict | None = error.extra.get("verdict_of_key")
    return verdict


class KeyLimiter:
    """See the module. Each answer is what was decided, or what the limit put in its place, and what
    the limit said, if there is one."""

    def __init__(self, *, decisions: Decisions) -> None:
        self._decisions = decisions

    def take(self, principal: Principal, found: Decided) -> tuple[Decided, Verdict | None]:
        """Count ``found``; it comes back with `NOT_AT_HAND` where `fetch` has to."""
        if not isinstance(found, Prepared):
            return found, None
        return _limited(found, self._decisions.limit_key(principal, found))

    async def fetch(self, principal: Principal, found: Decided) -> tuple[Decided, Verdict | None]:
        """`take`, where many nodes share the limit and it was not at hand. Raises
        `StoreUnavailableError`."""
        if not isinstance(found, Prepared):
            return found, None
        return _limited(found, await self._decisions.fetch_key_limit(principal, found))

    async def each(
        self, principal: Principal, decided: Sequence[Decided]
    ) -> list[tuple[Decided, Verdict | None]]:
        """`take` for each; what is not at hand is fetched at once for all."""
        limited = [self.take(principal, each) for each in decided]
        away = [at for at, (_, verdict) in enumerate(limited) if verdict is NOT_AT_HAND]
        if away:
            fetched = [self.fetch(principal, decided[at]) for at in away]
            for at, each in zip(away, await asyncio.gather(*fetched), strict=True):
                limited[at] = each
        return limited

    async def once(self, principal: Principal, before: Decided, after: Decided) -> Decided:
        """``after``, under the key's limit as it was: what was refused by it stays so, what was let
        through is not counted again, and what only now would be handed out is, as is what was let
        through by another limit."""
        if isinstance(before, DoxStoreError) and verdict_of_key(before) is not None:
            return before
        if isinstance(before, Prepared) and (
            not isinstance(after, Prepared) or after.bucket is before.bucket
        ):
            return after
        ((limited, _),) = await self.each(principal, [after])
        return limited


def _limited(found: Prepared, verdict: Verdict | None) -> tuple[Decided, Verdict | None]:
    if verdict is None or verdict.allowed or verdict is NOT_AT_HAND:
        return found, verdict
    refused = RateLimitError(
        "rate_limited",
        "Too many key requests: all services together are over the limit of this key.",
        retry_after_seconds=math.ceil(verdict.retry_after_seconds or 0),
        verdict_of_key=verdict,
    )
    return refused, verdict
