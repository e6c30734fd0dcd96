"""Making and opening an embedded store in a folder.

Making: everything is written under a temporary name and renamed when whole, so an interrupted
``init`` leaves no half store. Opening: look first (present, schema known, key file right, secrets
open), write nothing until all of it holds.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.jose import TokenSigner, generate_signing_key
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.custody import (
    EmbeddedVault,
    NewSlot,
    Unlock,
    create_custody,
    open_custody,
    read_slots,
)
from dox_core_store.server.adapters.sql.epochs import check_epoch
from dox_core_store.server.adapters.sql.migrate import check_schema, upgrade
from dox_core_store.server.adapters.sql.reader import SqlReader
from dox_core_store.server.adapters.sql.tombstones import bury_the_dead, mark_buried
from dox_core_store.server.adapters.sql.transaction import RecordReader, SqlTransaction
from dox_core_store.server.adapters.sqlite.ballast import Ballast, Disk
from dox_core_store.server.adapters.sqlite.engine import (
    DATABASE_FILE,
    begin_beside,
    check_writable,
    open_engine,
)
from dox_core_store.server.adapters.sqlite.history import (
    History,
    refuse_clock_behind,
    unnoticed,
)
from dox_core_store.server.adapters.sqlite.writer import unavailable
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.envelope import Ring
from dox_core_store.server.domain.ledger import CHANGES, Action, changes_stream, genesis
from dox_core_store.server.domain.seal import Slot, UnlockedRoot
from dox_core_store.server.domain.signing_key import SigningKeyRecord
from dox_core_store.server.ports import Clock, Transaction, Work
from dox_core_store.server.usecases.operator import add_operator
from dox_core_store.server.usecases.registry import subject
from dox_core_store.server.usecases.signing_key import (
    MadeKey,
    Signing,
    current_key,
    enter_signing_key,
)
from dox_core_store.server.usecases.store_secret import (
    CHECKPOINT_KEY,
    keep_secret,
    open_secret,
    signing_key_address,
)

__all__ = [
    "OpenedStore",
    "Start",
    "create_store",
    "ledger_only",
    "open_store",
    "stored_slots",
]

Result = TypeVar("Result")

ENVIRONMENTS = ("production", "staging", "development")
_SUFFIXES = ("", "-wal", "-shm")


class OpenedStore(NamedTuple):
    """An embedded store whose seal is open; nothing has been written yet."""

    folder: Path
    engine: sa.Engine
    store_id: str
    default_environment: str
    epoch: int
    ring: Ring
    unlocked: UnlockedRoot
    records: RecordReader
    vault: EmbeddedVault
    signing: Signing
    checkpoint_key: Ed25519PrivateKey
    history: History

    def write(self, work: Work[Result], clock: Clock, *, urgent: bool = False) -> Result:
        """One transaction from outside the server: a running one follows by the change feed. What
        is urgent is written on a full disk too, as long as the ballast lasts.

        Raises ``clock_behind``, and `StoreUnavailableError` where the disk does not take it.
        """
        return self.write_seal(lambda tx, _connection: work(tx), clock, urgent=urgent)

    def write_seal(
        self,
        work: Callable[[Transaction, sa.Connection], Result],
        clock: Clock,
        *,
        urgent: bool = False,
    ) -> Result:
        """`write` for work on the seal's own tables, which hold no records: slots and ring."""

        def write() -> Result:
            with self.engine.connect() as connection:
                refuse_clock_behind(connection, clock)
                self._go_on(connection, local_caller(), clock)
                result = _transact(connection, self.records, clock, lambda tx: work(tx, connection))
                self.history.note(connection)
                return result

        try:
            return Disk(Ballast(self.folder)).insist(write) if urgent else write()
        except sa.exc.DBAPIError as error:
            raise unavailable(error) from error

    def _go_on(self, connection: sa.Connection, caller: Caller, clock: Clock) -> None:
        """In a new epoch, if history was lost."""
        epoch = self.history.go_on(connection, ring=self.ring, caller=caller, clock=clock)
        if epoch is not None:
            self.records.changes = changes_stream(epoch)


