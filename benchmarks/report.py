"""What was measured against what is required, as text.

The requirements stand here as constants. One that is not met is printed as such and does not fail
the run: the table says what is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.bare import BARE
from benchmarks.doxstore import DOXSTORE
from benchmarks.doxstore import SYNC as DOXSTORE_SYNC
from benchmarks.ledger_report import ledger_lines, ledger_verdicts
from benchmarks.ledger_search import LedgerCost
from benchmarks.load import Measurement
from benchmarks.openbao import AS_ISSUED, LEAN
from benchmarks.openbao import SYNC as OPENBAO_SYNC
from benchmarks.proven import Proven, proven_lines, proven_verdicts
from benchmarks.scale import Sized
from benchmarks.scale_report import scale_lines, scale_verdicts
from benchmarks.verdict import Verdict, row
from benchmarks.workload import KEYS, SERVICES

__all__ = ["Results", "render", "verdicts"]

# Connections -> required and wished-for throughput as a multiple of OpenBao's.
_TIMES_OPENBAO = {32: (7.0, 10.0), 128: (10.0, 15.0)}
_P99_OF_OPENBAO = 0.1
_OF_BARE_AT = 128
_OF_BARE = (0.33, 0.45)
_CACHED_GET_MICROSECONDS = 1.0

_TWO_TOKENS = (
    f"«{AS_ISSUED}» is read with the token that `bao token create -policy=bench` issues. Such a "
    "token carries the policy `default` too, unless its maker opts out. "
    f"«{LEAN}» is the same server, read with a token made with `-no-default-policy`: the fewer "
    "policies a token carries, the faster OpenBao answers. The figures from which the requirements "
    "were set agree with the first; the second stands here so that it surprises nobody."
)


class Results(NamedTuple):
    """Everything one run found out. ``medians`` is by connections, then by server."""

    machine: Sequence[str]
    rounds: int
    seconds: int
    medians: Mapping[int, Mapping[str, Measurement]]
    cached_get_microseconds: float | None
    answers: int | None
    granted_entries: int | None
    scale: Sequence[Sized] = ()
    ledger: LedgerCost | None = None
    proven: Proven | None = None


def verdicts(results: Results) -> list[Verdict]:
    """Every requirement whose parts were measured."""
    found = []
    for peer in (AS_ISSUED, LEAN):
        for connections, measured in results.medians.items():
            if DOXSTORE in measured and peer in measured:
                found += _against(peer, connections, measured[DOXSTORE], measured[peer])
    at = results.medians.get(_OF_BARE_AT, {})
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
    if results.cached_get_microseconds is not None:
        taken = results.cached_get_microseconds
        found.append(
            Verdict(
                "cached `await get_key` in the client, median",
                f"≤ {_CACHED_GET_MICROSECONDS:.0f} µs",
                "none",
                f"{taken:.2f} µs",
                "met" if taken <= _CACHED_GET_MICROSECONDS else "not met",
            )
        )
    if len(results.scale) > 1:
        found += scale_verdicts(results.scale[0], results.scale[-1])
    if results.proven is not None:
        found += proven_verdicts(results.proven)
    if results.ledger is not None:
        found += ledger_verdicts(results.ledger)
    return found


def render(results: Results) -> str:
    """The whole report, in Markdown that reads as plain text too."""
    lines = ["# Results of `make bench`", ""]
    lines += [f"- {statement}" for statement in results.machine]
    lines += [
        f"- audited, scoped read of one key at a time over {KEYS:,} keys and {SERVICES} services",
        f"- {results.rounds} round(s) of {results.seconds} s for each server in turn, medians",
        "- without TLS, load generator and servers on the same cores, one server at a time",
        "- before each round the system's unwritten pages are written, whoever left them (`sync`)",
        "",
        *row("connections", "server", "requests/s", "p50 ms", "p99 ms"),
        *row("--:", "---", "--:", "--:", "--:"),
    ]
    for connections, measured in results.medians.items():
        for server, one in measured.items():
            lines += row(
                str(connections),
                server,
                f"{one.per_second:,.0f}",
                f"{one.p50_milliseconds:.2f}",
                f"{one.p99_milliseconds:.2f}",
            )
    lines += ["", *row("what", "required", "goal", "measured", ""), *row(*["---"] * 5)]
    for verdict in verdicts(results):
        lines += row(*verdict)
    if results.scale:
        lines += scale_lines(results.scale)
    if results.proven is not None:
        lines += proven_lines(results.proven)
    if results.ledger is not None:
        lines += ledger_lines(results.ledger)
    lines += ["", "What is on disk when a value leaves:", ""]
    lines += [f"- {DOXSTORE}: {DOXSTORE_SYNC}.", f"- OpenBao: {OPENBAO_SYNC}."]
    lines += ["", _TWO_TOKENS]
    if results.answers is not None:
        held, counted = f"{results.granted_entries:,}", f"{results.answers:,}"
        lines += [
            "",
            f"The ledger held {held} entries of revealed values after {counted} counted answers.",
        ]
    return "\n".join(lines) + "\n"


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


def _outcome(measured: float, required: float, goal: float) -> str:
    if measured >= goal:
        return "met, and the goal"
    return "met" if measured >= required else "not met"
