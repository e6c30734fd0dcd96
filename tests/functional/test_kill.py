"""A server that is killed loses nothing that it acknowledged and hides nothing that it revealed."""

from __future__ import annotations

import asyncio
import collections
import itertools
import random
import secrets
from typing import Any

import pytest
from tests.functional.kept_connection import KeptConnection, connected
from tests.functional.running import Answer, RunningStore

ROUNDS = 20
KEYS = [f"load.key-{n}" for n in range(6)]
WRITERS = 4
READERS = 8


class Memory:
    """What the clients were told over all rounds: the only witness against the store."""

    def __init__(self) -> None:
        self.sent: dict[str, set[str]] = collections.defaultdict(set)
        self.acknowledged: dict[tuple[str, int], str] = {}
        self.revealed: list[tuple[str, str, int, str]] = []

    def acknowledge(self, key: str, version: int, value: str) -> None:
        assert (key, version) not in self.acknowledged, "a version number was given out twice"
        self.acknowledged[key, version] = value

    def reveal(self, answer: Answer) -> None:
        said = answer.json
        self.revealed.append((answer.request_id, said["key_path"], said["version"], said["value"]))


async def write(connection: KeptConnection, memory: Memory) -> None:
    for key in itertools.cycle(random.sample(KEYS, len(KEYS))):
        value = secrets.token_hex(12)
        memory.sent[key].add(value)
        answer = await connection.put(key, value)
        assert answer.status in (200, 201), answer.body
        memory.acknowledge(key, answer.json["version"], value)


async def read(connection: KeptConnection, memory: Memory) -> None:
    for key in itertools.cycle(random.sample(KEYS, len(KEYS))):
        answer = await connection.get(key)
        if answer.status == 404:  # nobody wrote it yet
            continue
        assert answer.status == 200, answer.body
        memory.reveal(answer)


async def read_all(connection: KeptConnection, memory: Memory) -> None:
    while True:
        answer = await connection.request("POST", "/v1/keys/batch-get", {"key_paths": KEYS})
        assert answer.status == 200, answer.body
        for item in answer.json["keys"]:
            if "key" in item:
                key = item["key"]
                memory.revealed.append(
                    (answer.request_id, key["key_path"], key["version"], key["value"])
                )


async def until_killed(store: RunningStore, token: str, work: Any, memory: Memory) -> None:
    """Do ``work`` until the connection breaks; anything else that goes wrong fails the test."""
    try:
        async with connected(store, token) as connection:
            await work(connection, memory)
    except ConnectionError:
        return


async def load_then_kill(store: RunningStore, service_token: str, memory: Memory) -> None:
    before = len(memory.acknowledged), len(memory.revealed)
    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(until_killed(store, store.admin_token, write, memory))
        for _ in range(READERS):
            group.create_task(until_killed(store, service_token, read, memory))
        group.create_task(until_killed(store, service_token, read_all, memory))
        while len(memory.acknowledged) == before[0] or len(memory.revealed) == before[1]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.sleep(random.SystemRandom().uniform(0, 0.3))
        store.kill()


async def check_acknowledged(
    store: RunningStore, written: dict[tuple[str, int], str], memory: Memory
) -> None:
    """Every write in ``written`` is there, byte for byte, under the number that was told."""
    async with connected(store, store.admin_token) as connection:
        for (key, version), value in written.items():
            answer = await connection.get(key, version)
            assert answer.status == 200, f"{key} version {version} was lost: {answer.body!r}"
            assert answer.json["value"] == value
            memory.reveal(answer)


def check_every_reveal_is_on_record(entries: list[dict[str, Any]], memory: Memory) -> None:
    granted: collections.Counter[tuple[str, str, int]] = collections.Counter()
    for entry in entries:
        if entry["action"] == "GET" and entry["status"] in ("GRANTED", "ABORTED"):
            path = entry["key_path"].removesuffix(f".{entry['environment']}")
            place = (entry["request_id"], path, entry["version"])
            granted[place] += 1 if entry["status"] == "GRANTED" else -1
    for request_id, key, version, _value in memory.revealed:
        assert granted[request_id, key, version] == 1, f"{key} #{version} left off the record"


def check_reads_agree(memory: Memory) -> None:
    """A version number stands for one value for ever, and for one that a client sent."""
    values = dict(memory.acknowledged)
    for _request, key, version, value in memory.revealed:
        assert values.setdefault((key, version), value) == value
        assert value in memory.sent[key]


def check_no_half_writes(store: RunningStore, entries: list[dict[str, Any]]) -> None:
    """A version has its entry and an entry has its version, acknowledged or not."""
    for key in KEYS:
        recorded = [
            entry["version"]
            for entry in entries
            if entry["action"] == "PUT" and entry["key_path"] == f"{key}.production"
        ]
        assert recorded == list(range(1, len(recorded) + 1))
        listed = store.request("GET", f"/v1/keys/{key}/versions").json["items"]
        assert sorted(each["version"] for each in listed) == recorded


def check_streams_are_closed(entries: list[dict[str, Any]]) -> None:
    """Each killed process's stream was closed by the one after it; only the last one is open."""
    last_action = {
        entry["stream"]: entry["action"] for entry in entries if entry["stream"] != "changes"
    }
    *ended, running = last_action.values()
    assert len(last_action) == ROUNDS + 1
    assert set(ended) == {"CLOSE"}
    assert running != "CLOSE"


@pytest.mark.timeout(240)
def test_twenty_kills_lose_no_acknowledged_write_and_leave_no_reveal_unrecorded(
    store: RunningStore,
) -> None:
    token = store.issue("reader", "load.**")
    memory = Memory()
    for _ in range(ROUNDS):
        known = set(memory.acknowledged)
        asyncio.run(load_then_kill(store, token, memory))
        fresh = {at: memory.acknowledged[at] for at in memory.acknowledged.keys() - known}
        store.start()
        asyncio.run(check_acknowledged(store, fresh, memory))
    asyncio.run(check_acknowledged(store, dict(memory.acknowledged), memory))
    entries = store.verified_export()
    check_every_reveal_is_on_record(entries, memory)
    check_reads_agree(memory)
    check_no_half_writes(store, entries)
    check_streams_are_closed(entries)
