"""What stands in the way of a rotation of the sealing keys: it says so, and nothing is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.functional.running import RunningStore, run_doxstore
from tests.functional.test_full_disk import SmallDisk
from tests.functional.test_rekey_kill import (
    Looking,
    Memory,
    check_everything_opens,
    seal,
    settings_of,
)

from dox_core_store.server.bootstrap import LocalStore

STEP_BYTES = 256 * 1024
ROUNDS = 40


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.unmount()


@pytest.fixture
def small_store(
    tmp_path: Path, disk: SmallDisk, made_store: RunningStore
) -> Iterator[RunningStore]:
    store = RunningStore(disk.folder / "store", environment={"DOXSTORE_BALLAST_MIB": "0"})
    store.copy_of(made_store)
    store.log = tmp_path / "server.log"
    store.start()
    yield store
    store.dispose()


def test_a_rekey_on_a_full_disk_stops_and_goes_on_when_there_is_room(
    small_store: RunningStore, disk: SmallDisk
) -> None:
    store, memory = small_store, Memory()
    memory.fill(store)
    assert store.stop() == 0
    disk.fill()
    look = Looking(store)
    begun = [1, 2]
    for _ in range(ROUNDS):  # until there was room for a part of it
        filler = disk.folder / "filler"
        os.truncate(filler, filler.stat().st_size - STEP_BYTES)
        refused = run_doxstore(*seal(store, "rekey")[1:])
        assert refused.returncode == 1, refused.stderr
        error = json.loads(refused.stderr.splitlines()[-1])["error"]
        assert error["code"] == "rekey_blocked"
        assert "full" in error["detail"]
        total, behind = look.progress()
        if look.ring() == begun and behind < total:
            break
    assert look.ring() == begun
    assert 0 < behind < total, "it was met in the middle"
    look.close()

    disk.free_up()
    check_everything_opens(store)
    store.start()
    done = run_doxstore(*seal(store, "rekey")[1:])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["kek"], told["resumed"], told["complete"]) == (2, True, True)
    assert check_everything_opens(store) == {2}
    assert store.get("load.key_7").json["value"] == memory.values["load.key_7"]


def run_seal(store: RunningStore, *arguments: str, key_file: Path | None = None) -> Any:
    """What a `doxstore seal` command says, which must succeed."""
    done = run_doxstore(*seal(store, *arguments, key_file=key_file)[1:])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_server_whose_slot_is_gone_blocks_a_rekey_and_goes_on_serving(
    idle_store: RunningStore,
) -> None:
    store = idle_store
    second = store.folder / "second.key"
    run_seal(store, "slots", "add", "key-file", "--new-key-file", str(second))
    first = LocalStore(settings_of(store)).opened_by.slot_id
    store.start()
    token = store.issue("reader", "app.**")
    store.put("app.key", "one")
    run_seal(store, "slots", "remove", first, "--yes", key_file=second)
    assert run_seal(store, "rotate-root", key_file=second)["status"] == "finished"

    refused = run_doxstore(*seal(store, "rekey", key_file=second)[1:])
    assert refused.returncode == 1
    error = json.loads(refused.stderr.splitlines()[-1])["error"]
    assert error["code"] == "rekey_blocked"
    assert "Restart it" in error["detail"]
    look = Looking(store)
    assert look.ring() == [1, 2]
    assert look.progress()[1] == look.progress()[0], "no row is under a key that it lacks"
    look.close()
    assert store.get("app.key", token).json["value"] == "one"
    assert store.put("app.other", "two")["version"] == 1
    assert store.request("POST", "/v1/keys/app.key/revoke", json={}).status == 200
    assert store.get("app.key", token).status == 410

    assert store.stop() == 0
    store.key_file = second
    store.start()
    told = run_seal(store, "rekey")
    assert (told["kek"], told["resumed"], told["complete"]) == (2, True, True)
    assert store.get("app.other", token).json["value"] == "two"
    assert store.get("app.key", token).status == 410
