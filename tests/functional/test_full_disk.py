"""A disk that is really full: a small file system of its own, and the ballast that is kept for it.

Reads are refused, since nothing can be put on record. What takes something away goes on working:
revoking, ending tokens, services and operators. After there is room again nothing is missing.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.functional.running import (
    DOXSTORE,
    Answer,
    RunningStore,
    clean_environment,
    run_doxstore,
)

DISK_MIB = 24
BALLAST_MIB = 4
MIB = 1024 * 1024
VALUE = "value-on-a-full-disk"
REVOCATIONS = 250
REKEYED = 2_000
PATIENCE_SECONDS = 30


class SmallDisk:
    """A file system of `DISK_MIB` in memory, and what fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0700", "tmpfs", folder]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"a file system is needed here: {done.stderr}"

    def fill(self) -> None:
        """Until not one byte is free."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (MIB, 4096):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size) == size:
                        pass
        assert self.free < 4096

    def free_up(self) -> None:
        self._filler.unlink()

    @property
    def free(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.unmount()


@pytest.fixture
def store(tmp_path: Path, disk: SmallDisk, made_store: RunningStore) -> Iterator[RunningStore]:
    """A store on the small disk, served, with its ballast made."""
    environment = {"DOXSTORE_BALLAST_MIB": str(BALLAST_MIB)}
    store = RunningStore(disk.folder / "store", environment=environment)
    store.copy_of(made_store)
    store.log = tmp_path / "server.log"
    store.start()
    eventually(lambda: ballast(store) == BALLAST_MIB * MIB)
    yield store
    store.dispose()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def until_full(store: RunningStore, disk: SmallDisk) -> None:
    """Fill the disk, and write until the room is used up that SQLite's log still has."""
    disk.fill()
    deadline = time.monotonic() + PATIENCE_SECONDS
    body = {"value": "x" * 60_000}
    while not is_full(store.request("PUT", "/v1/keys/full.large", json=body)):
        assert time.monotonic() < deadline, "the disk does not fill up"
        disk.fill()


def ballast(store: RunningStore) -> int:
    path = store.data / "ballast"
    return path.stat().st_size if path.exists() else 0


def post(store: RunningStore, target: str, body: Any = None) -> Answer:
    return store.request("POST", target, json={} if body is None else body)


def checks(store: RunningStore) -> Any:
    return store.request("GET", "/v1/ready", token="").json["checks"]


def is_full(answer: Answer) -> bool:
    return answer.status == 503 and answer.json["code"] == "ledger_unavailable"


def events(store: RunningStore) -> list[str]:
    lines = [line for line in store.log_text().splitlines() if line.startswith("{")]
    return [json.loads(line)["event"] for line in lines]


