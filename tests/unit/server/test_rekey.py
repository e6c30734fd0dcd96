"""Other sealing keys for a real store: all opens, every MAC holds, and the old keys are gone."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dox_core_store.errors import ConflictError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.adapters.sql import rekey as rekey_module
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.custody import open_ring
from dox_core_store.server.adapters.sql.rekey import Rekey
from dox_core_store.server.adapters.sqlite.engine import ServerLock, open_engine, sealing_alone
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.bootstrap.local import LocalStore, init_store, local_caller
from dox_core_store.server.bootstrap.unlock import NewHolder
from dox_core_store.server.domain.envelope import Binding, Ring, mac_number, sealed_number
from dox_core_store.server.domain.key import State, TombstoneRecord, VersionRecord, fresh_key
from dox_core_store.server.domain.seal import SlotKind
from dox_core_store.server.ports import Transaction
from dox_core_store.server.settings import Settings

SIZES = (0, 1, 65_536)


class Store:
    """A store on disk, and what its values are."""

    def __init__(self, folder: Path) -> None:
        self.where = Settings(data=str(folder / "data"), key_file=str(folder / "root.key"))
        self.folder = Path(self.where.data)
        self.values: dict[tuple[KeyAddress, str], bytes] = {}

    def opened(self) -> LocalStore:
        return LocalStore(self.where)

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        with open_engine(self.folder).connect() as connection:
            yield connection

    def keep(self, local: LocalStore, name: str, value: bytes) -> VersionRecord:
        """A key with one version, as the use cases would write it."""
        address = KeyAddress(name, "production")
        opened = local._store

        def work(tx: Transaction) -> VersionRecord:
            version_id = secrets.token_hex(16)
            key = replace(
                fresh_key(tx.new_key_id(), address, tx.now), last_number=1, head=version_id
            )
            binding = Binding(opened.store_id, *address, version_id)
            version = VersionRecord(
                version_id=version_id,
                key_id=key.key_id,
                number=1,
                state=State.CURRENT,
                created_at=tx.now,
                created_by="local:test",
                expires_at=None,
                rolled_back_from=None,
                sealed=opened.sealer.store(binding, value),
            )
            tx.put(key)
            tx.put(version)
            return version

        version = opened.write(work, local._clock)
        self.values[address, version.version_id] = value
        return version

    def check(self, *, kek: int, altered: int = 0) -> None:
        """Every value opens and every MAC holds, for a process that starts now."""
        local = self.opened()
        list(local.inspection.check_records())
        assert len(set(local.alarms)) == altered, local.alarms
        with self.connection() as connection:
            for (address, version_id), value in self.values.items():
                query = sa.select(tables.version.c.sealed).where(
                    tables.version.c.version_id == version_id
                )
                sealed = connection.execute(query).scalar_one()
                binding = Binding(local.store_id, *address, version_id)
                assert local._store.sealer.open(binding, sealed) == value
                assert sealed_number(sealed) == kek
        assert self.numbers() == {kek}

    def numbers(self) -> set[int]:
        """Of all keys that any row or the ring names."""
        found: set[int] = set()
        with self.connection() as connection:
            for table in tables.RECORDS.values():
                found.update(map(mac_number, connection.execute(sa.select(table.c.mac)).scalars()))
            sealed = connection.execute(sa.select(tables.version.c.sealed)).scalars()
            found.update(sealed_number(each) for each in sealed if each is not None)
            found.update(connection.execute(sa.select(tables.seal_ring.c.number)).scalars())
        return found

    def ring(self) -> list[int]:
        with self.connection() as connection:
            return sorted(connection.execute(sa.select(tables.seal_ring.c.number)).scalars())

    def alter(self, table: sa.Table, where: Any, **values: Any) -> None:
        with self.connection() as connection:
            done = connection.execute(sa.update(table).where(where).values(values))
            assert done.rowcount == 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with values of every size, a tombstone, and whatever `init` makes."""
    store = Store(tmp_path_factory.mktemp("made"))
    init_store(store.where, operator="root", roles=["admin"])
    local = store.opened()
    for size in SIZES:
        store.keep(local, f"app.size_{size}", secrets.token_bytes(size))
    dead = store.keep(local, "app.dead", b"compromised")

    def bury(tx: Transaction) -> None:
        tx.put(TombstoneRecord(version_id=dead.version_id, state=State.REVOKED, buried_at=tx.now))
        tx.put(replace(dead, state=State.REVOKED))

    local._store.write(bury, local._clock)
    local.operator_token("root", "1h")
    return store


