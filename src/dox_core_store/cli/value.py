"""Where a value comes from, and where it may be printed.

In: a file, stdin, or a prompt that hides what is typed and asks twice. Never the command line,
which every user of the machine can read and shells keep. A trailing newline is kept, because some
values end in one; a warning says so, for most do not. Out: to a pipe exactly; on a terminal only
when asked.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

import typer

from dox_core_store.cli.output import note
from dox_core_store.errors import InvalidRequestError, PayloadTooLargeError
from dox_core_store.sensitive import Sensitive

__all__ = ["print_value", "read_value", "refuse_terminal"]

_MOST_BYTES = 1024 * 1024
"""Far above the store's own limit, which it enforces itself and puts on record."""


def read_value(*, from_file: Path | None, stdin: bool, strip_newline: bool) -> Sensitive:
    """The value to store. Raises a usage error, ``invalid_field`` or ``value_too_large``."""
    if from_file is not None and stdin:
        raise typer.BadParameter("Say --from-file or --stdin, not both.")
    if from_file is None and not stdin:
        if not sys.stdin.isatty():
            raise typer.BadParameter("Where does the value come from? Say --stdin or --from-file.")
        return _prompted()
    raw = _bytes_of(from_file)
    if len(raw) > _MOST_BYTES:
        raise PayloadTooLargeError("value_too_large", "The value is far over 64 KiB; not sent.")
    text = _text_of(raw)
    if text is None:  # not chained: the decoding error carries the bytes
        raise InvalidRequestError("invalid_field", "The value is not UTF-8 text.")
    if not text.endswith("\n"):
        return Sensitive(text)
    if strip_newline:
        return Sensitive(text[: -2 if text.endswith("\r\n") else -1])
    note("warning: the value ends in a newline, which is kept; --strip-newline leaves it out.")
    return Sensitive(text)


def refuse_terminal(*, show: bool) -> None:
    """Raise a usage error where a value would appear on a terminal unasked."""
    if sys.stdout.isatty() and not show:
        raise typer.BadParameter("A value is not shown on a terminal: say --show, or pipe it on.")


def print_value(value: Sensitive) -> None:
    """``value`` on stdout: exactly, but for a newline that a terminal needs."""
    sys.stdout.flush()
    sys.stdout.buffer.write(value.reveal().encode())
    if sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _prompted() -> Sensitive:
    first = Sensitive(getpass.getpass("Value (hidden): "))
    if first != Sensitive(getpass.getpass("Again: ")):
        raise typer.BadParameter("The two do not match; nothing was stored.")
    return first


def _bytes_of(from_file: Path | None) -> bytes:
    if from_file is None:
        return sys.stdin.buffer.read(_MOST_BYTES + 1)
    try:
        with from_file.open("rb") as file:
            return file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise typer.BadParameter(f"{from_file} cannot be read: {error.strerror}.") from None


def _text_of(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
