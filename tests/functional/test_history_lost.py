"""A database file that is replaced by an older copy of itself, with everything valid in it.

The witness beside it knows better: the store goes on in a new epoch, says so in the ledger, the
log, the metrics and to the doctor, and hands out nothing until somebody has signed it off.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.functional.running import EXIT_REFUSED, RunningStore, run_doxstore

KEY = "lost.key"
VALUE = "value-of-history"
DATABASE = ("store.db", "store.db-wal", "store.db-shm")


def copy_database(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in DATABASE:
        if (source / name).exists():
            shutil.copy(source / name, target / name)


def put_back(store: RunningStore, saved: Path, *, log: bool) -> None:
    """Replace the database by ``saved``, with its log or without any."""
    for name in DATABASE:
        (store.data / name).unlink(missing_ok=True)
    for name in DATABASE if log else DATABASE[:1]:
        if (saved / name).exists():
            shutil.copy(saved / name, store.data / name)


def on_the_store(store: RunningStore, *command: str) -> Any:
    return run_doxstore(*command, "--data", store.data, "--key-file", store.key_file)


def finding(store: RunningStore, check: str) -> dict[str, str]:
    report = json.loads(on_the_store(store, "doctor", "--json").stdout)
    (found,) = [each for each in report["checks"] if each["check"] == check]
    return found


def events(store: RunningStore, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in store.log_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if line["event"] == event]


def verify_everything(store: RunningStore, tmp_path: Path) -> None:
    """The ledger over all epochs: live, at rest, and as an export without the store."""
    store.verified_export()
    export, key = tmp_path / "ledger.jsonl", tmp_path / "checkpoint-key.json"
    export.write_bytes(store.request("GET", "/v1/ledger/export").body)
    key.write_bytes(store.request("GET", "/.well-known/checkpoint-key.json", token="").body)
    done = run_doxstore("ledger", "verify", "--file", export, "--checkpoint-key", key)
    assert done.returncode == 0, done.stdout + done.stderr
    done = on_the_store(store, "ledger", "verify")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("how", ["stopped", "stopped, without its log", "killed"])
def test_an_older_copy_put_back_begins_an_epoch_that_hands_out_nothing(
    idle_store: RunningStore, tmp_path: Path, how: str
) -> None:
    store, saved = idle_store, tmp_path / "saved"
    store.start()
    store.put(KEY, VALUE)
    token = store.issue("reader", "lost.*")
    if how == "killed":
        store.kill()
    else:
        store.stop()
    if how == "stopped, without its log":  # everything in the one file
        on_the_store(store, "operator", "list")
    copy_database(store.data, saved)
    store.start()
    store.put("lost.other", VALUE)
    revoked = store.request("POST", f"/v1/keys/{KEY}/revoke", json={"reason": "compromised"})
    assert revoked.status == 200
    assert store.stop() == 0
    put_back(store, saved, log=how != "stopped, without its log")

    found = finding(store, "history")
    assert found["status"] == "failure"
    assert "changes #" in found["detail"]

    store.start()
    answer = store.get(KEY, token)
    assert (answer.status, answer.json["code"]) == (503, "unreviewed")
    assert VALUE.encode() not in answer.body
    (lost,) = events(store, "history_lost")
    assert lost["level"] == "critical"
    metrics = store.request("GET", "/metrics", token="").body.decode()
    assert re.search(r"^doxstore_history_lost_total 1.0$", metrics, re.MULTILINE)
    assert re.search(r"^doxstore_epoch 2.0$", metrics, re.MULTILINE)
    assert finding(store, "epoch")["status"] != "ok"
    verify_everything(store, tmp_path)
    first = next(entry for entry in store.export() if entry["stream"] == "changes-2")
    assert (first["action"], first["seq"]) == ("HISTORY_LOST", 1)
    assert first["key_path"] == "_store.epochs.2"
    assert re.search(r"seen: epoch 1, changes #\d+.* there: epoch 1, changes #\d+", first["reason"])

    assert store.stop() == 0
    store.start()  # known by now: no third epoch
    assert store.get(KEY, token).json["code"] == "unreviewed"
    assert len(events(store, "history_lost")) == 1
    # Whoever signs off knows what was revoked meanwhile.
    assert store.request("POST", f"/v1/keys/{KEY}/revoke", json={}).status == 200
    store.put("lost.again", VALUE)
    signed = on_the_store(store, "backup", "sign-off", "--reason", "compared with the team")
    assert signed.returncode == 0, signed.stderr
    reader = store.issue("later", "lost.*")
    assert store.get("lost.again", reader).json["value"] == VALUE
    assert store.get(KEY, token).json["code"] == "version_revoked"
    verify_everything(store, tmp_path)


def test_an_older_copy_put_back_twice_never_shares_a_stream(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    store, saved = idle_store, tmp_path / "saved"
    store.start()
    store.put(KEY, VALUE)
    store.stop()
    copy_database(store.data, saved)
    streams = set()
    for epoch in (2, 3):
        store.start()
        store.put(f"lost.k{epoch}", VALUE)
        store.stop()
        put_back(store, saved, log=True)
        store.start()
        streams |= {entry["stream"] for entry in store.verified_export()}
        assert f"changes-{epoch}" in streams
        store.stop()


def test_an_epoch_set_back_to_the_first_does_not_pass_for_reviewed(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    store, saved = idle_store, tmp_path / "saved"
    copy_database(store.data, saved)
    assert on_the_store(store, "operator", "add", "first", "--role", "auditor").returncode == 0
    put_back(store, saved, log=True)
    assert on_the_store(store, "operator", "add", "second", "--role", "auditor").returncode == 0
    (store.data / "seen.json").unlink()
    for erase in ("SELECT 1", "DELETE FROM epoch"):
        with contextlib.closing(sqlite3.connect(store.data / "store.db")) as database, database:
            database.execute("UPDATE store SET epoch = 1")
            database.execute(erase)
        refused = on_the_store(store, "operator", "list")
        assert refused.returncode == EXIT_REFUSED
        assert "store_damaged" in refused.stderr
        assert "later" in refused.stderr


def test_a_command_that_writes_finds_it_out_as_well(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    store, saved = idle_store, tmp_path / "saved"
    copy_database(store.data, saved)
    assert on_the_store(store, "operator", "add", "first", "--role", "auditor").returncode == 0
    put_back(store, saved, log=True)
    assert on_the_store(store, "operator", "add", "second", "--role", "auditor").returncode == 0
    assert finding(store, "epoch")["status"] != "ok"
    store.start()
    actions = [
        entry["action"] for entry in store.verified_export() if entry["stream"] == "changes-2"
    ]
    assert actions[:2] == ["HISTORY_LOST", "ADD_OPERATOR"]


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"epoch": "x"}', b"\xff" * 40])
def test_a_missing_or_damaged_witness_is_written_anew(
    idle_store: RunningStore, content: bytes | None
) -> None:
    store = idle_store
    witness = store.data / "seen.json"
    store.start()
    store.put(KEY, VALUE)
    store.stop()
    if content is None:
        witness.unlink()
    else:
        witness.write_bytes(content)
    store.start()
    assert store.get(KEY).json["value"] == VALUE
    assert len(events(store, "witness_damaged")) == (0 if content is None else 1)
    store.stop()
    assert json.loads(witness.read_bytes())["store_id"] == store.store_id
    assert witness.stat().st_mode & 0o077 == 0


def test_a_kill_is_no_lost_history(idle_store: RunningStore) -> None:
    store = idle_store
    for number in range(5):
        store.start()
        for each in range(20):
            store.put(f"lost.k{number}x{each}", VALUE)
        store.kill()
    store.start()
    assert store.get("lost.k4x19").json["value"] == VALUE
    assert events(store, "history_lost") == []
    assert {entry["stream"] for entry in store.verified_export()} >= {"changes"}