@pytest.fixture
def store(made: Store, tmp_path: Path) -> Store:
    return copy_of(made, tmp_path)


def copy_of(made: Store, folder: Path) -> Store:
    shutil.copytree(made.folder.parent, folder, dirs_exist_ok=True)
    store = Store(folder)
    store.values = dict(made.values)
    return store


def reasons(store: Store, action: str) -> list[str]:
    entries = [each for block in store.opened().ledger() for each in block]
    return [str(each.reason) for each in entries if each.action == action]


def ignore(_step: int) -> None:
    """Progress that nobody watches."""


def test_everything_is_under_the_new_key_and_the_old_one_is_gone(store: Store) -> None:
    done, resumed = store.opened().rekey()
    assert (done.kek, done.skipped, done.complete, resumed) == (2, 0, True, False)
    assert done.rewrapped == len(store.values) + 2, "and the store's own two secrets"
    store.check(kek=2)
    assert reasons(store, "REKEY") == [
        "key-encryption key 2 was added",
        "everything is under key 2; removed: 1",
    ]
    assert store.opened().rekey()[0].kek == 3
    store.check(kek=3)


def test_a_copy_from_before_opens_by_itself_and_only_by_its_own_ring(
    store: Store, tmp_path: Path
) -> None:
    before = copy_of(store, tmp_path / "before")
    store.opened().rekey()
    before.check(kek=1)
    with store.connection() as connection, before.connection() as old:
        root = before.opened()._store.unlocked.root
        assert open_ring(connection, root, before.opened().store_id).keys() == {2}
        assert open_ring(old, root, before.opened().store_id).keys() == {1}


def test_the_replaced_key_and_wrappings_leave_the_file(store: Store) -> None:
    with store.connection() as connection:
        wrapped = list(connection.execute(sa.select(tables.seal_ring.c.wrapped)).scalars())
        sealed = connection.execute(sa.select(tables.version.c.sealed)).scalars().all()
    data_keys = [each[5:65] for each in sealed if each is not None]
    store.opened().rekey()
    kept = b"".join(path.read_bytes() for path in sorted(store.folder.glob("store.db*")))
    assert all(wrapped_key not in kept for wrapped_key in wrapped)
    assert sum(box in kept for box in data_keys) == 0


def test_more_rows_than_a_transaction_takes_are_brought_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rekey_module, "_FIRST", 3)
    monkeypatch.setattr(rekey_module, "_FEWEST", 2)
    monkeypatch.setattr(rekey_module, "_MOST", 4)
    local = store.opened()
    for number in range(60):
        store.keep(local, f"many.key_{number}", b"%d" % number)
    shown: list[int] = []
    rekey = Rekey(store=local._store, caller=local_caller(), clock=local._clock)
    rekey.begin()
    total = rekey.count()
    done = rekey.run(shown.append)
    assert sum(shown) == total == done.remaced
    assert max(shown) <= 4
    store.check(kek=2)


