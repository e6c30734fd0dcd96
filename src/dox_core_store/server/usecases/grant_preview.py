"""What a change of grants would do, before it is done: who gains and who loses which keys.

Grants to add and grants to take back are applied to copies of the services' sets, and both sets are
asked by the door's own `GrantTree` about every key that one of the changed grants could name. Those
keys are walked in pages along an index, from where the answer before ended, and outside the writer:
nothing waits for it. An answer looks at so many keys and then says where to go on.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dox_core_store.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
)
from dox_core_store.key_path import KeyAddress, check_service_name
from dox_core_store.server.domain.access import (
    Caller,
    Effect,
    GrantRecord,
    GrantTree,
    Permission,
    require,
)
from dox_core_store.server.domain.grant import literal_prefix
from dox_core_store.server.ports import Catalog, Clock, KeyRow
from dox_core_store.server.usecases.access import grants_of
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.grant import where_granted
from dox_core_store.server.usecases.registry import Registry

__all__ = ["MAX_CHANGES", "GrantPreview", "Preview", "Proposed", "Shift"]

MAX_CHANGES = 100
"""Grants in one preview, added and removed together."""

_PAGE = 500
_KEYS = 5_000
"""How many keys an answer looks at, give or take a page: some tenths of a second, in a thread."""

_CURSOR_WORDS = (0, 2)
"""A range's beginning, or a path and its environment."""


class Proposed(NamedTuple):
    """A grant that is not there yet."""

    service: str
    pattern: str
    environment: str | None
    effect: str


class Shift(NamedTuple):
    """A key that a service would read and does not, or the other way round."""

    service: str
    address: KeyAddress
    gains: bool


class Preview(NamedTuple):
    """``cursor`` is where the next answer goes on; None after the last key."""

    shifts: list[Shift]
    looked_at: int
    cursor: str | None


class _Range(NamedTuple):
    """Keys that a change could concern."""

    environment: str
    prefix: str | None


class _Sets(NamedTuple):
    """One service's grants before and after."""

    before: GrantTree
    after: GrantTree


class GrantPreview:
    """See the module. Changes nothing."""

    def __init__(
        self,
        *,
        default_environment: str,
        registry: Registry,
        feed: Feed,
        catalog: Catalog,
        clock: Clock,
    ) -> None:
        self._default = default_environment
        self._registry = registry
        self._feed = feed
        self._catalog = catalog
        self._clock = clock

    async def of(
        self, caller: Caller, add: Sequence[Proposed], remove: Sequence[str], cursor: str | None
    ) -> Preview:
        """Who would gain and lose which of the next keys behind ``cursor``.

        Raises what adding and removing would: ``service_not_found``, ``malformed_pattern``,
        ``grant_not_found`` and the like; ``role_required``, ``invalid_parameter``.
        """
        require(caller.roles, Permission.LIST_KEYS)
        if not 1 <= len(add) + len(remove) <= MAX_CHANGES:
            raise InvalidRequestError(
                "invalid_field", f"A dry run takes 1 to {MAX_CHANGES} grants to add or remove."
            )
        await self._feed.catch_up()
        added = [self._proposed(each) for each in add]
        removed = [await self._present(each) for each in remove]
        sets = await self._sets(added, removed)
        ranges = _ranges([*added, *removed])
        at, after = _position(cursor, len(ranges))
        shifts: list[Shift] = []
        looked_at = 0
        while at < len(ranges):
            rows = await self._catalog.keys(ranges[at].prefix, ranges[at].environment, after, _PAGE)
            looked_at += len(rows)
            shifts += _shifts(rows, sets)
            after = _address(rows[-1]) if len(rows) == _PAGE else None
            at += after is None
            if looked_at >= _KEYS and at < len(ranges):
                return Preview(shifts, looked_at, _cursor(at, after))
        return Preview(shifts, looked_at, None)

    def _proposed(self, given: Proposed) -> GrantRecord:
        check_service_name(given.service)
        known = self._registry.services.get(given.service)
        if known is None:
            raise NotFoundError("service_not_found", f"There is no service {given.service!a}.")
        if known.record.decommissioned_at is not None:
            raise ConflictError(
                "service_decommissioned", f"Service {given.service} was decommissioned."
            )
        if given.effect not in set(Effect):
            raise InvalidRequestError("invalid_field", "effect is allow or deny.")
        pattern, environment = where_granted(
            given.pattern,
            given.environment,
            declared=self._registry.environments,
            default=known.record.environment or self._default,
        )
        return GrantRecord(
            grant_id=f"dry_{secrets.token_hex(8)}",
            service=given.service,
            effect=Effect(given.effect),
            pattern=pattern,
            environment=environment,
            created_at=self._clock.now(),
            created_by="",
        )

    async def _present(self, grant_id: str) -> GrantRecord:
        found = await self._catalog.records(GrantRecord, None, 1, grant_id=grant_id)
        if not found:
            raise NotFoundError("grant_not_found", f"There is no grant {grant_id[:80]!a}.")
        return found[0]

    async def _sets(
        self, added: Sequence[GrantRecord], removed: Sequence[GrantRecord]
    ) -> dict[str, _Sets]:
        gone = {grant.grant_id for grant in removed}
        sets = {}
        for service in sorted({grant.service for grant in (*added, *removed)}):
            grants = await grants_of(self._catalog, service)
            kept = [grant for grant in grants if grant.grant_id not in gone]
            mine = [grant for grant in added if grant.service == service]
            sets[service] = _Sets(GrantTree(grants), GrantTree([*kept, *mine]))
        return sets


def _ranges(changed: Iterable[GrantRecord]) -> list[_Range]:
    """Where the keys lie that the changed grants could name; none of them lies in two."""
    wanted = {_Range(each.environment, literal_prefix(each.pattern)) for each in changed}
    return sorted(
        (each for each in wanted if not any(_covers(other, each) for other in wanted - {each})),
        key=lambda each: (each.environment, each.prefix or ""),
    )


def _covers(wide: _Range, narrow: _Range) -> bool:
    return wide.environment == narrow.environment and (
        wide.prefix is None or f"{narrow.prefix or ''}.".startswith(f"{wide.prefix}.")
    )


def _shifts(rows: Iterable[KeyRow], sets: dict[str, _Sets]) -> list[Shift]:
    found = []
    for row in rows:
        if row.head is None and row.key.is_only_staged:  # nowhere but in an open import
            continue
        address = _address(row)
        for service, (before, after) in sets.items():
            will = after.allows(*address)
            if will != before.allows(*address):
                found.append(Shift(service, address, will))
    return found


def _address(row: KeyRow) -> KeyAddress:
    return KeyAddress(row.key.path, row.key.environment)


def _cursor(at: int, after: KeyAddress | None) -> str:
    text = " ".join([str(at), *(after or ())])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _position(cursor: str | None, ranges: int) -> tuple[int, KeyAddress | None]:
    """The range and the key to go on behind."""
    if cursor is None:
        return 0, None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        at, *after = raw.decode("ascii").split(" ")
        if at.isdigit() and int(at) < ranges and len(after) in _CURSOR_WORDS:
            return int(at), KeyAddress(*after) if after else None
    except ValueError:  # of base64 and of UTF-8 alike
        pass
    raise InvalidRequestError("invalid_parameter", "cursor is not one of ours.")