def check_works_again(store: RunningStore, token: str, key: str) -> None:
    """Reads, writes, readiness; the ballast is whole; the ledger verifies, live and at rest."""
    eventually(lambda: store.get(key, token).status == 200)
    assert store.get(key, token).json["value"] == VALUE
    assert store.put("full.after", VALUE)["version"] >= 1
    assert store.request("GET", "/v1/ready", token="").status == 200
    assert checks(store)["disk"] == "ok"
    eventually(lambda: ballast(store) == BALLAST_MIB * MIB)
    store.verified_export()
    assert store.stop() == 0
    done = run_doxstore("ledger", "verify", "--data", store.data, "--key-file", store.key_file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_revoking_works_hundreds_of_times_while_reads_are_refused(
    store: RunningStore, disk: SmallDisk
) -> None:
    token = store.issue("reader", "full.**")
    for number in range(REVOCATIONS):
        store.put(f"full.k{number}", VALUE)
    store.put("full.kept", VALUE)
    until_full(store, disk)
    assert is_full(store.get("full.kept", token))
    for number in range(REVOCATIONS):
        answer = post(store, f"/v1/keys/full.k{number}/revoke", {"reason": "compromised"})
        assert answer.status == 200, (number, answer.body, disk.free)
        if number % 10 == 0:  # nobody else is served with what the ballast gave up
            assert is_full(store.get("full.kept", token))
            assert is_full(store.request("PUT", "/v1/keys/full.kept", json={"value": "no"}))
    assert ballast(store) < BALLAST_MIB * MIB
    assert checks(store)["disk"] == "full"
    assert store.request("GET", "/v1/ready", token="").status == 503
    metrics = store.request("GET", "/metrics", token="").body.decode()
    assert "doxstore_disk_full 1.0" in metrics
    (held,) = re.findall(r"^doxstore_ballast_bytes (\S+)$", metrics, re.MULTILINE)
    assert float(held) == ballast(store)

    disk.free_up()
    check_works_again(store, token, "full.kept")
    assert {"disk_full", "ballast_given", "disk_has_room"} <= set(events(store))
    store.start()
    for number in range(REVOCATIONS):
        assert store.get(f"full.k{number}", token).json["code"] == "version_revoked"
    entries = store.verified_export()
    revoked = [entry for entry in entries if entry["action"] == "REVOKE"]
    assert len(revoked) == REVOCATIONS


def test_everything_that_takes_away_works_on_a_full_disk(
    store: RunningStore, disk: SmallDisk
) -> None:
    token = store.issue("reader", "full.**")
    for name in ("kept", "revoked", "destroyed"):
        store.put(f"full.{name}", VALUE)
    store.put("full.destroyed", VALUE)
    leaked, granted = store.issue("leaked", "full.kept"), store.issue("granted", "full.kept")
    ended, gone = store.issue("ended", "full.kept"), store.issue("gone", "full.kept")
    grants = store.request("GET", "/v1/grants?service_name=granted").json["items"]
    assert len(grants) == 1
    opened = post(store, "/v1/imports")
    assert opened.status == 201, opened.body
    added = run_doxstore(
        *("operator", "add", "low", "--role", "auditor"),
        *("--data", store.data, "--key-file", store.key_file),
    )
    assert added.returncode == 0, added.stderr
    token_id = json.loads(_payload(leaked))["jti"]
    until_full(store, disk)
    assert is_full(store.get("full.kept", token))

    assert post(store, "/v1/keys/full.revoked/revoke").status == 200
    assert post(store, "/v1/keys/full.destroyed/destroy", {"version": 1}).status == 200
    assert post(store, f"/v1/tokens/{token_id}/revoke").status == 204
    assert post(store, "/v1/services/ended/revoke-tokens").status == 200
    assert post(store, "/v1/services/gone/decommission").status == 200
    for grant in grants:
        answer = store.request("DELETE", f"/v1/grants/{grant['grant_id']}")
        assert answer.status == 204, answer.body
    aborted = post(store, f"/v1/imports/{opened.json['import_id']}/abort")
    assert aborted.status == 200, aborted.body
    disabled = run_doxstore(
        *("operator", "disable", "low", "--data", store.data, "--key-file", store.key_file)
    )
    assert disabled.returncode == 0, disabled.stderr
    # What gives something is refused meanwhile.
    assert is_full(post(store, "/tokens", {"service_name": "reader"}))
    assert is_full(store.request("PUT", "/v1/keys/full.new", json={"value": "never"}))
    refused = run_doxstore(
        *("operator", "add", "other", "--role", "auditor"),
        *("--data", store.data, "--key-file", store.key_file),
    )
    assert (refused.returncode, "Traceback" in refused.stderr) != (0, True)

    disk.free_up()
    eventually(lambda: store.get("full.kept", token).status == 200)
    assert store.get("full.revoked", token).json["code"] == "version_revoked"
    assert store.get("full.destroyed", token, version=1).json["code"] == "version_destroyed"
    for dead in (leaked, ended, gone):
        assert store.get("full.kept", dead).json["code"] == "token_revoked"
    assert store.get("full.kept", granted).json["code"] == "not_authorized"
    assert store.get("full.new").status == 404
    check_works_again(store, token, "full.kept")


def test_a_server_starts_on_a_full_disk_and_revokes(store: RunningStore, disk: SmallDisk) -> None:
    token = store.issue("reader", "full.**")
    store.put("full.kept", VALUE)
    store.put("full.revoked", VALUE)
    until_full(store, disk)
    assert is_full(store.get("full.kept", token))
    store.kill()
    _start_unready(store)
    until_full(store, disk)  # the start may have found room in the log
    assert is_full(store.get("full.kept", token))
    assert post(store, "/v1/keys/full.revoked/revoke").status == 200
    disk.free_up()
    eventually(lambda: store.get("full.kept", token).status == 200)
    assert store.get("full.revoked", token).json["code"] == "version_revoked"
    check_works_again(store, token, "full.kept")


def test_a_disk_that_fills_up_in_the_middle_of_writing(
    store: RunningStore, disk: SmallDisk
) -> None:
    """Every write that was acknowledged is there, every other is not; revoking goes on."""
    token = store.issue("reader", "full.**")
    store.put("full.kept", VALUE)
    stored: list[str] = []
    refused = threading.Event()

    def write() -> None:
        number = 0
        while not refused.is_set():
            name = f"full.w{number}"
            answer = store.request("PUT", f"/v1/keys/{name}", json={"value": VALUE * 100})
            if answer.status == 201:
                stored.append(name)
            else:
                assert is_full(answer), answer.body
                refused.set()
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    eventually(lambda: len(stored) > 20)
    while not refused.is_set():
        disk.fill()
    writer.join(PATIENCE_SECONDS)
    assert refused.is_set()
    assert post(store, f"/v1/keys/{stored[0]}/revoke").status == 200
    disk.free_up()
    eventually(lambda: store.get("full.kept", token).status == 200)
    assert store.get(stored[0], token).json["code"] == "version_revoked"
    for name in stored[1:]:
        assert store.get(name, token).json["value"] == VALUE * 100
    assert store.get(f"full.w{len(stored)}", token).status == 404
    check_works_again(store, token, "full.kept")


def test_a_disk_that_fills_up_in_the_middle_of_an_import(
    store: RunningStore, disk: SmallDisk, tmp_path: Path
) -> None:
    """Nothing of the import is visible, and it can be made again once there is room."""
    token = store.issue("reader", "full.**", "imported.**")
    store.put("full.kept", VALUE)
    store.put("full.revoked", VALUE)
    keys = {"keys": {f"imported.k{number}": {"value": VALUE * 50} for number in range(4_000)}}
    opened = post(store, "/v1/imports")
    import_id = opened.json["import_id"]
    answers = []
    items = [
        {"key_path": path, "environment": "production", "value": each["value"]}
        for path, each in keys["keys"].items()
    ]
    for at in range(0, len(items), 200):
        if at >= 1_000:
            disk.fill()
        slice_ = {"sequence": at // 200, "entries": items[at : at + 200]}
        answers.append(post(store, f"/v1/imports/{import_id}/entries", slice_))
        if answers[-1].status != 200:
            break
    assert is_full(answers[-1]), answers[-1].body
    assert len(answers) > 5
    assert post(store, "/v1/keys/full.revoked/revoke").status == 200
    assert is_full(post(store, f"/v1/imports/{import_id}/commit"))
    disk.free_up()
    eventually(lambda: store.get("full.kept", token).status == 200)
    assert store.get("imported.k0", token).json["code"] == "key_not_found"
    aborted = post(store, f"/v1/imports/{import_id}/abort")
    assert aborted.status == 200, aborted.body
    check_works_again(store, token, "full.kept")


def test_a_disk_that_fills_up_in_the_middle_of_new_sealing_keys(
    store: RunningStore, disk: SmallDisk
) -> None:
    """The rekey stops where it is, revoking goes on, and the rekey is finished once there is room;
    under whichever key a value stands, it opens."""
    token = store.issue("reader", "full.**")
    opened = post(store, "/v1/imports").json["import_id"]
    for at in range(0, REKEYED, 200):
        entries = [
            {"key_path": f"full.k{number}", "environment": "production", "value": VALUE}
            for number in range(at, at + 200)
        ]
        slice_ = {"sequence": at // 200, "entries": entries}
        assert post(store, f"/v1/imports/{opened}/entries", slice_).status == 200
    assert post(store, f"/v1/imports/{opened}/commit").status == 200
    store.put("full.kept", VALUE)
    rekey = [DOXSTORE, "seal", "rekey", "--data", store.data, "--key-file", store.key_file]
    rekeying = subprocess.Popen(
        rekey,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(),
    )
    eventually(lambda: ring_keys(store) == 2)
    hold(rekeying, store)
    until_full(store, disk)
    rekeying.send_signal(signal.SIGCONT)
    said, _ = rekeying.communicate(timeout=PATIENCE_SECONDS)
    assert rekeying.returncode != 0, said
    assert "Traceback" not in said
    assert ring_keys(store) == 2
    revoked = 20
    for number in range(revoked):
        assert post(store, f"/v1/keys/full.k{number}/revoke").status == 200

    disk.free_up()
    eventually(lambda: store.get("full.kept", token).status == 200)
    again = run_doxstore(*rekey[1:], timeout=120)
    assert again.returncode == 0, again.stdout + again.stderr
    assert ring_keys(store) == 1
    for number in range(REKEYED):
        answer = store.get(f"full.k{number}", token)
        if number < revoked:
            assert answer.json["code"] == "version_revoked"
        else:
            assert answer.json["value"] == VALUE
    check_works_again(store, token, "full.kept")


def hold(process: subprocess.Popen[str], store: RunningStore) -> None:
    """Stop ``process`` where it is, but not while it keeps others from writing."""

    def is_held() -> bool:
        process.send_signal(signal.SIGSTOP)
        database = sqlite3.connect(store.data / "store.db", timeout=0)
        with contextlib.closing(database), contextlib.suppress(sqlite3.OperationalError):
            database.execute("BEGIN IMMEDIATE")
            return True
        process.send_signal(signal.SIGCONT)
        return False

    eventually(is_held)


def ring_keys(store: RunningStore) -> int:
    with contextlib.closing(sqlite3.connect(store.data / "store.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM seal_ring").fetchone()[0])


def _start_unready(store: RunningStore) -> None:
    """`RunningStore.start` for a node that answers and is not ready."""
    starting = threading.Thread(target=lambda: _suppressed(store.start), daemon=True)
    starting.start()

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return store.request("GET", "/v1/health", token="").status == 200
        assert starting.is_alive(), store.log_text()
        return False

    eventually(answers)


def _suppressed(start: Callable[[], None]) -> None:
    with contextlib.suppress(AssertionError):
        start()


def _payload(token: str) -> bytes:
    part = token.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
