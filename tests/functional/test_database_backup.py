"""A store moved from a folder to PostgreSQL and back, and backups beside its nodes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.functional.postgres import Postgres, serving_postgres
from tests.functional.running import DOXSTORE, RunningStore, clean_environment, run_doxstore
from tests.functional.test_database_place import holding, tables_in, wait_for_waiting

from dox_core_store.cli.progress import counting
from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.backup.places import Folder
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.postgresql import loading
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.bootstrap.backups import create_backup, write_backup
from dox_core_store.server.bootstrap.local import LocalStore, init_store
from dox_core_store.server.bootstrap.restores import Orders, restore_backup
from dox_core_store.server.domain.vault_task import CopyRecord
from dox_core_store.server.settings import Settings

REFUSED, USAGE, CONFIGURATION = 1, 2, 78
CANARY = "canary-of-moves-3c9b"


def doxstore(*arguments: str | Path, **environment: str) -> Any:
    """What a command says that ends well."""
    ended = run_doxstore(*arguments, "--json", **environment)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def refused(code: str, *arguments: str | Path, exits: int = CONFIGURATION, **more: str) -> str:
    ended = run_doxstore(*arguments, "--json", **more)
    error = json.loads(ended.stderr)["error"]
    assert (error["code"], ended.returncode) == (code, exits), error
    assert ended.stdout == ""
    return str(error["detail"])


def opening(store: RunningStore) -> tuple[str | Path, ...]:
    where = ("--database", store.database) if store.database else ()
    return (*where, "--data", store.data, "--key-file", store.key_file)


def fill(store: RunningStore) -> str:
    """Keys in every state; a reader's token."""
    for number in range(12):
        store.put(f"app.key_{number}", f"{CANARY}-{number}")
    store.put("app.key_1", "second")
    for act, key in (
        ("rollback", "app.key_1"),
        ("revoke", "app.key_2"),
        ("revoke", "app.key_3"),
        ("destroy", "app.key_3"),
    ):
        named = "to_version" if act == "rollback" else "version"
        answer = store.request("POST", f"/v1/keys/{key}/{act}", json={named: 1})
        assert answer.status in (200, 201), answer.body
    store.put("database_connections.main", "postgresql://app:made-up@db/app")
    return store.issue("reader", *(f"app.key_{number}" for number in range(12)), "app.later")


def check(store: RunningStore, token: str) -> None:
    """It hands out what `fill` stored, and nothing that it took back."""
    for number in (0, 1, 4, 11):
        assert store.get(f"app.key_{number}", token).json["value"] == f"{CANARY}-{number}"
    assert store.get("app.key_1", token, version=2).json["value"] == "second"
    assert (store.get("app.key_2", token).status, store.get("app.key_3", token).status) == (
        410,
        410,
    )
    store.verified_export()


def follower(folder: Path, other: RunningStore, database: str = "") -> RunningStore:
    """Where ``other`` is restored to: opened by the same file."""
    store = RunningStore(folder, database=database)
    folder.mkdir()
    shutil.copy(other.key_file, store.key_file)
    store.admin_token = other.admin_token
    return store


def sound(store: RunningStore) -> None:
    """Every row, every value, the ledger, and what the one says of the others."""
    found = doxstore("doctor", *opening(store))
    bad = [each for each in found["checks"] if each["status"] == "failure"]
    assert bad == []
    checks = {each["check"]: each["detail"] for each in found["checks"]}
    assert checks["values"].endswith("every one opens")
    assert "whole" in checks["ledger"]


