"""The store's files deleted, rotated or replaced under a running server, while services read.

The server still has the old files open, and could go on committing to what nobody will ever find
again. It refuses instead: nothing leaves without an entry that lasts. What it had put on record
before is not lost, as long as it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.functional.cluster import until
from tests.functional.kept_connection import connected
from tests.functional.running import EXIT_REFUSED, RunningStore, clean_environment, run_doxstore

KEY = "files.key"
VALUE = "value-on-a-lost-file"
READERS = 4
ENOUGH = 50
NOTICED_SECONDS = 2.0
FOLDED_SECONDS = 0.5
"""How often the server copies what its log holds into the database."""

DATABASE = ("store.db", "store.db-wal", "store.db-shm")
FILES = (*DATABASE, "server.lock")


class Reads:
    """What the readers were answered."""

    def __init__(self) -> None:
        self.revealed: list[str] = []
        self.refused: set[tuple[int, str]] = set()
        self.under_way = asyncio.Event()
        self.noticed = asyncio.Event()
        self.last_reveal = 0.0
        self.slowest = 0.0

    async def go_on(self, store: RunningStore, token: str, done: asyncio.Event) -> None:
        async with connected(store, token) as connection:
            while not done.is_set():
                began = time.monotonic()
                answer = await connection.get(KEY)
                self.slowest = max(self.slowest, time.monotonic() - began)
                if answer.status == 200:
                    assert answer.json["value"] == VALUE
                    self.revealed.append(answer.request_id)
                    self.last_reveal = time.monotonic()
                    if len(self.revealed) == ENOUGH:
                        self.under_way.set()
                else:
                    assert VALUE.encode() not in answer.body
                    self.noticed.set()
                    self.refused.add((answer.status, answer.json["code"]))


def while_reading(store: RunningStore, token: str, harm: Callable[[], object]) -> Reads:
    """Read all the time; in the middle of it do ``harm``."""
    reads = Reads()

    async def both() -> None:
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(reads.go_on(store, token, done))
            await reads.under_way.wait()
            harm()
            async with asyncio.timeout(NOTICED_SECONDS):
                await reads.noticed.wait()
            noticed_at = time.monotonic()
            await asyncio.sleep(0.3)
            done.set()
        assert reads.last_reveal < noticed_at + 0.1, "values left after it was noticed"

    asyncio.run(both())
    assert reads.refused == {(503, "ledger_unavailable")}
    assert reads.slowest < NOTICED_SECONDS
    return reads


def check_refuses_everything(store: RunningStore, token: str, *names: str) -> None:
    """Reads, refusals, writes and what takes away: nothing of it would last."""
    for answer in (
        store.get(KEY, token),
        store.get("not.granted", token),
        store.get(KEY, "not-a-token"),
        store.request("GET", "/v1/keys"),
        store.request("PUT", f"/v1/keys/{KEY}", json={"value": "never"}),
        store.request("POST", f"/v1/keys/{KEY}/revoke", json={"reason": "lost"}),
    ):
        assert (answer.status, answer.json["code"]) == (503, "ledger_unavailable"), answer
    ready = store.request("GET", "/v1/ready", token="")
    assert ready.status == 503
    told = ready.json["checks"]["files"]
    assert told.startswith("deleted or replaced: ")
    assert all(name in told for name in names)
    assert store.request("GET", "/v1/health", token="").status == 200
    event = events(store, "files_replaced")[-1]
    assert event["level"] == "critical"
    assert all(name in event["files"] for name in names)


def check_each_reveal_is_on_record_once(store: RunningStore, reads: Reads) -> None:
    statuses: dict[str, list[str]] = {}
    for entry in store.verified_export():
        if entry["action"] == "GET" and entry["version"] is not None:
            statuses.setdefault(entry["request_id"], []).append(entry["status"])
    assert [statuses.pop(each, []) for each in reads.revealed] == [["GRANTED"]] * len(
        reads.revealed
    )
    assert all(found == ["GRANTED", "ABORTED"] for found in statuses.values())


def events(store: RunningStore, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in store.log_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if line["event"] == event]


def doctor(store: RunningStore) -> dict[str, tuple[str, str]]:
    done = run_doxstore("doctor", "--json", "--data", store.data, "--key-file", store.key_file)
    assert "Traceback" not in done.stderr
    checks = json.loads(done.stdout)["checks"]
    return {each["check"]: (each["status"], each["detail"]) for each in checks}


def refused_start(store: RunningStore) -> str:
    done = subprocess.run(
        store.command(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(**store.environment),
    )
    assert done.returncode == EXIT_REFUSED, done.stderr
    return done.stderr


def dump(folder: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(folder / "store.db")) as connection:
        return list(connection.iterdump())


def still_open(store: RunningStore) -> dict[str, Path]:
    """The deleted files that the server has open, by name, as the kernel shows them."""
    found = {}
    for each in Path(f"/proc/{store.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(each.readlink())
            if target.startswith(str(store.data)) and target.endswith(" (deleted)"):
                found[Path(target.removesuffix(" (deleted)")).name] = each
    return found


@pytest.fixture
def token(store: RunningStore) -> str:
    store.put(KEY, VALUE)
    return store.issue("reader", "files.*")


def test_a_file_that_is_moved_away_stops_reads_until_it_is_back(
    store: RunningStore, token: str
) -> None:
    every = Reads()
    for number, name in enumerate(FILES, 1):
        path, aside = store.data / name, store.data / f"{name}.1"
        reads = while_reading(store, token, functools.partial(path.rename, aside))
        check_refuses_everything(store, token, name)
        aside.rename(path)
        deadline = time.monotonic() + 10
        while (answer := store.get(KEY, token)).status != 200:
            assert time.monotonic() < deadline, "reads did not come back"
            time.sleep(0.05)
        every.revealed += [*reads.revealed, answer.request_id]
        assert store.put("files.written", VALUE)["version"] == number
        assert store.request("GET", "/v1/ready", token="").json["checks"]["files"] == "ok"
        assert len(events(store, "files_back")) == number
    check_each_reveal_is_on_record_once(store, every)


def test_a_deleted_database_can_be_taken_from_the_running_server(
    store: RunningStore, token: str
) -> None:
    def delete() -> None:
        for name in DATABASE:
            (store.data / name).unlink()

    reads = while_reading(store, token, delete)
    check_refuses_everything(store, token, *DATABASE)
    assert "store_missing" in doctor(store)["seal"][1]
    for name, opened in still_open(store).items():
        if name != "store.db-shm":  # an index of the log, made anew
            shutil.copyfile(opened, store.data / f"{name}.rescued")
    store.kill()
    assert "store_missing" in refused_start(store)
    for rescued in store.data.glob("*.rescued"):
        rescued.rename(rescued.with_suffix(""))
    assert doctor(store)["history"][0] == "ok"
    store.start()
    check_each_reveal_is_on_record_once(store, reads)
    assert store.get(KEY, token).json["value"] == VALUE


def test_what_a_deleted_log_held_is_in_the_database_at_the_next_start(
    store: RunningStore, token: str
) -> None:
    reads = while_reading(store, token, (store.data / "store.db-wal").unlink)
    check_refuses_everything(store, token, "store.db-wal")
    time.sleep(2 * FOLDED_SECONDS)
    store.kill()
    store.start()
    assert events(store, "history_lost") == []
    check_each_reveal_is_on_record_once(store, reads)
    assert store.get(KEY, token).json["value"] == VALUE


def test_a_database_replaced_by_an_older_copy_is_found_at_once_and_told_at_the_next_start(
    store: RunningStore, token: str, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    for name in DATABASE:
        shutil.copyfile(store.data / name, saved / name)
    store.put("files.later", VALUE)
    until(store.has_noted_all, "it is noted")

    def replace() -> None:
        for name in DATABASE:
            shutil.copyfile(saved / name, store.data / f"{name}.new")
            (store.data / f"{name}.new").replace(store.data / name)

    while_reading(store, token, replace)
    check_refuses_everything(store, token, "store.db", "store.db-wal")
    assert store.stop() == 0
    assert dump(store.data) == dump(saved), "what was put there is not the old server's to write"
    assert doctor(store)["history"][0] == "failure"
    store.start()
    assert store.get(KEY, token).json["code"] == "unreviewed"


def test_a_second_server_does_not_profit_from_a_deleted_lock(
    store: RunningStore, token: str
) -> None:
    (store.data / "server.lock").unlink()
    other = RunningStore(store.folder)
    other.admin_token = store.admin_token
    other.log = store.folder / "other.log"
    try:
        other.start()
        assert other.get(KEY, token).status == 200
        check_refuses_everything(store, token, "server.lock")
        assert store.stop() == 0
        assert other.get(KEY, token).status == 200
        other.verified_export()
    finally:
        other.dispose()
