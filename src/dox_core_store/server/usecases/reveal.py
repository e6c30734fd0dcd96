"""Handing out values: the read path, and the order of its steps is the security argument.

1. *authenticate* (`Authenticator`), 2. *authorize*, 3. *limit*, 4. *look up*, 5. *record*: the
entry is on stable storage, 6. *reveal*. The commit of step 5 is also the lease: it returns the
head of the change feed, and if that is ahead of what this node had applied when it decided, the
node applies the difference and decides again before it reveals. So no value leaves after its
revocation committed, however slow this node is. A decision that changed gets the new answer and an
ABORTED entry. Steps 2 to 4 are `Decisions`.

A key may have a limit of its own. It counts what would be handed out, so it comes after step 4.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from dox_core_store.errors import (
    AuthenticationError,
    DoxStoreError,
    RateLimitError,
    StoreUnavailableError,
)
from dox_core_store.server.domain.ledger import Action, Entry, Status
from dox_core_store.server.domain.limit import Verdict
from dox_core_store.server.domain.quota import NOT_AT_HAND
from dox_core_store.server.ports import Ledger
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.key_limiter import KeyLimiter
from dox_core_store.server.usecases.principal import Principal
from dox_core_store.server.usecases.refusals import Refusals, status_of
from dox_core_store.server.usecases.values import Prepared, ValueCache

__all__ = ["Asked", "Reveal", "Revealed", "over_limit"]

_ROUNDS = 3
_MOST_ROUNDS = 20
_entry = tuple.__new__  # an Entry from its fields, without a named tuple's argument handling
_GET, _GRANTED = str(Action.GET), str(Status.GRANTED)
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What the ledger wants to know of the request around a read."""

    request_id: str
    ip_address: str
    user_agent: str
    correlation_id: str | None
    reason: str


class Revealed(msgspec.Struct, frozen=True, gc=False):
    """One value on its way out: the rendered body, and the entity tag made of its version's id.
    ``verdict`` is what the key's own limit said, if it has one. ``unchanged``: its reader holds
    that version already, so nothing was opened and there is no body; ``tag``: see `tag_of`."""

    body: bytes
    etag: bytes
    verdict: Verdict | None = None
    unchanged: bool = False
    tag: str = ""


