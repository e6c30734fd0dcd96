"""One, two and three nodes on one PostgreSQL, under one load that is spread over them.

The connections are shared out evenly, so that it is the same load however many nodes answer it. All
nodes run for the whole time and stand idle where they are not asked, and the turns are interleaved,
as everywhere in the bench.

On a machine with two cores this does not show what nodes add on machines of their own: it shows
what it costs that the load, PostgreSQL and every node share the cores, and that each node commits
for itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.doxstore import doxstore, served_store
from benchmarks.load import Measurement, measure, median_of
from benchmarks.on_record import Recorded, recorded
from benchmarks.postgres import postgres
from benchmarks.verdict import Verdict, row
from benchmarks.workload import BenchKey

__all__ = ["Spread", "measure_nodes", "nodes_lines", "nodes_verdicts"]

_NODES = 3
_NAME = f"the {_NODES} nodes"
_CONNECTIONS = 96
"""Shared out evenly among one, two and three."""
_WARM_UP_SECONDS = 2
_HOW = (
    f"One load of {_CONNECTIONS} connections, shared out evenly among the nodes that are asked;"
    f" {_NODES} nodes run all the time. The load, PostgreSQL and all nodes share the {{cores}}"
    " cores of this machine, and the more nodes are asked, the fewer reads share a commit: the"
    " figures say what that costs, not what nodes add that have machines of their own."
)


class Spread(NamedTuple):
    """Medians by how many nodes were asked, from one on."""

    measured: Sequence[Measurement]
    on_record: Recorded


def measure_nodes(folder: Path, keys: list[BenchKey], *, rounds: int, seconds: int) -> Spread:
    """Measure in ``folder``."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(postgres(folder / "nodes-postgres"))
        settings = {"database": server.create_database("store")}
        first = {**settings, "node_name": "n1"}
        home = folder / "nodes"
        store = stack.enter_context(doxstore(folder=home, keys=keys, name=_NAME, settings=first))
        ports = [store.target.port]
        for number in range(2, _NODES + 1):
            named = {**settings, "node_name": f"n{number}"}
            node = served_store(home, store.operator, named, data=f"data{number}")
            ports.append(stack.enter_context(node)[1])
        answers = len(keys)
        taken: list[list[Measurement]] = [[] for _ in ports]

        def load(asked: int, seconds: int) -> Measurement:
            return measure(
                name=f"{asked} of {_NODES} nodes",
                port=store.target.port,
                requests=store.target.requests,
                connections=_CONNECTIONS,
                seconds=seconds,
                arguments=[str(port) for port in ports[:asked]],
                threads=asked,
            )

        answers += load(_NODES, _WARM_UP_SECONDS).requests
        for number in range(rounds):
            for asked in range(1, _NODES + 1):
                one = load(asked, seconds)
                answers += one.requests
                taken[asked - 1].append(one)
                print(
                    f"bench: {asked} of {_NODES} nodes, round {number + 1} of {rounds}:"
                    f" {one.per_second:,.0f}/s",
                    flush=True,
                )
        return Spread([median_of(each) for each in taken], recorded(store, answers))


def nodes_verdicts(spread: Spread) -> list[Verdict]:
    """What more nodes do; nothing is required where all of them share a machine."""
    alone = spread.measured[0].per_second
    return [
        Verdict(
            f"{number} nodes on one PostgreSQL against one, {_CONNECTIONS} connections",
            "none",
            "none",
            f"{one.per_second / alone:.2f}x",
            "for information",
        )
        for number, one in enumerate(spread.measured[1:], start=2)
    ]


def nodes_lines(spread: Spread) -> list[str]:
    """The part on nodes."""
    lines = ["", "## Nodes on one PostgreSQL", ""]
    lines += [*row("nodes", "requests/s", "p50 ms", "p99 ms"), *row(*["--:"] * 4)]
    for number, one in enumerate(spread.measured, start=1):
        lines += row(
            str(number),
            f"{one.per_second:,.0f}",
            f"{one.p50_milliseconds:.2f}",
            f"{one.p99_milliseconds:.2f}",
        )
    cores = len(os.sched_getaffinity(0))
    return [*lines, "", _HOW.format(cores=cores)]
