"""A new key-encryption key, and everything brought under it, beside a running server.

1. A new key enters the ring, with a REKEY entry. From then on every transaction writes under it
   (`SqlTransaction.keep_up`).
2. A running server says that it has the key (`RingFollower`); before that no row names it.
3. Row after row is brought over, in transactions that are short by the clock.
4. When a pass over all tables finds no row that names another key, the old keys leave the ring.

Nothing is remembered of how far it got: several keys in the ring are an unfinished rotation, and a
row says itself which key it names. So this may be killed anywhere, and run again it goes on with
the same new key. Where rows are left that were altered or damaged, the old keys stay with them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import sqlalchemy as sa

from dox_core_store.errors import DoxStoreError, StoreUnavailableError, error_for
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.custody import current_root, open_ring, seal_ring_key
from dox_core_store.server.adapters.sql.rewrap import Batch, RowRewrapper, rewrappers
from dox_core_store.server.adapters.sql.store import OpenedStore
from dox_core_store.server.adapters.sql.transacting import writing
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.envelope import KEY_BYTES, Ring
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import Clock, Transaction
from dox_core_store.server.usecases.registry import subject

__all__ = ["Rekey", "Rekeyed"]

_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.05
_SERVED_SECONDS, _ALONE_SECONDS = 0.005, 0.03
"""What a transaction should take: beside a server (8 ms at the most), and without one."""

_PAUSE_SECONDS = 0.015
"""Between two transactions beside a server, so that its reads wait for one at the most."""

_FEWEST, _FIRST, _MOST = 16, 100, 4_000
"""Rows in a transaction."""

_NAMED = 20
_FOLD_BATCHES = 64
"""Without a server nobody else folds SQLite's log back into the database."""


class Rekeyed(NamedTuple):
    """How it ended. ``skipped`` rows were left as they are, and ``named`` are the first of them;
    only without any, or where they were given up, the rotation is ``complete``: then no other key
    is in the ring."""

    kek: int
    rewrapped: int
    remaced: int
    skipped: int
    named: list[str]
    complete: bool


class _Done:
    """What was done so far; `skipped` and `named` in the last pass alone."""

    def __init__(self) -> None:
        self.rewrapped = self.remaced = self.skipped = 0
        self.named: list[str] = []


