"""What was measured against what is required, as text.

The requirements stand here as constants. One that is not met is printed as such and does not fail
the run: the table says what is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.clients import ClientCost
from benchmarks.clients_report import clients_lines, clients_verdicts
from benchmarks.doxstore import DOXSTORE, ON_POSTGRES
from benchmarks.doxstore import SYNC as DOXSTORE_SYNC
from benchmarks.fronting import Fronted, fronting_lines, fronting_verdicts
from benchmarks.ledger_report import ledger_lines, ledger_verdicts
from benchmarks.ledger_search import LedgerCost
from benchmarks.nodes import Spread, nodes_lines, nodes_verdicts
from benchmarks.on_record import Recorded
from benchmarks.openbao import AS_ISSUED, LEAN
from benchmarks.openbao import SYNC as OPENBAO_SYNC
from benchmarks.postgres import SYNC as POSTGRES_SYNC
from benchmarks.proven import Proven, proven_lines, proven_verdicts
from benchmarks.scale import Sized
from benchmarks.scale_report import scale_lines, scale_verdicts
from benchmarks.side_by_side_report import Medians, side_by_side_verdicts
from benchmarks.verdict import Verdict, row
from benchmarks.workload import KEYS, SERVICES

__all__ = ["Results", "render", "verdicts"]

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
    medians: Medians
    cached_get_microseconds: float | None
    on_record: Sequence[Recorded]
    scale: Sequence[Sized] = ()
    ledger: LedgerCost | None = None
    proven: Proven | None = None
    spread: Spread | None = None
    fronted: Fronted | None = None
    clients: ClientCost | None = None


def verdicts(results: Results) -> list[Verdict]:
    """Every requirement whose parts were measured."""
    found = side_by_side_verdicts(results.medians)
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
    if results.clients is not None:
        found += clients_verdicts(results.clients)
    if len(results.scale) > 1:
        found += scale_verdicts(results.scale[0], results.scale[-1])
    if results.spread is not None:
        found += nodes_verdicts(results.spread)
    if results.fronted is not None:
        found += fronting_verdicts(results.fronted)
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
    lines += _parts(results)
    lines += ["", "What is on disk when a value leaves:", ""]
    lines += [
        f"- {DOXSTORE}: {DOXSTORE_SYNC}.",
        f"- {ON_POSTGRES}: {POSTGRES_SYNC}.",
        f"- OpenBao: {OPENBAO_SYNC}.",
    ]
    lines += ["", _TWO_TOKENS]
    on_record = [*results.on_record]
    parts = (results.spread, results.fronted, results.clients)
    on_record += [part.on_record for part in parts if part is not None]
    for store, answers, entries in on_record:
        text = (
            f"The ledger of {store} held {entries:,} entries of revealed values after"
            f" {answers:,} counted answers."
        )
        lines += ["", text]
    return "\n".join(lines) + "\n"


def _parts(results: Results) -> list[str]:
    """Those that were measured, each by itself."""
    lines: list[str] = []
    if results.clients is not None:
        lines += clients_lines(results.clients)
    if results.scale:
        lines += scale_lines(results.scale)
    if results.spread is not None:
        lines += nodes_lines(results.spread)
    if results.fronted is not None:
        lines += fronting_lines(results.fronted)
    if results.proven is not None:
        lines += proven_lines(results.proven)
    if results.ledger is not None:
        lines += ledger_lines(results.ledger)
    return lines
