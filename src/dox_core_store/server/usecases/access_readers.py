"""Who can read a key: every service whose grants name it, and the operators whose roles do.

Services come from what the door itself holds in memory, each asked by its own compiled grants, some
hundred at a time so that reads go on in between; only those that a page shows are looked up: their
grants, live tokens and last call.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import NamedTuple

from dox_core_store.key_path import RESERVED_PREFIX, KeyAddress, parse_address
from dox_core_store.server.domain.access import (
    Caller,
    GrantRecord,
    OperatorRecord,
    Permission,
    permitted,
    require,
)
from dox_core_store.server.domain.grant import ruling
from dox_core_store.server.ports import Catalog
from dox_core_store.server.usecases.access import grants_of
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.live_token import LiveTokens
from dox_core_store.server.usecases.registry import KnownService, Registry

__all__ = ["AccessReaders", "Reader", "Readers"]

_BREATH = 256
"""Services that are asked before others have a turn: well under a millisecond."""


class Reader(NamedTuple):
    """A service whose grants name the key. ``grant`` decides: it allows, or it denies what another
    one allows."""

    service: str
    grant: GrantRecord
    live_tokens: int
    last_called_at: datetime | None


class Readers(NamedTuple):
    """One page of a key's readers by name; ``after`` is where the next one begins."""

    address: KeyAddress
    allowed: list[Reader]
    denied: list[Reader]
    operators: list[OperatorRecord]
    after: str | None


class AccessReaders:
    """See the module. Runs on the event loop."""

    def __init__(
        self,
        *,
        default_environment: str,
        registry: Registry,
        feed: Feed,
        catalog: Catalog,
        tokens: LiveTokens,
    ) -> None:
        self._default = default_environment
        self._registry = registry
        self._feed = feed
        self._catalog = catalog
        self._tokens = tokens

    async def of(
        self, caller: Caller, path: str, environment: str | None, after: str | None, limit: int
    ) -> Readers:
        """Who may read ``path``, at most ``limit`` services of those behind ``after``. Whether
        there is such a key does not matter: a grant may come first.

        Raises ``role_required``, ``malformed_path``, ``unknown_environment``,
        ``environment_conflict``.
        """
        require(caller.roles, Permission.LIST_KEYS)
        await self._feed.catch_up()
        address = parse_address(
            path, self._registry.environments, default=self._default, explicit=environment
        )
        if address.path.partition(".")[0].lower() == RESERVED_PREFIX:
            return Readers(address, [], [], [], None)
        names = await self._named(address, after or "", limit + 1)
        called = await self._catalog.last_calls(address)
        allowed: list[Reader] = []
        denied: list[Reader] = []
        for known in names[:limit]:
            name = known.record.name
            ruled = ruling(await grants_of(self._catalog, name), *address)
            if ruled.deciding is None:  # taken back since
                continue
            live = await self._tokens.of(known.record)
            reader = Reader(name, ruled.deciding, len(live.tokens), called.get(name))
            (allowed if ruled.is_allowed else denied).append(reader)
        operators = [
            each
            for _, each in sorted(self._registry.operators.items())
            if each.disabled_at is None and permitted(each.roles, Permission.READ_VALUES)
        ]
        more = names[limit - 1].record.name if len(names) > limit else None
        return Readers(address, allowed, denied, operators, more)

    async def _named(self, address: KeyAddress, after: str, limit: int) -> list[KnownService]:
        """The services after ``after`` whose grants name the key, whatever they say of it."""
        found: list[KnownService] = []
        names = sorted(name for name in self._registry.services if name > after)
        for at, name in enumerate(names):
            if at % _BREATH == 0:
                await asyncio.sleep(0)
            known = self._registry.services.get(name)
            if known is None or known.record.decommissioned_at is not None:
                continue
            if known.tree.effects(*address):
                found.append(known)
                if len(found) == limit:
                    break
        return found
