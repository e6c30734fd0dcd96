"""`make bench`: start everything, load one server after the other, print and write the table.

First the servers in turns (`side_by_side`), then what else is asked of a store, each part by
itself: nodes on one PostgreSQL, a store in front of a vault, clients beside other clients, proofs,
size, a large ledger.

The run is void, and ends with 1, when any answer is not 2xx or the ledger has fewer entries than
there were answers. Requirements that are not met are printed and end with 0: the table says what
is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.clients import measure_clients
from benchmarks.clients_report import clients_as_json
from benchmarks.fronting import measure_fronting
from benchmarks.ledger_search import as_json, measure_ledger
from benchmarks.load import Measurement
from benchmarks.machine import require_disk
from benchmarks.nodes import measure_nodes
from benchmarks.plan import FULL, QUICK
from benchmarks.process import BenchError
from benchmarks.proven import measure_proven
from benchmarks.report import Results, render, verdicts
from benchmarks.scale import measure_scale
from benchmarks.scale_report import PLOT, plot
from benchmarks.side_by_side import SERVERS, Rounds, measure_side_by_side
from benchmarks.workload import keys

__all__ = ["main"]

_PARTS = (*SERVERS, "nodes", "fronting", "clients")
_RESULTS = Path(__file__).with_name("RESULTS.md")
_ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    # A polite end from outside unwinds like Ctrl-C, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Path(tempfile.mkdtemp(prefix="doxstore-bench-", dir=options.folder))
    try:
        require_disk(folder)
        plan = QUICK if options.quick else FULL
        results, rounds = measure_side_by_side(folder, plan, options.only)
        if "nodes" in options.only:
            spread = measure_nodes(folder, keys(), rounds=plan.rounds, seconds=plan.node_seconds)
            results = results._replace(spread=spread)
        if "fronting" in options.only:
            fronted = measure_fronting(folder, keys(), rounds=plan.rounds, seconds=plan.seconds)
            results = results._replace(fronted=fronted)
        if "clients" in options.only:
            cost = measure_clients(
                folder,
                keys(),
                rounds=plan.rounds,
                cached_calls=plan.cached_calls,
                passes=plan.client_passes,
                rotations=plan.rotations,
            )
            results = results._replace(clients=cost)
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
    if set(options.only) == set(_PARTS) and not options.quick:
        _RESULTS.write_text(text)
        _RESULTS.with_name(PLOT).write_text(plot(results.scale))
        print(f"written to {_RESULTS.relative_to(_ROOT)}")
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, no RESULTS.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round to FILE")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, help="leave parts out")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - unlike /tmp it is never in memory; a folder of our own in it
        help="where the servers keep their data, on a disk (default: /var/tmp)",
    )
    return parser.parse_args(arguments)


def _as_json(results: Results, rounds: Rounds) -> dict[str, object]:
    return {
        **results._asdict(),
        "scale": [sized._asdict() for sized in results.scale],
        "ledger": None if results.ledger is None else as_json(results.ledger),
        "proven": None
        if results.proven is None
        else {name: one._asdict() for name, one in results.proven._asdict().items()},
        "on_record": [each._asdict() for each in results.on_record],
        "spread": None
        if results.spread is None
        else [_timed(one) for one in results.spread.measured],
        "fronted": None
        if results.fronted is None
        else [{**each._asdict(), **_timed(one)} for each, one in results.fronted.measured.items()],
        "clients": None if results.clients is None else clients_as_json(results.clients),
        "medians": {
            connections: {name: _timed(one) for name, one in by_server.items()}
            for connections, by_server in results.medians.items()
        },
        "rounds_taken": {
            connections: {name: [_timed(one) for one in taken] for name, taken in by_server.items()}
            for connections, by_server in rounds.items()
        },
        "verdicts": [verdict._asdict() for verdict in verdicts(results)],
    }


def _timed(one: Measurement) -> dict[str, float]:
    return {**one._asdict(), "per_second": one.per_second}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
