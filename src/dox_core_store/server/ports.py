"""Every seam of the server, on one page.

A port's docstring is its contract: what is idempotent, what absence returns, which errors may come
out. Adapters translate foreign errors totally: nothing but `DoxStoreError` leaves them.
Synchronous methods of `Transaction` run in the store's writer; everything else may be awaited on
the event loop and never blocks it for longer than one local page read.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeVar

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller, TokenBindingRecord, TokenRecord
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.key import (
    KeyLimitRecord,
    KeyRecord,
    UpkeepRecord,
    VersionRecord,
)
from dox_core_store.server.domain.ledger import Entry
from dox_core_store.server.domain.seal import Slot, SlotKind

__all__ = [
    "About",
    "Catalog",
    "Change",
    "Clock",
    "Committed",
    "Erasure",
    "Found",
    "Held",
    "Home",
    "KeyRow",
    "Leases",
    "Ledger",
    "LedgerFilter",
    "LedgerReader",
    "Lying",
    "ProofUses",
    "Quotas",
    "Sealer",
    "SlotHolder",
    "StoredEntry",
    "Take",
    "Taken",
    "TokenFilter",
    "TokenRow",
    "TokenSpan",
    "Transaction",
    "Vault",
    "VaultEntry",
    "VaultHead",
    "Work",
]

Record = TypeVar("Record")
Result = TypeVar("Result")


class Clock(Protocol):
    """Time, passed in."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC."""

    def seconds(self) -> float:
        """The wall clock as seconds since 1970, where a datetime would be too slow."""

    def monotonic(self) -> float:
        """Seconds that never go back."""


class Sealer(Protocol):
    """Seals bytes under the name they belong to, and opens them again.

    What a version's row keeps is always sealed: its value, or, where that lies in a `Vault`, its
    place there. ``open`` raises `InternalError` ``value_damaged`` if what is kept does not belong
    to ``binding``. Both are idempotent by ``binding.version_id`` and do no input or output.
    """

    def store(self, binding: Binding, value: bytes) -> bytes: ...

    def open(self, binding: Binding, kept: bytes) -> bytes: ...


class Home(NamedTuple):
    """Where a vault keeps the current version of a key, where that is not our own place for it: the
    entry that it was adopted from, and which ``field`` of it (None: the entry is the value).
    ``shared`` entries hold other keys too, and are not written."""

    path: str
    field: str | None
    shared: bool


class About(NamedTuple):
    """What a vault is told of a version beside its value, so that its own tools can say what it
    is. ``passed`` are higher numbers of the key that were current before it: a version that waited
    may become current after newer ones, once the last of them was revoked."""

    number: int
    owner: str | None
    usage: str | None
    home: Home | None
    passed: frozenset[int] = frozenset()


class Held(NamedTuple):
    """A value out of a vault. ``superseded``: in the vault another version is current by now that
    this store does not know, so somebody changed it there."""

    value: bytes
    superseded: bool


class VaultHead(NamedTuple):
    """What a vault has as the current version of a key, and its place."""

    place: bytes
    value: bytes


class VaultEntry(NamedTuple):
    """What lies in a vault at ``path``, below the vault's prefix: for `adopt`. ``fields`` are the
    names in it, without values; (None,) if it is no set of fields. ``managed``: it is a store's."""

    path: str
    fields: tuple[str | None, ...]
    managed: bool


class Erasure(StrEnum):
    """What became of a value that was to be erased."""

    ERASED = "erased"
    UNLINKED = "unlinked"
    """Nothing names it any more; the vault deletes it when it sees fit."""


