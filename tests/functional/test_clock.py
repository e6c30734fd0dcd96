"""A wall clock that is set back or forward: under a running node, before its start, for a command.

The clock is moved where Python cannot notice: a shared object, compiled here, stands before
``clock_gettime``, ``gettimeofday`` and ``time`` and adds to the time of day as many seconds as a
file says. What counts since the machine started is left alone, as by whoever sets a clock.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.functional.running import (
    DOXSTORE,
    EXIT_REFUSED,
    RunningStore,
    clean_environment,
    run_doxstore,
)

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long added(void) {
    const char *path = getenv("CLOCK_OFFSET_FILE");
    long seconds = 0;
    FILE *file = path ? fopen(path, "r") : NULL;
    if (file) {
        if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
        fclose(file);
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += added();
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *told) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (told) *told = exact.tv_sec;
    return exact.tv_sec;
}
"""

KEY = "clock.key"
VALUE = "value-of-its-time"
DAY = 24 * 60 * 60


class Shifted(NamedTuple):
    store: RunningStore
    offset: Path

    def set_clock(self, seconds: int) -> None:
        """Move the wall clock this far from the right time."""
        draft = self.offset.with_suffix(".new")
        draft.write_text(str(seconds))
        draft.rename(self.offset)

    def doxstore(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command on the store, on the same machine."""
        store = ["--data", self.store.data, "--key-file", self.store.key_file]
        return run_doxstore(*arguments, *store, **self.store.environment)

    def checks(self) -> Any:
        return self.store.request("GET", "/v1/ready", token="").json["checks"]

    def refused(self, *options: str) -> str:
        """What a start says that is refused."""
        command = [*self.store.command(), *options]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=clean_environment(**self.store.environment),
        )
        assert done.returncode == EXIT_REFUSED, done.stdout + done.stderr
        return done.stderr


@pytest.fixture
def shifted(tmp_path: Path, made_store: RunningStore) -> Iterator[Shifted]:
    source, shim, offset = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "offset"
    source.write_text(SHIM)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    offset.write_text("0")
    store = RunningStore(
        tmp_path / "store",
        environment={"LD_PRELOAD": str(shim), "CLOCK_OFFSET_FILE": str(offset)},
    )
    store.copy_of(made_store)
    yield Shifted(store, offset)
    store.dispose()


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def blocks(store: RunningStore) -> list[tuple[int, bytes]]:
    with contextlib.closing(sqlite3.connect(store.data / "store.db")) as connection:
        return connection.execute("SELECT block_id, head FROM ledger_block").fetchall()


def until(holds: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


@pytest.mark.parametrize("step", [-DAY, DAY])
def test_a_step_of_the_wall_clock_moves_no_running_node(shifted: Shifted, step: int) -> None:
    store = shifted.store
    store.start()
    store.put(KEY, VALUE)
    store.put("clock.short", VALUE, expires_at=in_seconds(2))
    token = store.issue("reader", "clock.*", expires_in="90d")
    until(lambda: store.get("clock.short", token).status == 410)
    shifted.set_clock(step)
    until(lambda: shifted.checks()["clock"] != "ok")
    assert shifted.checks()["clock"] == f"wall clock stepped by {step} s"
    assert store.get(KEY, token).json["value"] == VALUE
    assert store.get("clock.short", token).json["code"] == "key_expired"
    later = store.issue("reader", "clock.*", expires_in="1h")
    assert store.get(KEY, later).json["value"] == VALUE
    for entry in store.verified_export():
        at = datetime.fromisoformat(entry["timestamp"])
        assert abs(at - datetime.now(UTC)) < timedelta(hours=12)
    metrics = store.request("GET", "/metrics", token="").body.decode()
    (told,) = [line for line in metrics.splitlines() if line.startswith("doxstore_clock_step_")]
    assert abs(float(told.split()[1]) - step) < 60
    events = [json.loads(line) for line in store.log_text().splitlines() if line[:1] == "{"]
    (stepped,) = [event for event in events if event["event"] == "clock_stepped"]
    assert (stepped["level"], abs(stepped["seconds"] - step) < 60) == ("error", True)
    shifted.set_clock(0)
    until(lambda: shifted.checks()["clock"] == "ok")


def test_a_clock_behind_the_newest_entry_starts_nothing(shifted: Shifted) -> None:
    store = shifted.store
    store.start()
    store.put(KEY, VALUE)
    store.put("clock.short", VALUE, expires_at=in_seconds(2))
    token = store.issue("reader", "clock.*", expires_in="90d")
    until(lambda: store.get("clock.short", token).status == 410)
    assert store.stop() == 0
    shifted.set_clock(-DAY)
    before = {name: (store.data / name).read_bytes() for name in ("store.db", "store.db-wal")}
    said = shifted.refused()
    assert "clock_behind" in said
    assert "Traceback" not in said
    assert {name: (store.data / name).read_bytes() for name in before} == before
    entries = blocks(store)
    for command in (("operator", "add", "low", "--role", "auditor"), ("operator", "token", "x")):
        done = shifted.doxstore(*command)
        assert done.returncode == EXIT_REFUSED, done.stderr
        assert "clock_behind" in done.stderr
    assert blocks(store) == entries

    report = json.loads(shifted.doxstore("doctor", "--json").stdout)
    (clock,) = [check for check in report["checks"] if check["check"] == "clock"]
    assert clock["status"] == "failure"

    shifted.set_clock(-30)  # a little less right is no reason
    store.start()
    assert store.get(KEY, token).json["value"] == VALUE
    assert store.get("clock.short", token).json["code"] == "key_expired"


def test_a_clock_may_be_accepted_once_and_that_is_on_record(shifted: Shifted) -> None:
    store = shifted.store
    shifted.set_clock(DAY // 2)  # the clock ran ahead, and is right again afterwards
    store.start()
    store.put(KEY, VALUE)
    early = store.issue("reader", "clock.*", expires_in="90d")
    assert store.stop() == 0
    shifted.set_clock(0)
    assert "clock_behind" in shifted.refused()
    plain = store.command
    store.command = lambda: [*plain(), "--accept-clock"]  # type: ignore[method-assign]
    store.start()
    opened = [entry for entry in store.verified_export() if entry["action"] == "OPEN"]
    assert opened[-1]["reason"] == "the clock was accepted as it is"
    # Issued in what is now the future: refused alike each time, and not revived by waiting.
    assert {store.get(KEY, early).json["code"] for _ in range(3)} == {"token_invalid"}
    token = shifted.doxstore("operator", "token", store.operator)
    assert token.returncode == 0, token.stderr
    store.admin_token = token.stdout.strip()
    fresh = store.issue("other", "clock.*", expires_in="1h")
    assert store.get(KEY, fresh).json["value"] == VALUE
    assert store.stop() == 0
    store.command = plain  # type: ignore[method-assign]
    store.start()  # the newest entry is of the right time now
    assert store.get(KEY, fresh).json["value"] == VALUE


def test_the_shim_moves_the_time_of_day(shifted: Shifted) -> None:
    """What the others rely on."""
    shifted.set_clock(-DAY)
    python = DOXSTORE.parent / "python"
    done = subprocess.run(
        [python, "-c", "import time; print(time.time())"],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(**shifted.store.environment),
    )
    assert abs(float(done.stdout) + DAY - time.time()) < 60
