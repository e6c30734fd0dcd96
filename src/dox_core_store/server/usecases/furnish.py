"""Furnishing a node's store before anybody can ask it: what ``doxstore dev`` does at start.

The same use cases as over HTTP, so the ledger tells it all, with ``local:<user>`` as the caller.
Keys come first, all or nothing; services follow in the order given, so whoever sees the last one
registered knows that the rest is there.
"""

from __future__ import annotations

from collections.abc import Sequence

from dox_core_store import wire
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.usecases.key_import import MAX_SLICE, Imports, ToImport
from dox_core_store.server.usecases.registry import Registry
from dox_core_store.server.usecases.service import Services
from dox_core_store.server.usecases.token import Issued, Tokens

__all__ = ["Furnish"]


class Furnish:
    """See the module. ``caller`` has to have the roles for it."""

    def __init__(
        self,
        *,
        caller: Caller,
        imports: Imports,
        services: Services,
        tokens: Tokens,
        registry: Registry,
    ) -> None:
        self._caller = caller
        self._imports = imports
        self._services = services
        self._tokens = tokens
        self._registry = registry

    def environments(self) -> frozenset[str]:
        """The declared environments."""
        return self._registry.environments

    def has_service(self, name: str) -> bool:
        """Whether ``name`` was ever registered; a decommissioned service stays known."""
        return name in self._registry.services

    async def load(
        self, keys: Sequence[wire.ImportEntry], services: Sequence[wire.ServiceRequest], reason: str
    ) -> None:
        """Store ``keys``, then register ``services`` with what they require."""
        opened = await self._imports.open(self._caller)
        try:
            for sequence, start in enumerate(range(0, len(keys), MAX_SLICE)):
                entries = [
                    ToImport(key.key_path, key.environment, key.value)
                    for key in keys[start : start + MAX_SLICE]
                ]
                await self._imports.add(self._caller, opened.import_id, sequence, entries)
            await self._imports.commit(self._caller, opened.import_id, reason)
        except BaseException:
            await self._imports.abort(self._caller, opened.import_id)
            raise
        for service in services:
            await self._services.register(
                self._caller,
                service.service_name,
                description=service.description,
                required_keys=service.required_keys,
                environment=service.environment,
            )

    async def issue(self, service_name: str, expires_in: str) -> Issued:
        """A token for a service, which who starts the node is shown. Raises as `Tokens.issue`."""
        return await self._tokens.issue(
            self._caller, service_name, expires_in=expires_in, told=False
        )
