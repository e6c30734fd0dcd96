"""A ledger of any size, as years of traffic would leave it.

What a running store would have written stands in it: blocks of 10 to 60 entries through the
`Chain`, streams that open, sign and close, changes in the stream of changes, and the search index
of `Postings`, flushed after every ten seconds of traffic. Only time is made up (bursts, spread
over `DAYS` days), and the disk is synced once, at the end. All of it verifies: ``doxstore doctor``.

By itself it fills a store that no server runs on, or makes one as of `DAYS` days ago:
``python -m benchmarks.ledger_fill DATA ENTRIES``, with the key file ``DATA/root.key``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from benchmarks.ledger_traffic import BLOCKS_PER_BURST, ENTRIES_PER_BLOCK, Burst, Traffic
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.seals.unlocking import new_slot
from dox_core_store.server.adapters.sql.custody import new_store_id
from dox_core_store.server.adapters.sql.postings import Postings
from dox_core_store.server.adapters.sql.records import instant
from dox_core_store.server.adapters.sql.store import OpenedStore, create_store, open_store
from dox_core_store.server.adapters.sql.stream import LedgerStream
from dox_core_store.server.adapters.sql.tables import Instant
from dox_core_store.server.adapters.sql.transaction import SqlTransaction
from dox_core_store.server.adapters.sqlite.engine import DATABASE_FILE, ServerLock
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.bootstrap.unlock import holder_for, unlock_of
from dox_core_store.server.domain.access import Role
from dox_core_store.server.domain.seal import SlotKind
from dox_core_store.server.settings import Settings

__all__ = ["DAYS", "OPERATOR", "Filled", "PastClock", "fill_ledger", "make_past_store"]

DAYS = 300
OPERATOR = "admin"

_STREAMS = 10
_BURST = timedelta(seconds=10)
_BURSTS_PER_CHECKPOINT = 20

_APPEND = (
    "INSERT INTO ledger_block (stream, first_seq, last_seq, first_at, prev, head, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
    " RETURNING block_id, (SELECT last_seq FROM ledger_stream WHERE stream = ?)"
)

# The index is collected beside the store, in a table that has its name and no order, and brought
# over in order: rows that come at random would make the file grow at a tenth of the speed.
_COLLECT = "CREATE TEMP TABLE ledger_posting (kind TEXT, term TEXT, first_chunk INT, chunks TEXT)"
_BRING_OVER = (
    "INSERT OR REPLACE INTO main.ledger_posting (kind, term, first_chunk, chunks)"
    " SELECT kind, term, first_chunk, chunks FROM temp.ledger_posting"
    " ORDER BY kind, term, first_chunk, rowid"
)


class PastClock:
    """See the `Clock` port: a time that is set."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def seconds(self) -> float:
        return self.at.timestamp()

    def monotonic(self) -> float:
        return self.at.timestamp()


class Filled(NamedTuple):
    """What was written."""

    entries: int
    blocks: int
    seconds: float
    traffic: Traffic


def settings_of(data: Path) -> Settings:
    """Where the store in ``data`` is, and what opens it."""
    return Settings(data=str(data), key_file=str(data / "root.key"))


def make_past_store(data: Path, now: datetime) -> None:
    """Make an empty store, as of `DAYS` days before ``now``."""
    settings = settings_of(data)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    store_id = new_store_id()
    create_store(
        SqlitePlace(data),
        store_id=store_id,
        slot=new_slot(holder_for(SlotKind.KEY_FILE, settings, None, None), store_id, label=None),
        default_environment=settings.default_environment,
        operator=OPERATOR,
        roles=list(Role),
        caller=local_caller(),
        clock=PastClock(now - timedelta(days=DAYS)),
    )


def fill_ledger(data: Path, entries: int, *, now: datetime) -> Filled:
    """Fill the store in ``data`` from its newest entry on, up to ``now``."""
    settings = settings_of(data)
    lock = ServerLock(data)
    lock.acquire()
    try:
        store = open_store(SqlitePlace(data), unlock=unlock_of(settings, None), alarm=_no_alarm)
        with store.engine.connect() as connection:
            return _Filling(store, connection, now).fill(entries)
    finally:
        lock.release()


