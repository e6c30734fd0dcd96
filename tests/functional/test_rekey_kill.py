"""Rotations of the sealing keys that are killed, beside a server that is read and written, and that
is killed too: no read fails, every value opens at every moment, and at last each one finishes."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import json
import random
import secrets
import shutil
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.functional.kept_connection import KeptConnection, connected
from tests.functional.running import DOXSTORE, RunningStore, clean_environment, run_doxstore

from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.bootstrap import LocalStore
from dox_core_store.server.domain.envelope import Binding, sealed_number
from dox_core_store.server.settings import Settings

KEYS = 3_000
SLICE = 100
REKEY_KILLS = 22
SERVER_EVERY = 6
ROOT_KILLS = 16
ROOT_KILLS_AT_LEAST = 10
"""The others had nothing left to do, or were done first."""

READERS = 4
WRITERS = 1
SEED = 20_25
PATIENCE_SECONDS = 60
TABLES = [table.name for table in tables.RECORDS.values()]


class Memory:
    """What the clients sent and were told: the only witness against the store."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.reads = self.writes = 0
        self.refused: list[tuple[int, bytes]] = []

    def fill(self, store: RunningStore) -> None:
        """`KEYS` keys, by an import."""
        self.values = {f"load.key_{number}": secrets.token_hex(12) for number in range(KEYS)}
        made = store.request("POST", "/v1/imports").json["import_id"]
        entries = [
            {"key_path": path, "environment": "production", "value": value}
            for path, value in self.values.items()
        ]
        for sequence, at in enumerate(range(0, KEYS, SLICE)):
            body = {"sequence": sequence, "entries": entries[at : at + SLICE]}
            answer = store.request("POST", f"/v1/imports/{made}/entries", json=body)
            assert answer.status == 200, answer.body
        assert store.request("POST", f"/v1/imports/{made}/commit", json={}).status == 200


async def read(connection: KeptConnection, memory: Memory, luck: random.Random) -> None:
    """By number too: such a value comes from its row each time, and not from memory."""
    paths = list(memory.values)
    while True:
        path = luck.choice(paths)
        answer = await connection.get(path, luck.choice([None, 1]))
        memory.reads += 1
        if answer.status != 200:
            memory.refused.append((answer.status, answer.body))
        else:
            assert answer.json["value"] == memory.values[path]


async def write(connection: KeptConnection, memory: Memory, _luck: random.Random) -> None:
    """Keys of its own, each superseded at once: a new MAC over an old sealed value."""
    for number in itertools.count():
        path = f"written.key_{secrets.token_hex(4)}_{number}"
        for value in (secrets.token_hex(8), secrets.token_hex(8)):
            answer = await connection.put(path, value)
            memory.writes += 1
            if answer.status not in (200, 201):
                memory.refused.append((answer.status, answer.body))