class Rekey:
    """See the module. `begin`, then `run`."""

    def __init__(self, *, store: OpenedStore, caller: Caller, clock: Clock) -> None:
        self._store = store
        self._caller = caller
        self._clock = clock
        self._limit = _FIRST
        self._batches = 0

    def begin(self) -> tuple[int, bool]:
        """The number of the new key, and whether it was there already: an unfinished rotation.

        Raises ``rekey_blocked``; what a running server keeps from going on goes on later."""
        with _telling():
            number, resumed = self._store.write_seal(self._new_key, self._clock)
            with self._store.engine.connect() as connection:
                self._wait_for_server(connection, number)
                keys = open_ring(connection, self._root(connection), self._store.store_id)
        self._ring = Ring(self._store.store_id, keys)
        self._rewrappers = list(rewrappers(self._ring, type(self._store.engine.dialect)))
        return number, resumed

    def count(self) -> int:
        """How many rows there are to be brought over."""
        with _telling(), self._store.engine.connect() as connection:
            return sum(each.count(connection) for each in self._rewrappers)

    def run(self, step: Callable[[int], None], *, give_up: bool = False) -> Rekeyed:
        """Bring everything over; ``step`` is told how many rows were. ``give_up`` what is damaged:
        the old keys go all the same, and with them the last chance to read it."""
        done = _Done()
        with _telling(), self._store.engine.connect() as connection:
            while self._pass(connection, done, step):
                pass
            complete = give_up or not done.skipped
            if complete:
                self._store.write_seal(self._drop_old_keys, self._clock)
                self._store.ring.settle()
        return Rekeyed(
            kek=self._ring.newest,
            rewrapped=done.rewrapped,
            remaced=done.remaced,
            skipped=done.skipped,
            named=done.named,
            complete=complete,
        )

    def _pass(self, connection: sa.Connection, done: _Done, step: Callable[[int], None]) -> bool:
        """Once through all tables; False if there was nothing to bring over.

        What changed between reading and writing counts as something: a row that was written anew
        meanwhile has a new MAC, but perhaps the sealed value that it had."""
        done.skipped, done.named, found = 0, [], False
        for each in self._rewrappers:
            after = None
            while (batch := each.read(connection, after, self._limit)) is not None:
                if batch.updates:
                    found = True
                    self._write(connection, each, batch)
                    done.rewrapped += batch.rewrapped
                    done.remaced += len(batch.updates)
                    step(len(batch.updates))
                done.skipped += len(batch.left)
                done.named += batch.left[: _NAMED - len(done.named)]
                after = batch.after
        return found

    def _new_key(self, tx: Transaction, connection: sa.Connection) -> tuple[int, bool]:
        there = connection.execute(sa.select(tables.seal_ring.c.number)).scalars().all()
        if len(there) > 1:
            return max(there), True
        number, store_id = max(there) + 1, self._store.store_id
        wrapped = seal_ring_key(self._root(connection), os.urandom(KEY_BYTES), store_id, number)
        connection.execute(
            sa.insert(tables.seal_ring).values(number=number, wrapped=wrapped, created_at=tx.now)
        )
        self._record(tx, f"key-encryption key {number} was added")
        return number, False

    def _drop_old_keys(self, tx: Transaction, connection: sa.Connection) -> None:
        ring, newest = tables.seal_ring, self._ring.newest
        old = sa.select(ring.c.number).where(ring.c.number < newest).order_by(ring.c.number)
        numbers = ", ".join(map(str, connection.execute(old).scalars()))
        connection.execute(sa.delete(ring).where(ring.c.number < newest))
        self._record(tx, f"everything is under key {newest}; removed: {numbers}")

    def _record(self, tx: Transaction, reason: str) -> None:
        entry = {"action": Action.REKEY, "key_path": subject("seal", "ring"), "reason": reason}
        tx.record(self._caller, entry)

    def _root(self, connection: sa.Connection) -> bytes:
        return current_root(connection, self._store.store_id, self._store.unlocked)

    def _wait_for_server(self, connection: sa.Connection, number: int) -> None:
        """Until a server that runs has key ``number``. One that starts now reads it itself."""
        until = time.monotonic() + _PATIENCE_SECONDS
        place = self._store.place
        while place.is_served(connection):
            if place.all_have_ring(connection, number):
                return
            if time.monotonic() > until:
                raise error_for(
                    "rekey_blocked",
                    f"The server that runs has not taken up key-encryption key {number} within"
                    f" {_PATIENCE_SECONDS:g} s: it is sealed, or the slot that it was opened by is"
                    " gone, or it hangs. Restart it, and run this again: it goes on with that key.",
                )
            time.sleep(_LOOK_SECONDS)

    def _write(self, connection: sa.Connection, rewrapper: RowRewrapper, batch: Batch) -> None:
        """Commit ``batch``, and give others a turn."""
        served = self._store.place.is_served(connection)
        with writing(connection, self._store.place.begin_beside):
            began = time.monotonic()
            rewrapper.write(connection, batch)
        self._pace(time.monotonic() - began, served=served)
        self._batches += 1
        if served:
            time.sleep(_PAUSE_SECONDS)
        elif self._batches % _FOLD_BATCHES == 0 and connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")

    def _pace(self, seconds: float, *, served: bool) -> None:
        """Have the next transaction take as long as one should."""
        wanted = self._limit * (_SERVED_SECONDS if served else _ALONE_SECONDS) / seconds
        self._limit = int(min(max(wanted, _FEWEST, self._limit / 4), _MOST, self._limit * 2))


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """A fault of the database as ours."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise _blocked(f"The store cannot be read or written: {error.orig}.") from error
    except StoreUnavailableError as error:
        raise _blocked(error.detail) from error


def _blocked(detail: str) -> DoxStoreError:
    return error_for("rekey_blocked", detail)
