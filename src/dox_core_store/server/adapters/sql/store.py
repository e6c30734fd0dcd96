"""Making and opening a store, whatever its place.

Making: a store is there when it is whole, so an interrupted ``init`` leaves no half one. Opening:
look first (present, schema known, key file right, secrets open), write nothing until all of it
holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.jose import TokenSigner, generate_signing_key
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.custody import (
    NewSlot,
    RingSealer,
    Unlock,
    create_custody,
    open_custody,
    read_slots,
)
from dox_core_store.server.adapters.sql.epochs import check_epoch
from dox_core_store.server.adapters.sql.faults import unavailable
from dox_core_store.server.adapters.sql.history import (
    History,
    refuse_clock_behind,
    unnoticed,
)
from dox_core_store.server.adapters.sql.migrate import check_schema, migrate, upgrade
from dox_core_store.server.adapters.sql.place import Place
from dox_core_store.server.adapters.sql.reader import SqlReader
from dox_core_store.server.adapters.sql.tombstones import bury_the_dead, mark_buried
from dox_core_store.server.adapters.sql.transacting import writing
from dox_core_store.server.adapters.sql.transaction import RecordReader, SqlTransaction
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
    "follow_clock",
    "ledger_only",
    "open_store",
    "stored_slots",
]

Result = TypeVar("Result")

ENVIRONMENTS = ("production", "staging", "development")


class OpenedStore(NamedTuple):
    """A store whose seal is open; nothing has been written yet."""

    place: Place
    engine: sa.Engine
    store_id: str
    default_environment: str
    epoch: int
    ring: Ring
    unlocked: UnlockedRoot
    records: RecordReader
    sealer: RingSealer
    signing: Signing
    checkpoint_key: Ed25519PrivateKey
    history: History

    def write(self, work: Work[Result], clock: Clock, *, urgent: bool = False) -> Result:
        """One transaction from outside the servers: those that run follow by the change feed. What
        is urgent is written on a full disk too, as long as there is room kept for it.

        Raises ``clock_behind``, and `StoreUnavailableError` where the database does not take it.
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
                follow_clock(self.place, connection, clock)
                refuse_clock_behind(connection, clock)
                self._go_on(connection, local_caller(), clock)
                with writing(connection, self.place.begin_beside):
                    result = _carried_out(
                        connection, self.records, clock, lambda tx: work(tx, connection)
                    )
                self.history.note(connection)
                return result

        try:
            return self.place.insist(write) if urgent else write()
        except sa.exc.DBAPIError as error:
            raise unavailable(error) from error

    def _go_on(self, connection: sa.Connection, caller: Caller, clock: Clock) -> None:
        """In a new epoch, if history was lost."""
        epoch = self.history.go_on(connection, ring=self.ring, caller=caller, clock=clock)
        if epoch is not None:
            self.records.changes = changes_stream(epoch)


def create_store(
    place: Place,
    *,
    store_id: str,
    slot: NewSlot,
    default_environment: str,
    operator: str,
    roles: Sequence[str],
    caller: Caller,
    clock: Clock,
) -> None:
    """Make a store in ``place``, with one operator.

    Raises `ConfigurationError` ``store_exists``, ``store_read_only``, ``bad_setting``.
    """
    place.check_free()
    if default_environment not in ENVIRONMENTS:
        raise ConfigurationError(
            "bad_setting", f"default_environment takes one of {', '.join(ENVIRONMENTS)}."
        )
    try:
        with place.creating() as connection:
            follow_clock(place, connection, clock)
            _fill(connection, store_id, slot, default_environment, operator, roles, caller, clock)
    except sa.exc.SQLAlchemyError as error:
        raise place.unusable(error) from error


def stored_slots(place: Place) -> tuple[str, list[Slot]]:
    """The id of the store in ``place`` and its slots, which are public: nothing is opened.

    Raises `ConfigurationError` ``store_missing``, ``store_newer``, ``store_damaged``.
    """
    try:
        place.check_present()
        with place.engine(read_only=True).connect() as connection:
            check_schema(connection)
            store_id = connection.execute(sa.select(tables.store.c.store_id)).scalar_one()
            return store_id, read_slots(connection)
    except sa.exc.SQLAlchemyError as error:
        raise place.unusable(error) from error


def ledger_only(place: Place) -> tuple[str, sa.Engine]:
    """The id of the store in ``place``, and an engine that only reads it: for a copy's ledger,
    nothing is opened.

    Raises `ConfigurationError` ``store_missing``, ``store_newer``, ``store_damaged``.
    """
    try:
        place.check_present()
        engine = place.engine(read_only=True)
        with engine.connect() as connection:
            check_schema(connection)
            return connection.execute(sa.select(tables.store.c.store_id)).scalar_one(), engine
    except sa.exc.SQLAlchemyError as error:
        raise place.unusable(error) from error


