"""A node that starts in front of a vault that hands out several values at once.

What lies there is fetched in batches before it is asked for, as far as the cache holds it: else
every first reader of a key waits for the vault, which meets them all at once. Nothing depends on
it: what fails, or was changed meanwhile, is looked up when it is asked for. Values are kept as
those that were read are, sealed under a key that dies with the process.
"""

from __future__ import annotations

from dox_core_store.errors import DoxStoreError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.key import State, VersionRecord
from dox_core_store.server.ports import Catalog, Clock
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.vault import Vaults

__all__ = ["VaultWarming"]

_PAGE = 200
_MOST = 20_000
"""Keys that are fetched: well below what the cache holds."""

_BATCH = 20


class VaultWarming:
    """See the module. `run` once, at start."""

    def __init__(
        self, *, vaults: Vaults, catalog: Catalog, decisions: Decisions, clock: Clock
    ) -> None:
        self._vaults = vaults
        self._catalog = catalog
        self._decisions = decisions
        self._clock = clock
        self._singly: set[str] = set()
        """Vaults that hand out one value at a time."""
        self.warmed = 0

    async def run(self) -> None:
        """Fetch what there is. Never fails because of a vault."""
        after: KeyAddress | None = None
        seen = 0
        while seen < _MOST and self._singly < set(self._vaults.names):
            before = self._decisions.generation
            rows = await self._catalog.keys(None, None, after, _PAGE)
            found: dict[str, list[tuple[KeyAddress, VersionRecord]]] = {}
            for row in rows:
                address = KeyAddress(row.key.path, row.key.environment)
                if row.head is not None and self._is_wanted(row.head):
                    found.setdefault(str(row.head.vault), []).append((address, row.head))
            for name, versions in found.items():
                for at in range(0, len(versions), _BATCH):
                    await self._fetch(name, versions[at : at + _BATCH], before)
            if len(rows) < _PAGE:
                return
            after, seen = KeyAddress(rows[-1].key.path, rows[-1].key.environment), seen + _PAGE

    def _is_wanted(self, version: VersionRecord) -> bool:
        return (
            version.vault in self._vaults.names
            and version.vault not in self._singly
            and version.state is State.CURRENT
            and version.sealed is not None
            and (version.expires_at is None or version.expires_at > self._clock.now())
        )

    async def _fetch(
        self, name: str, versions: list[tuple[KeyAddress, VersionRecord]], before: int
    ) -> None:
        if name in self._singly:
            return
        wanted: list[tuple[Binding, bytes]] = []
        for address, version in versions:
            binding = self._vaults.binding(address, version.version_id)
            wanted.append((binding, self._vaults.sealer.open(binding, version.sealed or b"")))
        try:
            all_held = await self._vaults.read(name, lambda vault: vault.open_many(wanted))
        except DoxStoreError:
            self._singly.add(name)  # it does not answer now: readers find out for themselves
            return
        if not any(all_held):
            self._singly.add(name)
        for (address, version), held in zip(versions, all_held, strict=True):
            if held is not None and not held.superseded:
                self._decisions.warm(address, version, held.value, before)
                self.warmed += 1
