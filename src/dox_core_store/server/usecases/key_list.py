"""Keys as operators see them: lists and versions, never a value."""

from __future__ import annotations

from dox_core_store.errors import InvalidRequestError, NotFoundError
from dox_core_store.key_path import (
    RESERVED_PREFIX,
    KeyAddress,
    parse_address,
    split_environment,
)
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.key import VersionRecord
from dox_core_store.server.ports import Catalog, Found, KeyRow
from dox_core_store.server.usecases.registry import Registry

__all__ = ["KeyList"]


class KeyList:
    """See the module."""

    def __init__(self, *, default_environment: str, catalog: Catalog, registry: Registry) -> None:
        self._default = default_environment
        self._catalog = catalog
        self._registry = registry

    async def versions(
        self, caller: Caller, path: str, environment: str | None
    ) -> tuple[KeyAddress, list[VersionRecord]]:
        """All versions of a key, by number."""
        require(caller.roles, Permission.LIST_KEYS)
        address = parse_address(
            path, self._registry.environments, default=self._default, explicit=environment
        )
        found: Found | None = None
        if address.path.partition(".")[0].lower() != RESERVED_PREFIX:
            found = await self._catalog.version(address, None)
        if found is None:
            raise NotFoundError(
                "key_not_found", f"There is no {address.path} in {address.environment}."
            )
        return address, await self._catalog.versions(found.key.key_id)

    async def page(
        self,
        caller: Caller,
        *,
        prefix: str | None,
        environment: str | None,
        after: KeyAddress | None,
        limit: int,
    ) -> list[KeyRow]:
        """A page of keys, without their values."""
        require(caller.roles, Permission.LIST_KEYS)
        declared = self._registry.environments
        if environment is not None and environment not in declared:
            raise InvalidRequestError(
                "unknown_environment", f"Environment {environment[:80]!a} is not declared."
            )
        if prefix is not None:
            prefix, named = split_environment(prefix, declared)
            if environment not in (None, named or environment):
                raise InvalidRequestError(
                    "environment_conflict",
                    f"The prefix ends in {named}, but the request says {environment}.",
                )
            environment = environment or named
        return await self._catalog.keys(prefix, environment, after, limit)
