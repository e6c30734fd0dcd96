"""What is told of a change, and whether a service is told of it.

Which version it was about is looked up here, once for everybody. Whether a service may read the key
is asked of its grants as they are when it is told. What was superseded meanwhile is not told: what
superseded it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from dox_core_store.errors import DoxStoreError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.event import EventKind, kind_of
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import Catalog, Change
from dox_core_store.server.usecases.registry import Registry, subject
from dox_core_store.wire import ChangeEvent

__all__ = ["Event", "EventLookup", "kind_of_change"]

_LOOK_UP_SECONDS = 0.25
"""A database that is slower than that holds up no event: it is told without its version."""

_SERVICES = subject("services", "")


class Event(NamedTuple):
    """What is told: of a key, to one service (``name``), or to everybody."""

    kind: EventKind
    seq: int
    name: str | None = None
    change: ChangeEvent | None = None


class EventLookup:
    """See the module."""

    def __init__(self, *, catalog: Catalog, registry: Registry) -> None:
        self._catalog = catalog
        self._registry = registry

    async def event(self, change: Change) -> Event | None:
        """What ``change`` is told as; None: as nothing."""
        kind = kind_of_change(change)
        if kind is None:
            return None
        if kind is EventKind.ACCESS:
            return Event(kind, change.seq, name=change.key_path.removeprefix(_SERVICES))
        if kind is EventKind.RESET:
            return Event(kind, change.seq)
        address = _address(change)
        version_id, is_told = await self._version_id(kind, change, address)
        if not is_told:
            return None
        told = ChangeEvent(address.path, address.environment, version_id)
        return Event(kind, change.seq, change=told)

    async def since(self, changes: Sequence[Change], name: str, most: int) -> list[Event] | None:
        """What of ``changes`` is told to the service ``name``, the last of each key for all; None
        where one of them cannot be told, or they come to more than ``most``."""
        wanted: dict[tuple[object, ...], Change] = {}
        for change in changes:
            kind = kind_of_change(change)
            if kind is EventKind.RESET:
                return None
            if kind is None or not self._may_concern(kind, change, name):
                continue
            which = (kind, change.key_path, change.version if kind is EventKind.REVOKED else None)
            wanted.pop(which, None)  # a later one takes a later place
            wanted[which] = change
        if len(wanted) > most:
            return None
        found = [await self.event(change) for change in wanted.values()]
        return [each for each in found if each is not None and self.concerns(each, name)]

    def concerns(self, event: Event, name: str) -> bool:
        """Whether the service ``name`` is told of it, by what it may read now."""
        if event.change is None:
            return event.name in (None, name)
        return self._may_read(name, KeyAddress(event.change.key_path, event.change.environment))

    def _may_concern(self, kind: EventKind, change: Change, name: str) -> bool:
        if kind is EventKind.ACCESS:
            return change.key_path == f"{_SERVICES}{name}"
        return self._may_read(name, _address(change))

    def _may_read(self, name: str, address: KeyAddress) -> bool:
        known = self._registry.services.get(name)
        return known is not None and known.tree.allows(*address)

    async def _version_id(
        self, kind: EventKind, change: Change, address: KeyAddress
    ) -> tuple[str | None, bool]:
        """Which version to name, if one can be named, and whether there is anything to tell: what
        was superseded since is told by what superseded it."""
        if change.action == Action.EXTEND:
            return None, True  # the same version, but what is known of it is not true any more
        number = change.version if kind is EventKind.REVOKED else None
        try:
            async with asyncio.timeout(_LOOK_UP_SECONDS):
                found = await self._catalog.version(address, number)
        except (TimeoutError, DoxStoreError):
            return None, True
        if found is None:
            return None, True
        is_its_own = change.version in (None, found.version.number)
        return found.version.version_id, is_its_own or change.action == Action.RETIRE


def kind_of_change(change: Change) -> EventKind | None:
    """`kind_of` it."""
    return kind_of(change.action, change.key_path, in_effect=change.in_effect)


def _address(change: Change) -> KeyAddress:
    environment = change.environment or ""
    return KeyAddress(change.key_path.removesuffix(f".{environment}"), environment)
