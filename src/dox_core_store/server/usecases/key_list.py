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
from dox_core_store.server.ports import Catalog, KeyRow
from dox_core_store.server.usecases.registry import Registry

__all__ = ["KeyList"]


class KeyList:
    """See the module."""

    def __init__(self, *, default_environment: str, catalog: Catalog, registry: Registry) -> None:
        self._default = default_environment
        self._catalog = catalog
        self._registry = registry

    async def one(
        self, caller: Caller, path: str, environment: str | None
    ) -> tuple[KeyRow, list[VersionRecord]]:
        """A key as lists show it, and all its versions, by number."""
        require(caller.roles, Permission.LIST_KEYS)
        address = parse_address(
            path, self._registry.environments, default=self._default, explicit=environment
        )
        rows: list[KeyRow] = []
        if address.path.partition(".")[0].lower() != RESERVED_PREFIX:
            rows = await self._catalog.keys(*address, None, 1)
        # Below a path that is no key itself another may stand.
        if not rows or rows[0].key.path != address.path or not _is_there(rows[0]):
            raise NotFoundError(
                "key_not_found", f"There is no {address.path} in {address.environment}."
            )
        return rows[0], await self._catalog.versions(rows[0].key.key_id)

    async def page(
        self,
        caller: Caller,
        *,
        prefix: str | None,
        environment: str | None,
        after: KeyAddress | None,
        limit: int,
    ) -> tuple[list[KeyRow], KeyAddress | None]:
        """A page of keys, without their values, and after which key the next one begins. Keys that
        are nowhere but in an open import are no keys yet."""
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
        rows = await self._catalog.keys(prefix, environment, after, limit)
        last = rows[-1].key if len(rows) == limit else None
        more = None if last is None else KeyAddress(last.path, last.environment)
        return [row for row in rows if _is_there(row)], more


def _is_there(row: KeyRow) -> bool:
    return row.head is not None or not row.key.is_only_staged
