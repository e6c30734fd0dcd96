"""What the servers in turns were measured against: OpenBao with its audit on, and bare Granian.

The requirements stand here as constants. Those against OpenBao hold for both of its tokens, though
they were set from figures of the first (`openbao`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from benchmarks.bare import BARE
from benchmarks.doxstore import DOXSTORE, ON_POSTGRES
from benchmarks.load import Measurement
from benchmarks.openbao import AS_ISSUED, LEAN
from benchmarks.verdict import Verdict

__all__ = ["Medians", "side_by_side_verdicts"]

Medians = Mapping[int, Mapping[str, Measurement]]
"""By connections, then by server."""

# Connections -> required and wished-for throughput as a multiple of OpenBao's.
_TIMES_OPENBAO = {32: (7.0, 10.0), 128: (10.0, 15.0)}
_P99_OF_OPENBAO = 0.1
_POSTGRES_TIMES_OPENBAO = {32: 5.0}
_OF_BARE_AT = 128
_OF_BARE = (0.33, 0.45)


def side_by_side_verdicts(medians: Medians) -> list[Verdict]:
    """Every requirement whose servers were measured."""
    found = []
    for peer in (AS_ISSUED, LEAN):
        for connections, measured in medians.items():
            if DOXSTORE in measured and peer in measured:
                found += _against(peer, connections, measured[DOXSTORE], measured[peer])
    for peer in (AS_ISSUED, LEAN):
        for connections, measured in medians.items():
            if ON_POSTGRES in measured and peer in measured:
                times = measured[ON_POSTGRES].per_second / measured[peer].per_second
                found.append(_on_postgres(peer, connections, times))
    at = medians.get(_OF_BARE_AT, {})
    if DOXSTORE in at and BARE in at:
        share = at[DOXSTORE].per_second / at[BARE].per_second
        required, goal = _OF_BARE
        found.append(
            Verdict(
                f"throughput against {BARE}, {_OF_BARE_AT} connections",
                f"≥ {required}x",
                f"{goal}x",
                f"{share:.2f}x",
                _outcome(share, required, goal),
            )
        )
    return found


def _against(peer: str, connections: int, ours: Measurement, theirs: Measurement) -> list[Verdict]:
    required, goal = _TIMES_OPENBAO[connections]
    times = ours.per_second / theirs.per_second
    share = ours.p99_milliseconds / theirs.p99_milliseconds
    return [
        Verdict(
            f"throughput against {peer}, {connections} connections",
            f"≥ {required:.0f}x",
            f"{goal:.0f}x",
            f"{times:.1f}x",
            _outcome(times, required, goal),
        ),
        Verdict(
            f"p99 against {peer}, {connections} connections",
            f"≤ {_P99_OF_OPENBAO}x",
            "none",
            f"{share:.3f}x",
            "met" if share <= _P99_OF_OPENBAO else "not met",
        ),
    ]


def _on_postgres(peer: str, connections: int, times: float) -> Verdict:
    required = _POSTGRES_TIMES_OPENBAO.get(connections)
    return Verdict(
        f"throughput on PostgreSQL, one node, against {peer}, {connections} connections",
        "none" if required is None else f"≥ {required:.0f}x",
        "none",
        f"{times:.1f}x",
        "for information" if required is None else _outcome(times, required, math.inf),
    )


def _outcome(measured: float, required: float, goal: float) -> str:
    if measured >= goal:
        return "met, and the goal"
    return "met" if measured >= required else "not met"