def test_a_rotation_that_was_cut_off_goes_on_with_the_same_key(store: Store) -> None:
    """After any number of rows, and after the key alone."""
    local = store.opened()
    for stop_after in (0, 3, 6, 1_000):
        rekey = Rekey(store=local._store, caller=local_caller(), clock=local._clock)
        number, resumed = rekey.begin()
        assert (number, resumed) == (2, stop_after > 0)
        seen = 0

        def cut_off(step: int, at: int = stop_after) -> None:
            nonlocal seen
            seen += step
            if seen >= at:
                raise KeyboardInterrupt

        rekey._limit = 2
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(rekey_module, "_MOST", 2)
            if stop_after < 1_000:
                with pytest.raises(KeyboardInterrupt):
                    rekey.run(cut_off)
                assert store.ring() == [1, 2]
            else:
                assert rekey.run(cut_off).complete
    store.check(kek=2)


def test_what_is_written_meanwhile_is_under_the_new_key(store: Store) -> None:
    """By a process that opened the store before there was one, at any moment of the rotation."""
    other = store.opened()
    late = store.keep(other, "app.early", b"early")
    written = iter(range(1_000))

    def write(_step: int) -> None:
        store.keep(other, f"app.meanwhile_{next(written)}", b"meanwhile")
        # A change of a row's state leaves its sealed value as it is: the MAC alone is new.
        other._store.write(
            lambda tx: tx.put(
                replace(tx.get(VersionRecord, version_id=late.version_id), created_by="local:x")
            ),
            other._clock,
        )

    local = store.opened()
    rekey = Rekey(store=local._store, caller=local_caller(), clock=local._clock)
    rekey.begin()
    write(0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rekey_module, "_MOST", 2)
        rekey._limit = 2
        assert rekey.run(write).complete
    store.keep(other, "app.late", b"late")
    assert next(written) > 5
    store.check(kek=2)


