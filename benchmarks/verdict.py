"""A row of the report: what is required, what was measured."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Verdict", "row"]


class Verdict(NamedTuple):
    """One requirement and its outcome, as text."""

    what: str
    required: str
    goal: str
    measured: str
    outcome: str


def row(*cells: str) -> list[str]:
    """One line of a Markdown table."""
    return ["| " + " | ".join(cells) + " |"]