class Reveal:
    """See the module. One per node."""

    def __init__(
        self,
        *,
        decisions: Decisions,
        feed: Feed,
        ledger: Ledger,
        refusals: Refusals,
        values: ValueCache,
        stamp: Callable[[], str],
        monotonic: Callable[[], float],
    ) -> None:
        self._monotonic = monotonic
        self._decisions = decisions
        self._key_limits = KeyLimiter(decisions=decisions)
        self._feed = feed
        self._ledger = ledger
        self._refusals = refusals
        self._values = values
        self._stamp = stamp

    async def one(
        self,
        principal: Principal,
        path: str,
        number: int | None,
        asked: Asked,
        verdict: Verdict | None,
    ) -> Revealed:
        """The value at ``path``; raises the `DoxStoreError` that refuses it, once on record."""
        applied = self._feed.applied
        if verdict is not None and not verdict.allowed:
            found: Prepared | DoxStoreError = over_limit(verdict)
        else:
            at_hand = self._decisions.at_hand(principal, path) if number is None else None
            found = at_hand or await self._decisions.now(principal, path, number)
        key_verdict = None
        if isinstance(found, Prepared) and found.bucket is not None:
            found, key_verdict = self._key_limits.take(principal, found)
            if key_verdict is NOT_AT_HAND:
                found, key_verdict = await self._key_limits.fetch(principal, found)
        if isinstance(found, Prepared):
            granted = (self._entry(principal, asked, found),)
            committed = await self._ledger.commit(granted)
            if (
                committed.head != applied
                or self._feed.applied != applied
                or self._monotonic() > committed.until
            ):
                (found,) = await self._decide_again(
                    principal, (path,), [found], number, asked, granted, verdict
                )
        if isinstance(found, DoxStoreError):
            await self._refuse(principal, path, asked, found)
            raise found
        return Revealed(self._values.open(found), found.etag, key_verdict, tag=found.tag)

    async def fetch_limit(
        self, principal: Principal, cost: int, path: str, asked: Asked
    ) -> Verdict | None:
        """What the service's limit says of ``cost`` requests, where nodes share it and it was not
        at hand; raises what refuses them all, once on record: the token may hold no longer."""
        try:
            return await self._decisions.fetch_limit(principal, cost)
        except AuthenticationError as error:
            await self._refuse(principal, path, asked, error)
            raise

    async def many(
        self,
        principal: Principal,
        paths: Sequence[str],
        asked: Asked,
        verdict: Verdict | None,
        known: Mapping[str, str] = _NOTHING,
    ) -> list[Revealed | DoxStoreError]:
        """All ``paths`` from one revision of the store, after one commit; raises only what refuses
        the request as a whole. ``known`` has the version ids that are held of some: a read of one
        that is still current is granted, limited and on record as any other, and not opened."""
        if verdict is not None and not verdict.allowed:
            limited = over_limit(verdict)
            await self._refuse(principal, paths[0], asked, limited)
            raise limited
        applied = self._feed.applied
        decided = await self._decisions.each(principal, paths, None)
        limited_each = await self._key_limits.each(principal, decided)
        found = [each for each, _ in limited_each]
        granted = self._entries(principal, asked, found)
        head, until = await self._ledger.commit(granted) if granted else (applied, math.inf)
        refused: set[int] = set()
        while True:
            if head != applied or self._feed.applied != applied or self._monotonic() > until:
                found = await self._decide_again(
                    principal, paths, found, None, asked, granted, verdict
                )
                granted = self._entries(principal, asked, found)
                head = applied = self._feed.applied
                until = self._feed.until
            try:
                took_time = await self._refuse_each(principal, paths, found, asked, refused)
            except BaseException:  # a refusal that is not on record keeps the whole answer back
                self._ledger.abort(granted)
                raise
            if not took_time:
                break
        return [
            self._revealed(each, key_verdict, known.get(path))
            if isinstance(each, Prepared)
            else each
            for path, each, (_, key_verdict) in zip(paths, found, limited_each, strict=True)
        ]

    def _revealed(self, prepared: Prepared, verdict: Verdict | None, known: str | None) -> Revealed:
        if known in (prepared.version_id, prepared.tag):
            return Revealed(b"", prepared.etag, verdict, unchanged=True)
        return Revealed(self._values.open(prepared), prepared.etag, verdict)

    async def _refuse_each(
        self,
        principal: Principal,
        paths: Sequence[str],
        found: Sequence[Prepared | DoxStoreError],
        asked: Asked,
        refused: set[int],
    ) -> bool:
        """Put what of ``found`` is a refusal on record, each place once; whether there was any."""
        before = len(refused)
        for at, each in enumerate(found):
            if isinstance(each, DoxStoreError) and at not in refused:
                await self._refuse(principal, paths[at], asked, each)
                refused.add(at)
        return len(refused) > before

    async def _decide_again(
        self,
        principal: Principal,
        paths: Sequence[str],
        found: list[Prepared | DoxStoreError],
        number: int | None,
        asked: Asked,
        granted: Sequence[Entry],
        verdict: Verdict | None,
    ) -> list[Prepared | DoxStoreError]:
        """Apply what was committed since ``found`` was decided, until a commit finds us current.

        ``granted`` is on record; ``verdict`` is what the service's limit said, which may be another
        limit by now. Whatever does not leave in the end is followed by ABORTED. Where
        keys are written faster than we can record, nobody would ever be answered: after some
        rounds what was only superseded meanwhile, and is still valid, is revealed as decided.
        """
        for rounds in itertools.count(1):
            try:
                await self._feed.catch_up()
                applied = self._feed.applied
                again = await self._decisions.again(principal, paths, number)
                verdict = await self._decisions.limit_anew(principal, verdict, len(paths))
                if verdict is not None and not verdict.allowed:
                    again = [over_limit(verdict) for _ in paths]
                again = [
                    await self._key_limits.once(principal, before, after)
                    for before, after in zip(found, again, strict=True)
                ]
                same = not _differs(found, again) or (
                    rounds > _ROUNDS and await self._still_valid(principal, paths, found, again)
                )
            except BaseException:
                self._ledger.abort(granted)
                raise
            if same:
                if self._feed.applied == applied and self._monotonic() <= self._feed.until:
                    return found
                if rounds > _MOST_ROUNDS:
                    self._ledger.abort(granted)
                    raise StoreUnavailableError(
                        "ledger_unavailable", "The store answers too slowly to be sure of a read."
                    )
                continue
            self._ledger.abort(granted)
            found = again
            granted = self._entries(principal, asked, found)
            if not granted:
                break
            head, until = await self._ledger.commit(granted)
            if head == applied == self._feed.applied and self._monotonic() <= until:
                break
        return found

    async def _still_valid(
        self,
        principal: Principal,
        paths: Sequence[str],
        found: Sequence[Prepared | DoxStoreError],
        again: Sequence[Prepared | DoxStoreError],
    ) -> bool:
        """Whether all that ``found`` grants may still be read by number, superseded or not."""
        for path, before, after in zip(paths, found, again, strict=True):
            if not isinstance(before, Prepared):
                if _answer(before) != _answer(after):
                    return False
                continue
            now = await self._decisions.now(principal, path, before.number)
            if _answer(now) != before.version_id:
                return False
        return True

    def _entries(
        self, principal: Principal, asked: Asked, found: Sequence[Prepared | DoxStoreError]
    ) -> Sequence[Entry]:
        """What goes on record of all that ``found`` grants."""
        return [self._entry(principal, asked, each) for each in found if isinstance(each, Prepared)]

    def _entry(self, principal: Principal, asked: Asked, prepared: Prepared) -> Entry:
        return _entry(
            Entry,
            (
                self._stamp(),
                principal.name,
                prepared.ledger_path,
                _GET,
                _GRANTED,
                asked.request_id,
                asked.ip_address,
                asked.user_agent,
                prepared.environment,
                prepared.number,
                principal.token_id,
                asked.correlation_id,
                asked.reason,
                1,
            ),
        )

    async def _refuse(
        self, principal: Principal, path: str, asked: Asked, error: DoxStoreError
    ) -> None:
        named, environment = self._decisions.named(principal, path)
        await self._refusals.record(
            Entry(
                timestamp=self._stamp(),
                service_name=principal.name,
                key_path=named,
                action=Action.GET,
                status=status_of(error),
                request_id=asked.request_id,
                ip_address=asked.ip_address,
                user_agent=asked.user_agent,
                environment=environment,
                token_id=principal.token_id,
                correlation_id=asked.correlation_id,
                reason=error.code,
            )
        )


def _differs(
    before: Sequence[Prepared | DoxStoreError], after: Sequence[Prepared | DoxStoreError]
) -> bool:
    """Whether any answer changed in a way that its reader would see."""
    return [_answer(each) for each in before] != [_answer(each) for each in after]


def _answer(found: Prepared | DoxStoreError) -> str:
    return found.code if isinstance(found, DoxStoreError) else found.version_id


def over_limit(verdict: Verdict) -> RateLimitError:
    """What refuses who is over the service's limit."""
    if verdict.retry_after_seconds is None:
        return RateLimitError(
            "rate_limited", "Too many key requests: more keys at once than the limit ever allows."
        )
    return RateLimitError(
        "rate_limited",
        "Too many key requests",
        retry_after_seconds=math.ceil(verdict.retry_after_seconds),
    )