class _Filling:
    def __init__(self, store: OpenedStore, connection: sa.Connection, now: datetime) -> None:
        self._store = store
        self._connection = connection
        self._now = now
        self._run = connection.exec_driver_sql
        self._driver: Any = connection.connection.driver_connection
        self._blocks = 0

    def fill(self, entries: int) -> Filled:
        began = time.monotonic()
        self._run("PRAGMA synchronous = OFF")
        self._run(_COLLECT)
        newest = self._run("SELECT max(first_at) FROM ledger_block").scalar_one()
        self._clock = PastClock(instant(newest) + timedelta(seconds=1))
        self._postings = Postings(self._connection)
        for _ in self._postings.catch_up():
            pass
        traffic = Traffic(entries)
        bursts = max(2, round(entries / (ENTRIES_PER_BLOCK * BLOCKS_PER_BURST)))
        rest = (self._now - self._clock.at) / bursts
        per_stream = -(-bursts // _STREAMS)
        for number in range(bursts):
            if number % per_stream == 0:
                traffic.new_process()
                stream = self._stream()
                stream.open(self._connection)
            began_at = self._clock.at
            self._run("BEGIN IMMEDIATE")
            self._write(traffic, Burst(number, number / bursts, min(rest / 2, _BURST)), stream)
            self._run("COMMIT")
            if (number + 1) % per_stream == 0 or number + 1 == bursts:
                stream.close(self._connection)
            if number % _BURSTS_PER_CHECKPOINT == 0:
                self._run("PRAGMA wal_checkpoint(TRUNCATE)")
            self._clock.at = began_at + rest
        for _ in self._postings.catch_up():  # what opening and closing streams added
            pass
        self._run(_BRING_OVER)
        self._run("DROP TABLE temp.ledger_posting")
        self._run("PRAGMA synchronous = FULL")
        self._run("PRAGMA wal_checkpoint(TRUNCATE)")
        self._store.history.note(self._connection)
        return Filled(traffic.made, self._blocks, time.monotonic() - began, traffic)

    def _write(self, traffic: Traffic, burst: Burst, stream: LedgerStream) -> None:
        postings = self._postings
        for block in traffic.blocks(self._clock, burst):
            block_id, _, written = stream.append(self._connection, block, self._insert)
            postings.add(block_id, written, Instant.microseconds(self._clock.at))
            self._blocks += 1
        for caller, fields in traffic.changes():
            transaction = SqlTransaction(
                connection=self._connection, reader=self._store.records, now=self._clock.at
            )
            transaction.record(caller, fields)
            recorded = transaction.finish()
            if recorded is not None:
                postings.add(*recorded, Instant.microseconds(self._clock.at))
        for _ in postings.flush():
            pass

    def _insert(self, row: tuple[Any, ...]) -> tuple[int, int]:
        changes = self._store.records.changes
        (inserted,) = self._driver.execute(_APPEND, (*row, changes)).fetchall()
        return inserted[0], inserted[1]

    def _stream(self) -> LedgerStream:
        return LedgerStream(
            store_id=self._store.store_id,
            changes=self._store.records.changes,
            actor=local_caller().name,
            checkpoint_key=self._store.checkpoint_key,
            clock=self._clock,
        )


def _no_alarm(_table: str, _identity: str) -> None:
    """Nobody else writes to this store."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger_fill", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("entries", type=int)
    options = parser.parse_args(arguments)
    now = datetime.now(UTC)
    if not (options.data / DATABASE_FILE).exists():
        make_past_store(options.data, now)
    filled = fill_ledger(options.data, options.entries, now=now)
    print(
        f"{filled.entries:,} entries in {filled.blocks:,} blocks, {filled.seconds:.1f} s:"
        f" {filled.entries / filled.seconds:,.0f} entries/s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
