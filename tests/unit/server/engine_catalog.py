"""Tables of a catalog in either engine, and transactions on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.reader import SqlReader
from dox_core_store.server.adapters.sql.records import RecordReader
from dox_core_store.server.adapters.sql.transacting import writing
from dox_core_store.server.adapters.sql.transaction import SqlTransaction
from dox_core_store.server.domain.envelope import Ring
from dox_core_store.server.domain.key import (
    KeyRecord,
    State,
    TombstoneRecord,
    VersionRecord,
    fresh_key,
)
from dox_core_store.server.domain.ledger import genesis

__all__ = ["CALLER", "DAY", "KEYS", "NOW", "STORE", "Catalog", "addresses", "no_alarm", "version"]

NOW = datetime(2025, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
STORE = "store_1"
CALLER = local_caller()
KEYS = {1: b"1" * 32}


def no_alarm(table: str, identity: str) -> None:
    pytest.fail(f"{table} {identity}")


class Catalog:
    """Tables with one stream of changes, and transactions on them."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.connection = engine.connect()
        self.ring = Ring(STORE, KEYS)
        self.records = RecordReader(ring=self.ring, alarm=no_alarm)
        self.reader = SqlReader(connection=self.connection, records=self.records)
        self.connection.execute(
            sa.insert(tables.ledger_stream).values(
                stream="changes", opened_at=NOW, last_seq=0, head=genesis(STORE, "changes")
            )
        )
        self.connection.execute(
            sa.insert(tables.seal_ring).values(number=1, wrapped=b"", created_at=NOW)
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        with writing(self.connection):
            transaction = SqlTransaction(connection=self.connection, reader=self.records, now=NOW)
            transaction.keep_up()
            yield transaction

    def keep(self, *addresses: KeyAddress) -> list[KeyRecord]:
        """Keys, each with two versions, of which the older one is revoked."""
        with self.transaction() as tx:
            keys = [
                replace(fresh_key(tx.new_key_id(), each, NOW), last_number=2, head=f"{each}/2")
                for each in addresses
            ]
            tx.put_all(keys)
            versions = [version(key, number) for key in keys for number in (1, 2)]
            tx.put_all(versions)
            tx.put_all(
                [
                    TombstoneRecord(version_id=each.version_id, state=State.REVOKED, buried_at=NOW)
                    for each in versions
                    if each.number == 1
                ]
            )
        return keys


def version(key: KeyRecord, number: int) -> VersionRecord:
    return VersionRecord(
        version_id=f"{key.path}.{key.environment}/{number}",
        key_id=key.key_id,
        number=number,
        state=State.CURRENT if number == 2 else State.REVOKED,
        created_at=NOW,
        created_by="local:ada",
        expires_at=None,
        rolled_back_from=None,
        sealed=None,
    )


def addresses(count: int) -> list[KeyAddress]:
    names = [f"a.k{number:02}" for number in range(count)]
    return [KeyAddress(name, each) for name in names for each in ("production", "staging")]
