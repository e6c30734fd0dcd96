"""What a command prints, where, and how it ends.

Results go to stdout: tables and facts for people, JSON with ``--json`` and nothing else then.
Everything else (notes, errors, progress) goes to stderr. What comes from a store is printed with
its control characters escaped: a path that somebody asked for must not steer a terminal,
not even as JSON.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

from dox_core_store import wire
from dox_core_store.errors import (
    CODES,
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    DoxStoreError,
    RateLimitError,
    StoreUnavailableError,
    UnauthorizedError,
)

__all__ = [
    "ExitCode",
    "counted",
    "exit_code_of",
    "note",
    "output_failed",
    "printable",
    "show_error",
    "show_facts",
    "show_json",
    "show_table",
    "shown_once",
    "silence_stdout",
    "when",
]

_LONGEST_WORD = 28
"""Ids of ours have 26 characters at most and are never broken in a table; longer words may be."""

_GAP = 2
"""Blanks between two columns of a table."""

_WIDE = 100_000
"""Columns of an output that is not a terminal: what another program reads is never cut."""


class ExitCode(IntEnum):
    """How `doxstore` ends; the numbers above 64 are those of ``sysexits.h``."""

    OK = 0
    REFUSED = 1
    """The store refused, or a check failed."""
    USAGE = 2
    """The command line is wrong; nothing was done."""
    UNREACHABLE = 75
    """No answer from the store, or not now: try again later."""
    NOT_PERMITTED = 77
    """Not authenticated, or not authorized."""
    CONFIGURATION = 78
    """A setting, a file, the output or the environment is unusable."""
    INTERRUPTED = 130
    """Ended with Ctrl-C."""


def exit_code_of(error: DoxStoreError) -> ExitCode:
    """The exit code for ``error``."""
    if isinstance(error, (ConnectionFailedError, StoreUnavailableError, RateLimitError)):
        return ExitCode.UNREACHABLE
    if isinstance(error, (AuthenticationError, UnauthorizedError)):
        return ExitCode.NOT_PERMITTED
    if isinstance(error, ConfigurationError):
        return ExitCode.CONFIGURATION
    return ExitCode.REFUSED


def show_error(code: str, detail: str, *, remedy: str | None = None, as_json: bool) -> None:
    """One error on stderr. ``remedy`` is by default the one that `CODES` knows."""
    if remedy is None:
        remedy = CODES[code].remedy if code in CODES else ""
    if as_json:
        sys.stderr.write(
            json.dumps({"error": {"code": code, "detail": detail, "remedy": remedy}}) + "\n"
        )
        return
    sys.stderr.write(f"error[{printable(code)}]: {printable(detail)}\n")
    if remedy:
        sys.stderr.write(f"{remedy}\n")


def note(text: str) -> None:
    """A remark beside the result."""
    sys.stderr.write(f"{printable(text)}\n")


def show_json(body: Any) -> None:
    """``body`` (wire structs, or what JSON knows) as one line. A value in it is printed."""
    sys.stdout.flush()
    sys.stdout.buffer.write(wire.encode_line(body) + b"\n")
    sys.stdout.buffer.flush()


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table for people; where stdout is not a terminal, the same without colours and cuts.

    The first columns matter most: where a terminal is too narrow for whole words in all of them,
    the last ones are left out, and a note says which.
    """
    from rich.console import Console  # only here: not every command prints a table
    from rich.table import Table
    from rich.text import Text

    shown = [[_shown(cell) for cell in row] for row in rows]
    text = io.StringIO()
    console = (
        Console(highlight=False)
        if sys.stdout.isatty()
        else Console(file=text, width=_WIDE, highlight=False)
    )
    widths = _widths(list(zip(columns, *shown, strict=True)), console.width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, width in zip(columns, widths, strict=False):
        table.add_column(name, overflow="fold", width=width)
    for row in shown:
        table.add_row(*map(Text, row[: len(widths)]))
    console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()))
    if left_out := [name for name in columns[len(widths) :] if name]:
        note(f"Too narrow for {', '.join(left_out)}: a wider terminal or --json shows all.")


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """How wide each column is, of those that fit: as its longest word, and as its longest cell
    where there is room for it."""
    from rich.cells import cell_len

    widths: list[int] = []
    for cells in columns:
        longest = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
        width = min(longest, _LONGEST_WORD)
        needed = width + (_GAP if widths else 0)
        if widths and needed > room:
            break
        widths.append(width)
        room -= needed
    wanted = [max(map(cell_len, cells)) for cells in columns[: len(widths)]]
    for at, width in enumerate(widths):
        if wanted[at] - width <= room:
            room -= wanted[at] - width
            widths[at] = wanted[at]
    for at in reversed(range(len(widths))):  # texts come last
        more = min(room, wanted[at] - widths[at])
        widths[at] += more
        room -= more
    return widths


def show_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Names and what they are, one a line. A value is never broken: it may be a token to copy."""
    from rich.console import Console
    from rich.text import Text

    rows = [(name, _shown(value)) for name, value in facts]
    width = max((len(name) for name, _ in rows), default=0)
    console = Console(highlight=False)  # leaves colours out under NO_COLOR and without a terminal
    for name, value in rows:
        line = Text.assemble((name.ljust(width), "bold"), "  ", value)
        console.print(line, soft_wrap=True)


@contextmanager
def shown_once(undo: str) -> Iterator[None]:
    """Around printing what is shown this once: where that fails, the error says so and ``undo``."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        silence_stdout()
        raise output_failed(error, undo=f" {undo}") from None


def output_failed(
    error: OSError, what: Any = "The output", *, undo: str = ""
) -> ConfigurationError:
    """The error where writing ``what`` ended in ``error``."""
    return ConfigurationError("output_failed", f"{what} cannot be written: {error.strerror}.{undo}")


def silence_stdout() -> None:
    """Nothing more to an output that failed: Python would complain again at its own exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 entry``, ``2 entries``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def when(moment: datetime | None) -> str:
    """A time as tables show it, in UTC."""
    if moment is None:
        return "-"
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def printable(text: str) -> str:
    """``text`` with everything but printable characters escaped."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _shown(cell: Any) -> str:
    if cell is None:
        return "-"
    return when(cell) if isinstance(cell, datetime) else printable(str(cell))
