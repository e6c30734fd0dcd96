"""A reader says that whoever a key is for refused its value.

Evidence, and never a decision: it is counted, put on record and told to people, and no state
changes by it. A service that is mistaken, or lies, can so take no value away from the others. Who
may say so is who could read the key now, by the same decision and with the same refusals, so nobody
learns of a key by it. The answer names the newest other version that may be read by number:
upstreams may know the value before a rotation still, or the one after it not yet.

A service with a wrong value retries, so what is logged is folded: the first of a service and a
version at once, what follows in a line with its count when the minute is over. The ledger has each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from dox_core_store.errors import DoxStoreError, NotFoundError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.key import State, VersionRecord, refusal
from dox_core_store.server.domain.ledger import Action, Entry, Status
from dox_core_store.server.ports import Catalog, Clock, Ledger
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.principal import Principal
from dox_core_store.server.usecases.token_alarm import Notice

__all__ = ["KeyRejections", "Rejection"]

WINDOW_SECONDS = 60.0
_MAX_FOLDED = 10_000
_SHOWN_CHARACTERS = 200


class Rejection(NamedTuple):
    """What was refused, and the number of what may be read instead, if there is anything."""

    address: KeyAddress
    rejected_version: int
    other_version: int | None


class _Folded:
    """Rejections of one version by one service. ``count``: those that were not told yet."""

    __slots__ = ("count", "said", "told_at")

    def __init__(self, told_at: float, said: dict[str, object]) -> None:
        self.told_at = told_at
        self.said = said
        self.count = 0


class KeyRejections:
    """See the module. ``count`` is how many there were. Lives on the event loop."""

    def __init__(
        self,
        *,
        decisions: Decisions,
        feed: Feed,
        catalog: Catalog,
        ledger: Ledger,
        clock: Clock,
        stamp: Callable[[], str],
        notice: Notice,
    ) -> None:
        self._decisions = decisions
        self._feed = feed
        self._catalog = catalog
        self._ledger = ledger
        self._clock = clock
        self._stamp = stamp
        self._notice = notice
        self._folded: OrderedDict[tuple[str, str], _Folded] = OrderedDict()
        self.count = 0

    async def reject(
        self, principal: Principal, caller: Caller, path: str, version_id: str, reason: str | None
    ) -> Rejection:
        """Put on record that ``version_id`` of the key at ``path`` was refused, and why.

        Raises what a read would be refused with; ``version_not_found`` where the id is of no
        version of this key.
        """
        await self._feed.catch_up()
        head = await self._decisions.judged(principal, path)
        if isinstance(head, DoxStoreError):
            raise head
        named, environment = self._decisions.named(principal, path)
        versions = await self._catalog.versions(head.key_id)
        rejected = next((each for each in versions if each.version_id == version_id), None)
        # One that waits was handed to nobody, so nobody can have tried it.
        if rejected is None or rejected.state is State.PENDING or environment is None:
            raise NotFoundError("version_not_found", f"There is no such version of {named}.")
        entry = Entry(
            timestamp=self._stamp(),
            service_name=caller.name,
            key_path=named,
            action=Action.REJECT,
            status=Status.REPORTED,
            request_id=caller.request_id,
            ip_address=caller.ip_address,
            user_agent=caller.user_agent,
            environment=environment,
            version=rejected.number,
            token_id=caller.token_id,
            correlation_id=caller.correlation_id,
            reason=reason,
        )
        await self._ledger.commit((entry,))
        self._count(entry, version_id)
        return Rejection(
            KeyAddress(named.removesuffix(f".{environment}"), environment),
            rejected.number,
            self._other(versions, rejected, principal.reader),
        )

    async def tell_due(self) -> None:
        """Tell what was folded, a minute after the last line about it; called now and then."""
        now = self._clock.monotonic()
        for key, folded in list(self._folded.items()):
            if now - folded.told_at < WINDOW_SECONDS:
                continue
            if folded.count == 0:
                del self._folded[key]
                continue
            self._tell(folded, folded.count)
            folded.told_at, folded.count = now, 0

    def _other(
        self, versions: list[VersionRecord], rejected: VersionRecord, reader: str
    ) -> int | None:
        now = self._clock.now()
        numbers = [
            each.number
            for each in versions
            if each.number != rejected.number
            and each.sealed is not None
            and refusal(each.state, each.expires_at, now, reader) is None
        ]
        return max(numbers, default=None)

    def _count(self, entry: Entry, version_id: str) -> None:
        self.count += 1
        said: dict[str, object] = {
            "key_path": entry.key_path,
            "environment": entry.environment,
            "version": entry.version,
            "service": entry.service_name,
            "reason": (entry.reason or "")[:_SHOWN_CHARACTERS],
        }
        key = entry.service_name, version_id
        folded = self._folded.get(key)
        if folded is not None:
            folded.count, folded.said = folded.count + 1, said
            return
        folded = self._folded[key] = _Folded(self._clock.monotonic(), said)
        self._tell(folded, 1)
        if len(self._folded) > _MAX_FOLDED:
            _, oldest = self._folded.popitem(last=False)
            if oldest.count:
                self._tell(oldest, oldest.count)

    def _tell(self, folded: _Folded, count: int) -> None:
        self._notice("key_rejected", **folded.said, count=count)