class Vault(Protocol):
    """A vault that is not ours and holds values of keys: OpenBao, HashiCorp Vault, AWS.

    Methods block on the network: they run in threads, several at a time. A *place* is JSON that
    only the vault's own adapter understands; it names no value and no credential. Everything is
    idempotent by ``binding.version_id``, so whoever was killed in between does it again. No method
    takes longer than the vault's timeout.

    Raises `StoreUnavailableError` ``vault_unavailable`` (sealed, slow, throttled, gone: try again)
    or ``vault_refused`` (our credentials or policy do not suffice), `InternalError`
    ``vault_value_missing`` (somebody deleted it) or ``value_damaged`` (what lies at the place is
    not what was stored there), `ConflictError` ``vault_conflict`` (the name is taken by something
    that is not ours, or is scheduled for deletion).
    """

    @property
    def name(self) -> str:
        """What the catalog calls it in each version: its address without how to log in."""

    def check(self) -> None:
        """Whether it can be reached and we may do there what we need to, without touching a
        key."""

    def store(self, binding: Binding, value: bytes, about: About) -> bytes:
        """Keep ``value`` as a version that is nobody's current one yet; its place."""

    def find(self, binding: Binding) -> bytes | None:
        """The place of what `store` left behind under this version id, if it did."""

    def open(self, binding: Binding, place: bytes) -> Held:
        """The value at ``place``. What `store` returned opens until `erase`, also after `promote`
        returned another one, or raises ``vault_value_missing`` from then on."""

    def open_many(self, wanted: Sequence[tuple[Binding, bytes]]) -> list[Held | None]:
        """`open` for several at a time, where the vault can do that; None for what has to be
        opened by itself, also because it does not open."""

    def promote(self, binding: Binding, place: bytes, about: About) -> bytes:
        """Have the vault's own tools see the value at ``place`` as the key's current one; where it
        lies from now on. Called in the order of numbers, but for those that ``about`` says have
        passed: one that comes after another higher number changes nothing of what is seen."""

    def withdraw(self, binding: Binding, place: bytes) -> None:
        """It was revoked: the vault's own tools should not show it either, as far as it can."""

    def erase(self, binding: Binding, place: bytes) -> Erasure:
        """Erase the value at ``place`` for good; one that is gone already is erased."""

    def superseded(self, binding: Binding, place: bytes) -> bool:
        """As `open` says it, without handing out a value."""

    def head(self, binding: Binding, home: Home | None) -> VaultHead | None:
        """What is current in the vault for the key of ``binding`` (whose version id says nothing
        here), or in the entry ``home``; None if nothing is."""

    def entries(self) -> Iterator[VaultEntry]:
        """Everything below the vault's prefix but what waits for promotion."""


class SlotHolder(Protocol):
    """One way of holding a slot's 256-bit key: a file, what a person knows, a key service.

    May block on a network or a prompt: runs in a thread. What `make` returns beside the key is
    stored as the slot's public parameters, and is what `open` finds in ``slot.parameters``.
    """

    @property
    def kind(self) -> SlotKind:
        """The slots that it can make and open."""

    def make(self, store_id: str, slot_id: str) -> tuple[bytes, dict[str, Any]]:
        """A new slot's key and public parameters."""

    def open(self, store_id: str, slot: Slot) -> bytes:
        """What may be the key of ``slot``; whether it is, only the root key tells.

        Raises a `DoxStoreError`: ``slot_unreachable`` where a service does not answer now, and it
        is worth trying again; any other where what was given is missing or certainly wrong."""


class Take(NamedTuple):
    """What is to be taken from a limit that all nodes share (`domain.quota`): ``cost`` microseconds
    from the row ``name``, which may then be ``tolerance`` ahead of the database's clock."""

    name: str
    cost: int
    tolerance: int


class Taken(NamedTuple):
    """Whether it was taken, and by how much the row is ahead of the database's clock now. Of a row
    that refused, that may be somewhat out of date: it was ahead by this at least."""

    granted: bool
    ahead_seconds: float


class Quotas(Protocol):
    """The limits that all nodes of a store share."""

    async def take(self, wanted: Take) -> Taken:
        """Take all of it or nothing. A row that is not there is at rest.

        Raises `StoreUnavailableError` ``ledger_unavailable`` where the database does not answer
        within a second; it may have been taken all the same.
        """


class ProofUses(Protocol):
    """Which proofs were used, at whatever node of a store."""

    async def first(self, proof: str, until: float) -> bool:
        """Keep that ``proof`` was used, until ``until`` (seconds since 1970); whether it was not
        before. Of any number of calls with the same proof, anywhere, one returns True.

        Raises `StoreUnavailableError` ``ledger_unavailable`` where the database does not answer
        within two seconds; the proof may count as used all the same.
        """


