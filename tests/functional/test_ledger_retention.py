"""Entries that are older than they are kept go; what stays can be proven whole. And a full store.

The old ledger is written by the code that writes every ledger (`LedgerStream`), under an older
clock: three processes of two days each, an entry an hour, the last of them killed. Then a real
server runs on it that keeps two days.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tests.functional.ledger_forgery import CHANGES, Forgery
from tests.functional.running import RunningStore, run_doxstore

from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.seals.key_file import KeyFileHolder
from dox_core_store.server.adapters.seals.unlocking import Unlocking, new_slot
from dox_core_store.server.adapters.sql.custody import new_store_id
from dox_core_store.server.adapters.sql.pruning import Planner
from dox_core_store.server.adapters.sql.store import create_store, open_store
from dox_core_store.server.adapters.sql.stream import LedgerStream
from dox_core_store.server.adapters.sql.transaction import timestamp
from dox_core_store.server.adapters.sqlite.engine import open_engine
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.domain.access import Role
from dox_core_store.server.domain.ledger import Entry

SPECIFICATION = Path(__file__).parents[2] / "docs" / "spec" / "ledger.md"
KEEP = {"DOXSTORE_LEDGER_KEEP_DAYS": "2"}
DAYS, LIFE_HOURS = 6, 48
HOUR = timedelta(hours=1)
MIB = 1024 * 1024


class OlderClock:
    """A clock that stands until it is moved."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def seconds(self) -> float:
        return self.at.timestamp()

    def monotonic(self) -> float:
        return self.at.timestamp()


def insert(connection: sa.Connection, row: tuple[Any, ...]) -> tuple[int, int]:
    (block_id,) = connection.exec_driver_sql(
        "INSERT INTO ledger_block (stream, first_seq, last_seq, first_at, prev, head, body)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING block_id",
        row,
    ).one()
    return block_id, 0


def read_at(at: datetime, number: int) -> Entry:
    """A service reads another key each hour, so that terms of the search index age too."""
    return Entry(
        timestamp=timestamp(at),
        service_name="reader",
        key_path=f"old.k{number}.production",
        action="GET",
        status="GRANTED",
        request_id=f"req_{number:016x}",
        ip_address="127.0.0.1",
        user_agent="",
        environment="production",
        version=1,
        reason="call",
    )


