"""A real store whose values lie in a vault in memory, and a process that dies between two steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.unit.server.asking import KEPT, Asking, MovedClock, Told, begun

from dox_core_store.errors import error_for
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.bootstrap import vaults
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.key import KeyRecord, State, VersionRecord
from dox_core_store.server.domain.vault_task import VaultTaskRecord
from dox_core_store.server.ports import About, Erasure, Held, Sealer
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.vault import Vaults
from dox_core_store.testing.vault import MemoryVault

__all__ = ["Killed", "Vaulted", "WatchedVault", "restart", "vaults_are"]


class Killed(BaseException):
    """Whoever was at it is gone, and does nothing more."""


class WatchedVault(MemoryVault):
    """``after`` is called with a method's name once it has done its work, ``before`` as it was."""

    def __init__(self, name: str = "memory://vault") -> None:
        super().__init__(name)
        self.after: Callable[[str], None] = lambda _: None

    def store(self, binding: Binding, value: bytes, about: About) -> bytes:
        place = super().store(binding, value, about)
        self.after("store")
        return place

    def promote(self, binding: Binding, place: bytes, about: About) -> bytes:
        promoted = super().promote(binding, place, about)
        self.after("promote")
        return promoted

    def withdraw(self, binding: Binding, place: bytes) -> None:
        super().withdraw(binding, place)
        self.after("withdraw")

    def erase(self, binding: Binding, place: bytes) -> Erasure:
        erasure = super().erase(binding, place)
        self.after("erase")
        return erasure

    def open(self, binding: Binding, place: bytes) -> Held:
        held = super().open(binding, place)
        self.after("open")
        return held

    def kill(self, when: str, method: str) -> None:
        """Whoever calls ``method`` next is killed ``before`` or ``after`` it."""

        def strike(asked: str) -> None:
            if asked == method:
                self.spare()
                raise Killed

        setattr(self, when, strike)

    def spare(self) -> None:
        self.before = self.after = lambda _: None

    @property
    def waiting(self) -> set[str]:
        """The ids of versions that were stored and not promoted."""
        return set(self._pending)


def vaults_are(
    monkeypatch: pytest.MonkeyPatch, new: MemoryVault | None, *others: MemoryVault
) -> None:
    """Have the next node know these vaults."""

    def known(
        settings: Settings, *, store_id: str, sealer: Sealer, monotonic: Callable[[], float]
    ) -> Vaults:
        return Vaults(
            store_id=store_id,
            sealer=sealer,
            threads=ThreadPoolExecutor(16),
            new=new,
            others=others,
            timeout_seconds=settings.vault_timeout_seconds,
            monotonic=monotonic,
        )

    monkeypatch.setattr(vaults, "known_vaults", known)


def restart(asking: Asking, runner: asyncio.Runner) -> None:
    """Begin anew on the same store, once it was stopped."""
    where = Settings(
        data=str(asking.data),
        key_file=str(asking.data.parent / "root.key"),
        expiry_days=0,
        keep_versions=KEPT,
    )
    asking._node = runner.run(begun(where))


class Vaulted:
    """``asking`` whose values lie in ``vault``."""

    def __init__(self, asking: Asking, vault: WatchedVault) -> None:
        self.asking = asking
        self.vault = vault

    def put(self, value: str, path: str = "a.b", **body: Any) -> Told:
        return self.asking("PUT", f"/v1/keys/{path}", {"value": value, **body})

    def post(self, act: str, path: str = "a.b", **body: Any) -> Told:
        return self.asking("POST", f"/v1/keys/{path}/{act}", body)

    def get(self, path: str = "a.b", number: int | None = None) -> Told:
        query = "" if number is None else f"?version={number}"
        return self.asking("GET", f"/v1/keys/{path}{query}")

    def value(self, path: str = "a.b", number: int | None = None) -> Any:
        told = self.get(path, number)
        return told.json["value"] if told.status == 200 else told.code

    def killed(self, method: str, target: str, body: Any = None) -> None:
        """A request at whose end nobody was left to answer."""
        with pytest.raises(Killed):
            self.asking(method, target, body)

    def versions(self, path: str = "a.b") -> list[VersionRecord]:
        def found(tx: Any) -> list[VersionRecord]:
            key = tx.get(KeyRecord, path=path, environment="production")
            return [] if key is None else tx.find(VersionRecord, key_id=key.key_id)

        return sorted(self.asking.write(found), key=lambda each: each.number)

    def tasks(self) -> list[VaultTaskRecord]:
        return self.asking.write(lambda tx: tx.find(VaultTaskRecord))

    def sweep(self) -> None:
        self.asking.run(self.asking.composed.fronting.tasks.sweep())

    def recover(self) -> None:
        """What the sweeper does once nobody can be at it any more."""
        MovedClock.ahead_minutes += 20
        self.sweep()

    def agree(self, values: dict[int, str], current: int | None, path: str = "a.b") -> None:
        """Vault and catalog say the same: these versions have a value, no other is left anywhere,
        and the vault's own tools show the current one."""
        assert self.tasks() == []
        versions = self.versions(path)
        for version in versions:
            told = self.value(path, version.number)
            expected = values.get(version.number)
            assert (told == expected) == (expected is not None), (version.number, told)
        ids = {each.version_id for each in versions if each.state is not State.DESTROYED}
        assert self.vault.waiting <= ids
        assert self.shows(path) == (None if current is None else values[current])

    async def ask(self, method: str, path: str, body: Any) -> Told:
        return await self.asking._ask(method, f"/v1/keys/{path}", body, self.asking.maintainer)

    def binding(self, version_id: str = "", path: str = "a.b") -> Binding:
        address = KeyAddress(path, "production")
        return self.asking.composed.fronting.vaults.binding(address, version_id)

    def shows(self, path: str = "a.b") -> str | None:
        raw = self.vault.shows(self.binding(path=path))
        return None if raw is None else raw.decode()

    def fail(self, code: str, *methods: str) -> None:
        """Have the vault raise ``code`` from these methods."""

        def refuse(method: str) -> None:
            if method in methods:
                raise error_for(code, "as the test wants it")

        self.vault.before = refuse
