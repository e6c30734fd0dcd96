"""Searching a large ledger, page by page, over HTTP from a real server; and reading beside it.

A store is made and filled by `ledger_fill`, served, and asked every kind of search: the first page,
and the page a good way down, each several times. A page is 100 entries, or fewer where the search
has come to the end of its time: such a search goes on by its cursor, and is followed to its end or
for `_MOST_PAGES`. Every page is on record before it is told, and that counts.

By itself: ``python -m benchmarks.ledger_search ENTRIES [--folder FOLDER]``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx2

from benchmarks.doxstore import served_store
from benchmarks.fill import KEYS_PER_SERVICE, Plan, import_file, register, write_files
from benchmarks.fill import write_services as write_requests
from benchmarks.ledger_fill import OPERATOR, Filled, fill_ledger, make_past_store, settings_of
from benchmarks.ledger_traffic import DEAD_PREFIX, RARE
from benchmarks.load import Measurement, measure, median_of
from benchmarks.process import BenchError
from benchmarks.scale import CONNECTIONS
from dox_core_store.server.bootstrap import LocalStore

__all__ = ["ENTRIES", "LedgerCost", "Searched", "as_json", "measure_filled", "measure_ledger"]

ENTRIES = 10_000_000

_PAGE = 100
_RUNS = 7
_DEEP = 20
_MOST_PAGES = 400
_READERS = Plan(100)
_ROUNDS = 3
_SECONDS = 5
_WARM_UP_SECONDS = 5
_SCRIPT = Path(__file__).with_name("uniform.lua")


class Searched(NamedTuple):
    """One kind of search. Medians of several runs; ``worst`` is the slowest page of all that were
    asked for. ``pages``: how many lead to the end, or as many as were followed; None: those that
    were not counted, since every page was full."""

    what: str
    found: int
    first_milliseconds: float
    deep_milliseconds: float
    worst_milliseconds: float
    pages: int
    ended: bool


class LedgerCost(NamedTuple):
    """What a ledger of ``entries`` costs: to fill, on the disk, to search, and beside reads."""

    entries: int
    blocks: int
    fill_per_second: float
    bytes_per_entry: float
    start_seconds: float
    searched: list[Searched]
    read: Measurement


def measure_ledger(folder: Path, entries: int = ENTRIES) -> LedgerCost:
    """Fill and measure a store in ``folder``."""
    store = folder / f"ledger-{entries}"
    store.mkdir(mode=0o700)
    data = store / "data"
    now = datetime.now(UTC)
    _say(f"filling a ledger with {entries:,} entries")
    make_past_store(data, now)
    filled = fill_ledger(data, entries, now=now)
    _say(f"{filled.entries / filled.seconds:,.0f} entries/s")
    size = (data / "store.db").stat().st_size / filled.entries
    return measure_filled(store, filled, size)


def measure_filled(store: Path, filled: Filled, size: float) -> LedgerCost:
    """Serve the store in ``store / "data"`` and measure it."""
    data = store / "data"
    token = LocalStore(settings_of(data)).operator_token(OPERATOR, "12h")
    shutil.copy(data / "root.key", store / "root.key")
    began = time.monotonic()
    with served_store(store, token) as (http, port, _child):
        start = time.monotonic() - began
        requests = store / "services.tsv"
        write_requests(requests, _READERS, register(http, _READERS))
        for file in write_files(store, _READERS):
            import_file(file, str(http.base_url), token)
        searched = [_searched(http, what, query) for what, query in _asked(filled).items()]
        return LedgerCost(
            entries=filled.entries,
            blocks=filled.blocks,
            fill_per_second=filled.entries / filled.seconds,
            bytes_per_entry=size,
            start_seconds=start,
            searched=searched,
            read=_read(port, requests),
        )


def as_json(cost: LedgerCost) -> dict[str, object]:
    """All of it, by name."""
    return {
        **cost._asdict(),
        "searched": [one._asdict() for one in cost.searched],
        "read": {**cost.read._asdict(), "per_second": cost.read.per_second},
    }


def _asked(filled: Filled) -> dict[str, dict[str, str]]:
    """Every kind of search, by what it shows."""
    services, requests = filled.traffic.services, filled.traffic.sampled
    busy, other, quiet = services[0], services[1], services[len(services) // 2]
    middle = datetime.now(UTC) - timedelta(days=150)
    day, week = timedelta(days=1), timedelta(days=7)
    return {
        "everything": {},
        "service, the busiest": {"service_name": busy.name},
        "service, of medium traffic": {"service_name": quiet.name},
        "service, seen once, 300 days ago": {"service_name": RARE},
        "service, unknown": {"service_name": "nobody"},
        "key, often read": {"key_path": _key(busy.paths[0])},
        "key, seldom read": {"key_path": _key(quiet.paths[0])},
        "prefix of ten keys": {"prefix": "scale.g00100"},
        "prefix of nearly all keys": {"prefix": "scale"},
        "prefix of 3,000 keys, not read for 290 days": {"prefix": DEAD_PREFIX},
        "time, a week 150 days ago": {"since": _at(middle), "until": _at(middle + week)},
        "time, a day without traffic": {"since": _at(middle - day / 2), "until": _at(middle)},
        "status DENIED": {"status": "DENIED"},
        "status LIMITED (1 of 50,000)": {"status": "LIMITED"},
        "token": {"token_id": quiet.tokens[-1]},
        "token, not used for 200 days": {"token_id": quiet.tokens[0]},
        "address": {"ip_address": quiet.addresses[0]},
        "action PUT": {"action": "PUT"},
        "service and status": {"service_name": busy.name, "status": "DENIED"},
        "key and token": {"key_path": _key(busy.paths[0]), "token_id": busy.tokens[0]},
        "prefix, status and time": {
            "prefix": "scale", "status": "NOT_FOUND", "until": _at(middle),
        },
        "two frequent terms that met once": {
            "service_name": busy.name, "ip_address": other.addresses[0],
        },
        "environment, of which there is none": {"environment": "staging"},
        "request id, of the last stream": {"request_id": requests[-1]},
        "request id, 150 days old": {"request_id": requests[len(requests) // 2]},
        "request id, 300 days old": {"request_id": requests[0]},
        "request id, unknown": {"request_id": "req_0123456789ab000001"},
    }  # fmt: skip


def _searched(http: httpx2.Client, what: str, query: dict[str, str]) -> Searched:
    _timed(http, query, None)  # not measured
    first = [_timed(http, query, None)[0] for _ in range(_RUNS)]
    taken, found, pages = list(first), 0, 0
    cursor: str | None = None
    deep = cursor
    while pages < _MOST_PAGES:
        seconds, page = _timed(http, query, cursor)
        taken.append(seconds)
        pages += 1
        found += len(page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
        if pages <= _DEEP:
            deep = cursor
        elif found >= _DEEP * _PAGE:
            break
    at_depth = [_timed(http, query, deep)[0] for _ in range(_RUNS)]
    result = Searched(
        what=what,
        found=found,
        first_milliseconds=statistics.median(first) * 1e3,
        deep_milliseconds=statistics.median(at_depth) * 1e3,
        worst_milliseconds=max(*taken, *at_depth) * 1e3,
        pages=pages,
        ended=cursor is None,
    )
    _say(
        f"{what}: first page {result.first_milliseconds:.1f} ms, deep "
        f"{result.deep_milliseconds:.1f} ms, worst {result.worst_milliseconds:.1f} ms; "
        f"{found:,} found in {pages} pages{'' if result.ended else ', and more'}"
    )
    return result


def _timed(
    http: httpx2.Client, query: dict[str, str], cursor: str | None
) -> tuple[float, dict[str, Any]]:
    asked = {**query, "limit": str(_PAGE), **({} if cursor is None else {"cursor": cursor})}
    began = time.perf_counter()
    answer = http.get(f"/v1/ledger?{urlencode(asked)}")
    seconds = time.perf_counter() - began
    if not answer.is_success:
        raise BenchError(f"GET /v1/ledger {query}: {answer.status_code} {answer.text}")
    return seconds, dict(answer.json())


def _read(port: int, requests: Path) -> Measurement:
    """Audited reads, evenly of the readers' keys, with the ledger as large as it is."""

    def one(seconds: int) -> Measurement:
        return measure(
            name="dox-core-store",
            port=port,
            requests=requests,
            connections=CONNECTIONS,
            seconds=seconds,
            script=_SCRIPT,
            arguments=(str(KEYS_PER_SERVICE), "0"),
        )

    one(_WARM_UP_SECONDS)
    read = median_of([one(_SECONDS) for _ in range(_ROUNDS)])
    _say(f"audited reads: {read.per_second:,.0f}/s, p50 {read.p50_milliseconds:.2f} ms, "
         f"p99 {read.p99_milliseconds:.2f} ms")  # fmt: skip
    return read


def _key(path: str) -> str:
    """Without its environment, as people ask."""
    return path.rpartition(".")[0]


def _at(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _say(text: str) -> None:
    print(f"bench: {text}", flush=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger_search", description=__doc__)
    parser.add_argument("entries", type=int, nargs="?", default=ENTRIES)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))  # noqa: S108 - on a disk
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="doxstore-ledger-", dir=options.folder))
    try:
        measured = measure_ledger(folder, options.entries)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(as_json(measured), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
