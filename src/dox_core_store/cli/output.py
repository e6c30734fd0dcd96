"""What a command prints, where, and how it ends.

Results go to stdout: tables and facts for people, JSON with ``--json`` and nothing else then.
Everything else (notes, errors, progress) goes to stderr. What comes from a store is printed with
its control characters escaped: a path that somebody asked for must not steer a terminal,
not even as JSON.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Sequence
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
    "exit_code_of",
    "note",
    "printable",
    "show_error",
    "show_facts",
    "show_json",
    "show_table",
    "when",
]

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
    """A setting, a file or the environment is unusable."""
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
    """A table for people; where stdout is not a terminal, the same without colours and cuts."""
    from rich.console import Console  # only here: not every command prints a table
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(cell)) for cell in row))
    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    text = io.StringIO()
    Console(file=text, width=_WIDE, highlight=False).print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()))


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
