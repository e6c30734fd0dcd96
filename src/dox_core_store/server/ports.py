"""Every seam of the server, on one page.

A port's docstring is its contract: what is idempotent, what absence returns, which errors may come
out. Adapters translate foreign errors totally: nothing but `DoxStoreError` leaves them.
Synchronous methods of `Transaction` run in the store's writer; everything else may be awaited on
the event loop and never blocks it for longer than one local page read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
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
    "Catalog",
    "Change",
    "Clock",
    "Found",
    "KeyRow",
    "Ledger",
    "LedgerFilter",
    "LedgerReader",
    "SlotHolder",
    "StoredEntry",
    "TokenFilter",
    "TokenRow",
    "TokenSpan",
    "Transaction",
    "Vault",
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


class Vault(Protocol):
    """Where values live.

    ``store`` returns what the catalog keeps in the version's row to find the value again: the
    sealed value itself for the embedded vault. ``open`` raises `InternalError` ``value_damaged``
    if what is kept does not belong to ``binding``. Both are idempotent by ``binding.version_id``.
    """

    def store(self, binding: Binding, value: bytes) -> bytes: ...

    def open(self, binding: Binding, kept: bytes) -> bytes: ...


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


class Change(NamedTuple):
    """One entry of the change feed: what happened to what."""

    seq: int
    action: str
    key_path: str
    environment: str | None


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

    async def feed_head(self) -> int:
        """The last ``seq`` of the change feed."""

    async def changes(self, after: int, limit: int) -> list[Change]:
        """The change feed after ``after``."""


class Ledger(Protocol):
    """Where entries go. A value leaves only after `commit` returned."""

    def record(self, entry: Entry) -> None:
        """Hand over an entry that nobody waits for. Never dropped silently."""

    def commit(self, entries: Sequence[Entry]) -> Awaitable[int]:
        """Completes once ``entries`` are on stable storage: the head of the change feed at that
        commit. Raises `StoreUnavailableError` ``ledger_unavailable`` after 2 s or on a fault (an
        entry that is written after all is then followed by ABORTED), ``overloaded`` at once if
        too many wait."""

    def abort(self, entries: Sequence[Entry]) -> None:
        """Record that what was committed as GRANTED did not leave after all."""

    def check(self) -> None:
        """Raise `StoreUnavailableError` unless the ledger can be written now."""


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
