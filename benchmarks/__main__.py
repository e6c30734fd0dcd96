"""`make bench`: start everything, load one server after the other, print and write the table.

All servers run for the whole time, but only one is under load: idle, each costs under a hundredth
of a core. Rounds are interleaved (each server once, then all again), so that a slow minute of the
machine hits all of them, and medians are taken per server.

The run is void, and ends with 1, when any answer is not 2xx or the ledger has fewer entries than
there were answers. Requirements that are not met are printed and end with 0: the table says what
is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.bare import TYPICAL, bare_granian
from benchmarks.doxstore import Store, doxstore, granted_entries
from benchmarks.ledger_search import ENTRIES, as_json, measure_ledger
from benchmarks.load import Measurement, measure, median_of
from benchmarks.machine import describe, require_disk
from benchmarks.openbao import openbao
from benchmarks.process import BenchError
from benchmarks.proven import measure_proven
from benchmarks.report import Results, render, verdicts
from benchmarks.scale import SIZES, measure_scale
from benchmarks.scale_report import PLOT, plot
from benchmarks.target import Target
from benchmarks.workload import KEYS, Request, keys

__all__ = ["main"]

_CONNECTIONS = (32, 128)
_SERVERS = ("bare", "doxstore", "openbao")
_RESULTS = Path(__file__).with_name("RESULTS.md")
_ROOT = Path(__file__).resolve().parent.parent


class Plan(NamedTuple):
    """``warm_up`` seconds per server and number of connections, not measured."""

    warm_up: int
    rounds: int
    seconds: int
    cached_calls: int
    sizes: Sequence[int]
    ledger_entries: int


_FULL = Plan(
    warm_up=3, rounds=3, seconds=5, cached_calls=200_000, sizes=SIZES, ledger_entries=ENTRIES
)
_QUICK = Plan(
    warm_up=1, rounds=1, seconds=2, cached_calls=20_000, sizes=SIZES[:2], ledger_entries=200_000
)


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    # A polite end from outside unwinds like Ctrl-C, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Path(tempfile.mkdtemp(prefix="doxstore-bench-", dir=options.folder))
    try:
        require_disk(folder)
        plan = _QUICK if options.quick else _FULL
        results, rounds = _measure_all(folder, plan, options.only)
        if "doxstore" in options.only:
            proven = measure_proven(folder, keys(), rounds=plan.rounds, seconds=plan.seconds)
            results = results._replace(proven=proven)
            results = results._replace(scale=measure_scale(folder, plan.sizes))
            results = results._replace(ledger=measure_ledger(folder, plan.ledger_entries))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; every server was ended", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = render(results)
    print("\n" + text)
    if options.json is not None:
        options.json.write_text(json.dumps(_as_json(results, rounds), indent=2) + "\n")
    if set(options.only) == set(_SERVERS) and not options.quick:
        _RESULTS.write_text(text)
        _RESULTS.with_name(PLOT).write_text(plot(results.scale))
        print(f"written to {_RESULTS.relative_to(_ROOT)}")
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, no RESULTS.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round to FILE")
    parser.add_argument(
        "--only", nargs="+", choices=_SERVERS, default=_SERVERS, help="leave servers out"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - unlike /tmp it is never in memory; a folder of our own in it
        help="where the servers keep their data, on a disk (default: /var/tmp)",
    )
    return parser.parse_args(arguments)


def _measure_all(
    folder: Path, plan: Plan, only: Sequence[str]
) -> tuple[Results, dict[int, dict[str, list[Measurement]]]]:
    with contextlib.ExitStack() as stack:
        store, targets = _start(stack, folder, only)
        machine = describe(folder)
        rounds = {}
        answered = KEYS  # each key was read and compared once
        for connections in _CONNECTIONS:
            rounds[connections], warm_up = _rounds(targets, connections, plan)
            for one in (*warm_up, *_flat(rounds[connections])):
                answered += one[1].requests if store and one[0] == store.target.name else 0
        cached = _cached_get(store, plan.cached_calls) if store else None
        granted = granted_entries(store.data) if store else None
        if granted is not None and granted < answered:
            raise BenchError(f"{answered:,} values left, but only {granted:,} are on record")
        results = Results(
            machine=machine,
            rounds=plan.rounds,
            seconds=plan.seconds,
            medians={
                connections: {name: median_of(taken) for name, taken in by_server.items()}
                for connections, by_server in rounds.items()
            },
            cached_get_microseconds=cached,
            answers=answered if store else None,
            granted_entries=granted,
        )
    return results, rounds


def _start(
    stack: contextlib.ExitStack, folder: Path, only: Sequence[str]
) -> tuple[Store | None, list[Target]]:
    store = None
    targets = []
    if "doxstore" in only:
        _say("starting and filling dox-core-store")
        store = stack.enter_context(doxstore(folder=folder / "doxstore", keys=keys()))
        targets.append(store.target)
    if "openbao" in only:
        _say("starting and filling OpenBao (its init takes about 10 s)")
        targets += stack.enter_context(openbao(folder=folder / "openbao", keys=keys()))
    if "bare" in only:
        _say("starting bare Granian")
        answer, request = (store.sample, store.request) if store else (TYPICAL, Request("/"))
        targets.insert(
            0,
            stack.enter_context(
                bare_granian(folder=folder / "bare", answer=answer, request=request)
            ),
        )
    return store, targets


def _rounds(
    targets: Sequence[Target], connections: int, plan: Plan
) -> tuple[dict[str, list[Measurement]], list[tuple[str, Measurement]]]:
    """Every round by server, and the warm-ups."""

    def load(target: Target, seconds: int) -> Measurement:
        return measure(
            name=target.name,
            port=target.port,
            requests=target.requests,
            connections=connections,
            seconds=seconds,
        )

    warm_up = [(target.name, load(target, plan.warm_up)) for target in targets]
    taken: dict[str, list[Measurement]] = {target.name: [] for target in targets}
    for number in range(plan.rounds):
        for target in targets:
            one = load(target, plan.seconds)
            taken[target.name].append(one)
            _say(
                f"{connections} connections, round {number + 1} of {plan.rounds}, {target.name}: "
                f"{one.per_second:,.0f}/s, p50 {one.p50_milliseconds:.2f} ms, "
                f"p99 {one.p99_milliseconds:.2f} ms"
            )
    return taken, warm_up


def _flat(rounds: dict[str, list[Measurement]]) -> Iterator[tuple[str, Measurement]]:
    return ((name, one) for name, taken in rounds.items() for one in taken)


def _cached_get(store: Store, calls: int) -> float:
    _say(f"timing {calls:,} cached reads in the client")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cached_get", store.service, store.key_path, str(calls)],
        cwd=_ROOT,
        env={**os.environ, "KEY_SERVICE_URL": store.url, "SERVICE_TOKEN": store.token},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"the client's cached read failed:\n{done.stderr[-2000:]}")
    return float(done.stdout) / 1e3


def _as_json(
    results: Results, rounds: dict[int, dict[str, list[Measurement]]]
) -> dict[str, object]:
    return {
        **results._asdict(),
        "scale": [sized._asdict() for sized in results.scale],
        "ledger": None if results.ledger is None else as_json(results.ledger),
        "proven": None
        if results.proven is None
        else {name: one._asdict() for name, one in results.proven._asdict().items()},
        "medians": {
            connections: {
                name: {**one._asdict(), "per_second": one.per_second}
                for name, one in by_server.items()
            }
            for connections, by_server in results.medians.items()
        },
        "rounds_taken": {
            connections: {
                name: [{**one._asdict(), "per_second": one.per_second} for one in taken]
                for name, taken in by_server.items()
            }
            for connections, by_server in rounds.items()
        },
        "verdicts": [verdict._asdict() for verdict in verdicts(results)],
    }


def _say(text: str) -> None:
    print(f"bench: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