def test_a_store_moves_to_postgresql(
    postgres: Postgres, database: str, store: RunningStore, tmp_path: Path
) -> None:
    token = fill(store)
    file = tmp_path / "one.backup"
    doxstore("backup", "create", file, *opening(store))
    store.stop()
    there = follower(tmp_path / "there", store, database)
    restored = doxstore(
        "backup", "restore", file, *opening(there), "--sign-off", "nothing was revoked since"
    )
    assert (restored["epoch"], restored["database"]) == (2, database)
    assert restored["next"][0].startswith(f"doxstore serve --database {database} --data ")
    assert not list(there.data.glob(".restore-*"))
    numbers_go_on(postgres, database)
    there.start()
    check(there, token)
    there.put("app.later", "made in PostgreSQL")
    assert there.get("app.later", token).json["value"] == "made in PostgreSQL"
    drilled = doxstore("backup", "drill", file, *opening(there))
    kinds = ("only_backup", "newer", "states", "slots")
    assert drilled["differences"]["counts"] == {"only_live": 1, **dict.fromkeys(kinds, 0)}
    assert drilled["differences"]["named"]["only_live"] == ["app.later.production"]
    assert drilled["recorded"]
    sound(there)
    there.dispose()


def test_a_store_moves_from_postgresql_to_a_folder(database: str, tmp_path: Path) -> None:
    there = RunningStore(tmp_path / "there", database=database)
    there.init()
    there.start()
    token = fill(there)
    file = tmp_path / "two.backup"
    made = doxstore("backup", "create", file, *opening(there))  # beside the node
    assert made["counts"]["key"] > 12
    assert not set(made["counts"]) & {"node", "lease", "quota", "proof_use"}
    there.stop()
    here = follower(tmp_path / "here", there)
    restored = doxstore("backup", "restore", file, *opening(here), "--sign-off", "nothing")
    assert (restored["epoch"], restored["database"]) == (2, None)
    sound(here)
    here.start()
    check(here, token)
    here.put("app.later", "made in a folder")
    assert here.get("app.later", token).json["value"] == "made in a folder"
    here.dispose()


def test_what_was_revoked_since_is_revoked_in_the_database_too(
    database: str, store: RunningStore, tmp_path: Path
) -> None:
    token = fill(store)
    file, entries = tmp_path / "a.backup", tmp_path / "ledger.jsonl"
    doxstore("backup", "create", file, *opening(store))
    store.request("POST", "/v1/keys/app.key_5/revoke", json={"version": 1})
    store.get("app.key_4", token)
    store.stop()
    store.start()
    entries.write_bytes(store.request("GET", "/v1/ledger/export").body)
    store.stop()
    there = follower(tmp_path / "there", store, database)
    restored = doxstore("backup", "restore", file, *opening(there), "--checkpoints", entries)
    assert (restored["applied"], restored["not_applied"]) == (1, [])
    there.start()
    assert there.get("app.key_5", token).status == 410
    assert there.get("app.key_4", token).status == 200
    there.stop()


def numbers_go_on(postgres: Postgres, database: str) -> None:
    """What hands out new numbers is behind the highest that was restored."""
    for table, column in (("key", "key_id"), ("ledger_block", "block_id"), ("epoch", "epoch")):
        (row,) = postgres.run(
            database,
            f"SELECT nextval(pg_get_serial_sequence('{table}', '{column}')),"  # noqa: S608
            f" (SELECT max({column}) FROM {table})",
        )
        assert row[0] == row[1] + 1, table


# --- a restore that ends before its time ----------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Path]:
    """A store in a folder that nobody serves, and a backup of it."""
    folder = tmp_path_factory.mktemp("kept")
    settings = Settings(data=str(folder / "data"), key_file=str(folder / "root.key"))
    init_store(settings, operator="lena", roles=["admin"])
    file = folder / "a.backup"
    create_backup(settings, str(file), ask=None, recipient=None, force=False, progress=counting)
    return settings, file


def into(kept: tuple[Settings, Path], database: str, folder: Path) -> Settings:
    return Settings(data=str(folder / "data"), key_file=kept[0].key_file, database=database)


def restore(settings: Settings, file: Path) -> None:
    restore_backup(settings, str(file), Orders(sign_off="x"), ask=None, progress=counting)