class Transaction(Protocol):
    """One mutation, seen from inside: all of it happens, or nothing.

    Records are the domain's; each row that decides is read with its MAC checked, and one that
    fails counts as absent. What `record` was given enters the ``changes`` stream as the last
    statement of the transaction.
    """

    @property
    def now(self) -> datetime:
        """When this transaction happens; the same throughout it."""

    @property
    def held_seconds(self) -> float:
        """For how long everybody else's writes, and so reads, have waited for this one."""

    def get(self, kind: type[Record], **where: Any) -> Record | None:
        """The one record whose columns equal ``where``; None if there is none."""

    def find(self, kind: type[Record], *, limit: int | None = None, **where: Any) -> list[Record]:
        """All, or the first ``limit``, records whose columns equal ``where``, in the order of
        their primary key."""

    def find_among(
        self, kind: type[Record], name: str, values: Sequence[Any], **where: Any
    ) -> list[Record]:
        """All records whose column ``name`` is one of ``values`` and whose others equal ``where``,
        in no order."""

    def latest(
        self, kind: type[Record], by: str, *, limit: int, skip: int = 0, **where: Any
    ) -> list[Record]:
        """The ``limit`` records with the highest ``by``, that one first, after the first ``skip``,
        of those whose columns equal ``where``; a tuple there means any of its values."""

    def put(self, record: Any) -> None:
        """Insert ``record``, or replace the one with its primary key."""

    def put_all(self, records: Sequence[Any]) -> None:
        """`put` for each of ``records``, which are of one kind."""

    def remove(self, kind: type[Any], **where: Any) -> None:
        """Remove the records whose columns equal ``where``; none is fine."""

    def new_key_id(self) -> int:
        """A number that no key has had."""

    def environments(self) -> Collection[str]:
        """The declared environments."""

    def add_environment(self, name: str) -> None:
        """Declare ``name``. Raises ``environment_in_use`` if a stored path ends in it."""

    def spell(self, names: Sequence[str]) -> None:
        """Claim the spelling of paths and prefixes; raises `ConflictError` ``case_collision``."""

    def unspell(self, path: str) -> None:
        """Give up the spelling of ``path`` and of its prefixes where no key uses them any more."""

    def note(self, name: str, detail: Mapping[str, Any]) -> None:
        """Keep that ``name`` happened now, and what there is to say of it, in place of the last
        time. Nothing is decided by it."""

    def follow(self, name: str, block_id: int, head: str) -> None:
        """Keep that ``name`` has the ledger to a block, with the hash ``head`` (hex) at its end."""

    def record(self, caller: Caller, entry: Mapping[str, Any]) -> None:
        """Put the mutation on the ledger; ``entry`` has `Entry` fields beyond the caller's."""


Work = Callable[[Transaction], Result]


class Found(NamedTuple):
    """A key and the version that was asked for, as the catalog holds them."""

    key: KeyRecord
    version: VersionRecord


class KeyRow(NamedTuple):
    """A key as lists show it. ``head`` is None where no version of it was ever current, and while
    an import that brings the key is not committed; ``proposed`` says of a key without one whether
    a version is pending there."""

    key: KeyRecord
    head: VersionRecord | None
    last_read_at: datetime | None
    upkeep: UpkeepRecord | None = None
    proposed: bool = False
    limit: KeyLimitRecord | None = None


class Lying(NamedTuple):
    """What the catalog knows of a vault: versions that lie there, copies of others that are kept or
    on their way there, and what it is still to be told."""

    versions: int = 0
    copies: int = 0
    tasks: int = 0


class Change(NamedTuple):
    """One entry of the change feed: what happened to what. ``in_effect`` is False of what an import
    stages, and of an import that was aborted."""

    seq: int
    action: str
    key_path: str
    environment: str | None
    version: int | None = None
    in_effect: bool = True


class TokenFilter(NamedTuple):
    """Which tokens to list; None means any. ``expires_before`` (inclusive) and ``unused_since``
    (not used since, and issued before) leave out what was revoked."""

    token_id: str | None = None
    kind: str | None = None
    name: str | None = None
    expires_after: datetime | None = None
    expires_before: datetime | None = None
    unused_since: datetime | None = None


class TokenRow(NamedTuple):
    """An issued token, what it is bound to, and when it was last used, as `Catalog.token_uses`
    knows it."""

    token: TokenRecord
    binding: TokenBindingRecord | None
    last_used_at: datetime | None


class TokenSpan(NamedTuple):
    """Tokens that were issued in some stretch of time: how many of them live, and when the last
    one that was not revoked expires, be that in the past; None where there is none."""

    live: int
    last_expiry: datetime | None