def test_a_row_that_changes_between_reading_and_writing_is_looked_at_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a new MAC then, and its value is still wrapped under the old key."""
    other, begin, left = store.opened(), SqlitePlace.begin_beside, iter(range(12))
    version_ids = [version_id for _address, version_id in store.values]

    def change_all(tx: Transaction) -> None:
        for version_id in version_ids:
            version = tx.get(VersionRecord, version_id=version_id)
            assert version is not None
            tx.put(replace(version, created_by=f"local:{secrets.token_hex(4)}"))

    local = store.opened()

    def begin_late(place: SqlitePlace, connection: sa.Connection) -> None:
        if place is local._store.place and next(left, None) is not None:
            other._store.write(change_all, other._clock)
        begin(place, connection)

    monkeypatch.setattr(SqlitePlace, "begin_beside", begin_late)
    assert local.rekey()[0].complete
    assert next(left, None) is None, "rows were changed in more than one pass"
    store.check(kek=2)


def test_rows_that_were_altered_are_left_named_and_keep_the_old_key(store: Store) -> None:
    (address, version_id), *_ = store.values
    dead = next(vid for (at, vid) in store.values if at.path == "app.dead")
    store.alter(tables.version, tables.version.c.version_id == dead, state="current")
    store.alter(tables.operator, tables.operator.c.name == "root", generation=9)
    with store.connection() as connection:
        query = sa.select(tables.version.c.sealed).where(tables.version.c.version_id == version_id)
        sealed = bytearray(connection.execute(query).scalar_one())
    sealed[20] ^= 1  # in the wrapped data key
    store.alter(tables.version, tables.version.c.version_id == version_id, sealed=bytes(sealed))

    done, _ = store.opened().rekey()
    assert (done.complete, done.skipped) == (False, 3)
    assert sorted(done.named) == sorted(
        [
            "operator root",
            f"version {version_id} ({address.path}.production)",
            f"version {dead} (app.dead.production)",
        ]
    )
    assert store.ring() == [1, 2]
    local = store.opened()
    list(local.inspection.check_records())
    assert sorted(set(local.alarms)) == ["operator root", f"version {dead}"], "no MAC was made"

    again, resumed = store.opened().rekey(give_up=True)
    assert (again.kek, again.complete, again.skipped, resumed) == (2, True, 3, True)
    assert store.ring() == [2]


@pytest.mark.parametrize(
    "values",
    [{"number": "text"}, {"created_at": "text"}, {"mac": b""}, {"mac": "text"}, {"sealed": b"x"}],
    ids=str,
)
def test_a_row_of_another_shape_stops_nothing(store: Store, values: dict[str, Any]) -> None:
    *_, (_address, version_id) = store.values
    with store.connection() as connection:
        ((name, value),) = values.items()
        statement = f"UPDATE version SET {name} = ? WHERE version_id = ?"  # noqa: S608 - names of ours
        connection.exec_driver_sql(statement, (value, version_id))
    done, _ = store.opened().rekey()
    assert (done.complete, done.skipped) == (False, 1)
    assert version_id in done.named[0]


def test_two_commands_do_not_change_the_keys_at_once(store: Store) -> None:
    local = store.opened()
    with sealing_alone(store.folder):
        for change in (local.rekey, local.rotate_root, local.abort_root_rotation):
            with pytest.raises(ConflictError, match="Another command") as refused:
                change()
            assert refused.value.code == "rekey_blocked"
    assert local.rekey()[0].complete


def test_a_server_that_says_nothing_blocks_it_and_it_goes_on_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rekey_module, "_PATIENCE_SECONDS", 0.0)
    lock = ServerLock(store.folder)
    lock.acquire()
    assert ServerLock(store.folder).is_held()
    with pytest.raises(ConflictError, match="server that runs has not taken up") as refused:
        store.opened().rekey()
    assert refused.value.code == "rekey_blocked"
    assert store.ring() == [1, 2]
    lock.release()
    assert not ServerLock(store.folder).is_held()
    done, resumed = store.opened().rekey()
    assert (done.kek, resumed) == (2, True)
    store.check(kek=2)


def test_a_ring_never_seals_under_one_key_what_it_says_is_under_another() -> None:
    """The keys change under a running server, between any two steps of a thread."""
    keys = {1: b"\x01" * 32}
    ring = Ring("store", keys, more=lambda: keys)
    binding = Binding("store", "a.b", "production", "v")
    before = ring.seal(b"value", binding), ring.mac("key", b"row")
    keys = {1: b"\x01" * 32, 2: b"\x02" * 32}
    ring.refresh()
    after = ring.seal(b"value", binding), ring.mac("key", b"row")
    keys = {2: b"\x02" * 32}
    ring.refresh()
    assert ring.numbers == [1, 2], "what was read before may still be checked"
    for sealed, mac in (before, after):
        assert ring.open(sealed, binding) == b"value"
        assert ring.mac_holds("key", b"row", mac)
    ring.settle()
    assert ring.numbers == [2]
    assert not ring.mac_holds("key", b"row", before[1])
    assert ring.mac_holds("key", b"row", after[1])


def add_file_slot(store: Store, local: LocalStore, name: str) -> Settings:
    """Another key file, away from where an automatic opening looks."""
    path = store.folder.parent / name
    made = local.make_slot(SlotKind.KEY_FILE, NewHolder(key_file=path), None)
    local.add_slot(made)
    return Settings(data=store.where.data, key_file=str(path))


def test_a_new_root_key_needs_every_slot_and_touches_no_value(store: Store) -> None:
    with store.connection() as connection:
        values = sa.select(tables.version.c.sealed, tables.version.c.mac)
        before = connection.execute(values).all()
    local = store.opened()
    root = local._store.unlocked.root
    second, third = (add_file_slot(store, local, name) for name in ("second", "third"))

    done = store.opened().rotate_root()
    assert (done.begun, done.finished, len(done.enrolled), len(done.waiting)) == (True, False, 1, 2)
    assert store.opened()._store.unlocked.root == root, "the old one stays until all are enrolled"
    assert not LocalStore(second).rotate_root().finished
    store.check(kek=1)
    done = LocalStore(third).rotate_root()
    assert (done.begun, done.finished) == (False, True)

    fresh = {LocalStore(each)._store.unlocked.root for each in (store.where, second, third)}
    assert len(fresh) == 1
    assert root not in fresh
    store.check(kek=1)
    with store.connection() as connection:
        assert connection.execute(values).all() == before
        assert connection.execute(sa.select(tables.store.c.next_root)).scalar_one() is None
    assert reasons(store, "ROTATE_ROOT")[-1].startswith("every slot opens")
    assert store.opened().rekey()[0].complete
    store.check(kek=2)


def test_a_new_root_key_can_be_given_up(store: Store) -> None:
    local = store.opened()
    root = local._store.unlocked.root
    second = add_file_slot(store, local, "second")
    assert not local.abort_root_rotation()
    assert not local.rotate_root().finished
    assert LocalStore(second).abort_root_rotation()
    assert store.opened()._store.unlocked.root == root
    # Begun anew it is another one, for which nobody is enrolled yet.
    assert not LocalStore(second).rotate_root().finished
    assert local.rotate_root().finished
    store.check(kek=1)


def test_a_slot_that_is_removed_meanwhile_is_not_waited_for(store: Store) -> None:
    local = store.opened()
    add_file_slot(store, local, "second")
    (waiting,) = local.rotate_root().waiting
    with pytest.raises(ConflictError, match="being enrolled") as refused:
        add_file_slot(store, local, "third")
    assert refused.value.code == "rekey_blocked"
    local.remove_slot(waiting.slot.slot_id)
    assert local.rotate_root().finished
    store.check(kek=1)


def test_a_process_from_before_a_new_root_key_still_learns_new_keys(store: Store) -> None:
    """As long as its slot is there; without it, it writes nothing under a key that is to go."""
    server = store.opened()
    stranded = LocalStore(add_file_slot(store, server, "second"))
    assert not store.opened().rotate_root().finished
    stranded.remove_slot(stranded.opened_by.slot_id)
    assert store.opened().rotate_root().finished
    assert store.opened().rekey()[0].complete
    store.keep(server, "app.followed", b"followed")
    with pytest.raises(ConflictError, match="is gone") as refused:
        store.keep(stranded, "app.stranded", b"stranded")
    assert refused.value.code == "rekey_blocked"
    store.check(kek=2)


Step = Callable[[Store], None]


def _rekey(store: Store) -> None:
    assert store.opened().rekey()[0].complete


def _cut_off(store: Store) -> None:
    local = store.opened()
    rekey = Rekey(store=local._store, caller=local_caller(), clock=local._clock)
    rekey.begin()
    rekey._limit = 2
    with contextlib.suppress(KeyboardInterrupt):  # unless all rows were brought over before
        rekey.run(_interrupt)


def _interrupt(_step: int) -> None:
    raise KeyboardInterrupt


def _rotate_root(store: Store) -> None:
    assert store.opened().rotate_root().finished


def _write(store: Store) -> None:
    store.keep(store.opened(), f"walk.key_{secrets.token_hex(4)}", secrets.token_bytes(9))


def _supersede(store: Store) -> None:
    """A change of a row whose sealed value may still be under an old key."""
    local = store.opened()
    *_, (_address, version_id) = store.values

    def work(tx: Transaction) -> None:
        version = tx.get(VersionRecord, version_id=version_id)
        assert version is not None
        tx.put(replace(version, state=State.PREVIOUS))

    local._store.write(work, local._clock)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(st.sampled_from([_rekey, _cut_off, _rotate_root, _write, _supersede])))
def test_any_walk_of_rotations_and_writes_loses_nothing(
    made: Store, tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    store = copy_of(made, tmp_path_factory.mktemp("walk"))
    for step in steps:
        step(store)
    _rekey(store)
    (number,) = store.ring()
    store.check(kek=number)
