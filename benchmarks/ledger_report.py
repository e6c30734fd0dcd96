"""What a large ledger costs, as text: to search, page by page, and beside reads.

The requirement of a page stands here as a constant, as in `report`. It holds for every kind of
search: a page may then be shorter than asked for, and says where to go on.
"""

from __future__ import annotations

from benchmarks.ledger_search import LedgerCost
from benchmarks.scale import CONNECTIONS
from benchmarks.verdict import Verdict, row

__all__ = ["ledger_lines", "ledger_verdicts"]

_PAGE_MILLISECONDS = 100.0

_HOW = (
    "The ledger holds {entries:,} entries in {blocks:,} blocks, {bytes_per_entry:.0f} bytes an "
    "entry with the index: bursts over 300 days, of 10,000 services that read 100,000 keys, in 10 "
    "streams. It was filled through the code that writes it, at {fill_per_second:,.0f} entries/s; "
    "the server was ready {start_seconds:.1f} s after its start. A page is 100 entries, over HTTP, "
    "and each is on record before it is told. A search by which little is found ends its page in "
    "time with fewer, and goes on by its cursor: pages are those that were asked for one after the "
    "other, to the end or until enough was found. Deep is the 20th of them, or the last."
)
_BESIDE = (
    "Audited reads from a store with this ledger, {connections} connections in a closed loop: "
    "{read.per_second:,.0f}/s, p50 {read.p50_milliseconds:.2f} ms, p99 {read.p99_milliseconds:.2f} "
    "ms."
)


def ledger_verdicts(cost: LedgerCost) -> list[Verdict]:
    """What is required of every kind of search."""
    slowest = max(cost.searched, key=lambda one: max(one.first_milliseconds, one.deep_milliseconds))
    measured = max(slowest.first_milliseconds, slowest.deep_milliseconds)
    return [
        Verdict(
            f"{cost.entries:,} ledger entries: slowest kind of search, a page ({slowest.what})",
            f"≤ {_PAGE_MILLISECONDS:g} ms",
            "none",
            f"{measured:,.0f} ms",
            "met" if measured <= _PAGE_MILLISECONDS else "not met",
        )
    ]


def ledger_lines(cost: LedgerCost) -> list[str]:
    """The part on the ledger: every kind of search, and how it was measured."""
    lines = [
        "",
        "## Searching a large ledger",
        "",
        *row("search", "first page ms", "deep ms", "slowest ms", "found", "pages"),
        *row("---", *["--:"] * 5),
    ]
    for one in cost.searched:
        lines += row(
            one.what,
            f"{one.first_milliseconds:.0f}",
            f"{one.deep_milliseconds:.0f}",
            f"{one.worst_milliseconds:.0f}",
            f"{one.found:,}",
            f"{one.pages}" if one.ended else f"{one.pages} and more",
        )
    return [
        *lines,
        "",
        _HOW.format(**cost._asdict()),
        "",
        _BESIDE.format(connections=CONNECTIONS, read=cost.read),
    ]
