"""Copies of versions: former places that are kept to go back to, erased once nobody wants them.

A version of which a copy is kept lies in two places, and its row says which one counts. What is
revoked or destroyed takes its copies with it: those here in the same transaction, those in vaults
afterwards, as `VaultTasks` does it with versions. What a mover left behind on its way, because it
was killed, is erased when no mover can be at it any more.

A version may come to lie again where it lay, so a copy is erased only by who said so in its record
before; while it says so, no mover takes the version there. Two names of one and the same vault
would make a copy of what is to stay: before the first erasure it is made sure that they are two.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from dox_core_store.errors import ConflictError, DoxStoreError, error_for
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.key import State, VersionRecord
from dox_core_store.server.domain.vault_task import (
    CopyAct,
    CopyRecord,
    VaultAct,
    VaultTaskRecord,
)
from dox_core_store.server.ports import About, Catalog, Clock, Erasure, Transaction, Vault
from dox_core_store.server.usecases.token_alarm import Notice
from dox_core_store.server.usecases.vault import Vaults
from dox_core_store.server.usecases.vault_task import LOST, VaultTasks

__all__ = ["ENDED", "VaultCopies", "let_go", "strike"]

ENDED = frozenset({State.REVOKED, State.DESTROYED})
"""States of versions that no place has to keep any more."""

_LOOKED_FOR = timedelta(minutes=15)
"""For how long a copy of what ended is looked for where it may be on its way."""

_AT_ONCE = 32


def let_go(tx: Transaction, version: VersionRecord) -> None:
    """``version`` ends: so do its copies."""
    for copy in tx.find(CopyRecord, version_id=version.version_id):
        if not copy.vault:
            tx.remove(CopyRecord, copy_id=copy.copy_id)
        elif copy.act is not CopyAct.ERASE:
            tx.put(replace(copy, act=CopyAct.ERASE, begun_at=tx.now))


class VaultCopies:
    """See the module. Lives on the event loop."""

    def __init__(
        self, *, vaults: Vaults, catalog: Catalog, tasks: VaultTasks, clock: Clock, notice: Notice
    ) -> None:
        self._vaults = vaults
        self._catalog = catalog
        self._tasks = tasks
        self._clock = clock
        self._notice = notice
        self._apart: set[tuple[str, str]] = set()

    async def sweep(self) -> None:
        """Erase copies of what ended, and what nobody is at any more. A vault that does not answer
        is asked once."""
        if not self._vaults.names:
            return
        silent: set[str] = set()
        for act in (CopyAct.ERASE, CopyAct.MAKE):
            after: str | None = None
            while page := await self._catalog.records(CopyRecord, after, _AT_ONCE, act=act):
                after = page[-1].copy_id
                silent |= await self._erase_all([e for e in page if e.vault not in silent])

    async def _erase_all(self, page: Sequence[CopyRecord]) -> set[str]:
        """Erase those of ``page`` that are due; the vaults that refused."""
        refused: set[str] = set()
        until = self.deadline()
        for copy, is_ended in await self._catalog.write(lambda tx: _due(tx, page), urgent=True):
            if copy.vault in refused:
                continue
            try:
                erased = not copy.vault or await self.erase(copy, until) is not None
            except DoxStoreError as error:
                self._notice("vault_task_waits", vault=copy.vault, code=error.code, tasks=1)
                refused.add(copy.vault)
                continue
            if erased or not is_ended or not self._may_come(copy):
                await self._catalog.write(functools.partial(strike, copy=copy), urgent=True)
        return refused

    def deadline(self) -> float:
        """Until when (monotonic seconds) may be erased what is said now to be being erased: later
        somebody else may be at it, or done with it."""
        return self._clock.monotonic() + LOST.total_seconds() / 2

    async def erase(self, copy: CopyRecord, until: float) -> Erasure | None:
        """Erase what lies there; None if nothing does. ``copy`` says that it is being erased."""
        binding = self._vaults.binding(KeyAddress(copy.path, copy.environment), copy.version_id)
        place = None if copy.sealed is None else self._vaults.sealer.open(binding, copy.sealed)

        def erase(vault: Vault) -> Erasure | None:
            found = place or vault.find(binding)
            if self._clock.monotonic() > until:
                raise error_for("vault_unavailable", "This process was stopped for too long.")
            return None if found is None else vault.erase(binding, found)

        return await self._vaults.ask(copy.vault, erase)

    def _may_come(self, copy: CopyRecord) -> bool:
        """Whether what was not found may still be on its way."""
        begun_at = copy.begun_at
        return begun_at is not None and self._clock.now() - begun_at < _LOOKED_FOR

    async def check_apart(self, vault: str, other: str) -> None:
        """Raise `ConflictError` ``vault_conflict`` where both are the same under two names: what
        is stored in one is found in the other."""
        if (vault, other) in self._apart:
            return
        address, version_id = KeyAddress("probe", "probe"), secrets.token_hex(16)
        binding = self._vaults.binding(address, version_id)

        def begun(tx: Transaction) -> None:
            tx.put(
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

        await self._catalog.write(begun)
        try:
            about = About(1, None, None, None)
            await self._vaults.ask(vault, lambda v: v.store(binding, b"probe", about))
            found = await self._vaults.ask(other, lambda v: v.find(binding))
        finally:
            await self._tasks.abandon([version_id])
        if found is not None:
            raise ConflictError("vault_conflict", f"{vault} and {other} are one and the same.")
        self._apart.add((vault, other))


def strike(tx: Transaction, copy: CopyRecord) -> bool:
    """Take a copy that was erased off the books; whether it was this one that was left to do."""
    known = tx.get(CopyRecord, copy_id=copy.copy_id)
    if known is None or (known.act, known.begun_at) != (CopyAct.ERASE, copy.begun_at):
        return False
    tx.remove(CopyRecord, copy_id=copy.copy_id)
    return True


def _due(tx: Transaction, page: Sequence[CopyRecord]) -> list[tuple[CopyRecord, bool]]:
    """Those of ``page`` that may be erased now, as they stand, and whether their version ended;
    they say so from here on."""
    ids = [each.version_id for each in page]
    versions = {each.version_id: each for each in tx.find_among(VersionRecord, "version_id", ids)}
    due = []
    for copy in tx.find_among(CopyRecord, "copy_id", [each.copy_id for each in page]):
        version = versions.get(copy.version_id)
        is_ended = version is None or version.state in ENDED
        if copy.act is CopyAct.KEEP or not (is_ended or _is_left(copy, tx.now)):
            continue
        begun_at = copy.begun_at if is_ended else tx.now
        erased = replace(copy, act=CopyAct.ERASE, begun_at=begun_at)
        if erased != copy:
            tx.put(erased)
        due.append((erased, is_ended))
    return due


def _is_left(copy: CopyRecord, now: datetime) -> bool:
    """Whether nobody can be at it any more."""
    return copy.begun_at is None or now - copy.begun_at >= LOST
