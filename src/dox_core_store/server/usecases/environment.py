"""Environments: declared names that key paths may end in."""

from __future__ import annotations

from dox_core_store.errors import ConflictError
from dox_core_store.key_path import RESERVED_PREFIX, check_environment_name
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import Catalog, Transaction
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.registry import subject

__all__ = ["Environments"]


class Environments:
    """See the module."""

    def __init__(self, *, catalog: Catalog, feed: Feed) -> None:
        self._catalog = catalog
        self._feed = feed

    async def add(self, caller: Caller, name: str, reason: str | None) -> None:
        """Declare ``name``. Raises ``already_exists``, ``environment_in_use``."""
        require(caller.roles, Permission.MANAGE_ENVIRONMENTS)
        check_environment_name(name)

        def work(tx: Transaction) -> None:
            if name in tx.environments() or name == RESERVED_PREFIX:
                raise ConflictError("already_exists", f"Environment {name} is declared already.")
            tx.add_environment(name)
            tx.record(
                caller,
                {
                    "action": Action.ADD_ENVIRONMENT,
                    "key_path": subject("environments", name),
                    "reason": reason,
                },
            )

        await self._catalog.write(work)
        await self._feed.catch_up()

    async def all(self, caller: Caller) -> list[str]:
        """The declared environments, sorted."""
        require(caller.roles, Permission.LIST_KEYS)
        return await self._catalog.environments()