def test_one_that_was_killed_leaves_no_store_and_can_be_repeated(
    postgres: Postgres, database: str, kept: tuple[Settings, Path], tmp_path: Path
) -> None:
    settings = into(kept, database, tmp_path)
    command = [
        DOXSTORE, "backup", "restore", kept[1], "--database", database, "--data", settings.data,
        "--key-file", settings.key_file, "--sign-off", "x",
    ]  # fmt: skip
    with holding(database):
        child = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment()
        )
        wait_for_waiting(postgres, database, 1)
        child.kill()
        child.communicate(timeout=60)
    assert tables_in(postgres, database) == []
    assert len(list(Path(settings.data).glob(".restore-*"))) == 1
    restore(settings, kept[1])
    assert [each.name for each in LocalStore(settings).operators()] == ["lena"]
    assert not list(Path(settings.data).glob(".restore-*"))


def test_one_that_fails_at_its_last_row_leaves_no_store(
    postgres: Postgres,
    database: str,
    kept: tuple[Settings, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(_self: loading.StoreLoading) -> None:
        raise KeyboardInterrupt

    settings = into(kept, database, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(loading.StoreLoading, "_number_on", end)
        with pytest.raises(KeyboardInterrupt):
            restore(settings, kept[1])
    assert tables_in(postgres, database) == []
    assert not Path(settings.data).exists()
    restore(settings, kept[1])


def test_text_that_only_a_file_takes_is_told_of(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    settings = Settings(data=str(tmp_path / "data"), key_file=str(tmp_path / "root.key"))
    init_store(settings, operator="lena", roles=["admin"])
    local = LocalStore(settings)
    local._store.write(
        lambda tx: tx.put(CopyRecord("copy_1", "0" * 32, "a\0b", "app.key", "staging", None)),
        local._clock,
    )
    file = tmp_path / "a.backup"
    create_backup(settings, str(file), ask=None, recipient=None, force=False, progress=counting)
    there = Settings(data=settings.data, key_file=settings.key_file, database=database)
    with pytest.raises(ConfigurationError, match="A row of version_copy holds") as refusal:
        restore(there, file)
    assert refusal.value.code == "bad_setting"
    assert tables_in(postgres, database) == []


def test_where_there_is_something_already_nothing_is_restored(
    postgres: Postgres, database: str, kept: tuple[Settings, Path], tmp_path: Path
) -> None:
    settings = into(kept, database, tmp_path)
    restore(settings, kept[1])
    with pytest.raises(ConfigurationError) as refusal:
        restore(settings, kept[1])
    assert refusal.value.code == "store_exists"
    other = postgres.create_database()
    postgres.run(other, "CREATE TABLE invoices (n int)")
    with pytest.raises(ConfigurationError) as refusal:
        restore(into(kept, other, tmp_path), kept[1])
    assert refusal.value.code == "bad_setting"
    postgres.drop_database(other)


def test_a_restore_is_told_where_to(
    database: str, kept: tuple[Settings, Path], tmp_path: Path
) -> None:
    """The environment alone does not say it, and not against what the command line says."""
    file, key = kept[1], ("--key-file", kept[0].key_file)
    command = ("backup", "restore", file, *key)
    both = (*command, "--data", tmp_path / "data")
    assert "--database" in refused("usage", *command, exits=USAGE, DOXSTORE_DATABASE=database)
    assert "name a database" in refused("usage", *both, exits=USAGE, DOXSTORE_DATABASE=database)
    doxstore(*both, "--database", "", DOXSTORE_DATABASE=database)
    assert (tmp_path / "data" / "store.db").is_file()


# --- backups of a database ------------------------------------------------------------------------


def test_a_backup_is_of_one_moment_whatever_is_written_meanwhile(
    database: str, tmp_path: Path
) -> None:
    settings = Settings(
        data=str(tmp_path / "data"), key_file=str(tmp_path / "root.key"), database=database
    )
    init_store(settings, operator="lena", roles=["admin"])
    local = LocalStore(settings)
    written: list[str] = []

    def write() -> None:
        written.append(f"later-{len(written)}")
        local.add_operator(written[-1], ["auditor"])

    made = write_backup(
        local._store, Folder(tmp_path), "a.backup", recipient=None, clock=SystemClock(), pause=write
    )
    assert len(written) > 5
    assert made.counts["operator"] == 1
    drilled = doxstore(
        "backup", "drill", tmp_path / "a.backup", "--database", database, "--key-file",
        settings.key_file,
    )  # fmt: skip
    assert (drilled["status"], drilled["faults"]) == ("ok", [])


def test_a_backup_is_rehearsed_though_the_database_is_gone(
    kept: tuple[Settings, Path], tmp_path: Path
) -> None:
    drilled = doxstore(
        "backup", "drill", kept[1], "--database", "postgresql://doxstore@127.0.0.1:1/store",
        "--data", tmp_path, "--key-file", kept[0].key_file,
    )  # fmt: skip
    assert drilled["status"] == "ok"
    assert drilled["not_compared"].startswith("database_unreachable: ")
    assert not drilled["recorded"]


def test_the_ledger_of_a_copied_database_is_verified_without_a_slot(
    postgres: Postgres, database: str, store: RunningStore, tmp_path: Path
) -> None:
    token = fill(store)
    store.get("app.key_0", token)
    key = tmp_path / "checkpoint-key.json"
    key.write_bytes(store.request("GET", "/.well-known/checkpoint-key.json").body)
    file = tmp_path / "a.backup"
    doxstore("backup", "create", file, *opening(store))
    store.stop()
    there = follower(tmp_path / "there", store, database)
    doxstore("backup", "restore", file, *opening(there), "--sign-off", "x")
    command = ("ledger", "verify", "--database", database, "--checkpoint-key", key)
    assert doxstore(*command)["status"] == "ok"
    with psycopg.connect(database) as connection:
        block = connection.execute("SELECT max(block_id) - 3 FROM ledger_block").fetchone()
        connection.execute("UPDATE ledger_block SET body = body || 'x' WHERE block_id = %s", block)
    broken = run_doxstore(*command, "--json")
    assert broken.returncode == REFUSED, broken.stderr


# --- a history that was lost ----------------------------------------------------------------------


def test_a_database_that_was_put_back_is_found_out_by_the_next_command(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path / "data"), key_file=str(tmp_path / "root.key"))
    with serving_postgres(tmp_path / "server") as server:
        there = Settings(
            data=settings.data, key_file=settings.key_file, database=server.create_database()
        )
        init_store(there, operator="lena", roles=["admin"])
        LocalStore(there).add_operator("kept", ["auditor"])
        server.stop()
        server.copy_to(tmp_path / "copy")
        server.start()
        LocalStore(there).add_operator("lost", ["auditor"])
        server.stop()
        server.go_back_to(tmp_path / "copy")
        server.start()
        look = ("--database", there.database, "--data", there.data, "--key-file", there.key_file)
        found = run_doxstore("doctor", *look, "--json")
        assert found.returncode == REFUSED
        checks = {each["check"]: each for each in json.loads(found.stdout)["checks"]}
        assert checks["history"]["status"] == "failure"
        assert "behind what was seen" in checks["history"]["detail"]
        local, other = LocalStore(there), LocalStore(there)  # who both know of it
        local.add_operator("next", ["auditor"])
        other.add_operator("other", ["auditor"])
        assert [each.name for each in local.operators()] == ["kept", "lena", "next", "other"]
        custody = LocalStore(there).inspection.custody()
        assert (custody.epoch, custody.cause, custody.unreviewed) == (2, "history_lost", True)
        assert custody.lost is None
        with local._store.engine.connect() as connection:
            begun = connection.execute(tables.epoch.select()).all()
        assert len(begun) == 1
        doxstore("backup", "sign-off", *look, "--reason", "nothing was revoked")
        doxstore("ledger", "verify", *look)
