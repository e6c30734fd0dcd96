"""Grants that no call used: what may be taken back, a page at a time.

A grant was used if a key that it names was handed to its service by a call since then. Refreshes of
a client do not count: they go on after the last line of code that asked is gone. What it answered
from its cache counts once it has reported it (`read_report`). Where several grants name a key, its
calls count for each. A deny is never proposed: it is of use by not being used.

What it costs: a grant without wildcards is one look-up. One with a wildcard walks the service's
calls below its literal prefix up to the first that it names; one that begins with a wildcard has
no such prefix: who called for anything at all is found in one pass for the whole page, which
settles it for ``**`` and for whoever did not call; only for a pattern such as ``*.b`` of a service
that did are all calls walked up to the first that it names. A page ends early when it has taken its
time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from dox_core_store.errors import InvalidRequestError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import (
    Caller,
    Effect,
    GrantRecord,
    Permission,
    require,
)
from dox_core_store.server.domain.epoch import EpochRecord
from dox_core_store.server.domain.grant import literal_prefix, names
from dox_core_store.server.ports import Catalog, Clock
from dox_core_store.server.usecases.registered import check_registered

__all__ = ["MAX_DAYS", "GrantUses", "Unused"]

MAX_DAYS = 3_650

_PAGE_SECONDS = 1.0
"""After so long a page ends with what it has."""


class Unused(NamedTuple):
    """A grant without a call since ``since``; where that is later than what was asked for, it is
    too young to tell."""

    grant: GrantRecord
    since: datetime
    is_too_young: bool


class GrantUses:
    """See the module."""

    def __init__(self, *, epoch: int, catalog: Catalog, clock: Clock) -> None:
        self._epoch = epoch
        self._catalog = catalog
        self._clock = clock

    async def unused(
        self, caller: Caller, days: int, service: str | None, after: str | None, limit: int
    ) -> tuple[list[Unused], str | None]:
        """Grants, of one service or of all, that no call used for ``days``; and after which grant
        the next page begins.

        Raises ``role_required``, ``invalid_parameter``, ``invalid_field``, ``service_not_found``.
        """
        require(caller.roles, Permission.LIST_KEYS)
        if not 1 <= days <= MAX_DAYS:
            raise InvalidRequestError("invalid_parameter", f"days takes 1 to {MAX_DAYS}.")
        where = {}
        if service is not None:
            where["service"] = await check_registered(self._catalog, service)
        since = self._clock.now() - timedelta(days=days)
        known_since = await self._known_since()
        stop = self._clock.monotonic() + _PAGE_SECONDS
        page = await self._catalog.records(GrantRecord, after, limit, **where)
        callers: dict[str, set[str]] = {}
        found: list[Unused] = []
        for at, grant in enumerate(page):
            if grant.effect is Effect.ALLOW and not await self._was_used(grant, since, callers):
                begins = max(since, grant.created_at, known_since or since)
                found.append(Unused(grant, begins, begins > since))
            if self._clock.monotonic() >= stop and at + 1 < len(page):
                return found, grant.grant_id
        return found, page[-1].grant_id if len(page) == limit else None

    async def _known_since(self) -> datetime | None:
        """Calls from before a restore are not known: what lies further back proves nothing."""
        found = await self._catalog.records(EpochRecord, None, 1, epoch=self._epoch)
        return found[0].began_at if found else None

    async def _was_used(
        self, grant: GrantRecord, since: datetime, callers: dict[str, set[str]]
    ) -> bool:
        prefix = literal_prefix(grant.pattern)
        if prefix == grant.pattern:
            called = await self._catalog.last_calls(KeyAddress(prefix, grant.environment))
            last = called.get(grant.service)
            return last is not None and last >= since
        if prefix is None:
            where = grant.environment
            if where not in callers:
                callers[where] = await self._catalog.callers(where, since)
            if grant.service not in callers[where] or grant.pattern == "**":
                return grant.service in callers[where]
        async for paths in self._catalog.calls(grant.service, prefix, grant.environment, since):
            if any(names(grant, path, grant.environment) for path in paths):
                return True
        return False
