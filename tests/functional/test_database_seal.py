"""Keys changed on a store in PostgreSQL, beside its nodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.functional.postgres import Postgres
from tests.functional.running import RunningStore, run_doxstore

from dox_core_store.errors import ConflictError
from dox_core_store.server.adapters.sql import rekey as rekey_module
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.bootstrap.local import LocalStore, init_store
from dox_core_store.server.domain.envelope import Binding, mac_number, sealed_number
from dox_core_store.server.domain.vault_task import CopyRecord, VaultAct, VaultTaskRecord
from dox_core_store.server.settings import Settings

NODE = (
    "INSERT INTO node (node_id, name, stream, release, started_at, seen_at, applied, ring)"
    " SELECT '{id}', '{id}', 'str_{id}', '{release}', 0,"
    " (extract(epoch FROM clock_timestamp() + interval '{seen} s') * 1000000)::bigint,"
    " {applied}, {ring}"
)


@pytest.fixture
def settings(database: str, tmp_path: Path) -> Settings:
    """A store that no node serves."""
    made = Settings(
        data=str(tmp_path / "data"), key_file=str(tmp_path / "root.key"), database=database
    )
    init_store(made, operator="lena", roles=["admin"])
    return made


@pytest.fixture
def nodes(database: str, tmp_path: Path) -> Iterator[list[RunningStore]]:
    """Two nodes of one store."""
    first = RunningStore(tmp_path / "first", database=database)
    first.init()
    second = RunningStore(tmp_path / "second", database=database)
    second.folder.mkdir()
    shutil.copy(first.key_file, second.key_file)
    second.admin_token = first.admin_token
    for node in (first, second):
        node.start()
    yield [first, second]
    for node in (first, second):
        node.dispose()


def command(store: RunningStore, *arguments: str) -> Any:
    ended = run_doxstore(
        *arguments, "--database", store.database, "--data", store.data, "--key-file",
        store.key_file, "--json",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def enter_node(postgres: Postgres, settings: Settings, name: str, **said: Any) -> None:
    """As a node does that lives, or did ``seen`` seconds from now."""
    about = {"id": name, "release": "1.0.0", "seen": 0, "applied": 0, "ring": 1, **said}
    postgres.run(settings.database, NODE.format(**about))


def test_new_keys_are_taken_up_by_every_node(nodes: list[RunningStore]) -> None:
    first, second = nodes
    for number in range(20):
        first.put(f"app.key_{number}", f"value-{number}")
    token = first.issue("reader", *(f"app.key_{number}" for number in range(21)))
    assert second.get("app.key_3", token).status == 200
    done = command(first, "seal", "rekey")
    assert (done["kek"], done["complete"], done["skipped"]) == (2, True, 0)
    assert command(first, "seal", "rotate-root")["status"] == "finished"
    second.put("app.key_20", "later")
    for node in nodes:
        for number in range(20):
            assert node.get(f"app.key_{number}", token).json["value"] == f"value-{number}"
        assert node.get("app.key_20", token).json["value"] == "later"
    found = command(second, "doctor")
    assert [each for each in found["checks"] if each["status"] == "failure"] == []
    assert len(found["nodes"]) == 2
    assert all(node["is_live"] and node["has_ring"] for node in found["nodes"])
    other = str(first.folder / "other.key")
    added = command(first, "seal", "slots", "add", "key-file", "--new-key-file", other)
    assert command(second, "seal", "slots", "remove", added["slot_id"], "--yes")


def test_a_node_that_is_stopped_comes_back_with_the_new_keys(nodes: list[RunningStore]) -> None:
    """It was restarted in between, or all of the rotation passed it by."""
    first, second = nodes
    first.put("app.key", "value")
    token = first.issue("reader", "app.key")
    second.kill()
    deadline_free_rekey(first)
    second.start()
    assert second.get("app.key", token).json["value"] == "value"


def deadline_free_rekey(store: RunningStore) -> None:
    """A node that was killed is counted on for ten seconds more; until then one tries again."""
    while True:
        ended = run_doxstore(
            "seal", "rekey", "--database", store.database, "--data", store.data, "--key-file",
            store.key_file, "--json",
        )  # fmt: skip
        if ended.returncode == 0:
            return
        assert json.loads(ended.stderr)["error"]["code"] == "rekey_blocked"


def test_a_node_that_lives_and_lacks_the_key_is_waited_for(
    postgres: Postgres, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rekey_module, "_PATIENCE_SECONDS", 0.0)
    enter_node(postgres, settings, "quiet", seen=3600)
    local = LocalStore(settings)
    with pytest.raises(ConflictError) as refusal:
        local.rekey()
    assert refusal.value.code == "rekey_blocked"
    postgres.run(settings.database, "UPDATE node SET ring = 2")
    done, resumed = local.rekey()
    assert (done.kek, done.complete, resumed) == (2, True, True)


def test_a_node_that_is_not_heard_of_is_not_waited_for(
    postgres: Postgres, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rekey_module, "_PATIENCE_SECONDS", 0.0)
    enter_node(postgres, settings, "dead", seen=-11)
    assert LocalStore(settings).rekey()[0].complete


def test_one_command_at_a_time_changes_the_keys(settings: Settings) -> None:
    local = LocalStore(settings)
    with local._store.place.sealing_alone(), pytest.raises(ConflictError) as refusal:
        LocalStore(settings).rekey()
    assert refusal.value.code == "rekey_blocked"
    assert LocalStore(settings).rekey()[0].complete


def test_places_in_vaults_are_brought_under_the_new_key(settings: Settings) -> None:
    """They are sealed under what their own rows say that they belong to."""
    local = LocalStore(settings)
    store = local._store
    bindings = {
        "vault_task": Binding(local.store_id, "app.gone", "production", "0" * 32),
        "version_copy": Binding(local.store_id, "app.moved", "staging", "1" * 32),
    }
    kept = {name: store.sealer.store(binding, name.encode()) for name, binding in bindings.items()}

    def write(tx: Any) -> None:
        tx.put(
            VaultTaskRecord(
                version_id="0" * 32,
                act=VaultAct.ERASE,
                path="app.gone",
                environment="production",
                vault="aws://eu-central-1/app",
                sealed=kept["vault_task"],
                begun_at=tx.now,
            )
        )
        tx.put(
            CopyRecord(
                copy_id="copy_1",
                version_id="1" * 32,
                vault="",
                path="app.moved",
                environment="staging",
                sealed=kept["version_copy"],
            )
        )
        for number in range(3):
            tx.put(CopyRecord(f"copy_no_{number}", "2" * 32, "", "app.none", "staging", None))

    store.write(write, local._clock)
    done, _resumed = local.rekey()
    assert (done.complete, done.skipped) == (True, 0)
    with store.engine.connect() as connection:
        for name, binding in bindings.items():
            table = tables.metadata.tables[name]
            query = sa.select(table.c.sealed, table.c.mac).where(table.c.sealed.is_not(None))
            ((sealed, mac),) = connection.execute(query).all()
            assert (sealed_number(sealed), mac_number(mac)) == (2, 2)
            assert store.sealer.open(binding, sealed) == name.encode()
    assert local.inspection.custody().ring_keys == 1
    assert local.alarms == []


def test_doctor_names_every_node_and_what_is_wrong_with_it(
    postgres: Postgres, settings: Settings
) -> None:
    local = LocalStore(settings)
    local.add_operator("ada", ["auditor"])
    enter_node(postgres, settings, "current", seen=0, applied=10_000)
    enter_node(postgres, settings, "dead", seen=-25, applied=10_000)
    enter_node(postgres, settings, "late", seen=0, release="0.9.0")
    postgres.run(settings.database, "UPDATE ledger_block SET first_at = first_at - 60000000")
    found = run_doxstore(
        "doctor", "--database", settings.database, "--data", settings.data, "--key-file",
        settings.key_file, "--json",
    )  # fmt: skip
    told = json.loads(found.stdout)
    by_name = {node["name"]: node for node in told["nodes"]}
    assert (by_name["current"]["is_live"], by_name["current"]["behind"]) == (True, 0)
    assert not by_name["dead"]["is_live"]
    assert by_name["late"]["behind"] > 1
    assert by_name["late"]["lag"] > 50
    checks = [(each["check"], each["status"], each["detail"]) for each in told["checks"]]
    (nodes,) = [each for each in checks if each[0] == "nodes"]
    assert nodes[1] == "warning"
    assert "0.9.0, 1.0.0" in nodes[2]
    each_node = {detail.split()[0]: (status, detail) for check, status, detail in checks
                 if check == "node"}  # fmt: skip
    assert each_node["current"][0] == "ok"
    assert each_node["dead"][0] == each_node["late"][0] == "warning"
