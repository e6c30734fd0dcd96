"""Where the value of a version lies: sealed beside the catalog, or in a vault that is not ours.

Beside the catalog a value is sealed in the transaction that writes its version: no more happens
than that. Into a vault it goes in these steps, and after each of them the store is sound:

1. a transaction writes down that a value is on its way (act ``store``),
2. the vault keeps it, as nobody's current version,
3. the ordinary transaction names it: the version's row has its place, sealed under the version's
   own name, so that it cannot be moved to another key,
4. the vault is told that it became current (`VaultTasks`); the writer's answer does not depend on
   that, and readers do not either.

If the third does not happen, the value is erased in the vault; if the writer was killed, by the
sweeper. A reader who finds nothing at a place looks once whether it lies elsewhere by now.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from dox_core_store.errors import ConflictError, InternalError, StoreUnavailableError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.key import KeyRecord, VersionRecord
from dox_core_store.server.domain.vault_task import VaultAct, VaultTaskRecord
from dox_core_store.server.ports import About, Catalog, Held, Transaction
from dox_core_store.server.usecases.vault import Vaults
from dox_core_store.server.usecases.vault_task import VaultTasks, home_of

__all__ = ["Begin", "Kept", "Placed", "StoredValues", "Stowed", "about_next"]


class Kept(NamedTuple):
    """What a version's row says of where its value lies."""

    version_id: str
    vault: str | None
    sealed: bytes


class Placed(Protocol):
    """A value that a version is about to be written for."""

    def kept(self, tx: Transaction, address: KeyAddress, *, current: bool) -> Kept:
        """Its place in a new version of the key at ``address``, inside the transaction that writes
        that; ``current``: it becomes the key's current one there."""


Begin = Callable[[Transaction], tuple[KeyAddress, About]]
"""Says inside a transaction which key a value is for, or raises why it will not be written."""

_AT_ONCE = 8
"""Values that are on their way at a time; reads use the vault meanwhile."""


def about_next(
    tx: Transaction,
    vault: str | None,
    key: KeyRecord | None,
    *,
    owner: str | None = None,
    usage: str | None = None,
) -> About:
    """What ``vault`` is told of the key's next version. Raises ``entry_shared`` where the key lies
    in an entry of that vault with others: a new version would be theirs as well."""
    if key is None:
        return About(1, owner, usage, None)
    home = None if vault is None else home_of(tx, key.key_id, vault)
    if home is not None and home.shared:
        raise ConflictError("entry_shared", f"{key.path} is one of several fields of {home.path}.")
    return About(key.last_number + 1, owner or key.owner, usage or key.usage, home)


