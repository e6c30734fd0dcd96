"""A disk that takes its time: nothing is revealed after its revocation, nothing off the record.

The disk is slowed where the server cannot notice: a shared object, compiled here, stands before
``fsync`` and ``fdatasync`` and waits for as many milliseconds as a file says.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.functional.kept_connection import connected
from tests.functional.running import Answer, RunningStore

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void wait_as_told(void) {
    const char *path = getenv("SLOW_SYNC_FILE");
    long milliseconds = 0;
    FILE *file = path ? fopen(path, "r") : NULL;
    if (file) {
        if (fscanf(file, "%ld", &milliseconds) != 1) milliseconds = 0;
        fclose(file);
    }
    struct timespec pause = {milliseconds / 1000, (milliseconds % 1000) * 1000000L};
    if (milliseconds > 0) nanosleep(&pause, NULL);
}

int fsync(int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    wait_as_told();
    return real(descriptor);
}

int fdatasync(int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    wait_as_told();
    return real(descriptor);
}
"""

KEY = "slow.key"
READERS = 12
SLOW_MS = 150
ROUNDS = 5
STALL_MS = 3_500
HANG_MS = 5_000
PATIENCE_SECONDS = 2.0
SLACK_SECONDS = 1.0


class SlowStore(NamedTuple):
    store: RunningStore
    pace: Path

    def sync_takes(self, milliseconds: int) -> None:
        """From the next sync on."""
        draft = self.pace.with_suffix(".new")
        draft.write_text(str(milliseconds))
        draft.rename(self.pace)


@pytest.fixture
def slow(tmp_path: Path, made_store: RunningStore) -> Iterator[SlowStore]:
    source, shim, pace = tmp_path / "slow.c", tmp_path / "slow.so", tmp_path / "pace"
    source.write_text(SHIM)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    store = RunningStore(
        tmp_path / "store",
        environment={"LD_PRELOAD": str(shim), "SLOW_SYNC_FILE": str(pace)},
    )
    store.copy_of(made_store)
    store.start()
    yield SlowStore(store, pace)
    store.dispose()


def ends(entries: list[dict[str, Any]]) -> dict[tuple[str, int], list[tuple[int, str]]]:
    """Per read of `KEY` (request, version): where its entries stand, and their status, in order."""
    found: dict[tuple[str, int], list[tuple[int, str]]] = {}
    for place, entry in enumerate(entries):
        if (
            entry["action"] == "GET"
            and entry["key_path"] == f"{KEY}.production"
            and entry["version"]
        ):
            at = (entry["request_id"], entry["version"])
            found.setdefault(at, []).append((place, entry["status"]))
    return found


class Read(NamedTuple):
    began: float
    answer: Answer


async def read_until(store: RunningStore, token: str, done: asyncio.Event) -> list[Read]:
    reads = []
    async with connected(store, token) as connection:
        while not done.is_set():
            began = time.monotonic()
            reads.append(Read(began, await connection.get(KEY)))
    return reads


async def revoke_under_load(store: RunningStore, token: str) -> tuple[float, list[Read]]:
    """Readers at work; a revocation among them. When it was acknowledged, and what they got."""
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group, connected(store, store.admin_token) as operator:
        tasks = [group.create_task(read_until(store, token, done)) for _ in range(READERS)]
        await asyncio.sleep(3 * SLOW_MS / 1000)
        revoked = await operator.request("POST", f"/v1/keys/{KEY}/revoke", {})
        acknowledged = time.monotonic()
        assert revoked.status == 200, revoked.body
        await asyncio.sleep(3 * SLOW_MS / 1000)
        done.set()
    return acknowledged, [read for task in tasks for read in task.result()]


def test_no_value_leaves_after_its_revocation_however_slow_the_disk(slow: SlowStore) -> None:
    store = slow.store
    token = store.issue("reader", "slow.*")
    revealed: list[tuple[str, int]] = []
    for number in range(1, ROUNDS + 1):
        store.put(KEY, f"value-{number}")
        slow.sync_takes(SLOW_MS)
        acknowledged, reads = asyncio.run(revoke_under_load(store, token))
        slow.sync_takes(0)
        values = [read for read in reads if read.answer.status == 200]
        refused = [read for read in reads if read.answer.status != 200]
        assert values, "nobody read before the revocation"
        assert {read.answer.json["value"] for read in values} == {f"value-{number}"}
        assert {read.answer.json["code"] for read in refused} == {"version_revoked"}
        assert not [read for read in values if read.began > acknowledged]
        revealed += [(read.answer.request_id, number) for read in values]

    entries = store.verified_export()
    revocations = {
        entry["version"]: place
        for place, entry in enumerate(entries)
        if entry["action"] == "REVOKE" and entry["status"] == "GRANTED"
    }
    assert sorted(revocations) == list(range(1, ROUNDS + 1))
    recorded = ends(entries)
    for request_id, version in revealed:
        ((place, status),) = recorded[request_id, version]
        assert status == "GRANTED"
        assert place < revocations[version], "revealed on a record made after the revocation"
    for (request_id, version), steps in recorded.items():
        if (request_id, version) not in revealed:
            assert [status for _place, status in steps] == ["GRANTED", "ABORTED"]


