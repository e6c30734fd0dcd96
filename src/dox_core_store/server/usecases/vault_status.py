"""What there is to say of the vaults that this node knows, and what lies in them.

Which vaults answer is asked now, side by side. What lies in one is listed as the vault lists it,
some entries at a time, and names only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import NamedTuple

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.ports import Catalog, Lying, Vault, VaultEntry
from dox_core_store.server.usecases.vault import Ask, Vaults
from dox_core_store.server.usecases.vault_name import HERE, VaultNames

__all__ = ["VaultState", "VaultStatus"]

_ENTRIES = 10
"""Entries that are asked for together, within one timeout: each may be a request."""


class VaultState(NamedTuple):
    """``error`` is why it cannot be used now. ``takes_new``: where new values go."""

    name: str
    takes_new: bool
    error: DoxStoreError | None
    lying: Lying


class VaultStatus:
    """See the module."""

    def __init__(self, *, vaults: Vaults, catalog: Catalog, names: VaultNames) -> None:
        self._vaults = vaults
        self._catalog = catalog
        self._names = names

    async def all(self, caller: Caller) -> list[VaultState]:
        """Every place that is known, or that something lies in; the one for new values first."""
        require(caller.roles, Permission.MANAGE_VAULTS)
        lying = await self._catalog.lying()
        names = [*self._vaults.names, *(each for each in lying if each not in self._vaults.names)]
        if "" not in names and self._names.has_here:
            names.append("")
        errors = await asyncio.gather(*map(self._error, names))
        states = [
            VaultState(
                name or HERE, name == (self._vaults.new or ""), error, lying.get(name, Lying())
            )
            for name, error in zip(names, errors, strict=True)
        ]
        return sorted(states, key=lambda each: (not each.takes_new, each.name))

    async def _error(self, name: str) -> DoxStoreError | None:
        if not name:
            return None
        try:
            await self._vaults.ask(name, lambda vault: vault.check())
        except DoxStoreError as error:
            return error
        return None

    async def entries(self, caller: Caller, vault: str) -> AsyncIterator[list[VaultEntry]]:
        """What lies in ``vault``, some at a time. Raises as `Vaults.ask` does, at
        once where the first cannot be had."""
        require(caller.roles, Permission.MANAGE_VAULTS)
        name = self._names.vault(vault)
        listed: list[Iterator[VaultEntry]] = []

        def some(vault: Vault) -> list[VaultEntry]:
            if not listed:
                listed.append(vault.entries())
            return list(islice(listed[0], _ENTRIES))

        first = await self._vaults.ask(name, some)
        return self._rest(name, first, some)

    async def _rest(
        self, name: str, page: list[VaultEntry], some: Ask[list[VaultEntry]]
    ) -> AsyncIterator[list[VaultEntry]]:
        while page:
            yield page
            page = await self._vaults.ask(name, some)