def create_store(
    folder: Path,
    *,
    store_id: str,
    slot: NewSlot,
    default_environment: str,
    operator: str,
    roles: Sequence[str],
    caller: Caller,
    clock: Clock,
) -> None:
    """Make a store in ``folder`` (0700), with one operator.

    Raises `ConfigurationError` ``store_exists``, ``store_read_only``, ``bad_setting``.
    """
    target = folder / DATABASE_FILE
    if target.exists():
        raise ConfigurationError("store_exists", f"{folder} holds a store already.")
    if default_environment not in ENVIRONMENTS:
        raise ConfigurationError(
            "bad_setting", f"default_environment takes one of {', '.join(ENVIRONMENTS)}."
        )
    draft = folder / f".{DATABASE_FILE}.{os.getpid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        engine = open_engine(folder, file=draft.name)
        with engine.connect() as connection:
            check_writable(connection)
            _fill(connection, store_id, slot, default_environment, operator, roles, caller, clock)
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        engine.dispose()
        draft.rename(target)
    except OSError as error:
        raise ConfigurationError(
            "store_read_only", f"{folder} cannot be written: {error.strerror}."
        ) from error
    finally:
        for suffix in _SUFFIXES:
            Path(f"{draft}{suffix}").unlink(missing_ok=True)


def stored_slots(folder: Path) -> tuple[str, list[Slot]]:
    """The id of the store in ``folder`` and its slots, which are public: nothing is opened.

    Raises `ConfigurationError` ``store_missing``, ``store_newer``, ``store_damaged``.
    """
    _check_present(folder)
    try:
        with open_engine(folder, read_only=True).connect() as connection:
            check_schema(connection)
            store_id = connection.execute(sa.select(tables.store.c.store_id)).scalar_one()
            return store_id, read_slots(connection)
    except sa.exc.SQLAlchemyError as error:
        raise _unusable(folder, error) from error


def ledger_only(folder: Path, file: str) -> tuple[str, sa.Engine]:
    """The id of a store whose database is ``file`` in ``folder``, and an engine that only reads it:
    for a copy's ledger, nothing is opened.

    Raises `ConfigurationError` ``store_missing``, ``store_newer``, ``store_damaged``.
    """
    if not (folder / file).is_file():
        raise ConfigurationError("store_missing", f"There is no store in {folder}.")
    engine = open_engine(folder, file=file, read_only=True)
    try:
        with engine.connect() as connection:
            check_schema(connection)
            return connection.execute(sa.select(tables.store.c.store_id)).scalar_one(), engine
    except sa.exc.SQLAlchemyError as error:
        raise _unusable(folder, error) from error


class Start(NamedTuple):
    """What a server brings, which is going to write: a clock to be checked (and put right by what
    is forgiven), unless it is accepted as it is, and the leave to go on where history was lost.
    ``notice`` hears of that."""

    clock: SystemClock
    accept_clock: bool = False
    notice: Callable[[str, str], None] = unnoticed


def open_store(
    folder: Path,
    *,
    unlock: Unlock,
    alarm: Callable[[str, str], None],
    start: Start | None = None,
) -> OpenedStore:
    """Open the store in ``folder``. An older schema is upgraded once everything else holds.

    Raises `ConfigurationError` ``store_missing``, ``store_newer``, ``store_read_only``,
    ``store_damaged``, what ``unlock`` raises, and, given a ``start``, ``clock_behind``.
    """
    _check_present(folder)
    engine = open_engine(folder)
    history = History(folder, notice=start.notice if start else unnoticed)
    try:
        # Looking is done read-only: a connection that may write would, on closing, move a killed
        # server's log into the file and delete it, whatever we then say.
        with open_engine(folder, read_only=True).connect() as connection:
            check_schema(connection)
            if start is not None and not start.accept_clock:
                newest = refuse_clock_behind(connection, start.clock)
                if newest is not None:
                    start.clock.not_before(newest)
            history.look(connection)
            opened = open_custody(connection, engine, unlock)
        with engine.connect() as connection:
            check_writable(connection)
            upgrade(connection)
            check_epoch(connection, opened.epoch)
            epoch = opened.epoch
            if start is not None:
                epoch = (
                    history.go_on(
                        connection, ring=opened.ring, caller=local_caller(), clock=start.clock
                    )
                    or epoch
                )
            records = RecordReader(ring=opened.ring, alarm=alarm, changes=changes_stream(epoch))
            bury_the_dead(connection, records)
            vault = EmbeddedVault(opened.ring, alarm)
            reader = SqlReader(connection=connection, records=records)
            kid = current_key(reader.page(SigningKeyRecord, None, 1_000)).kid
            pem = open_secret(
                vault,
                opened.store_id,
                signing_key_address(kid),
                reader.version(signing_key_address(kid), None),
            )
            checkpoint = open_secret(
                vault, opened.store_id, CHECKPOINT_KEY, reader.version(CHECKPOINT_KEY, None)
            )
    except sa.exc.SQLAlchemyError as error:
        raise _unusable(folder, error) from error
    return OpenedStore(
        folder=folder,
        engine=engine,
        store_id=opened.store_id,
        default_environment=opened.default_environment,
        epoch=epoch,
        ring=opened.ring,
        unlocked=opened.unlocked,
        records=records,
        vault=vault,
        signing=Signing(
            store_id=opened.store_id,
            vault=vault,
            signer=_signer(kid, pem),
            make=_signer,
        ),
        checkpoint_key=Ed25519PrivateKey.from_private_bytes(checkpoint),
        history=history,
    )