class Catalog(Protocol):
    """Everything about keys but their values, and the one way to change it.

    Raises `StoreUnavailableError` ``ledger_unavailable`` where the store cannot be written (full,
    read-only, too slow): the transaction then has not happened.
    """

    async def write(self, work: Work[Result], *, urgent: bool = False) -> Result:
        """Run ``work`` in the store's one writer, in one transaction. Errors roll it back; it may
        then be run again. What is ``urgent`` (taking away, never handing out) is written on a full
        disk too, as long as the room lasts that is kept for it."""

    async def version(self, address: KeyAddress, number: int | None) -> Found | None:
        """The version ``number`` (None: the head) of a key; None if there is none."""

    async def versions(self, key_id: int) -> list[VersionRecord]:
        """All versions of a key, by number."""

    async def keys(
        self, prefix: str | None, environment: str | None, after: KeyAddress | None, limit: int
    ) -> list[KeyRow]:
        """A page of keys in order of path and environment, after ``after``."""

    async def records(
        self, kind: type[Record], after: str | None, limit: int, **where: Any
    ) -> list[Record]:
        """A page of records in order of their primary key, after ``after``."""

    async def live_tokens(self, now: datetime) -> set[str]:
        """Ids of the tokens that were not revoked and have not expired by ``now``."""

    async def tokens(self, wanted: TokenFilter, after: str | None, limit: int) -> list[TokenRow]:
        """A page of issued tokens in the order of their ids, after the id ``after``."""

    async def token_span(self, since: datetime, until: datetime | None, now: datetime) -> TokenSpan:
        """The tokens that were issued at ``since`` or later, and before ``until``. Counted without
        looking at MACs: nothing is handed out by it."""

    async def token_uses(self, token_ids: Sequence[str]) -> dict[str, datetime]:
        """When each of ``token_ids`` was last used, as far as the ledger's index has come: some
        seconds behind. One that was never used, or that does not exist, is left out."""

    def calls(
        self, service: str, prefix: str | None, environment: str, since: datetime
    ) -> AsyncIterator[list[str]]:
        """The paths of the keys that ``service`` was handed by a call (not by a refresh) at
        ``since`` or later, in order, some at a time. ``prefix`` is a literal path: it and what is
        below it; None means all. As far behind as `token_uses`."""

    async def callers(self, environment: str, since: datetime) -> set[str]:
        """The services that were handed any key of ``environment`` by a call at ``since`` or later.
        Passes over all calls, so ask once for many services. As far behind as `token_uses`."""

    async def last_calls(self, address: KeyAddress) -> dict[str, datetime]:
        """When each service was last handed a key by a call. One that never was is left out. As far
        behind as `token_uses`."""

    async def environments(self) -> list[str]:
        """The declared environments, sorted."""

    async def lying(self) -> dict[str, Lying]:
        """How much lies in each vault, beside the catalog (an empty name) too. Counted without
        looking at MACs: nothing is handed out by it."""

    async def feed_head(self) -> int:
        """The last ``seq`` of the change feed."""

    async def changes(self, after: int, limit: int) -> list[Change]:
        """The change feed after ``after``."""


class Committed(NamedTuple):
    """Entries are on stable storage. ``head`` is the head of the change feed at a moment after
    that; until ``until`` (monotonic seconds) a value may leave on it. A node that comes to itself
    later, because it was stopped, has to ask again."""

    head: int
    until: float


class Ledger(Protocol):
    """Where entries go. A value leaves only after `commit` returned."""

    def record(self, entry: Entry) -> None:
        """Hand over an entry that nobody waits for. Never dropped silently."""

    def commit(self, entries: Sequence[Entry]) -> Awaitable[Committed]:
        """Completes once ``entries`` are on stable storage. Raises `StoreUnavailableError`
        ``ledger_unavailable`` after 2 s or on a fault (an entry that is written after all is then
        followed by ABORTED), ``overloaded`` at once if too many wait."""

    def abort(self, entries: Sequence[Entry]) -> None:
        """Record that what was committed as GRANTED did not leave after all."""

    def check(self) -> None:
        """Raise `StoreUnavailableError` unless the ledger can be written now."""


class Leases(Protocol):
    """Who of the nodes does what only one should: indexing, shipping, notices, sweeping.

    Blocks on the database: is called in threads.
    """

    def hold(self, name: str) -> int | None:
        """Have, or keep, the lease ``name`` for the next `LEASE_SECONDS`: its number, which rises
        with every new holder. None while another node has it, or where that cannot be told."""

    def holds(self, name: str, number: int) -> bool:
        """Whether it still is the one with ``number``, as far as this node knows by its own clock:
        without asking."""


class StoredEntry(NamedTuple):
    """An entry in its place: what searches and exports return."""

    entry: Entry
    seq: int
    stream: str
    prev: bytes
    hash: bytes
    cursor: str


class LedgerFilter(NamedTuple):
    """What to search for; None means any. ``since`` and ``until`` are inclusive."""

    service_name: str | None = None
    key_path: str | None = None
    prefix: str | None = None
    environment: str | None = None
    action: str | None = None
    status: str | None = None
    token_id: str | None = None
    ip_address: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class LedgerReader(Protocol):
    """Reading the ledger back."""

    async def search(
        self, wanted: LedgerFilter, before: str | None, limit: int
    ) -> tuple[list[StoredEntry], str | None]:
        """A page of entries, newest first, and the cursor of the next page."""

    def export(self) -> AsyncIterator[list[StoredEntry]]:
        """Every entry in stored order, some at a time."""
