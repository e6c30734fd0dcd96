"""Looking an opened store over: what ``doxstore doctor`` and ``doxstore ledger verify`` ask for.

Everything here only reads.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
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
from dox_core_store.server.adapters.sql.history import newest_entry
from dox_core_store.server.adapters.sql.ledger_inspection import LedgerInspection
from dox_core_store.server.adapters.sql.migrate import current_revision
from dox_core_store.server.adapters.sql.place import LIVE_SECONDS, Soundness
from dox_core_store.server.adapters.sql.reader import SqlReader
from dox_core_store.server.adapters.sql.root_rotation import waiting_slots
from dox_core_store.server.adapters.sql.shipping import ShippedUpTo, shipped_up_to
from dox_core_store.server.adapters.sql.store import OpenedStore
from dox_core_store.server.adapters.sql.transacting import snapshot, take_time
from dox_core_store.server.domain.envelope import Binding, DamagedSealError
from dox_core_store.server.domain.epoch import EpochRecord, needs_review
from dox_core_store.server.domain.ledger import changes_stream
from dox_core_store.server.domain.seal import SlotKind
from dox_core_store.server.ports import Found
from dox_core_store.server.usecases.backup import BACKUP, DRILL
from dox_core_store.server.usecases.store_secret import CHECKPOINT_KEY, open_secret

__all__ = [
    "Condition",
    "Custody",
    "KnownNode",
    "StoreInspection",
    "checkpoint_keys",
    "public_checkpoint_key",
]

_ROWS = 1_000


class Condition(NamedTuple):
    """``ahead``: by how many seconds the database's clock is ahead of this machine's; None where it
    has none of its own."""

    schema: str | None
    known_schema: str
    soundness: Soundness
    ahead: float | None


class KnownNode(NamedTuple):
    """A node as the store knows it: ``seen`` seconds ago it said that it lives, and had applied all
    but ``behind`` changes, the oldest of which is ``lag`` seconds old. ``has_ring``: it has the
    newest sealing key."""

    name: str
    node_id: str
    release: str
    seen: float
    is_live: bool
    behind: int
    lag: float
    has_ring: bool


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
        place = self._store.place
        with self._reading() as connection:
            now = place.now(connection)
            ahead = None if now is None else now - time.time()
            return Condition(
                schema=current_revision(connection),
                known_schema=tables.SCHEMAS[-1],
                soundness=place.soundness(connection),
                ahead=ahead,
            )

    def nodes(self) -> list[KnownNode]:
        """Every node that has entered itself and not left, by name."""
        node, ring = tables.node.c, tables.seal_ring.c
        columns = (node.name, node.node_id, node.release, node.seen_at, node.applied, node.ring)
        with self._reading() as connection:
            seconds = self._store.place.now(connection)
            now = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
            epoch = connection.execute(sa.select(tables.store.c.epoch)).scalar_one()
            newest = connection.execute(sa.select(sa.func.max(ring.number))).scalar_one()
            found = []
            for row in connection.execute(sa.select(*columns).order_by(node.name, node.node_id)):
                behind, oldest = _unapplied(connection, changes_stream(epoch), row.applied)
                seen = (now - row.seen_at).total_seconds()
                found.append(
                    KnownNode(
                        name=row.name,
                        node_id=row.node_id,
                        release=row.release,
                        seen=seen,
                        is_live=seen <= LIVE_SECONDS,
                        behind=behind,
                        lag=0.0 if oldest is None else (now - oldest).total_seconds(),
                        has_ring=row.ring >= newest,
                    )
                )
            return found

    def custody(self) -> Custody:
        """How the store is kept."""
        with self._reading() as connection:
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
        with self._reading() as connection:
            return shipped_up_to(connection)

    def count_values(self) -> int:
        """How many versions have a sealed value."""
        query = sa.select(sa.func.count()).where(tables.version.c.sealed.is_not(None))
        with self._reading() as connection:
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
        with self._reading() as connection:
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
        # The ledger and the rows of one moment.
        with self._reading() as connection:
            for _ in account.follow(connection):
                pass
            return list(account.compare(connection))

    def count_records(self) -> int:
        """How many rows carry a MAC."""
        with self._reading() as connection:
            return sum(_count(connection, table) for table in tables.RECORDS.values())

    def check_records(self) -> Iterator[int]:
        """Read every row that carries a MAC; yields how many were read since the last yield.

        Rows whose MAC does not hold reach the alarm that the store was opened with.
        """
        with self._reading() as connection:
            for kind, table in tables.RECORDS.items():
                query = sa.select(table).execution_options(yield_per=_ROWS)
                for rows in connection.execute(query).mappings().partitions():
                    for row in rows:
                        self._store.records.record(kind, row)
                    yield len(rows)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """One state of the store, read at leisure. Raises `ConfigurationError`."""
        try:
            with self._store.engine.connect() as connection, snapshot(connection):
                take_time(connection)
                yield connection
        except sa.exc.DBAPIError as error:
            raise self._store.place.unusable(error) from error


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
                    store.sealer, store.store_id, CHECKPOINT_KEY, Found(found.key, version)
                )
                keys.append(Ed25519PrivateKey.from_private_bytes(raw).public_key())
    return keys


def _unapplied(connection: sa.Connection, stream: str, applied: int) -> tuple[int, datetime | None]:
    """How many changes there are after ``applied``, and when the first of them was made."""
    head = sa.select(tables.ledger_stream.c.last_seq).where(tables.ledger_stream.c.stream == stream)
    block = tables.ledger_block.c
    first = (
        sa.select(sa.type_coerce(block.first_at, tables.Instant))
        .where(tables.FEED, block.stream == stream, block.last_seq > applied)
        .order_by(block.last_seq)
        .limit(1)
    )
    behind = connection.execute(head).scalar_one() - applied
    return max(behind, 0), connection.execute(first).scalar()


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