class StoredValues:
    """See the module. ``noticed`` is told of keys whose current value a vault does not have as we
    left it."""

    def __init__(
        self,
        *,
        vaults: Vaults,
        catalog: Catalog,
        tasks: VaultTasks,
        noticed: Callable[[KeyAddress], object],
    ) -> None:
        self._vaults = vaults
        self._catalog = catalog
        self._tasks = tasks
        self._noticed = noticed
        self._flights: dict[str, asyncio.Task[bytes]] = {}

    @property
    def vault(self) -> str | None:
        """The vault where new values go; None: beside the catalog."""
        return self._vaults.new

    @property
    def are_here(self) -> bool:
        """Whether every value lies beside the catalog: then nothing has to be awaited."""
        return not self._vaults.names

    def open_here(self, address: KeyAddress, version: VersionRecord) -> bytes:
        """The value of ``version``, which lies beside the catalog. No input or output."""
        assert version.sealed is not None  # noqa: S101 - no caller asks for a destroyed one
        if version.vault is not None:
            raise StoreUnavailableError(
                "vault_not_configured", f"{address} lies in {version.vault}, unknown to this node."
            )
        binding = self._vaults.binding(address, version.version_id)
        return self._vaults.sealer.open(binding, version.sealed)

    def placed_here(self, raw: bytes) -> Placed:
        """``raw``, to be sealed into the row of its version."""
        return _Here(self._vaults, raw)

    async def open(self, address: KeyAddress, version: VersionRecord) -> bytes:
        """The value of ``version``, wherever it lies. Readers of one version share one request.

        Raises as `Vaults.read` and `Vault.open` do.
        """
        if version.vault is None:
            return self.open_here(address, version)
        flight = self._flights.get(version.version_id)
        if flight is None:
            flight = asyncio.ensure_future(self._fetched(address, version))
            self._flights[version.version_id] = flight
            flight.add_done_callback(lambda done: self._landed(version.version_id, done))
        # A reader who goes away takes nothing from those who wait with it.
        return await asyncio.shield(flight)

    def _landed(self, version_id: str, flight: asyncio.Task[bytes]) -> None:
        del self._flights[version_id]
        if not flight.cancelled():
            flight.exception()  # also where no reader is left to see it

    async def _fetched(self, address: KeyAddress, version: VersionRecord) -> bytes:
        try:
            held = await self._read(address, version)
        except InternalError as error:
            if error.code != "vault_value_missing":
                raise
            found = await self._catalog.version(address, version.number)
            now = None if found is None else found.version
            if now is None or now.version_id != version.version_id or now.sealed is None:
                raise
            if (now.vault, now.sealed) == (version.vault, version.sealed):
                self._noticed(address)
                raise
            if now.vault is None:
                return self.open_here(address, now)
            held = await self._read(address, now)
        if held.superseded:
            self._noticed(address)
        return held.value

    async def _read(self, address: KeyAddress, version: VersionRecord) -> Held:
        assert version.sealed is not None  # noqa: S101 - as above
        assert version.vault is not None  # noqa: S101 - as above
        binding = self._vaults.binding(address, version.version_id)
        place = self._vaults.sealer.open(binding, version.sealed)
        return await self._vaults.read(version.vault, lambda vault: vault.open(binding, place))

    def forget(self, version: VersionRecord) -> None:
        """``version`` was revoked or destroyed: have its vault told, and wait for nothing."""
        if version.vault is not None:
            self._tasks.soon(version.version_id)

    async def promoted(self, version: VersionRecord) -> None:
        """``version`` became current: tell its vault. Never fails."""
        if version.vault is not None:
            await self._tasks.finish([version.version_id])

    @asynccontextmanager
    async def placing(self, raw: bytes, begin: Begin) -> AsyncIterator[Placed]:
        """Keep ``raw`` for the version that the body writes. If the body fails, nothing is left of
        it; once it is done, the vault is told of what became current."""
        if self._vaults.new is None:
            yield self.placed_here(raw)
            return
        async with self.stowing([(raw, begin)]) as (stowed,):
            yield stowed
        if stowed.is_current:
            await self._tasks.finish([stowed.version_id])

    @asynccontextmanager
    async def stowing(self, values: list[tuple[bytes, Begin]]) -> AsyncIterator[list[Stowed]]:
        """Keep several values in the vault, for versions that the body writes; those for which it
        writes none are erased when it ends."""
        vault = self._vaults.new
        assert vault is not None  # noqa: S101 - whoever has none does not stow
        ids = [secrets.token_hex(16) for _ in values]

        def begun(tx: Transaction) -> list[Stowed]:
            stowed, tasks = [], []
            for version_id, (raw, begin) in zip(ids, values, strict=True):
                address, about = begin(tx)
                stowed.append(Stowed(self._vaults, vault, version_id, address, raw, about))
                tasks.append(
                    VaultTaskRecord(
                        version_id=version_id,
                        act=VaultAct.STORE,
                        path=address.path,
                        environment=address.environment,
                        vault=vault,
                        sealed=None,
                        begun_at=tx.now,
                    )
                )
            tx.put_all(tasks)
            return stowed

        all_stowed = await self._catalog.write(begun)
        try:
            await _stored(all_stowed)
            yield all_stowed
        except Exception:  # a cancelled writer may have written: the sweeper sees which
            await self._tasks.abandon(ids)
            raise
        if left := [each.version_id for each in all_stowed if not each.is_written]:
            await self._tasks.abandon(left)


class _Here:
    """A value that is sealed into its version's row."""

    def __init__(self, vaults: Vaults, raw: bytes) -> None:
        self._vaults = vaults
        self._raw = raw

    def kept(self, tx: Transaction, address: KeyAddress, *, current: bool) -> Kept:  # noqa: ARG002 - as the protocol says
        version_id = secrets.token_hex(16)
        binding = self._vaults.binding(address, version_id)
        return Kept(version_id, None, self._vaults.sealer.store(binding, self._raw))


class Stowed:
    """A value that lies in the vault, and that no version names before `kept`."""

    def __init__(
        self,
        vaults: Vaults,
        vault: str,
        version_id: str,
        address: KeyAddress,
        raw: bytes,
        about: About,
    ) -> None:
        self._vaults = vaults
        self._vault = vault
        self.version_id = version_id
        self.address = address
        self.raw = raw
        self._about = about
        self._binding = vaults.binding(address, version_id)
        self._place: bytes | None = None
        self.is_written = False
        self.is_current = False

    async def store(self) -> None:
        """Give it to the vault."""
        self._place = await self._vaults.ask(
            self._vault, lambda vault: vault.store(self._binding, self.raw, self._about)
        )

    def kept(self, tx: Transaction, address: KeyAddress, *, current: bool) -> Kept:
        """See `Placed`. Raises ``vault_unavailable`` where the sweeper gave it up already."""
        if address != self.address:
            raise ConflictError("version_conflict", f"{self.address} is called {address} by now.")
        task = tx.get(VaultTaskRecord, version_id=self.version_id)
        if self._place is None or task is None or task.act is not VaultAct.STORE:
            raise StoreUnavailableError(
                "vault_unavailable", f"Storing in {self._vault} took too long; nothing was changed."
            )
        if current:
            tx.put(replace(task, act=VaultAct.PROMOTE, begun_at=tx.now))
        else:
            tx.remove(VaultTaskRecord, version_id=self.version_id)
        self.is_written, self.is_current = True, current
        sealed = self._vaults.sealer.store(self._binding, self._place)
        return Kept(self.version_id, self._vault, sealed)


async def _stored(values: list[Stowed]) -> None:
    """All of them, or the error of one, once none is on its way any more."""
    few = asyncio.Semaphore(_AT_ONCE)

    async def store(each: Stowed) -> None:
        async with few:
            await each.store()

    outcomes = await asyncio.gather(*map(store, values), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
