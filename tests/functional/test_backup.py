"""Backups for real: made under load, damaged, encrypted, rehearsed, restored, killed on the way."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyrage
import pytest
from tests.functional.kept_connection import connected
from tests.functional.real_servers import Moto
from tests.functional.running import RunningStore, clean_environment, run_doxstore

from dox_core_store.cli.progress import counting
from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.backup.review import Progress
from dox_core_store.server.adapters.sql.store import open_store
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.bootstrap.drills import look_over
from dox_core_store.server.bootstrap.restores import Orders, restore_backup
from dox_core_store.server.bootstrap.unlock import unlock_of
from dox_core_store.server.settings import Settings

REFUSED, CONFIGURATION = 1, 78
CANARY = "canary-of-backups-51e7"
WRITERS = 8
KILLS = 16


class Filled(NamedTuple):
    """A store that is served, a reader's token, and a backup of it."""

    store: RunningStore
    token: str
    backup: Path


def opening(store: RunningStore) -> tuple[str | Path, ...]:
    return ("--data", store.data, "--key-file", store.key_file)


def backup(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_doxstore("backup", *arguments, "--json", **environment)


def done(*arguments: str | Path, **environment: str) -> Any:
    ended = backup(*arguments, **environment)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def refused(code: str, *arguments: str | Path, **environment: str) -> str:
    """The detail of the one error that a command ends with."""
    ended = backup(*arguments, **environment)
    error = json.loads(ended.stderr)["error"]
    assert (error["code"], ended.returncode) == (code, CONFIGURATION), error
    assert error["remedy"]
    assert ended.stdout == ""
    assert CANARY not in ended.stderr
    return str(error["detail"])


def create(store: RunningStore, file: str | Path, *more: str) -> Any:
    return done("create", file, *opening(store), *more)


def restored(source: RunningStore, file: str | Path, folder: Path, *more: str | Path) -> Any:
    """A store restored into ``folder``, not served, and what was said of it."""
    store = RunningStore(folder)
    folder.mkdir()
    shutil.copy(source.key_file, store.key_file)
    said = done("restore", file, *opening(store), *more)
    store.operator, store.admin_token = source.operator, source.admin_token
    return store, said


def signed_export(store: RunningStore) -> list[str]:
    """The ledger, once a checkpoint has signed every change in it."""
    deadline = time.monotonic() + 30
    while True:
        lines = store.request("GET", "/v1/ledger/export").body.decode().splitlines(keepends=True)
        entries = [json.loads(line) for line in lines]
        last = max(each["seq"] for each in entries if each["stream"] == "changes")
        heads = [
            json.loads(each["reason"])["heads"]["changes"][0]
            for each in entries
            if each["action"] == "CHECKPOINT"
        ]
        if heads and max(heads) == last:
            return lines
        assert time.monotonic() < deadline, "nothing signs the changes"
        time.sleep(0.1)


@pytest.fixture
def filled(store: RunningStore, tmp_path: Path) -> Filled:
    store.put("service_keys.one", CANARY)
    store.put("service_keys.two", f"{CANARY}-2")
    store.put("service_keys.two", f"{CANARY}-3")
    store.put("databases.main", f"postgresql://app:{CANARY}@db/main")
    token = store.issue("reader", "service_keys.*", "databases.*")
    file = tmp_path / "made.backup"
    create(store, file)
    return Filled(store, token, file)


# --- making one -------------------------------------------------------------------------------


async def _write(store: RunningStore, acknowledged: list[str], stop: threading.Event) -> None:
    async with connected(store, store.admin_token) as connection:
        for number in itertools.count():
            if stop.is_set():
                return
            key = f"load.k{number % 40}"
            answer = await connection.put(key, CANARY)
            assert answer.status in (200, 201), answer.body
            acknowledged.append(key)


async def _load(store: RunningStore, acknowledged: list[str], stop: threading.Event) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(_write(store, acknowledged, stop))


@pytest.mark.timeout(180)
def test_a_backup_made_while_200_writes_a_second_run_is_whole(
    store: RunningStore, tmp_path: Path
) -> None:
    acknowledged: list[str] = []
    stop = threading.Event()
    writers = threading.Thread(target=lambda: asyncio.run(_load(store, acknowledged, stop)))
    writers.start()
    while len(acknowledged) < 400:
        assert writers.is_alive()
        time.sleep(0.01)
    before, began = list(acknowledged), time.monotonic()
    try:
        made = create(store, tmp_path / "loaded.backup")
        rate = (len(acknowledged) - len(before)) / (time.monotonic() - began)
    finally:
        stop.set()
        writers.join()
    drilled = done("drill", tmp_path / "loaded.backup", *opening(store))
    versions = made["counts"]["version"]
    print(f"{rate:.0f} writes a second, {versions} versions")
    assert drilled["status"] == "ok"
    assert drilled["versions_opened"] + drilled["versions_without_value"] == versions >= len(before)
    assert drilled["ledger"]["entries"] > len(before)
    assert drilled["differences"]["counts"]["only_backup"] == 0
    assert drilled["differences"]["counts"]["newer"] > 0
    assert drilled["differences"]["counts"]["only_live"] == 0
    assert drilled["recorded"]


def test_a_backup_holds_no_value_and_is_its_owners_alone(filled: Filled) -> None:
    raw = filled.backup.read_bytes()
    assert CANARY.encode() not in raw
    assert filled.token.encode() not in raw
    assert filled.backup.stat().st_mode & 0o777 == 0o600
    (entry,) = [each for each in filled.store.export() if each["action"] == "BACKUP"]
    said = json.loads(entry["reason"])
    last = json.loads(raw.splitlines()[-1])["end"]
    assert (said["sha256"], said["bytes"], said["records"]) == (
        last["sha256"],
        len(raw),
        last["records"],
    )


def test_a_file_that_exists_is_replaced_only_on_demand(filled: Filled) -> None:
    before = filled.backup.read_bytes()
    refused("backup_target", "create", filled.backup, *opening(filled.store))
    assert filled.backup.read_bytes() == before
    create(filled.store, filled.backup, "--force")
    assert filled.backup.read_bytes() != before
    assert not list(filled.backup.parent.glob("*.partial"))


def test_a_target_that_is_not_there_is_one_clear_error(filled: Filled, tmp_path: Path) -> None:
    detail = refused("backup_target", "create", tmp_path / "no" / "x", *opening(filled.store))
    assert "No such file" in detail


# --- damage -----------------------------------------------------------------------------------


def nothing_restored(file: Path, filled: Filled, folder: Path) -> str:
    """The code with which a restore is refused; nothing may have been written."""
    settings = Settings(data=str(folder), key_file=str(filled.store.key_file))
    with pytest.raises(ConfigurationError) as caught:
        restore_backup(settings, str(file), Orders(), ask=None, progress=counting)
    assert not folder.exists()
    return caught.value.code


def test_damaged_backups_are_refused_before_anything_is_written(
    filled: Filled, tmp_path: Path
) -> None:
    raw = filled.backup.read_bytes()
    lines = raw.splitlines(keepends=True)
    hurt = tmp_path / "hurt.backup"
    drawn = random.SystemRandom()
    cut = [0, 1, len(lines[0]), len(raw) - 1, len(raw) - len(lines[-1])]
    cases = [raw[:at] for at in (*cut, *(drawn.randrange(len(raw)) for _ in range(15)))]
    for place in (drawn.randrange(len(raw) - 80) for _ in range(40)):
        flipped = bytearray(raw)
        flipped[place] ^= 1 << drawn.randrange(8)
        cases.append(bytes(flipped))
    cases += [b"".join([*lines[:4], *lines[5:]]), raw + lines[4], b"not a backup\n"]
    for case in cases:
        hurt.write_bytes(case)
        assert nothing_restored(hurt, filled, tmp_path / "new") in {"backup_damaged", "store_newer"}
    hurt.write_bytes(cases[-4])
    data = tmp_path / "cli"
    detail = refused("backup_damaged", "restore", hurt, "--data", data)
    assert "not whole" in detail
    assert not data.exists()
    assert json.loads(backup("drill", hurt, *opening(filled.store)).stderr)["error"]["code"] == (
        "backup_damaged"
    )


def test_the_key_of_another_store_opens_no_backup(filled: Filled, tmp_path: Path) -> None:
    other = RunningStore(tmp_path / "other")
    other.init()
    data = tmp_path / "new"
    refused(
        "wrong_key_file", "restore", filled.backup, "--data", data, "--key-file", other.key_file
    )
    assert not data.exists()


# --- encryption -------------------------------------------------------------------------------


def test_an_encrypted_backup_opens_for_its_recipient_alone(filled: Filled, tmp_path: Path) -> None:
    mine, others = (pyrage.x25519.Identity.generate() for _ in range(2))
    files = []
    for name, identity in (("mine", mine), ("others", others)):
        file = tmp_path / f"{name}.txt"
        file.touch(0o600)
        file.write_text(f"# created: today\n# public key: x\n{identity}\n")
        files.append(file)
    sealed, opens = tmp_path / "sealed.age", opening(filled.store)
    create(filled.store, sealed, "--recipient", str(mine.to_public()))
    raw = sealed.read_bytes()
    assert raw.startswith(b"age-encryption.org/v1\n")
    assert b"service_keys" not in raw
    assert b"service_keys" in pyrage.decrypt(raw, [mine])
    refused("backup_encrypted", "drill", sealed, *opens)
    refused("backup_encrypted", "drill", sealed, *opens, "--identity", files[1])
    assert done("drill", sealed, *opens, "--identity", files[0])["status"] == "ok"
    files[0].chmod(0o644)
    refused("bad_setting", "drill", sealed, *opens, "--identity", files[0])
    files[0].chmod(0o600)
    for case in (raw[:-7], raw[: len(raw) // 2], raw[:-900] + bytes([raw[-900] ^ 4]) + raw[-899:]):
        sealed.write_bytes(case)
        refused("backup_damaged", "drill", sealed, *opens, "--identity", files[0])
    refused("bad_setting", "create", tmp_path / "x", *opens, "--recipient", "age1nobody")


# --- drills -----------------------------------------------------------------------------------


def test_a_drill_touches_nothing_of_the_live_store_but_says_so_there(
    filled: Filled, tmp_path: Path
) -> None:
    store = filled.store
    store.put("service_keys.three", CANARY)
    store.put("service_keys.one", f"{CANARY}-new")
    answer = store.request(
        "POST", "/v1/keys/service_keys.two/revoke", json={"version": 2, "reason": "leaked"}
    )
    assert answer.status == 200
    before = [each for each in store.export() if each["stream"] == "changes"]
    files = sorted(path.name for path in store.data.iterdir())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    drilled = done("drill", filled.backup, *opening(store), TMPDIR=str(scratch))
    assert list(scratch.iterdir()) == []
    assert sorted(path.name for path in store.data.iterdir()) == files
    after = [each for each in store.export() if each["stream"] == "changes"]
    assert [each["action"] for each in after[len(before) :]] == ["DRILL"]
    assert json.loads(after[-1]["reason"])["sha256"] == drilled["sha256"]
    named, counts = drilled["differences"]["named"], drilled["differences"]["counts"]
    assert named["only_live"] == ["service_keys.three.production"]
    assert named["newer"] == ["service_keys.one.production: version 2, here 1"]
    assert "service_keys.two.production version 2: revoked, here current" in named["states"]
    assert (counts["only_backup"], counts["slots"]) == (0, 0)
    assert [each["told"] for each in drilled["slots"]] == ["opened it"]
    assert drilled["ledger"]["checkpoints"] >= 0
    assert drilled["versions_opened"] == 6  # ours, and the two secrets of the store itself


def test_a_drill_needs_no_live_store(filled: Filled, tmp_path: Path) -> None:
    drilled = done(
        *("drill", filled.backup, "--data", tmp_path / "none"),
        *("--key-file", filled.store.key_file),
    )
    assert drilled["status"] == "ok"
    assert drilled["differences"] is None
    assert drilled["not_compared"] == "there is no store"
    assert not drilled["recorded"]
    assert not (tmp_path / "none").exists()


def test_a_backup_of_a_store_with_a_changed_row_fails_its_drill(
    filled: Filled, tmp_path: Path
) -> None:
    import sqlite3

    filled.store.stop()
    with sqlite3.connect(filled.store.data / "store.db") as database:
        database.execute("UPDATE version SET state = 'current' WHERE state = 'previous'")
    file = tmp_path / "changed.backup"
    create(filled.store, file)
    ended = backup("drill", file, *opening(filled.store))
    said = json.loads(ended.stdout)
    assert (ended.returncode, said["status"]) == (REFUSED, "damaged")
    assert any(fault.startswith("row version ") for fault in said["faults"])
    code = nothing_restored(file, filled, tmp_path / "new")
    assert code == "backup_damaged"


# --- restoring --------------------------------------------------------------------------------


def test_a_restored_store_hands_out_nothing_until_it_is_signed_off(
    filled: Filled, tmp_path: Path
) -> None:
    filled.store.kill()
    store, said = restored(filled.store, filled.backup, tmp_path / "new")
    assert (said["epoch"], said["reviewed_by"]) == (2, None)
    assert said["unverified"] == ["databases.main.production"]
    assert any("sign-off" in step for step in said["next"])
    store.start()
    try:
        answer = store.get("service_keys.one", filled.token)
        assert (answer.status, answer.json["code"]) == (503, "unreviewed")
        signed = done("sign-off", *opening(store), "--reason", "nothing was revoked since")
        assert signed["reviewed_by"].startswith("local:")
        deadline = time.monotonic() + 10
        while (answer := store.get("service_keys.one", filled.token)).status == 503:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert answer.json["value"] == CANARY
        entries = store.verified_export()
        fresh = [each for each in entries if each["stream"] == "changes-2"]
        assert [each["action"] for each in fresh] == ["RESTORE", "REVIEW"]
        assert json.loads(fresh[0]["reason"])["backup"] == said_digest(filled.backup)
        assert store.put("service_keys.one", f"{CANARY}-later")["version"] == 2
    finally:
        store.stop()
    verified = run_doxstore("ledger", "verify", *opening(store), "--json")
    assert verified.returncode == 0, verified.stdout


def said_digest(file: Path) -> str:
    return str(json.loads(file.read_bytes().splitlines()[-1])["end"]["sha256"])


def test_what_was_taken_away_after_the_backup_stays_away(filled: Filled, tmp_path: Path) -> None:
    store = filled.store
    dead = store.issue("reader")
    other = store.issue("other", "service_keys.*")
    create(store, filled.backup, "--force")
    revoke = {"version": 1, "reason": "leaked"}
    assert store.request("POST", "/v1/keys/service_keys.one/revoke", json=revoke).status == 200
    destroy = store.request("POST", "/v1/keys/service_keys.two/destroy", json={"version": 1})
    assert destroy.status == 200, destroy.body
    token_id = _claim(dead, "jti")
    answer = store.request("POST", f"/v1/tokens/{token_id}/revoke", json={"reason": "leaked"})
    assert answer.status in (200, 204), answer.body
    every = store.request("GET", "/v1/grants").json["items"]
    grants = [each for each in every if "other" in each.values()]
    answer = store.request("DELETE", f"/v1/grants/{grants[0]['grant_id']}")
    assert answer.status in (200, 204), answer.body
    store.put("service_keys.later", CANARY)
    shipped = tmp_path / "ledger.jsonl"
    lines = signed_export(store)
    kept = [line for line in lines if '"stream":"changes"' in line or '"CHECKPOINT"' in line]
    assert len(kept) < len(lines)
    shipped.write_text("".join(kept))
    store.kill()
    copy, said = restored(store, filled.backup, tmp_path / "new", "--checkpoints", shipped)
    assert said["not_applied"] == []
    assert said["applied"] == 4
    assert said["reviewed_by"].startswith("checkpoints up to ")
    copy.start()
    try:
        answer = copy.get("service_keys.one", filled.token)
        assert (answer.status, answer.json["code"]) == (410, "version_revoked")
        assert copy.get("service_keys.two", filled.token).json["value"] == f"{CANARY}-3"
        assert copy.get("service_keys.two", filled.token, version=1).status == 410
        answer = copy.get("service_keys.two", dead)
        assert (answer.status, answer.json["code"]) == (401, "token_revoked")
        assert copy.get("service_keys.two", other).status == 403
        entries = copy.verified_export()
    finally:
        copy.stop()
    fresh = [each["action"] for each in entries if each["stream"] == "changes-2"]
    assert fresh == ["RESTORE", "REVOKE", "DESTROY", "REVOKE_TOKEN", "UNGRANT", "REVIEW"]


def _claim(token: str, name: str) -> Any:
    import base64

    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))[name]


def test_entries_that_do_not_belong_to_the_backup_are_refused(
    filled: Filled, tmp_path: Path
) -> None:
    store = filled.store
    before = signed_export(store)
    store.put("service_keys.later", CANARY)
    create(store, filled.backup, "--force")
    for _ in range(3):
        store.put("service_keys.later", CANARY)
    after = signed_export(store)
    changes = [line for line in after if '"stream":"changes"' in line]
    signed = [line for line in after if '"CHECKPOINT"' in line]
    other = RunningStore(tmp_path / "other")
    other.init()
    other.start()
    try:
        foreign = signed_export(other)
    finally:
        other.stop()
    cases = {
        "older than the backup": before,
        "of another store": foreign,
        "a gap": [*changes[:-2], changes[-1], *signed],
        "cut before what was signed": [*changes[:-1], *signed],
        "unsigned": changes,
        "changed": [line.replace("PUT", "GET") for line in after],
        "no entries": ["{}\n"],
    }
    shipped = tmp_path / "since.jsonl"
    for name, lines in cases.items():
        shipped.write_text("".join(lines))
        settings = Settings(data=str(tmp_path / "new"), key_file=str(store.key_file))
        with pytest.raises(ConfigurationError) as caught:
            restore_backup(
                settings, str(filled.backup), Orders(since=shipped), ask=None, progress=counting
            )
        assert caught.value.code == "bad_checkpoints", name
        assert not (tmp_path / "new").exists(), name


def test_a_copy_that_lives_beside_its_original_has_keys_of_its_own(
    filled: Filled, tmp_path: Path
) -> None:
    original = filled.store
    copy, said = restored(
        original, filled.backup, tmp_path / "new", "--as-new", "--sign-off", "a test system"
    )
    assert said["tokens_revoked"] == 2  # the operator's and the reader's
    assert said["reviewed_by"].startswith("local:")
    copy.start()
    try:
        for token in (filled.token, original.admin_token):
            assert copy.get("service_keys.one", token).status == 401
            assert original.get("service_keys.one", token).status == 200
        made = run_doxstore("operator", "token", copy.operator, *opening(copy))
        assert made.returncode == 0, made.stderr
        copy.admin_token = made.stdout.strip()
        assert copy.get("service_keys.one").json["value"] == CANARY
        assert original.get("service_keys.one", copy.admin_token).status == 401
        keys = [
            store.request("GET", "/.well-known/checkpoint-key.json").json
            for store in (copy, original)
        ]
        assert keys[0]["x"] != keys[1]["x"]
        assert keys[0]["earlier"] == [keys[1]["x"]]
        copy.put("service_keys.one", f"{CANARY}-copy")
        remote = {"KEY_SERVICE_URL": copy.url, "ADMIN_TOKEN": copy.admin_token}
        verified = run_doxstore("ledger", "verify", "--json", **remote)
        assert verified.returncode == 0, verified.stderr + verified.stdout
    finally:
        copy.stop()
    verified = run_doxstore("ledger", "verify", *opening(copy), "--json")
    assert json.loads(verified.stdout)["checkpoints"] > 0, verified.stdout


def test_a_store_is_never_restored_over(filled: Filled) -> None:
    before = (filled.store.data / "store.db").stat().st_ino
    refused("store_exists", "restore", filled.backup, *opening(filled.store))
    assert (filled.store.data / "store.db").stat().st_ino == before
    assert filled.store.get("service_keys.one").status == 200


# --- killed on the way ------------------------------------------------------------------------

RESTORE = """
import sys
from dox_core_store.server.bootstrap.restores import Orders, restore_backup
from dox_core_store.server.settings import Settings
from dox_core_store.cli.progress import counting
sys.stdout.write("go\\n"); sys.stdout.flush()
restore_backup(
    Settings(data=sys.argv[1], key_file=sys.argv[2]), sys.argv[3], Orders(), ask=None,
    progress=counting,
)
"""


def restoring(store: RunningStore, data: Path, file: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", RESTORE, str(data), str(store.key_file), str(file)],
        stdout=subprocess.PIPE,
        env=clean_environment(),
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"go\n"
    return child


def is_whole(store: RunningStore, data: Path, quiet: Progress = counting) -> bool:
    """Whether there is a store; if so it has to be whole, in its new epoch."""
    if not (data / "store.db").exists():
        return False
    alarms: list[str] = []
    settings = Settings(data=str(data), key_file=str(store.key_file))
    opened = open_store(
        SqlitePlace(data),
        unlock=unlock_of(settings, None),
        alarm=lambda table, row: alarms.append(f"{table} {row}"),
    )
    assert opened.epoch == 2
    assert look_over(opened, alarms, quiet).faults == []
    return True


@pytest.mark.timeout(240)
def test_a_restore_that_is_killed_leaves_no_store_or_a_whole_one(
    store: RunningStore, tmp_path: Path
) -> None:
    for number in range(120):
        store.put(f"load.k{number}", CANARY)
    file = tmp_path / "made.backup"
    create(store, file)
    store.stop()
    began = time.monotonic()
    child = restoring(store, tmp_path / "first", file)
    began = time.monotonic()
    assert child.wait(60) == 0
    whole_seconds = time.monotonic() - began
    assert is_whole(store, tmp_path / "first")
    drawn = random.SystemRandom()
    data, whole = tmp_path / "new", 0
    for number in range(KILLS):
        late = number % 4 == 3  # the end is where it counts
        at = drawn.uniform(0.8 if late else 0.0, 1.02) * whole_seconds
        child = restoring(store, data, file)
        time.sleep(at)
        child.kill()
        child.wait(30)
        if is_whole(store, data):
            whole += 1
            shutil.rmtree(data)
    print(f"{KILLS} kills: {KILLS - whole} left no store, {whole} a whole one")
    if data.exists():
        assert not (data / "store.db").exists()
    assert restoring(store, data, file).wait(60) == 0
    assert is_whole(store, data)
    assert list(data.glob(".restore-*")) == []


# --- S3 and the schedule ----------------------------------------------------------------------


@pytest.fixture
def bucket(moto: Moto) -> Iterator[str]:
    client = moto.client("s3")
    name = f"backups-{random.SystemRandom().randrange(10**9)}"
    client.create_bucket(
        Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    yield name
    for each in client.list_objects_v2(Bucket=name).get("Contents", ()):
        client.delete_object(Bucket=name, Key=each["Key"])
    client.delete_bucket(Bucket=name)


def test_a_backup_may_lie_in_a_bucket(
    filled: Filled, moto: Moto, bucket: str, tmp_path: Path
) -> None:
    aws, opens = moto.environment, opening(filled.store)
    address = f"s3://{bucket}/nightly/made.backup"
    made = done("create", address, *opens, **aws)
    stored = moto.client("s3").get_object(Bucket=bucket, Key="nightly/made.backup")
    assert len(stored["Body"].read()) == made["bytes"]
    refused("backup_target", "create", address, *opens, **aws)
    assert done("drill", address, *opens, **aws)["status"] == "ok"
    new = tmp_path / "new"
    opens_new = ("--data", new, "--key-file", filled.store.key_file)
    said = done("restore", address, *opens_new, **aws)
    assert said["epoch"] == 2
    refused("backup_target", "drill", f"s3://{bucket}/none", *opens, **aws)
    gone = aws | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    refused("backup_target", "create", f"s3://{bucket}/x", *opens, **gone)


def metric(store: RunningStore, name: str) -> float:
    text = store.request("GET", "/metrics", token="").body.decode()
    (line,) = [each for each in text.splitlines() if each.startswith(f"{name} ")]
    return float(line.split()[1])


def eventually(what: str, check: Any, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def long_ago(store: RunningStore) -> None:
    """The last backup was made two days before, as far as the store knows."""
    import sqlite3

    with sqlite3.connect(store.data / "store.db", timeout=10) as database:
        database.execute(
            "UPDATE custody_event SET happened_at = happened_at - 172800000000"
            " WHERE name = 'backup'"
        )


@pytest.mark.timeout(180)
def test_a_server_makes_backups_on_a_schedule_and_keeps_the_newest(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    store, target = idle_store, tmp_path / "kept"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    store.environment |= {"DOXSTORE_BACKUP_TO": str(target), "DOXSTORE_BACKUP_KEEP": "2"}
    store.start()
    seen: set[str] = set()
    for count in range(1, 4):
        eventually(f"backup {count}", lambda n=count: store.log_text().count("backup_made") == n)
        seen |= set(_kept(target))
        eventually("its age", lambda: metric(store, "doxstore_backup_age_seconds") < 60)
        if count < 3:
            long_ago(store)
    eventually("two are kept", lambda: len(_kept(target)) == 2)
    assert _kept(target) == sorted(seen)[-2:]
    assert (target / "notes.txt").read_text() == "mine"
    assert metric(store, "doxstore_drill_age_seconds") == float("inf")
    assert metric(store, "doxstore_backup_failures_total") == 0
    assert done("drill", target / _kept(target)[-1], *opening(store))["status"] == "ok"
    eventually("the drill", lambda: metric(store, "doxstore_drill_age_seconds") < 60)
    assert [each["action"] for each in store.export()].count("BACKUP") == 3
    assert store.log_text().count('"event": "backup_made"') == 3


def _kept(target: Path) -> list[str]:
    return sorted(path.name for path in target.glob("doxstore-*.backup"))


def test_a_target_that_is_down_costs_a_warning_and_no_read(
    idle_store: RunningStore, moto: Moto, bucket: str
) -> None:
    idle_store.environment |= moto.environment | {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "DOXSTORE_BACKUP_TO": f"s3://{bucket}/nightly",
    }
    idle_store.start()
    idle_store.put("service_keys.one", CANARY)
    eventually("the failure", lambda: metric(idle_store, "doxstore_backup_failures_total") == 1, 60)
    assert idle_store.get("service_keys.one").status == 200
    assert metric(idle_store, "doxstore_backup_age_seconds") == float("inf")
    assert '"code": "backup_target"' in idle_store.log_text()
    assert CANARY not in idle_store.log_text()
    assert idle_store.stop() == 0


def test_a_schedule_fills_a_bucket_for_its_recipient(
    idle_store: RunningStore, moto: Moto, bucket: str
) -> None:
    identity = pyrage.x25519.Identity.generate()
    idle_store.environment |= moto.environment | {
        "DOXSTORE_BACKUP_TO": f"s3://{bucket}/nightly",
        "DOXSTORE_BACKUP_RECIPIENT": str(identity.to_public()),
    }
    idle_store.start()
    client = moto.client("s3")
    eventually("an object", lambda: client.list_objects_v2(Bucket=bucket).get("KeyCount"))
    (found,) = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert found["Key"].startswith("nightly/doxstore-store_")
    assert found["Key"].endswith(".backup.age")
    raw = client.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()
    assert pyrage.decrypt(raw, [identity]).startswith(b'{"format":"doxstore-backup"')


def test_a_recipient_that_is_none_ends_the_start(idle_store: RunningStore) -> None:
    idle_store.environment["DOXSTORE_BACKUP_RECIPIENT"] = "age1nobody"
    ended = run_doxstore(*idle_store.command()[1:], **idle_store.environment)
    assert ended.returncode == CONFIGURATION
    assert "bad_setting" in ended.stderr