def fill(store: RunningStore) -> None:
    """Six days of a ledger, up to an hour ago."""
    clock = OlderClock(datetime.now(UTC) - timedelta(days=DAYS) - HOUR)
    store.data.mkdir(parents=True)
    create_store(
        SqlitePlace(store.data),
        store_id=(store_id := new_store_id()),
        slot=new_slot(KeyFileHolder(store.key_file), store_id, label=None),
        default_environment="production",
        operator="ada",
        roles=list(Role),
        caller=local_caller(),
        clock=clock,
    )
    opened = open_store(
        SqlitePlace(store.data),
        unlock=Unlocking([KeyFileHolder(store.key_file)]),
        alarm=lambda table, row: pytest.fail(f"{table} {row}"),
    )
    with opened.engine.connect() as connection:
        for life in range(DAYS * 24 // LIFE_HOURS):
            stream = LedgerStream(
                store_id=store_id,
                changes=CHANGES,
                actor=local_caller().name,
                checkpoint_key=opened.checkpoint_key,
                clock=clock,
            )
            stream.open(connection)
            for hour in range(LIFE_HOURS):
                clock.at += HOUR
                number = life * LIFE_HOURS + hour
                entries = [read_at(clock.at, number)] * 3
                stream.append(connection, entries, lambda row: insert(connection, row))
            if life < 2:
                stream.close(connection)
    opened.engine.dispose()
    made = run_doxstore("operator", "token", "ada", *on(store))
    assert made.returncode == 0, made.stderr
    store.operator, store.admin_token, store.store_id = "ada", made.stdout.strip(), store_id


def on(store: RunningStore) -> tuple[str | Path, ...]:
    return ("--data", store.data, "--key-file", store.key_file)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> RunningStore:
    """To be copied, and never served itself."""
    store = RunningStore(tmp_path_factory.mktemp("filled") / "store")
    fill(store)
    return store


@pytest.fixture
def old(filled: RunningStore, tmp_path: Path) -> Iterator[RunningStore]:
    store = RunningStore(tmp_path / "store", environment=KEEP)
    store.copy_of(filled)
    store.store_id = filled.store_id
    yield store
    store.dispose()


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def rows(store: RunningStore, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(store.data / "store.db")) as database:
        return database.execute(query).fetchall()


def events(store: RunningStore, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in store.log_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if line["event"] == event]


def verified(store: RunningStore, *more: str | Path) -> Any:
    done = run_doxstore("ledger", "verify", *on(store), *more, "--json")
    said = json.loads(done.stdout)
    assert (done.returncode == 0) == (said["status"] == "ok"), done.stderr
    return said


def specified(store: RunningStore, key: Any) -> None:
    """The export verifies with the Python of the specification."""
    names: dict[str, Any] = {}
    page = SPECIFICATION.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        exec(compile(block, "ledger.md", "exec"), names)  # noqa: S102 - our own page is on trial
    raw = names["base64"].urlsafe_b64decode(key["x"] + "=")
    lines = store.request("GET", "/v1/ledger/export").body.splitlines()
    heads = names["verify"](lines, store.store_id, Ed25519PublicKey.from_public_bytes(raw))
    assert heads[CHANGES][0] >= 5


def test_what_is_too_old_goes_and_the_rest_can_be_proven(old: RunningStore, tmp_path: Path) -> None:
    before = verified(old)
    old.start()
    until(lambda: bool(events(old, "ledger_pruned")))
    oldest = timestamp(datetime.now(UTC) - timedelta(days=2) - 2 * HOUR)
    export = old.export()
    reads = [entry for entry in export if entry["stream"] != CHANGES]
    assert min(entry["timestamp"] for entry in reads) > oldest
    assert {entry["key_path"] for entry in reads} >= {"old.k143.production", "old.k100.production"}
    changes = [entry for entry in export if entry["stream"] == CHANGES]
    assert [entry["seq"] for entry in changes] == list(range(1, len(changes) + 1))
    prunes = [entry for entry in changes if entry["action"] == "PRUNE"]
    streams = {name for entry in prunes for name in json.loads(entry["reason"])["streams"]}
    assert len(streams) >= 2
    assert all(len(entry["reason"]) < 8_000 for entry in prunes)

    key = old.request("GET", "/.well-known/checkpoint-key.json", token="").json
    specified(old, key)
    key_file, file = tmp_path / "key.json", tmp_path / "export.jsonl"
    key_file.write_text(json.dumps(key))
    file.write_bytes(old.request("GET", "/v1/ledger/export").body)
    done = run_doxstore("ledger", "verify", "--file", file, "--checkpoint-key", key_file)
    assert done.returncode == 0, done.stdout
    assert f"the beginning of {len(streams)} streams" in done.stdout
    after = verified(old)  # beside the server
    assert after["pruned"] == len(streams)
    assert after["entries"] < before["entries"] - 300

    # The search finds what is there, and no posting points nowhere.
    found = old.request("GET", "/v1/ledger?service_name=reader&limit=500").json["items"]
    assert len(found) == sum(entry["service_name"] == "reader" for entry in reads)
    assert old.request("GET", "/v1/ledger?key_path=old.k1").json["items"] == []
    assert len(old.request("GET", "/v1/ledger?key_path=old.k140").json["items"]) == 3
    chunks = {block // 16 for (block,) in rows(old, "SELECT block_id FROM ledger_block")}
    postings = rows(old, "SELECT kind, term, chunks FROM ledger_posting")
    assert all(chunks & set(json.loads(each)) for _kind, _term, each in postings)
    assert not [term for _kind, term, _chunks in postings if term == "old.k30.production"]

    assert old.stop() == 0
    report = json.loads(run_doxstore("doctor", *on(old), "--json").stdout)
    status = {check["check"]: check["status"] for check in report["checks"]}
    assert (status["ledger"], status["ledger and records"], status["room"]) == ("ok", "ok", "ok")
    backup = tmp_path / "store.backup"
    for command in (("create",), ("drill",)):
        done = run_doxstore("backup", *command, backup, *on(old))
        assert done.returncode == 0, done.stdout + done.stderr
    restored = RunningStore(tmp_path / "restored")
    done = run_doxstore(
        *("backup", "restore", backup, "--data", restored.data, "--key-file", old.key_file),
        *("--sign-off", "nothing happened since"),
    )
    assert done.returncode == 0, done.stderr
    shutil.copy(old.key_file, restored.key_file)
    assert verified(restored)["pruned"] == len(streams)


def test_a_beginning_that_nothing_anchors_is_missed(old: RunningStore, tmp_path: Path) -> None:
    old.start()
    until(lambda: bool(events(old, "ledger_pruned")))
    key = tmp_path / "key.json"
    key.write_bytes(old.request("GET", "/.well-known/checkpoint-key.json", token="").body)
    assert old.stop() == 0
    ledger = Forgery(old.data / "store.db")
    begins = next(block for block in ledger.blocks if block.stream != CHANGES)
    stream, seq = begins.stream, json.loads(begins.lines[-1])[8]
    (dropped,) = [
        json.loads(json.loads(line)[14])["streams"][stream]
        for line in ledger.lines(CHANGES)
        if b'"PRUNE"' in line and stream.encode() in line
    ][-1:]
    # One block more than was said, with and without an entry of the attacker's own that says so.
    ledger.drop(lambda block: block.block_id == begins.block_id)
    ledger.save()
    said = verified(old, "--checkpoint-key", key)
    assert (said["stream"], said["seq"]) == (stream, dropped[0] + 1)
    assert "is missing" in said["why"]
    last = ledger.of(CHANGES)[-1]
    reason = json.dumps({"until": "2026", "streams": {stream: [seq, begins.head.hex()]}})
    forged = json.loads(last.lines[-1])
    forged[3], forged[14] = "PRUNE", reason
    top = max(block.block_id for block in ledger.blocks) + 1
    lines = [json.dumps(forged, separators=(",", ":")).encode()]
    ledger.blocks.append(last._replace(block_id=top, lines=lines))
    ledger.rechain(CHANGES, lambda fields: fields)
    ledger.save()
    said = verified(old, "--checkpoint-key", key)
    assert (said["stream"], said["seq"]) == (stream, seq)
    assert "no checkpoint covers" in said["why"]


def test_a_kill_at_any_time_leaves_a_ledger_that_verifies(old: RunningStore) -> None:
    count = "SELECT count(*) FROM ledger_block WHERE instr(body, '\"PRUNE\"')"
    for prunes in (1, 2):
        old.start()
        until(lambda prunes=prunes: rows(old, count)[0][0] >= prunes)  # type: ignore[misc]
        old.kill()
        assert verified(old)["status"] == "ok"
    old.start()
    until(lambda: bool(events(old, "ledger_pruned")))
    assert verified(old)["status"] == "ok"
    oldest = timestamp(datetime.now(UTC) - timedelta(days=2) - 2 * HOUR)
    assert min(e["timestamp"] for e in old.export() if e["stream"] != CHANGES) > oldest


def test_what_was_tampered_with_is_not_dropped(old: RunningStore) -> None:
    ledger = Forgery(old.data / "store.db")
    begins = next(block for block in ledger.blocks if b"old.k1." in block.lines[0])
    forged = [line.replace(b"old.k1.", b"old.k2.") for line in begins.lines]
    ledger.put(begins._replace(lines=forged))
    ledger.save(fix_ends=False)
    old.start()
    until(lambda: bool(events(old, "retention_stopped")))
    (stopped,) = events(old, "retention_stopped")
    assert stopped["stream"] == begins.stream
    assert (begins.block_id,) in rows(old, "SELECT block_id FROM ledger_block")
    assert verified(old)["status"] == "broken"


@pytest.mark.parametrize("years", [1, 20])
def test_a_clock_that_jumped_ahead_drops_next_to_nothing(old: RunningStore, years: int) -> None:
    planner = Planner(store_id=old.store_id, keep_days=2)
    with open_engine(old.data, read_only=True).connect() as connection:
        now = datetime.now(UTC)
        right = planner.plan(connection, now, 10_000)
        ahead = planner.plan(connection, now + timedelta(days=365 * years), 10_000)
    assert right is not None
    assert ahead is not None
    assert 0 <= ahead.blocks - right.blocks <= 6  # a tenth of two days, at an entry an hour


def test_nothing_is_dropped_where_everything_is_kept(filled: RunningStore, tmp_path: Path) -> None:
    store = RunningStore(tmp_path / "store", environment={"DOXSTORE_LEDGER_KEEP_DAYS": "0"})
    store.copy_of(filled)
    before = rows(store, "SELECT count(*) FROM ledger_block")[0][0]
    store.start()
    store.put("some.key", "value")
    assert store.stop() == 0
    assert rows(store, "SELECT count(*) FROM ledger_block")[0][0] > before


# --- a store that is as large as it may be --------------------------------------------------------


def room(store: RunningStore) -> str:
    told: str = store.request("GET", "/v1/ready", token="").json["checks"]["room"]
    return told


def test_a_full_store_refuses_reads_drops_nothing_and_recovers_by_itself(
    idle_store: RunningStore,
) -> None:
    store = idle_store
    used = rows(store, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
    limit = used[0][0] + 2 * MIB
    store.environment["DOXSTORE_LEDGER_MAX_GIB"] = f"{limit / 1024**3:.9f}"
    store.start()
    store.put("room.small", "value")
    token = store.issue("reader", "room.*")
    assert store.get("room.small", token).status == 200
    assert room(store) == "ok"
    for number in range(36):
        store.put("room.large", f"{number:4}" * 16_000)
        if number == 27:
            until(lambda: room(store).startswith("nearly full"))
            assert store.get("room.small", token).status == 200
            (nearly,) = events(store, "ledger_nearly_full")
            assert nearly["level"] == "warning"
    until(lambda: room(store).startswith("full"))
    refused = store.get("room.small", token)
    assert (refused.status, refused.json["code"]) == (503, "ledger_full")
    assert len(events(store, "ledger_full")) == 1
    metrics = store.request("GET", "/metrics", token="").body.decode()
    told = dict(re.findall(r"^(doxstore_store_\w+) (\S+)$", metrics, re.MULTILINE))
    assert float(told["doxstore_store_bytes"]) >= float(told["doxstore_store_limit_bytes"])
    report = run_doxstore("doctor", *on(store), "--json", **store.environment)
    status = {check["check"]: check["status"] for check in json.loads(report.stdout)["checks"]}
    assert status["room"] == "failure"

    assert store.request("POST", "/v1/keys/room.small/revoke", json={}).status == 200
    for version in range(1, 36):
        body = {"version": version, "reason": "makes room"}
        done = store.request("POST", "/v1/keys/room.large/destroy", json=body)
        assert done.status == 200, done.body
    until(lambda: room(store) == "ok")
    assert store.get("room.large").status == 200
    assert store.get("room.small", token).json["code"] == "version_revoked"
    assert len(events(store, "ledger_has_room")) == 1
    assert verified(store)["status"] == "ok"
