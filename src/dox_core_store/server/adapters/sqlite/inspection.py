"""Looking an opened store over: what ``doxstore doctor`` and ``doxstore ledger verify`` ask for.

Everything here only reads.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from dox_core_store import wire
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.account import Account
from dox_core_store.server.adapters.sql.custody import read_slots
from dox_core_store.server.adapters.sql.custody_event import read_event
from dox_core_store.server.adapters.sql.migrate import current_revision
from dox_core_store.server.adapters.sql.reader import SqlReader
from dox_core_store.server.adapters.sql.root_rotation import waiting_slots
from dox_core_store.server.adapters.sql.shipping import ShippedUpTo, shipped_up_to
from dox_core_store.server.adapters.sqlite.history import newest_entry
from dox_core_store.server.adapters.sqlite.ledger_inspection import LedgerInspection
from dox_core_store.server.adapters.sqlite.store import OpenedStore
from dox_core_store.server.domain.envelope import Binding, DamagedSealError
from dox_core_store.server.domain.epoch import EpochRecord, needs_review
from dox_core_store.server.domain.seal import SlotKind
from dox_core_store.server.ports import Found
from dox_core_store.server.usecases.backup import BACKUP, DRILL
from dox_core_store.server.usecases.store_secret import CHECKPOINT_KEY, open_secret

__all__ = ["Condition", "Custody", "StoreInspection", "checkpoint_keys", "public_checkpoint_key"]

_ROWS = 1_000


class Condition(NamedTuple):
    """``pages`` is what SQLite's own quick check says: ``ok``, or its first complaint."""

    schema: str | None
    known_schema: str
    journal_mode: str
    synchronous: int
    pages: str


class Custody(NamedTuple):
    """How the store is kept. ``lost`` says what was seen of it and is not there; ``newest`` is when
    its newest entry was made. Ring: how many key-encryption keys there are, and which root key's
    slots wait for a new one."""

    slots: list[SlotKind]
    ring_keys: int
    waiting: int | None
    epoch: int
    cause: str
    unreviewed: bool
    lost: str | None
    newest: datetime | None
    backup_at: datetime | None
    drill_at: datetime | None


class StoreInspection(LedgerInspection):
    """Over one opened store; each question on a connection of its own."""

    def __init__(self, store: OpenedStore) -> None:
        super().__init__(store.engine)
        self._store = store

    def condition(self) -> Condition:
        """The database as such."""
        with self._store.engine.connect() as connection:
            pragma = connection.exec_driver_sql
            return Condition(
                schema=current_revision(connection),
                known_schema=tables.SCHEMAS[-1],
                journal_mode=str(pragma("PRAGMA journal_mode").scalar()),
                synchronous=int(pragma("PRAGMA synchronous").scalar() or 0),
                pages=str(pragma("PRAGMA quick_check(1)").scalar()),
            )

    def custody(self) -> Custody:
        """How the store is kept."""
        with self._store.engine.connect() as connection:
            epoch = connection.execute(sa.select(tables.store.c.epoch)).scalar_one()
            row = connection.execute(
                sa.select(tables.epoch).where(tables.epoch.c.epoch == epoch)
            ).mappings()
            found = row.first()
            record = None if found is None else self._store.records.record(EpochRecord, found)
            waiting = waiting_slots(connection)
            newest = newest_entry(connection)
            backup, drill = (read_event(connection, name) for name in (BACKUP, DRILL))
            return Custody(
                slots=[slot.kind for slot in read_slots(connection)],
                ring_keys=_count(connection, tables.seal_ring),
                waiting=None if waiting is None else len(waiting),
                epoch=epoch,
                cause="" if record is None else record.cause,
                unreviewed=needs_review(epoch, record),
                lost=self._store.history.lost,
                newest=newest,
                backup_at=None if backup is None else backup[0],
                drill_at=None if drill is None else drill[0],
            )

    def shipped(self) -> list[ShippedUpTo]:
        """How far each destination has the ledger."""
        with self._store.engine.connect() as connection:
            return shipped_up_to(connection)

    def count_values(self) -> int:
        """How many versions have a sealed value."""
        query = sa.select(sa.func.count()).where(tables.version.c.sealed.is_not(None))
        with self._store.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def check_values(self, damaged: list[str]) -> Iterator[int]:
        """Open every sealed value; yields how many were since the last yield, and adds the names of
        those that do not open to ``damaged``. A row's MAC does not cover what is sealed in it."""
        key, version = tables.key.c, tables.version.c
        query = (
            sa.select(key.path, key.environment, version.number, version.version_id, version.sealed)
            .join(tables.key, key.key_id == version.key_id)
            .where(version.sealed.is_not(None))
            .execution_options(yield_per=_ROWS)
        )
        with self._store.engine.connect() as connection:
            for rows in connection.execute(query).partitions():
                for path, environment, number, version_id, sealed in rows:
                    binding = Binding(self._store.store_id, path, environment, version_id)
                    try:
                        self._store.ring.open(sealed, binding)
                    except DamagedSealError:
                        damaged.append(f"{path}.{environment} version {number}")
                yield len(rows)

    def contradictions(self) -> list[str]:
        """Where the catalog is weaker than the ledger says: see `Account`. Raises ``ValueError`` at
        an unreadable entry."""
        account = Account()
        with self._store.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")  # the ledger and the rows of one moment
            for _ in account.follow(connection):
                pass
            found = list(account.compare(connection))
            connection.exec_driver_sql("ROLLBACK")
        return found

    def count_records(self) -> int:
        """How many rows carry a MAC."""
        with self._store.engine.connect() as connection:
            return sum(_count(connection, table) for table in tables.RECORDS.values())

    def check_records(self) -> Iterator[int]:
        """Read every row that carries a MAC; yields how many were read since the last yield.

        Rows whose MAC does not hold reach the alarm that the store was opened with.
        """
        with self._store.engine.connect() as connection:
            for kind, table in tables.RECORDS.items():
                query = sa.select(table).execution_options(yield_per=_ROWS)
                for rows in connection.execute(query).mappings().partitions():
                    for row in rows:
                        self._store.records.record(kind, row)
                    yield len(rows)


def public_checkpoint_key(store: OpenedStore) -> wire.CheckpointKey:
    """The public half of the checkpoint key, named by its RFC 7638 thumbprint."""
    raw = store.checkpoint_key.public_key().public_bytes_raw()
    members = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)}
    thumbprint = hashlib.sha256(msgspec.json.encode(members)).digest()
    return wire.CheckpointKey(
        **members,
        kid=_base64url(thumbprint),
        store_id=store.store_id,
        earlier=[_base64url(key.public_bytes_raw()) for key in checkpoint_keys(store)[1:]],
    )


def checkpoint_keys(store: OpenedStore) -> list[Ed25519PublicKey]:
    """The key that signs the ledger's checkpoints, and then those that did before it: a copy that
    lives beside its original has a key of its own, and the original's ledger."""
    keys = [store.checkpoint_key.public_key()]
    with store.engine.connect() as connection:
        reader = SqlReader(connection=connection, records=store.records)
        found = reader.version(CHECKPOINT_KEY, None)
        for version in [] if found is None else reader.versions(found.key.key_id):
            if found is not None and version.version_id != found.version.version_id:
                raw = open_secret(
                    store.vault, store.store_id, CHECKPOINT_KEY, Found(found.key, version)
                )
                keys.append(Ed25519PrivateKey.from_private_bytes(raw).public_key())
    return keys


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