@contextlib.asynccontextmanager
async def load(store: RunningStore, token: str, memory: Memory) -> AsyncIterator[None]:
    """Reads and writes without a pause, for as long as the block lasts or the server lives."""
    luck = random.Random(secrets.token_bytes(8))  # noqa: S311 - which key is read next

    async def one(who: str, work: Callable[..., Any]) -> None:
        with contextlib.suppress(ConnectionError):
            async with connected(store, who) as connection:
                await work(connection, memory, luck)

    tasks = [asyncio.create_task(one(token, read)) for _ in range(READERS)]
    tasks += [asyncio.create_task(one(store.admin_token, write)) for _ in range(WRITERS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
                raise ended


class Looking:
    """The database, as anyone who may read the file sees it."""

    def __init__(self, store: RunningStore) -> None:
        self._connection = sqlite3.connect(f"file:{store.data / 'store.db'}?mode=ro", uri=True)

    def ring(self) -> list[int]:
        return [n for (n,) in self._connection.execute("SELECT number FROM seal_ring ORDER BY 1")]

    def progress(self) -> tuple[int, int]:
        """How many rows there are, and how many are not under the newest key."""
        number = max(self.ring()).to_bytes(4)
        total = behind = 0
        for table in TABLES:
            query = f'SELECT count(*), total(substr(mac, 1, 4) <> ?) FROM "{table}"'  # noqa: S608
            all_rows, old = self._connection.execute(query, (number,)).fetchone()
            total, behind = total + all_rows, behind + int(old)
        return total, behind

    def root(self) -> tuple[bytes, bool, int]:
        """The root check, whether a new root key is being enrolled, and for how many slots."""
        check, is_open = self._connection.execute(
            "SELECT root_check, next_root IS NOT NULL FROM store"
        ).fetchone()
        query = "SELECT count(next_root) FROM seal_slot"
        return check, bool(is_open), self._connection.execute(query).fetchone()[0]

    def close(self) -> None:
        self._connection.close()


def settings_of(store: RunningStore, key_file: Path | None = None) -> Settings:
    return Settings(data=str(store.data), key_file=str(key_file or store.key_file))


def check_everything_opens(store: RunningStore, key_file: Path | None = None) -> set[int]:
    """By a process that opens the store now; the numbers of the keys that values are under."""
    local = LocalStore(settings_of(store, key_file))
    list(local.inspection.check_records())
    assert local.alarms == []
    key, version = tables.key.c, tables.version.c
    query = sa.select(key.path, key.environment, version.version_id, version.sealed).join(
        tables.key, key.key_id == version.key_id
    )
    numbers, opened = set(), 0
    with local._store.engine.connect() as connection:
        for path, environment, version_id, sealed in connection.execute(query):
            if sealed is not None:
                local._store.sealer.open(
                    Binding(local.store_id, path, environment, version_id), sealed
                )
                numbers.add(sealed_number(sealed))
                opened += 1
    assert opened >= KEYS
    return numbers


def seal(store: RunningStore, *arguments: str, key_file: Path | None = None) -> list[str]:
    where = ["--data", str(store.data), "--key-file", str(key_file or store.key_file)]
    return [str(DOXSTORE), "seal", *arguments, *where, "--json"]


@contextlib.contextmanager
def started(command: list[str]) -> Any:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def until(reached: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Until it is so, or the process has ended by itself."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached() and process.poll() is None:
        assert time.monotonic() < deadline, "the command gets nowhere"
        await asyncio.sleep(0.0005)


def rekey_target(look: Looking, luck: random.Random) -> Callable[[], bool]:
    """A moment that is still to come, in a rotation that may have been begun before."""
    ring, (total, behind) = look.ring(), look.progress()
    if len(ring) > 1 and behind == 0:
        return lambda: len(look.ring()) == 1
    kind = luck.choice(["key", "rows", "rows", "rows", "last row"])
    if len(ring) == 1:
        if kind == "key":
            return lambda: look.ring() != ring
        behind = total
    left = 0 if kind == "last row" else int(behind * luck.random())
    return lambda: len(look.ring()) > 1 and look.progress()[1] <= left


class RekeyRounds:
    """Rotations of one store's keys, each ended before its time."""

    def __init__(self, store: RunningStore, token: str, memory: Memory) -> None:
        self.luck = random.Random(SEED)  # noqa: S311 - when to kill
        self.hits = collections.Counter[str]()
        self._store = store
        self._token = token
        self._memory = memory

    async def killed(self, *, with_server: bool) -> None:
        """One that is killed; ``with_server``: that is killed before it, and it goes on alone."""
        look, store = Looking(self._store), self._store
        try:
            async with load(store, self._token, self._memory):
                with started(seal(store, "rekey")) as process:
                    await until(rekey_target(look, self.luck), process)
                    if with_server:
                        store.kill()
                        await until(rekey_target(look, self.luck), process)
                    ended = process.poll()
                    process.kill()
                    process.wait()
            assert ended in (None, 0), process.stderr and process.stderr.read()
            if ended is None:
                self.hits[self._where(look)] += 1
        finally:
            look.close()

    async def finished(self) -> None:
        """What is begun, and a whole one, to their ends."""
        async with load(self._store, self._token, self._memory):
            for _ in range(2):
                with started(seal(self._store, "rekey")) as process:
                    await until(lambda: False, process)
                    said, error = process.communicate()
                    assert process.returncode == 0, error
                told = json.loads(said)
                assert (told["complete"], told["skipped"]) == (True, 0)

    def _where(self, look: Looking) -> str:
        total, behind = look.progress()
        if len(look.ring()) == 1:
            return "no rotation begun, or the old key just gone"
        if behind == 0:
            return "between the last row and the end"
        if behind == total:
            return "between the key and the first row"
        return "in the first half" if behind > total / 2 else "in the second half"


@pytest.mark.timeout(900)
def test_a_rekey_killed_again_and_again_fails_no_read_and_finishes(
    store: RunningStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = Memory()
    memory.fill(store)
    rounds = RekeyRounds(store, store.issue("reader", "load.**"), memory)
    store.stop()
    before = RunningStore(tmp_path / "before")
    shutil.copytree(store.folder, before.folder, dirs_exist_ok=True)
    store.start()
    servers = 0
    for turn in itertools.count():
        if sum(rounds.hits.values()) == REKEY_KILLS:
            break
        assert turn < 2 * REKEY_KILLS, "it is always done before it can be killed"
        with_server = turn % SERVER_EVERY == 2
        asyncio.run(rounds.killed(with_server=with_server))
        check_everything_opens(store)
        if with_server:
            servers += 1
            store.start()
        assert memory.refused == []
    asyncio.run(rounds.finished())
    look = Looking(store)
    (newest,) = look.ring()
    assert look.progress()[1] == 0
    look.close()
    assert memory.refused == []
    assert check_everything_opens(store) == {newest}
    assert store.verified_export()
    assert "integrity_alarm" not in store.log_text()
    assert check_everything_opens(before) == {1}, "a copy from before opens as it did"
    with capsys.disabled():
        print(
            f"\nrekey: {REKEY_KILLS} kills of the command and {servers} of the server; keys up to"
            f" {newest}; {memory.reads} reads and {memory.writes} writes beside it, none refused;"
            f" hit {dict(rounds.hits)}"
        )


class RootRounds:
    """Enrolments for a new root key of a store with three key files, ended before their time."""

    def __init__(self, store: RunningStore) -> None:
        self.luck = random.Random(SEED)  # noqa: S311 - when to kill
        self.hits = collections.Counter[str]()
        self.files = {self._slot_of(store, store.key_file): store.key_file}
        for name in ("second", "third"):
            file = store.folder / f"{name}.key"
            said = run_doxstore(
                *seal(store, "slots", "add", "key-file", "--new-key-file", str(file))[1:]
            )
            assert said.returncode == 0, said.stderr
            self.files[json.loads(said.stdout)["slot_id"]] = file
        self._store = store

    async def run(self, *, kill: bool) -> None:
        """`rotate-root` by one slot; ``kill`` it at whatever it is about to do."""
        look = Looking(self._store)
        try:
            slot, file = self.luck.choice(list(self.files.items()))
            before = look.root()
            with started(seal(self._store, "rotate-root", "--slot", slot, key_file=file)) as ran:
                wanted = self.luck.choice(["any", "any", "later"])
                await until(lambda: kill and look.root() != before, ran)
                if kill and wanted == "later":
                    await asyncio.sleep(self.luck.uniform(0, 0.01))
                if kill:
                    ran.kill()
                ran.wait()
                assert ran.returncode in (0, -9), ran.stderr and ran.stderr.read()
            self.hits[self._what(before, look.root())] += ran.returncode == -9
        finally:
            look.close()

    def check(self) -> None:
        """Each slot opens the store, and they agree on its root key."""
        roots = set()
        for file in self.files.values():
            roots.add(LocalStore(settings_of(self._store, file))._store.unlocked.root)
            check_everything_opens(self._store, file)
        assert len(roots) == 1

    def _slot_of(self, store: RunningStore, file: Path) -> str:
        return LocalStore(settings_of(store, file)).opened_by.slot_id

    def _what(self, before: tuple[bytes, bool, int], after: tuple[bytes, bool, int]) -> str:
        if before[0] != after[0]:
            return "changed over"
        if after[1] and not before[1]:
            return f"begun, {after[2]} enrolled"
        return f"{after[2]} enrolled"


@pytest.mark.timeout(900)
def test_a_root_rotation_killed_again_and_again_leaves_every_slot_good(
    store: RunningStore, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = Memory()
    memory.fill(store)
    token = store.issue("reader", "load.**")
    rounds = RootRounds(store)

    async def walk(runs: int, *, kill: bool) -> None:
        async with load(store, token, memory):
            for _ in range(runs):
                await rounds.run(kill=kill)
                await asyncio.to_thread(rounds.check)

    asyncio.run(walk(ROOT_KILLS // 2, kill=True))
    store.kill()
    store.start()
    asyncio.run(walk(ROOT_KILLS - ROOT_KILLS // 2, kill=True))
    assert sum(rounds.hits.values()) >= ROOT_KILLS_AT_LEAST
    look = Looking(store)
    before, _, _ = look.root()
    while look.root()[0] == before:
        asyncio.run(walk(1, kill=False))
    look.close()
    assert memory.refused == []
    # The server was opened under another root key, and learns the next key all the same.
    assert run_doxstore(*seal(store, "rekey")[1:]).returncode == 0
    assert store.get("load.key_1").json["value"] == memory.values["load.key_1"]
    rounds.check()
    assert store.verified_export()
    with capsys.disabled():
        print(
            f"\nrotate-root: {sum(rounds.hits.values())} kills of the command and 1 of the server;"
            f" {memory.reads} reads and {memory.writes} writes beside it, none refused;"
            f" hit {dict(rounds.hits)}"
        )
