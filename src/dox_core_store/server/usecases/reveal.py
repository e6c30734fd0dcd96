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
from collections.abc import Callable, Sequence

import msgspec

from dox_core_store.errors import DoxStoreError, RateLimitError
from dox_core_store.server.domain.ledger import Action, Entry, Status
from dox_core_store.server.domain.limit import Verdict
from dox_core_store.server.ports import Ledger
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.principal import Principal
from dox_core_store.server.usecases.refusals import Refusals, status_of
from dox_core_store.server.usecases.registry import Feed
from dox_core_store.server.usecases.values import Prepared, ValueCache

__all__ = ["Asked", "Reveal", "Revealed", "key_limited", "verdict_of_key"]

_ROUNDS = 3
_entry = tuple.__new__  # an Entry from its fields, without a named tuple's argument handling
_GET, _GRANTED = str(Action.GET), str(Status.GRANTED)


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What the ledger wants to know of the request around a read."""

    request_id: str
    ip_address: str
    user_agent: str
    correlation_id: str | None
    reason: str


class Revealed(msgspec.Struct, frozen=True, gc=False):
    """One value on its way out: the rendered body, and the entity tag made of its version's id.
    ``verdict`` is what the key's own limit said, if it has one."""

    body: bytes
    etag: bytes
    verdict: Verdict | None = None


def key_limited(verdict: Verdict) -> RateLimitError:
    """Refused by the key's own limit, which said ``verdict``; `verdict_of_key` tells it again."""
    return RateLimitError(
        "rate_limited",
        "Too many key requests: all services together are over the limit of this key.",
        retry_after_seconds=math.ceil(verdict.retry_after_seconds or 0),
        verdict_of_key=verdict,
    )


def verdict_of_key(error: DoxStoreError) -> Verdict | None:
    """What the key's own limit said, if that is what refused."""
    verdict: Verdict | None = error.extra.get("verdict_of_key")
    return verdict


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
    ) -> None:
        self._decisions = decisions
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
            found: Prepared | DoxStoreError = _limited(verdict)
        else:
            at_hand = self._decisions.at_hand(principal, path) if number is None else None
            found = at_hand or await self._decisions.now(principal, path, number)
        key_verdict = None
        if isinstance(found, Prepared) and found.bucket is not None:
            found, key_verdict = self._limit_key(principal, found)
        if isinstance(found, Prepared):
            granted = (self._entry(principal, asked, found),)
            head = await self._ledger.commit(granted)
            if head != applied or self._feed.applied != applied:
                (found,) = await self._decide_again(
                    principal, (path,), [found], number, asked, granted
                )
        if isinstance(found, DoxStoreError):
            await self._refuse(principal, path, asked, found)
            raise found
        return Revealed(self._values.open(found), found.etag, key_verdict)

    async def many(
        self, principal: Principal, paths: Sequence[str], asked: Asked, verdict: Verdict | None
    ) -> list[Revealed | DoxStoreError]:
        """All ``paths`` from one revision of the store, after one commit; raises only what refuses
        the request as a whole."""
        if verdict is not None and not verdict.allowed:
            limited = _limited(verdict)
            await self._refuse(principal, paths[0], asked, limited)
            raise limited
        applied = self._feed.applied
        decided = [await self._decisions.now(principal, path, None) for path in paths]
        limited_each = [self._limit_key(principal, each) for each in decided]
        found = [each for each, _ in limited_each]
        granted = [
            self._entry(principal, asked, each) for each in found if isinstance(each, Prepared)
        ]
        head = await self._ledger.commit(granted) if granted else applied
        if head != applied or self._feed.applied != applied:
            found = await self._decide_again(principal, paths, found, None, asked, granted)
        try:
            for path, each in zip(paths, found, strict=True):
                if isinstance(each, DoxStoreError):
                    await self._refuse(principal, path, asked, each)
        except BaseException:  # a refusal that is not on record keeps the whole answer back
            self._ledger.abort(
                [
                    self._entry(principal, asked, each)
                    for each in found
                    if isinstance(each, Prepared)
                ]
            )
            raise
        return [
            Revealed(self._values.open(each), each.etag, key_verdict)
            if isinstance(each, Prepared)
            else each
            for each, (_, key_verdict) in zip(found, limited_each, strict=True)
        ]

    def _limit_key(
        self, principal: Principal, found: Prepared | DoxStoreError
    ) -> tuple[Prepared | DoxStoreError, Verdict | None]:
        """``found``, or what refuses it instead, and what the key's own limit said."""
        if not isinstance(found, Prepared):
            return found, None
        verdict = self._decisions.limit_key(principal, found)
        if verdict is None or verdict.allowed:
            return found, verdict
        return key_limited(verdict), verdict

    async def _decide_again(
        self,
        principal: Principal,
        paths: Sequence[str],
        found: list[Prepared | DoxStoreError],
        number: int | None,
        asked: Asked,
        granted: Sequence[Entry],
    ) -> list[Prepared | DoxStoreError]:
        """Apply what was committed since ``found`` was decided, until a commit finds us current.

        ``granted`` is on record. Whatever does not leave in the end is followed by ABORTED. Where
        keys are written faster than we can record, nobody would ever be answered: after some
        rounds what was only superseded meanwhile, and is still valid, is revealed as decided.
        """
        for rounds in itertools.count(1):
            try:
                await self._feed.catch_up()
                applied = self._feed.applied
                again = [
                    self._limited_once(principal, before, after)
                    for before, after in zip(
                        found, await self._decisions.again(principal, paths, number), strict=True
                    )
                ]
                same = not _differs(found, again) or (
                    rounds > _ROUNDS and await self._still_valid(principal, paths, found, again)
                )
            except BaseException:
                self._ledger.abort(granted)
                raise
            if same:
                if self._feed.applied == applied:
                    return found
                continue
            self._ledger.abort(granted)
            found = again
            granted = [
                self._entry(principal, asked, each) for each in found if isinstance(each, Prepared)
            ]
            if not granted or await self._ledger.commit(granted) == applied == self._feed.applied:
                break
        return found

    def _limited_once(
        self,
        principal: Principal,
        before: Prepared | DoxStoreError,
        after: Prepared | DoxStoreError,
    ) -> Prepared | DoxStoreError:
        """``after``, under the key's limit as it was: what was refused by it stays so, what was let
        through is not counted again, and what only now would be handed out is."""
        if isinstance(before, DoxStoreError) and verdict_of_key(before) is not None:
            return before
        return after if isinstance(before, Prepared) else self._limit_key(principal, after)[0]

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


def _limited(verdict: Verdict) -> RateLimitError:
    if verdict.retry_after_seconds is None:
        return RateLimitError(
            "rate_limited", "Too many key requests: more keys at once than the limit ever allows."
        )
    return RateLimitError(
        "rate_limited",
        "Too many key requests",
        retry_after_seconds=math.ceil(verdict.retry_after_seconds),
    )
