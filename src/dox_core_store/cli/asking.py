"""Asking people for what opens a store: a passphrase, or the words of shares.

On a terminal nothing that is typed is shown, and a mistyped share may be typed again. Where stdin
is not a terminal, a command asks only if it was told to (``--unseal-with``): then each answer is a
line of stdin, and the first that is wrong ends it. Never the command line, which every user of the
machine can read.
"""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

import typer

from dox_core_store.cli.output import note, printable
from dox_core_store.errors import ConfigurationError, DoxStoreError
from dox_core_store.sensitive import Sensitive

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap.unlock import Ask

__all__ = ["asking", "new_passphrase"]

_MAX_LINE = 4096
_MAX_WRONG = 3


def asking(unseal_with: str) -> Ask | None:
    """Whoever can be asked; None where nobody can."""
    if sys.stdin.isatty():
        return _Terminal()
    return _Lines() if unseal_with in {"passphrase", "shares"} else None


def new_passphrase(*, stdin: bool) -> Sensitive:
    """A passphrase for a new slot: asked for twice, or the next line of stdin."""
    if stdin:
        return _line("a new passphrase")
    if not sys.stdin.isatty():
        raise typer.BadParameter("Where does the passphrase come from? Say --stdin.")
    first = _hidden("New passphrase (hidden): ")
    if first != _hidden("Again: "):
        raise typer.BadParameter("The two do not match; nothing was changed.")
    return first


class _Terminal:
    """The `Ask` of a terminal."""

    def __init__(self) -> None:
        self._wrong = 0

    def passphrase(self) -> Sensitive:
        return _hidden("Passphrase (hidden; empty to go on without): ")

    def share(self, label: str, entered: int, needed: int) -> Sensitive:
        prompt = f"Share {entered + 1} of {needed} of {printable(label)} (hidden): "
        words = _hidden(prompt)
        if not words.reveal().strip():
            raise ConfigurationError("slot_needed", f"{entered} of {needed} shares were entered.")
        return words

    def refused(self, error: DoxStoreError) -> None:
        self._wrong += 1
        if self._wrong >= _MAX_WRONG:
            raise error
        note(error.detail)


class _Lines:
    """The `Ask` of a stdin that is a file or a pipe."""

    def passphrase(self) -> Sensitive:
        return _line("a passphrase")

    def share(self, label: str, entered: int, needed: int) -> Sensitive:  # noqa: ARG002
        return _line(f"share {entered + 1} of {needed}")

    def refused(self, error: DoxStoreError) -> None:
        raise error


def _hidden(prompt: str) -> Sensitive:
    try:
        return Sensitive(getpass.getpass(prompt))
    except EOFError:
        raise typer.Abort from None


def _line(what: str) -> Sensitive:
    try:
        line = sys.stdin.readline(_MAX_LINE)
    except UnicodeDecodeError:  # not chained: it carries the bytes
        raise ConfigurationError("slot_needed", "What stdin has is not UTF-8 text.") from None
    if not line:
        raise ConfigurationError("slot_needed", f"stdin ended where {what} was to come.")
    return Sensitive(line.rstrip("\r\n"))
