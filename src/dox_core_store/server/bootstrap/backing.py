"""What a node is made over: the adapters of a store that was opened, in a file or in a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import sqlalchemy as sa

from dox_core_store.server.adapters.sql.catalog import Done, SqlCatalog
from dox_core_store.server.adapters.sql.custody import Unlock
from dox_core_store.server.adapters.sql.ledger import SqlLedger
from dox_core_store.server.adapters.sql.ledger_reader import SqlLedgerReader
from dox_core_store.server.adapters.sql.store import OpenedStore
from dox_core_store.server.ports import Leases, ProofUses, Quotas, Work

__all__ = ["Backing", "BackingWriter", "BeginAnewError"]


class BeginAnewError(Exception):
    """The node is to be stopped and made again: what it knows is not of the store any more."""


class BackingWriter(Protocol):
    """The writer, as far as steps in the background know it."""

    def submit(self, work: Work[Any], done: Done, *, urgent: bool = False) -> None:
        """Run ``work`` in a transaction; ``done`` is called on the writer's thread."""

    def settle(self, work: Callable[[sa.Connection], None], change: int, done: Done) -> None:
        """Run ``work``, which is no mutation, once a checkpoint covers ``change``."""

    def index(self) -> None:
        """Write the search index, if that is this node's to do."""

    def sign(self) -> None:
        """Have what was committed signed."""


class Backing(Protocol):
    """Between `open` and `stop` everything here may be used."""

    ledger: SqlLedger
    ledger_reader: SqlLedgerReader
    store: OpenedStore
    farewell: Callable[[], None]
    """Called in a thread once the stream is closed, before the store is let go."""

    @property
    def catalog(self) -> SqlCatalog: ...

    @property
    def leases(self) -> Leases: ...

    @property
    def writer(self) -> BackingWriter: ...

    @property
    def quotas(self) -> Quotas | None:
        """What nodes share of limits; None: there is one node."""

    @property
    def proof_uses(self) -> ProofUses | None:
        """What nodes share of proofs; None: there is one node."""

    @property
    def lease_seconds(self) -> float:
        """How long a read may leave on what was heard of the change feed."""

    def hold(self) -> None:
        """Take what only one server may have. Raises `ConfigurationError`."""

    async def open(self, unlock: Unlock) -> None:
        """Raises as `open_store`; nothing is then held but what `hold` took."""

    async def stop(self) -> None:
        """Write what waits, close the stream, release everything."""

    def check_writable(self) -> None:
        """Raise ``store_read_only`` where it can be seen without opening the store."""

    def say_ring(self, newest: int) -> None:
        """Have the store know which sealing key is the newest that this server has."""

    def lost(self) -> str:
        """What of the store was replaced underneath; empty if nothing was."""

    def follow(self, applied: Callable[[], int], wake: Callable[[], None]) -> None:
        """``applied`` says how far the node is; ``wake`` has it look at the change feed."""

    async def look(self) -> None:
        """What is to be done every second."""

    def checks(self) -> dict[str, str]:
        """What readiness says of it."""
