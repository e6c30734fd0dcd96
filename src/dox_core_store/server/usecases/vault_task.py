"""What a vault is still to be told of a version: carried out after the catalog has decided.

The catalog decides, in one transaction, and writes down there what follows for the vault. Whoever
wrote it carries it out once that is committed; what is left over, because the vault did not answer
or the node was killed, a sweeper does. Everything is told by version id and twice is as good as
once, so nothing depends on who does it, or how often. Nothing that takes a value away waits for it.

A value that no version names (its writer was killed, or lost) is found by its version id and
erased. Before that its task says so, which keeps a writer who was only slow from naming it after
all. One that is not found may still be on its way: it is looked for again for some minutes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from dox_core_store.errors import DoxStoreError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.key import KeyRecord, State, VersionRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.vault_task import HomeRecord, VaultAct, VaultTaskRecord
from dox_core_store.server.ports import About, Catalog, Clock, Erasure, Home, Transaction
from dox_core_store.server.usecases.token_alarm import Notice
from dox_core_store.server.usecases.vault import Vaults
from dox_core_store.server.usecases.vault_step import GONE, Done, Step, erased, withdrawn

__all__ = ["LOST", "VaultTasks", "home_of", "owe"]

LOST = timedelta(minutes=2)
"""After this a value that no version names is nobody's: no writer takes so long."""

LATE = timedelta(seconds=2)
"""After this whoever wrote a task did not carry it out."""

_LOOKED_FOR = timedelta(minutes=15)
"""For how long a value that may be on its way is looked for."""

_AT_ONCE = 64
"""Tasks that are planned in one transaction."""

_ON_THE_WAY = 8
"""Tasks that are carried out at a time; reads use the vault meanwhile."""

_PASSED = (State.PREVIOUS, State.RETIRED, State.REVOKED, State.DESTROYED)
_PASSED_AT_MOST = 100
"""As many as a vault knows of a key."""


def home_of(tx: Transaction, key_id: int, vault: str) -> Home | None:
    """Where ``vault`` keeps the current version of a key, if it was adopted from there."""
    record = tx.get(HomeRecord, key_id=key_id)
    if record is None or record.vault != vault:
        return None
    return Home(record.path, record.field, bool(record.shared))


def owe(tx: Transaction, act: VaultAct, version: VersionRecord, address: KeyAddress) -> None:
    """Write down that the vault is to be told of ``act``, where ``version`` lies in one."""
    if version.vault is None:
        return
    tx.put(
        VaultTaskRecord(
            version_id=version.version_id,
            act=act,
            path=address.path,
            environment=address.environment,
            vault=version.vault,
            sealed=version.sealed if act is VaultAct.ERASE else None,
            begun_at=tx.now,
        )
    )


Refused = Counter[tuple[str, str]]
"""How often which vault refused with which code."""


