"""Changes that somebody made in a vault behind the store's back, and what the store makes of them.

The catalog says what is current. Where the vault's own tools were given another value since, that
value becomes the key's next version, as if it had been stored here, with the word ``external`` for
whoever did it: services get what the people who keep the vault meant them to have, and the ledger
says since when. A value that was deleted there is a fault that everybody is told of, and never an
empty one. Each is an alarm.

Readers notice what they come by. For the rest the watcher goes round the current versions that lie
in a vault, a few a second, and asks without having a value handed out.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import timedelta

from dox_core_store.errors import DoxStoreError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.key import (
    EXTERNAL,
    MAX_VALUE_BYTES,
    KeyRecord,
    State,
    VersionRecord,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.vault_task import HomeRecord, VaultAct, VaultTaskRecord
from dox_core_store.server.ports import Catalog, Home, KeyRow, Transaction, VaultHead
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.key_import import settle
from dox_core_store.server.usecases.key_retention import Retention
from dox_core_store.server.usecases.stored_key import StoredKey
from dox_core_store.server.usecases.token_alarm import Notice
from dox_core_store.server.usecases.vault import Vaults
from dox_core_store.server.usecases.vault_task import VaultTasks, owe

__all__ = ["VaultWatch"]

_AT_ONCE = 20
"""Keys that are asked about in one step, of a second."""

_ROUND_SECONDS = 300.0
"""A round takes no less: asking a vault may cost money."""

_PAGE = 200
_TOLD = 10_000
_NOT_OURS = frozenset({"vault_value_missing", "value_damaged"})


class VaultWatch:
    """See the module. Lives on the event loop."""

    def __init__(
        self,
        *,
        vaults: Vaults,
        catalog: Catalog,
        feed: Feed,
        tasks: VaultTasks,
        retention: Retention,
        expiry_days: int,
        monotonic: Callable[[], float],
        notice: Notice,
    ) -> None:
        self._vaults = vaults
        self._catalog = catalog
        self._feed = feed
        self._tasks = tasks
        self._retention = retention
        self._expiry = timedelta(days=expiry_days) if expiry_days else None
        self._monotonic = monotonic
        self._notice = notice
        self._due: dict[KeyAddress, None] = {}
        self._is_due = asyncio.Event()
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._ahead: list[KeyAddress] = []
        self._after: KeyAddress | None = None
        self._is_round_over = False
        self._round_began = -_ROUND_SECONDS

    def noticed(self, address: KeyAddress) -> None:
        """A reader found that the vault has this key not as we left it."""
        self._due[address] = None
        self._is_due.set()

    async def tend(self) -> None:
        """Wait for what readers notice, and look at it: a step that is repeated for ever."""
        await self._is_due.wait()
        self._is_due.clear()
        due, self._due = list(self._due), {}
        await self.look(due)

    async def step(self) -> None:
        """Look at the next few keys of the round."""
        if not self._vaults.names:
            return
        if not self._ahead:
            await self._turn_page()
        now, self._ahead = self._ahead[:_AT_ONCE], self._ahead[_AT_ONCE:]
        await self.look(now)

    async def look(self, addresses: Sequence[KeyAddress]) -> None:
        """Ask the vaults about the current versions of these keys, and take over what changed. A
        vault that does not answer is asked again in the next round."""
        for outcome in await asyncio.gather(*map(self._look, addresses), return_exceptions=True):
            if outcome is not None and not isinstance(outcome, DoxStoreError):
                raise outcome

    async def _turn_page(self) -> None:
        if self._is_round_over or self._after is None:
            if self._monotonic() - self._round_began < _ROUND_SECONDS:
                return
            self._round_began, self._is_round_over, self._after = self._monotonic(), False, None
        rows = await self._catalog.keys(None, None, self._after, _PAGE)
        self._ahead = [KeyAddress(e.key.path, e.key.environment) for e in rows if _is_away(e)]
        self._is_round_over = len(rows) < _PAGE
        if rows:
            self._after = KeyAddress(rows[-1].key.path, rows[-1].key.environment)

    async def _look(self, address: KeyAddress) -> None:
        found = await self._catalog.version(address, None)
        version = None if found is None else found.version
        if (
            found is None
            or version is None
            or version.vault is None
            or version.sealed is None
            or version.state is not State.CURRENT
        ):
            return
        binding = self._vaults.binding(address, version.version_id)
        place = self._vaults.sealer.open(binding, version.sealed)
        try:
            if not await self._vaults.read(version.vault, lambda v: v.superseded(binding, place)):
                return
        except DoxStoreError as error:
            if error.code not in _NOT_OURS:
                raise
        home = await self._home(found.key.key_id, version.vault)
        head = await self._vaults.read(version.vault, lambda v: v.head(binding, home))
        if head is None:
            self._alarm(address, version, "deleted")
        elif not _is_value(head.value):
            self._alarm(address, version, "unusable")
        else:
            await self._adopt(address, version, head)

    async def _home(self, key_id: int, vault: str) -> Home | None:
        for record in await self._catalog.records(HomeRecord, None, 1, key_id=key_id):
            if record.vault == vault:
                return Home(record.path, record.field, bool(record.shared))
        return None

    async def _adopt(self, address: KeyAddress, known: VersionRecord, head: VaultHead) -> None:
        version_id = secrets.token_hex(16)
        adopted = await self._catalog.write(
            lambda tx: self._adopted(tx, address, known, head, version_id)
        )
        if adopted is None:
            return
        await self._feed.catch_up()
        self._alarm(address, adopted, "changed")
        await self._tasks.finish([version_id])

    def _adopted(
        self,
        tx: Transaction,
        address: KeyAddress,
        known: VersionRecord,
        head: VaultHead,
        version_id: str,
    ) -> VersionRecord | None:
        """What is in the vault as the key's next version, unless ``known`` is not its current one
        any more, or the vault is still to be told of it."""
        record = tx.get(KeyRecord, path=address.path, environment=address.environment)
        if record is None or known.vault is None:
            return None
        key = StoredKey(tx, address, settle(tx, record))
        current = key.head()
        if (
            current is None
            or current.version_id != known.version_id
            or current.state is not State.CURRENT
            or current.vault != known.vault
            or tx.get(VaultTaskRecord, version_id=known.version_id) is not None
        ):
            return None
        binding = self._vaults.binding(address, version_id)
        version = VersionRecord(
            version_id=version_id,
            key_id=key.record.key_id,
            number=key.record.last_number + 1,
            state=State.CURRENT,
            created_at=tx.now,
            created_by=EXTERNAL,
            expires_at=None if self._expiry is None else tx.now + self._expiry,
            rolled_back_from=None,
            sealed=self._vaults.sealer.store(binding, head.place),
            vault=known.vault,
        )
        key.make_current(version)
        owe(tx, VaultAct.PROMOTE, version, address)  # so that the vault knows it as ours
        caller = _somebody(known.vault)
        key.entry(caller, Action.PUT, version, f"origin: {EXTERNAL}")
        self._retention.after_promotions(tx, caller, [key.record])
        return version

    def _alarm(self, address: KeyAddress, version: VersionRecord, change: str) -> None:
        if (version.version_id, change) in self._told:
            return
        self._told[version.version_id, change] = None
        if len(self._told) > _TOLD:
            self._told.popitem(last=False)
        self._notice(
            "vault_changed",
            key=str(address),
            version=version.number,
            vault=version.vault,
            change=change,
        )


def _is_away(row: KeyRow) -> bool:
    return row.head is not None and row.head.vault is not None and row.head.state is State.CURRENT


def _is_value(raw: bytes) -> bool:
    """Whether a value may be one of ours: see `check_value`."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return len(raw) <= MAX_VALUE_BYTES


def _somebody(vault: str) -> Caller:
    """Whoever it was that the vault let in."""
    return Caller(
        name=f"vault:{vault}",
        roles=(),
        request_id=f"req_{secrets.token_hex(8)}",
        ip_address="",
        user_agent="",
    )