def _check_present(folder: Path) -> None:
    if not (folder / DATABASE_FILE).is_file():
        raise ConfigurationError("store_missing", f"There is no store in {folder}.")
    if (folder / DATABASE_FILE).stat().st_size == 0:  # SQLite would begin anew and drop the log
        raise ConfigurationError("store_damaged", f"The store's file in {folder} is empty.")


def _fill(
    connection: sa.Connection,
    store_id: str,
    slot: NewSlot,
    default_environment: str,
    operator: str,
    roles: Sequence[str],
    caller: Caller,
    clock: Clock,
) -> None:
    upgrade(connection)
    now = clock.now()
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    opened = create_custody(
        connection,
        store_id=store_id,
        default_environment=default_environment,
        slot=slot,
        now=now,
    )
    connection.execute(
        sa.insert(tables.environment), [{"name": name, "created_at": now} for name in ENVIRONMENTS]
    )
    connection.execute(
        sa.insert(tables.ledger_stream).values(
            stream=CHANGES, opened_at=now, last_seq=0, head=genesis(opened.store_id, CHANGES)
        )
    )
    mark_buried(connection, now)
    connection.exec_driver_sql("COMMIT")
    vault = EmbeddedVault(opened.ring, _no_alarm)
    made = MadeKey(*generate_signing_key())
    checkpoint = Ed25519PrivateKey.generate().private_bytes_raw()

    def work(tx: Transaction) -> None:
        tx.record(
            caller,
            {"action": Action.INIT, "key_path": subject("stores", opened.store_id)},
        )
        enter_signing_key(tx, caller, vault, store_id, made, at=tx.now)
        keep_secret(tx, caller, vault, store_id, CHECKPOINT_KEY, checkpoint)
        add_operator(tx, caller, operator, roles)

    records = RecordReader(ring=opened.ring, alarm=_no_alarm)
    _transact(connection, records, clock, work)


def _no_alarm(_table: str, _identity: str) -> None:
    """Nobody can have changed a store that is being made."""


def _transact(
    connection: sa.Connection, records: RecordReader, clock: Clock, work: Work[Result]
) -> Result:
    begin_beside(connection)
    try:
        transaction = SqlTransaction(connection=connection, reader=records, now=clock.now())
        transaction.keep_up()
        result = work(transaction)
        transaction.finish()
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        with contextlib.suppress(sa.exc.DBAPIError):  # SQLite may have rolled back itself
            connection.exec_driver_sql("ROLLBACK")
        raise
    return result


def _signer(kid: str, pem: bytes) -> TokenSigner:
    return TokenSigner(kid=kid, private_pem=pem)


def _unusable(folder: Path, error: Exception) -> ConfigurationError:
    """A fault of the database file as ours, by SQLite's own words."""
    said = str(getattr(error, "orig", error))
    if "readonly" in said or "unable to open" in said:
        return ConfigurationError(
            "store_read_only", f"The store in {folder} cannot be written: {said}."
        )
    if "full" in said:
        return ConfigurationError("store_read_only", f"The disk of {folder} is full: {said}.")
    if "locked" in said:
        return ConfigurationError("store_locked", f"The store in {folder} is busy: {said}.")
    return ConfigurationError("store_damaged", f"The store in {folder} is unusable: {said}.")
