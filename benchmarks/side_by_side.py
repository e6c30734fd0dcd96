"""The servers under the same load, in turns: bare Granian, this store, OpenBao.

All servers run for the whole time, but only one is under load: idle, each costs under a hundredth
of a core. Rounds are interleaved (each server once, then all again), so that a slow minute of the
machine hits all of them, and medians are taken per server.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.bare import TYPICAL, bare_granian
from benchmarks.doxstore import ON_POSTGRES, Store, doxstore
from benchmarks.load import Measurement, measure, median_of
from benchmarks.machine import describe
from benchmarks.on_record import recorded
from benchmarks.openbao import openbao
from benchmarks.plan import Plan
from benchmarks.postgres import postgres
from benchmarks.process import BenchError
from benchmarks.report import Results
from benchmarks.target import Target
from benchmarks.workload import KEYS, Request, keys

__all__ = ["SERVERS", "Rounds", "measure_side_by_side"]

SERVERS = ("bare", "doxstore", "postgres", "openbao")

_CONNECTIONS = (32, 128)
_ROOT = Path(__file__).resolve().parent.parent

Rounds = dict[int, dict[str, list[Measurement]]]
"""Every round, by connections and server."""


def measure_side_by_side(folder: Path, plan: Plan, only: Sequence[str]) -> tuple[Results, Rounds]:
    """Measure those of `SERVERS` that ``only`` names, in ``folder``."""
    with contextlib.ExitStack() as stack:
        stores, targets = _start(stack, folder, only)
        machine = describe(folder)
        rounds = {}
        answered = {store.target.name: KEYS for store in stores}  # each was read and compared once
        for connections in _CONNECTIONS if targets else ():
            rounds[connections], warm_up = _rounds(targets, connections, plan)
            for name, one in (*warm_up, *_flat(rounds[connections])):
                if name in answered:
                    answered[name] += one.requests
        in_a_file = [store for store in stores if not store.database]
        cached = _cached_get(in_a_file[0], plan.cached_calls) if in_a_file else None
        results = Results(
            machine=machine,
            rounds=plan.rounds,
            seconds=plan.seconds,
            medians={
                connections: {name: median_of(taken) for name, taken in by_server.items()}
                for connections, by_server in rounds.items()
            },
            cached_get_microseconds=cached,
            on_record=[recorded(store, answered[store.target.name]) for store in stores],
        )
    return results, rounds


def _start(
    stack: contextlib.ExitStack, folder: Path, only: Sequence[str]
) -> tuple[list[Store], list[Target]]:
    stores = []
    targets = []
    if "doxstore" in only:
        _say("starting and filling dox-core-store")
        stores.append(stack.enter_context(doxstore(folder=folder / "doxstore", keys=keys())))
    if "postgres" in only:
        _say("starting and filling dox-core-store on PostgreSQL")
        server = stack.enter_context(postgres(folder / "postgres"))
        home, settings = folder / "on-postgres", {"database": server.create_database("store")}
        on = doxstore(folder=home, keys=keys(), name=ON_POSTGRES, settings=settings)
        stores.append(stack.enter_context(on))
    targets += [store.target for store in stores]
    if "openbao" in only:
        _say("starting and filling OpenBao (its init takes about 10 s)")
        targets += stack.enter_context(openbao(folder=folder / "openbao", keys=keys()))
    if "bare" in only:
        _say("starting bare Granian")
        sampled = [(store.sample, store.reads[0]) for store in stores]
        answer, request = sampled[0] if sampled else (TYPICAL, Request("/"))
        targets.insert(
            0,
            stack.enter_context(
                bare_granian(folder=folder / "bare", answer=answer, request=request)
            ),
        )
    return stores, targets


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


def _say(text: str) -> None:
    print(f"bench: {text}", flush=True)