async def read_in_stall(store: RunningStore, token: str) -> list[tuple[float, Answer]]:
    async def once() -> tuple[float, Answer]:
        async with connected(store, token) as connection:
            began = time.monotonic()
            answer = await connection.get(KEY)
            return time.monotonic() - began, answer

    return await asyncio.gather(*(once() for _ in range(READERS)))


def test_a_stalled_disk_is_a_503_without_a_value_and_passes(slow: SlowStore) -> None:
    store = slow.store
    store.put(KEY, "value-of-the-stall")
    token = store.issue("reader", "slow.*")
    assert store.get(KEY, token).status == 200
    slow.sync_takes(STALL_MS)
    answers = asyncio.run(read_in_stall(store, token))
    slow.sync_takes(0)
    for seconds, answer in answers:
        assert answer.status == 503
        assert answer.json["code"] == "ledger_unavailable"
        assert answer.headers["retry-after"]
        assert b"value-of-the-stall" not in answer.body
        assert PATIENCE_SECONDS <= seconds < STALL_MS / 1000

    deadline = time.monotonic() + 20
    while (answer := store.get(KEY, token)).status != 200:
        assert time.monotonic() < deadline, "reads did not come back"
        time.sleep(0.1)
    recorded = ends(store.verified_export())
    for _seconds, refused in answers:
        steps = [status for _place, status in recorded.get((refused.request_id, 1), [])]
        assert steps in ([], ["GRANTED", "ABORTED"])
    assert [status for _place, status in recorded[answer.request_id, 1]] == ["GRANTED"]


async def ask_through_a_hang(
    slow: SlowStore, token: str
) -> tuple[list[Read], list[tuple[float, Answer]]]:
    """Readers at work while the disk hangs and comes back, and what others were told meanwhile."""
    store = slow.store
    done = asyncio.Event()

    async def timed(bearer: str, method: str, path: str) -> tuple[float, Answer]:
        async with connected(store, bearer) as connection:
            began = time.monotonic()
            answer = await connection.request(method, path)
            return time.monotonic() - began, answer

    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read_until(store, token, done)) for _ in range(READERS)]
        await asyncio.sleep(0.3)
        slow.sync_takes(HANG_MS)
        await asyncio.sleep(PATIENCE_SECONDS + SLACK_SECONDS / 4)  # by now everybody knows
        others = await asyncio.gather(
            timed(token, "GET", "/v1/keys/not.granted"),
            timed("not-a-token", "GET", f"/v1/keys/{KEY}"),
            timed(store.admin_token, "GET", "/v1/keys"),
            timed("", "GET", "/v1/ready"),
        )
        slow.sync_takes(0)
        await asyncio.sleep(2 * SLACK_SECONDS)
        done.set()
    return [read for task in readers for read in task.result()], others


def test_a_disk_that_hangs_is_a_503_in_two_seconds_and_reads_come_back_by_themselves(
    slow: SlowStore,
) -> None:
    store = slow.store
    store.put(KEY, "value-of-the-hang")
    token = store.issue("reader", "slow.*")
    reads, others = asyncio.run(ask_through_a_hang(slow, token))
    for seconds, answer in others:
        assert answer.status == 503
        assert seconds < PATIENCE_SECONDS + SLACK_SECONDS
    statuses = [read.answer.status for read in reads]
    assert set(statuses) == {200, 503}
    refused = {read.answer.json["code"] for read in reads if read.answer.status == 503}
    assert refused == {"ledger_unavailable"}
    last_refusal = max(read.began for read in reads if read.answer.status == 503)
    assert [read for read in reads if read.began > last_refusal], "reads did not come back"

    revealed = {read.answer.request_id for read in reads if read.answer.status == 200}
    for (request_id, _version), steps in ends(store.verified_export()).items():
        found = [status for _place, status in steps]
        assert found == (["GRANTED"] if request_id in revealed else ["GRANTED", "ABORTED"])
        revealed.discard(request_id)
    assert revealed == set(), "a value left without an entry"