class Start(NamedTuple):
    """What a server brings, which is going to write: a clock to be checked (and put right by what
    is forgiven), unless it is accepted as it is, and the leave to go on where history was lost.
    ``notice`` hears of that."""

    clock: SystemClock
    accept_clock: bool = False
    notice: Callable[[str, str], None] = unnoticed


def open_store(
    place: Place,
    *,
    unlock: Unlock,
    alarm: Callable[[str, str], None],
    start: Start | None = None,
) -> OpenedStore:
    """Open the store in ``place``. An older schema is upgraded once everything else holds.

    Raises `ConfigurationError` ``store_missing``, ``store_newer``, ``store_read_only``,
    ``store_damaged``, what ``unlock`` raises, and, given a ``start``, ``clock_behind``.
    """
    history = History(place.witness, notice=start.notice if start else unnoticed)
    try:
        place.check_present()
        engine = place.engine()
        # Looking is done read-only: a connection to SQLite that may write would, on closing, move a
        # killed server's log into the file and delete it, whatever we then say.
        with place.engine(read_only=True).connect() as connection:
            check_schema(connection)
            if start is not None:
                follow_clock(place, connection, start.clock)
            if start is not None and not start.accept_clock:
                newest = refuse_clock_behind(connection, start.clock)
                if newest is not None:
                    start.clock.not_before(newest)
            history.look(connection)
            opened = open_custody(connection, engine, unlock)
        with engine.connect() as connection:
            place.check_writable(connection)
            upgrade(connection)
            epoch = check_epoch(connection)
            if start is not None:
                epoch = (
                    history.go_on(
                        connection, ring=opened.ring, caller=local_caller(), clock=start.clock
                    )
                    or epoch
                )
            records = RecordReader(ring=opened.ring, alarm=alarm, changes=changes_stream(epoch))
            bury_the_dead(connection, records)
            sealer = RingSealer(opened.ring, alarm)
            reader = SqlReader(connection=connection, records=records)
            kid = current_key(reader.page(SigningKeyRecord, None, 1_000)).kid
            pem = open_secret(
                sealer,
                opened.store_id,
                signing_key_address(kid),
                reader.version(signing_key_address(kid), None),
            )
            checkpoint = open_secret(
                sealer, opened.store_id, CHECKPOINT_KEY, reader.version(CHECKPOINT_KEY, None)
            )
    except sa.exc.SQLAlchemyError as error:
        raise place.unusable(error) from error
    return OpenedStore(
        place=place,
        engine=engine,
        store_id=opened.store_id,
        default_environment=opened.default_environment,
        epoch=epoch,
        ring=opened.ring,
        unlocked=opened.unlocked,
        records=records,
        sealer=sealer,
        signing=Signing(
            store_id=opened.store_id,
            sealer=sealer,
            signer=_signer(kid, pem),
            make=_signer,
        ),
        checkpoint_key=Ed25519PrivateKey.from_private_bytes(checkpoint),
        history=history,
    )


def follow_clock(place: Place, connection: sa.Connection, clock: Clock) -> None:
    """Many nodes have to agree on the time: it is the database's, where that is a server."""
    before = clock.monotonic()
    seconds = place.now(connection)
    if seconds is not None and isinstance(clock, SystemClock):
        clock.be_at(seconds + (clock.monotonic() - before) / 2)


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
    migrate(connection)
    now = clock.now()
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
    sealer = RingSealer(opened.ring, _no_alarm)
    made = MadeKey(*generate_signing_key())
    checkpoint = Ed25519PrivateKey.generate().private_bytes_raw()

    def work(tx: Transaction) -> None:
        tx.record(
            caller,
            {"action": Action.INIT, "key_path": subject("stores", opened.store_id)},
        )
        enter_signing_key(tx, caller, sealer, store_id, made, at=tx.now)
        keep_secret(tx, caller, sealer, store_id, CHECKPOINT_KEY, checkpoint)
        add_operator(tx, caller, operator, roles)

    _carried_out(connection, RecordReader(ring=opened.ring, alarm=_no_alarm), clock, work)


def _no_alarm(_table: str, _identity: str) -> None:
    """Nobody can have changed a store that is being made."""


def _carried_out(
    connection: sa.Connection, records: RecordReader, clock: Clock, work: Work[Result]
) -> Result:
    """What ``work`` returns, inside the caller's transaction."""
    transaction = SqlTransaction(connection=connection, reader=records, now=clock.now())
    transaction.keep_up()
    result = work(transaction)
    transaction.finish()
    return result


def _signer(kid: str, pem: bytes) -> TokenSigner:
    return TokenSigner(kid=kid, private_pem=pem)
