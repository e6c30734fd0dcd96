"""What a store costs by its size, as text and as a picture.

The requirements stand here as constants, as in `report`. Import and settling have goals of our own:
a million keys in two minutes, and no longer to tidy up than to import.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.plot import Chart, draw
from benchmarks.scale import CONNECTIONS, Sized, offered
from benchmarks.verdict import Verdict, row

__all__ = ["PLOT", "plot", "scale_lines", "scale_verdicts"]

PLOT = "scale.svg"
"""The picture beside the report."""

_P50_OF_SMALL = 1.2
_RESIDENT_MEGABYTES = 400
_START_SECONDS = 5.0
_PAGE_OF_SMALL = 2.0

_HOW = (
    "Keys are drawn evenly from all keys. The first two times are at one rate for every size: "
    "{connections} connections that rest between two reads, {offered:,.0f} reads/s if answers took "
    "no time. The closed loop asks as fast as it is answered: there every read that no cache "
    "answers costs the others too. Small stores fit into the node's cache of values whole, the "
    "largest hardly at all. Imports go through `doxstore key import`, files of at most 100,000 "
    "keys; reading and planning the file counts."
)
_MEANWHILE = (
    "While {keys:,} keys were imported, {reads.requests:,} reads were answered at that rate, all "
    "with 200: p50 {reads.p50_milliseconds:.2f} ms, p99 {reads.p99_milliseconds:.2f} ms in the "
    "worst of its rounds."
)


def scale_verdicts(small: Sized, large: Sized) -> list[Verdict]:
    """What is required of the largest store, by itself and against the smallest."""
    p50 = large.read.p50_milliseconds / small.read.p50_milliseconds
    page = max(
        large.page_milliseconds[name] / small.page_milliseconds[name]
        for name in large.page_milliseconds
    )
    resident = large.resident_bytes / 1e6
    verdicts = [
        (f"read p50 against {small.keys:,} keys, same rate", p50, _P50_OF_SMALL, "x", 2),
        ("resident memory", resident, _RESIDENT_MEGABYTES, " MB", 0),
        ("start until ready", large.start_seconds, _START_SECONDS, " s", 1),
        (f"slowest kind of page against {small.keys:,} keys", page, _PAGE_OF_SMALL, "x", 2),
    ]
    return [
        Verdict(
            f"{large.keys:,} keys: {what}",
            f"≤ {most:g}{unit}",
            "none",
            f"{measured:,.{digits}f}{unit}",
            "met" if measured <= most else "not met",
        )
        for what, measured, most, unit, digits in verdicts
    ]


def scale_lines(sizes: Sequence[Sized]) -> list[str]:
    """The part on size: what each store costs, and how it was measured."""
    names = _page_names(sizes)
    lines = [
        "",
        "## Cost against size",
        "",
        f"![cost against size]({PLOT})",
        "",
        *row("keys", "services", "p50 ms", "p99 ms", "closed loop/s", "p50 ms", "MB", "start s",
              *(f"page, {name}: ms" for name in names), "imported/s"),
        *row(*["--:"] * (9 + len(names))),
    ]  # fmt: skip
    for one in sizes:
        lines += row(
            f"{one.keys:,}",
            f"{one.services:,}",
            f"{one.read.p50_milliseconds:.2f}",
            f"{one.read.p99_milliseconds:.2f}",
            f"{one.saturated.per_second:,.0f}",
            f"{one.saturated.p50_milliseconds:.2f}",
            f"{one.resident_bytes / 1e6:.0f}",
            f"{one.start_seconds:.1f}",
            *(f"{one.page_milliseconds[name]:.1f}" for name in names),
            f"{one.filling.keys_per_second:,.0f}",
        )
    lines += [
        "",
        _HOW.format(connections=CONNECTIONS, offered=offered()),
    ]
    reads = sizes[-1].filling.reads
    if reads is not None:
        lines += [
            "",
            _MEANWHILE.format(keys=sizes[-1].keys, reads=reads),
        ]
    return lines


def plot(sizes: Sequence[Sized]) -> str:
    """Cost against size, as an SVG."""
    keys = [one.keys for one in sizes]
    pages = {name: [one.page_milliseconds[name] for one in sizes] for name in _page_names(sizes)}
    small = sizes[0].read.p50_milliseconds
    return draw(
        [
            Chart(
                f"read p50 at {offered():,.0f} reads/s offered",
                "ms",
                keys,
                {"p50": [one.read.p50_milliseconds for one in sizes]},
                round(small * _P50_OF_SMALL, 2),
            ),
            Chart(
                "start until ready",
                "s",
                keys,
                {"start": [one.start_seconds for one in sizes]},
                _START_SECONDS,
            ),
            Chart(
                "resident memory after the reads",
                "MB",
                keys,
                {"resident": [one.resident_bytes / 1e6 for one in sizes]},
                _RESIDENT_MEGABYTES,
            ),
            Chart("a page of 100 keys", "ms", keys, pages),
        ]
    )


def _page_names(sizes: Sequence[Sized]) -> list[str]:
    return list(sizes[0].page_milliseconds)
