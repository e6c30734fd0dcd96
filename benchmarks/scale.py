"""Cost against size: the same store, the same load, with a thousand keys and with a million.

Each size is a store of its own, filled by `fill`. The smallest and the largest serve at the same
time and are read in turns at the same rate, so that a slow minute of the machine hits both. The
keys are drawn evenly, so nearly every read of the largest misses the node's cache of values.

While the largest is filled, its first keys are read at that rate: one answer that is not 200 voids
the run. Its settling afterwards is timed too. Every server is started anew before it is read: from
the command to the first 200 of ``/v1/ready``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx2

from benchmarks.doxstore import DATABASE_FILE, made_store, served_store
from benchmarks.fill import (
    KEYS_PER_SERVICE,
    Plan,
    import_file,
    register,
    write_files,
    write_services,
)
from benchmarks.load import Measurement, measure, median_of
from benchmarks.process import BenchError

__all__ = ["CONNECTIONS", "SIZES", "Filling", "Sized", "measure_scale", "offered"]

SIZES = (1_000, 10_000, 100_000, 1_000_000)
CONNECTIONS = 32

_REST_MILLISECONDS = 15
_ROUNDS = 3
_SECONDS = 5
_WARM_UP_SECONDS = 15
_PAGES = 21
_PAGE_KEYS = 100
_BUSY_FILES = 4
_SETTLE_SECONDS = 600.0
_SETTLE_KEYS = 10_000
_POLL_SECONDS = 0.05
_SCRIPT = Path(__file__).with_name("uniform.lua")


def offered() -> float:
    """Reads a second, if answers took no time."""
    return CONNECTIONS * 1e3 / _REST_MILLISECONDS


class Filling(NamedTuple):
    """How a store was filled. ``reads`` were answered meanwhile, all of them 200. Settling is only
    timed where much of it was left when the last import ended."""

    keys_per_second: float
    settled_per_second: float | None
    reads: Measurement | None


class Sized(NamedTuple):
    """What a store of ``keys`` costs. Pages: the median time of the first, of one in the middle, of
    one under a prefix and of one of an environment."""

    keys: int
    services: int
    filling: Filling
    start_seconds: float
    resident_bytes: int
    read: Measurement
    saturated: Measurement
    page_milliseconds: dict[str, float]


class _Store:
    """A store that was filled. What it needs to be read is in its folder."""

    def __init__(self, folder: Path, plan: Plan, operator: str, filling: Filling) -> None:
        self.folder = folder
        self.plan = plan
        self.operator = operator
        self.filling = filling


def measure_scale(folder: Path, sizes: Sequence[int] = SIZES) -> list[Sized]:
    """Fill and measure a store of each of ``sizes`` in ``folder``; in their order."""
    stores = []
    for keys in sizes:
        plan = Plan(keys // KEYS_PER_SERVICE)
        _say(f"filling a store with {plan.keys:,} keys of {plan.services:,} services")
        stores.append(_fill(folder / f"scale-{keys}", plan, busy=keys == sizes[-1]))
    ends = [stores[0], stores[-1]][: len(stores)]
    measured = _measure(ends)
    for store in stores[1:-1]:
        measured += _measure([store])
    return sorted(measured, key=lambda sized: sized.keys)


def _fill(folder: Path, plan: Plan, *, busy: bool) -> _Store:
    """A store as `plan` says; ``busy``: read while it is filled, but for the first file."""
    operator = made_store(folder)
    files = write_files(folder, plan, at_least=_BUSY_FILES if busy else 1)
    with served_store(folder, operator) as (http, port, _child):
        write_services(folder / "services.tsv", plan, register(http, plan))
        url = str(http.base_url)
        seconds = import_file(files[0], url, operator)
        reads: Future[Measurement] | None = None
        with contextlib.ExitStack() as beside:
            if busy and len(files) > 1:
                read = _read_meanwhile(folder, port, services=plan.services // len(files))
                reads = beside.enter_context(read)
            seconds += sum(import_file(file, url, operator) for file in files[1:])
        settled = _settled(folder, plan.keys, time.monotonic())
    _say(
        f"{plan.keys / seconds:,.0f} keys/s imported"
        + (f", {settled:,.0f}/s settled" if settled else "")
    )
    for file in files:
        file.unlink()
    filling = Filling(plan.keys / seconds, settled, reads.result() if reads else None)
    return _Store(folder, plan, operator, filling)


@contextlib.contextmanager
def _read_meanwhile(folder: Path, port: int, *, services: int) -> Iterator[Future[Measurement]]:
    """Read the keys of the first ``services`` for as long as the block takes."""
    some = folder / "first-services.tsv"
    lines = (folder / "services.tsv").read_text(encoding="ascii").splitlines(keepends=True)
    descriptor = os.open(some, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        out.writelines(lines[:services])
    ended = Future[Measurement]()
    going = True

    def read() -> Measurement:
        rounds = []
        while going:
            rounds.append(_read(some, port, _REST_MILLISECONDS, seconds=_SECONDS))
        return Measurement(
            requests=sum(one.requests for one in rounds),
            seconds=sum(one.seconds for one in rounds),
            p50_milliseconds=statistics.median(one.p50_milliseconds for one in rounds),
            p99_milliseconds=max(one.p99_milliseconds for one in rounds),
        )

    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(read)
        try:
            yield ended
        finally:
            going = False
        ended.set_result(reading.result())


def _settled(folder: Path, keys: int, since: float) -> float | None:
    """Wait until no key is staged any more: how many a second were settled."""
    uri = f"file:{folder / 'data' / DATABASE_FILE}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
        query = "SELECT count(*) FROM key WHERE staged_import IS NOT NULL"
        left = before = int(database.execute(query).fetchone()[0])
        while left:
            if time.monotonic() - since > _SETTLE_SECONDS:
                raise BenchError(f"{left:,} of {keys:,} keys are not settled")
            time.sleep(_POLL_SECONDS)
            left = database.execute(query).fetchone()[0]
        return before / (time.monotonic() - since) if before >= _SETTLE_KEYS else None


def _measure(stores: Sequence[_Store]) -> list[Sized]:
    """Start all of ``stores`` and read them in turns."""
    with contextlib.ExitStack() as stack:
        started = []
        for store in stores:
            began = time.monotonic()
            served = stack.enter_context(served_store(store.folder, store.operator))
            started.append((store, *served, time.monotonic() - began))
        # Not measured: tokens are verified for the first time, caches fill, also the system's.
        for store, _http, port, _child, _start in started:
            _read(store.folder / "services.tsv", port, 0, seconds=_WARM_UP_SECONDS)
        paced: dict[int, list[Measurement]] = {}
        saturated: dict[int, list[Measurement]] = {}
        for rest, taken in ((_REST_MILLISECONDS, paced), (0, saturated)):
            for _ in range(_ROUNDS):
                for store, _http, port, _child, _start in started:
                    file = store.folder / "services.tsv"
                    one = _read(file, port, rest, seconds=_SECONDS)
                    taken.setdefault(store.plan.keys, []).append(one)
                    _say(
                        f"{store.plan.keys:,} keys, {'paced' if rest else 'closed loop'}: "
                        f"{one.per_second:,.0f}/s, p50 {one.p50_milliseconds:.3f} ms, "
                        f"p99 {one.p99_milliseconds:.2f} ms"
                    )
        return [
            Sized(
                keys=store.plan.keys,
                services=store.plan.services,
                filling=store.filling,
                start_seconds=start,
                page_milliseconds=_pages(http, store.plan),
                resident_bytes=_resident(child),
                read=median_of(paced[store.plan.keys]),
                saturated=median_of(saturated[store.plan.keys]),
            )
            for store, http, _port, child, start in started
        ]


def _read(services: Path, port: int, rest: int, *, seconds: int) -> Measurement:
    return measure(
        name="dox-core-store",
        port=port,
        requests=services,
        connections=CONNECTIONS,
        seconds=seconds,
        script=_SCRIPT,
        arguments=(str(KEYS_PER_SERVICE), str(rest)),
    )


def _pages(http: httpx2.Client, plan: Plan) -> dict[str, float]:
    middle = plan.group(plan.services // 2)
    cursor = _page(http, f"prefix={middle}&limit=50")["next_cursor"]
    asked = {
        "first": f"limit={_PAGE_KEYS}",
        "deep": f"limit={_PAGE_KEYS}&cursor={cursor}",
        "prefix": f"limit={_PAGE_KEYS}&prefix={middle}",
        "environment": f"limit={_PAGE_KEYS}&environment=production&cursor={cursor}",
    }
    return {name: _page_milliseconds(http, query) for name, query in asked.items()}


def _page_milliseconds(http: httpx2.Client, query: str) -> float:
    taken = []
    for _ in range(_PAGES):
        began = time.perf_counter()
        _page(http, query)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e3


def _page(http: httpx2.Client, query: str) -> dict[str, str]:
    answer = http.get(f"/v1/keys?{query}")
    if not answer.is_success:
        raise BenchError(f"GET /v1/keys?{query}: {answer.status_code} {answer.text}")
    return dict(answer.json())


def _resident(child: subprocess.Popen[bytes]) -> int:
    """Memory of the server that is in use now, what is mapped from files included."""
    lines = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii").splitlines()
    (resident,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(resident) * 1024


def _say(text: str) -> None:
    print(f"bench: {text}", flush=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=SIZES, help="numbers of keys")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))  # noqa: S108 - on a disk
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="doxstore-scale-", dir=options.folder))
    try:
        measured = measure_scale(folder, options.sizes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps([sized._asdict() for sized in measured], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