class VaultTasks:
    """See the module. ``caller`` is the server itself: it is on the ledger as having erased."""

    def __init__(
        self, *, vaults: Vaults, catalog: Catalog, clock: Clock, caller: Caller, notice: Notice
    ) -> None:
        self._vaults = vaults
        self._catalog = catalog
        self._clock = clock
        self._caller = caller
        self._notice = notice
        self._due: dict[str, None] = {}
        self._is_due = asyncio.Event()

    def soon(self, version_id: str) -> None:
        """Have the task of a version carried out, without waiting for it."""
        self._due[version_id] = None
        self._is_due.set()

    async def tend(self) -> None:
        """Wait for what is to be done `soon`, and do it: a step that is repeated for ever."""
        await self._is_due.wait()
        self._is_due.clear()
        due, self._due = list(self._due), {}
        for at in range(0, len(due), _AT_ONCE):
            await self.finish(due[at : at + _AT_ONCE], urgent=True)

    async def finish(self, version_ids: Sequence[str], *, urgent: bool = False) -> None:
        """Carry out the tasks of these versions; what fails is left to the sweeper. Never raises a
        `DoxStoreError`: whoever calls this has written what counts. What is ``urgent`` is done on a
        full disk too, and takes longer: nobody should wait for it."""
        try:
            await self._finish(version_ids, abandoned=(), urgent=urgent)
        except DoxStoreError as error:
            self._notice("vault_task_waits", vault="", code=error.code, tasks=len(version_ids))

    async def abandon(self, version_ids: Sequence[str]) -> None:
        """The same for values that no version will name: they are erased."""
        try:
            await self._finish(version_ids, abandoned=frozenset(version_ids), urgent=False)
        except DoxStoreError as error:
            self._notice("vault_task_waits", vault="", code=error.code, tasks=len(version_ids))

    async def sweep(self) -> None:
        """Carry out what was left over. A vault that does not answer is asked once."""
        if not self._vaults.names:
            return
        silent: set[str] = set()
        after: str | None = None
        while True:
            page = await self._catalog.records(VaultTaskRecord, after, _AT_ONCE)
            now = self._clock.now()
            late = [each for each in page if each.vault not in silent and _is_late(each, now)]
            lost = frozenset(each.version_id for each in late if each.act is VaultAct.STORE)
            if late:
                late_ids = [each.version_id for each in late]
                silent |= await self._finish(late_ids, abandoned=lost, urgent=True)
            if len(page) < _AT_ONCE:
                return
            after = page[-1].version_id

    async def _finish(
        self, version_ids: Sequence[str], abandoned: Collection[str], *, urgent: bool
    ) -> set[str]:
        """Plan, carry out, strike off; the vaults that did not answer."""
        steps = await self._catalog.write(
            lambda tx: self._plan(tx, version_ids, abandoned), urgent=urgent
        )
        refused: Refused = Counter()
        few = asyncio.Semaphore(_ON_THE_WAY)
        outcomes = await asyncio.gather(*(self._carry_out(each, few, refused) for each in steps))
        done = [each for each in outcomes if each is not None]
        if done:
            urgent = urgent and all(each.step.task.act is not VaultAct.PROMOTE for each in done)
            again = await self._catalog.write(lambda tx: self._strike(tx, done), urgent=urgent)
            for version_id in again:
                self.soon(version_id)
        for (vault, code), count in refused.items():
            self._notice("vault_task_waits", vault=vault, code=code, tasks=count)
        return {vault for vault, code in refused if code == "vault_unavailable"}

    def _plan(
        self, tx: Transaction, version_ids: Sequence[str], abandoned: Collection[str]
    ) -> list[Step]:
        """The tasks of ``version_ids`` as they are to be carried out; pointless ones are struck."""
        tasks = tx.find_among(VaultTaskRecord, "version_id", version_ids)
        versions = {
            each.version_id: each
            for each in tx.find_among(VersionRecord, "version_id", version_ids)
        }
        steps = []
        for each in tasks:
            task = each
            if each.act is VaultAct.STORE:
                if each.version_id not in abandoned:
                    continue
                task = replace(each, act=VaultAct.ERASE)  # from here on no writer may name it
                tx.put(task)
            if (step := self._step(tx, task, versions.get(each.version_id))) is not None:
                steps.append(step)
        return steps

    def _step(
        self, tx: Transaction, task: VaultTaskRecord, version: VersionRecord | None
    ) -> Step | None:
        address = KeyAddress(task.path, task.environment)
        binding = self._vaults.binding(address, task.version_id)
        key = tx.get(KeyRecord, path=address.path, environment=address.environment)
        home = None if key is None else home_of(tx, key.key_id, task.vault)
        number = 0 if version is None else version.number
        about: About | None = About(
            number, key.owner if key else None, key.usage if key else None, home
        )
        if task.act is VaultAct.ERASE:
            sealed = task.sealed
        elif version is None or key is None or version.vault != task.vault:
            sealed = None
        else:
            is_wanted = task.act is VaultAct.WITHDRAW or key.head == version.version_id
            sealed = version.sealed if is_wanted else None
        if sealed is None and task.act is not VaultAct.ERASE:
            tx.remove(VaultTaskRecord, version_id=task.version_id)  # overtaken: nothing to tell
            return None
        is_head = version is not None and key is not None and key.head == version.version_id
        if is_head and about is not None:
            about = about._replace(passed=_passed(tx, key, number))
        if home is not None and home.shared:
            about = None  # other keys lie in the same entry
        return Step(task, binding, sealed, about, is_head)

    async def _carry_out(self, step: Step, few: asyncio.Semaphore, refused: Refused) -> Done | None:
        """None, and counted as ``refused``, if it has to be tried again."""
        task = step.task
        try:
            if step.about is None:
                return Done(step, erasure=Erasure.UNLINKED)
            async with few:
                return await self._told(step, step.about)
        except DoxStoreError as error:
            if task.act is not VaultAct.ERASE and error.code in GONE:
                # There is nothing to promote or to hide; readers are told the same.
                self._notice("vault_changed", key=_shown(task), vault=task.vault, change="deleted")
                return Done(step)
            refused[task.vault, error.code] += 1
            return None

    async def _told(self, step: Step, about: About) -> Done | None:
        (act, vault), binding = (step.task.act, step.task.vault), step.binding
        place = None
        if step.sealed is not None:
            place = self._vaults.sealer.open(binding, step.sealed)
        if act is VaultAct.PROMOTE and place is not None:
            to = await self._vaults.ask(vault, lambda v: v.promote(binding, place, about))
            return Done(step, moved=(place, to))
        if act is VaultAct.WITHDRAW and place is not None:
            to = await self._vaults.ask(vault, lambda v: withdrawn(v, step, place, about))
            return Done(step, moved=(place, to))

        erasure = await self._vaults.ask(vault, lambda v: erased(v, step, place, about))
        if erasure is None and self._clock.now() - step.task.begun_at < _LOOKED_FOR:
            return None
        return Done(step, erasure=erasure)

    def _strike(self, tx: Transaction, done: Sequence[Done]) -> list[str]:
        """Write down what became of what was done; the versions of which more is to be done, since
        they were ended meanwhile."""
        ids = [each.step.task.version_id for each in done]
        tasks = {e.version_id: e for e in tx.find_among(VaultTaskRecord, "version_id", ids)}
        versions = {e.version_id: e for e in tx.find_among(VersionRecord, "version_id", ids)}
        again = []
        for each in done:
            began = each.step.task
            version = versions.get(began.version_id)
            if each.moved is not None and self._moved(tx, each.step, each.moved, version):
                again.append(began.version_id)
                continue
            task = tasks.get(began.version_id)
            if task is None or (task.act, task.vault) != (began.act, began.vault):
                continue  # somebody else did it, or there is more to do than that by now
            tx.remove(VaultTaskRecord, version_id=task.version_id)
            if version is not None and each.erasure is not None and task.act is VaultAct.ERASE:
                self._record(tx, task, version, each.erasure)
        return again

    def _moved(
        self,
        tx: Transaction,
        step: Step,
        moved: tuple[bytes, bytes],
        version: VersionRecord | None,
    ) -> bool:
        """Take over where a promoted value lies; whether the version was ended meanwhile, and what
        was done about that may have been done too early."""
        (before, place), began = moved, step.task
        sealed = self._vaults.sealer.store(step.binding, place)
        if version is None or version.sealed is None:
            tx.put(replace(began, act=VaultAct.ERASE, sealed=sealed, begun_at=tx.now))
            return True
        if version.vault == began.vault and place != before:
            there = self._vaults.sealer.open(step.binding, version.sealed)
            if there == before or version.state is State.REVOKED:  # then what was seen last counts
                tx.put(replace(version, sealed=sealed))
        if version.state is State.REVOKED and began.act is VaultAct.PROMOTE:
            tx.put(replace(began, act=VaultAct.WITHDRAW, begun_at=tx.now))
            return True
        return False

    def _record(
        self, tx: Transaction, task: VaultTaskRecord, version: VersionRecord, erasure: Erasure
    ) -> None:
        tx.record(
            self._caller,
            {
                "action": Action.DESTROY,
                "key_path": _shown(task),
                "environment": task.environment,
                "version": version.number,
                "reason": f"{erasure} in {task.vault}",
            },
        )


def _passed(tx: Transaction, key: KeyRecord | None, number: int) -> frozenset[int]:
    """The last numbers above ``number``, the current one's, that were current before it."""
    if key is None or key.last_number == number:
        return frozenset()
    found = tx.latest(
        VersionRecord, "number", key_id=key.key_id, state=_PASSED, limit=_PASSED_AT_MOST
    )
    return frozenset(each.number for each in found if each.number > number)


def _shown(task: VaultTaskRecord) -> str:
    return str(KeyAddress(task.path, task.environment))


def _is_late(task: VaultTaskRecord, now: datetime) -> bool:
    return now - task.begun_at >= (LOST if task.act is VaultAct.STORE else LATE)
