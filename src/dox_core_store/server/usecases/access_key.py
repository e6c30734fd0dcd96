"""The steps behind a grant: whether the key has a version that a service is handed, and how often.

Told also where a grant is missing: whoever explains access may list keys, and the next thing to
mend may stand here.
"""

from __future__ import annotations

from typing import NamedTuple

from dox_core_store.key_path import RESERVED_PREFIX, KeyAddress
from dox_core_store.server.domain.key import KeyRecord, State, refusal
from dox_core_store.server.domain.remedy import Remedies
from dox_core_store.server.ports import Catalog, Clock
from dox_core_store.server.usecases.registry import Registry

__all__ = ["KeySteps", "Step"]


class Step(NamedTuple):
    """One step of the door. ``code`` is what it would answer there, where it refuses."""

    name: str
    detail: str
    code: str | None = None


class KeySteps:
    """See the module."""

    def __init__(self, *, registry: Registry, catalog: Catalog, clock: Clock) -> None:
        self._registry = registry
        self._catalog = catalog
        self._clock = clock

    async def of(self, address: KeyAddress, remedies: Remedies) -> list[Step]:
        """What the door would find behind a grant on ``address``."""
        if address.path.partition(".")[0].lower() == RESERVED_PREFIX:
            return []
        rows = await self._catalog.keys(*address, None, 1)
        row = rows[0] if rows and rows[0].key.path == address.path else None
        if row is None or (row.head is None and not row.proposed):
            remedies.put()
            elsewhere = await self._elsewhere(address)
            where = f"; it is in {', '.join(elsewhere)}" if elsewhere else ""
            return [Step("key", f"there is no {address}{where}", "key_not_found")]
        if row.head is None:
            remedies.promote()
            pending = "it has a pending version and none that is current"
            return [Step("key", pending, "key_not_found")]
        head, now = row.head, self._clock.now()
        what = f"version {head.number}, {head.state}"
        refused = refusal(head.state, head.expires_at, now, "service")
        if refused is None:
            until = f", until {head.expires_at:%Y-%m-%d %H:%MZ}" if head.expires_at else ""
            return [Step("key", f"{what}{until}"), *self._limit(row.key, remedies)]
        if refused.code == "key_expired":
            remedies.extend()
            remedies.put()
            return [Step("key", f"version {head.number} has expired", refused.code)]
        versions = await self._catalog.versions(row.key.key_id)
        states = {version.state for version in versions}
        if State.PENDING in states:
            remedies.promote()
        remedies.put()
        if states & {State.PREVIOUS, State.RETIRED}:
            remedies.roll_back()
        return [Step("key", what, refused.code)]

    def _limit(self, key: KeyRecord, remedies: Remedies) -> list[Step]:
        """The key's own limit, if it has one."""
        bucket = self._registry.key_limits.get(key.key_id)
        if bucket is None:
            return []
        wait = bucket.wait(self._clock.monotonic())
        rate = f"{bucket.rate}, {bucket.rate.burst} at once, for all services together"
        if wait == 0:
            return [Step("key limit", rate)]
        remedies.key_limit()
        return [Step("key limit", f"{rate}: used up for another {wait:.1f} s", "rate_limited")]

    async def _elsewhere(self, address: KeyAddress) -> list[str]:
        """In which other environments the key is."""
        return [
            each
            for each in sorted(self._registry.environments - {address.environment})
            if await self._catalog.version(KeyAddress(address.path, each), None) is not None
        ]
