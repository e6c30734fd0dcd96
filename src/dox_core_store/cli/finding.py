"""What `doxstore doctor` found, and how bad it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["FAILURE", "OK", "WARNING", "Finding", "shown"]

OK, WARNING, FAILURE = "ok", "warning", "failure"
_SHOWN = 5


class Finding(NamedTuple):
    """What was looked at, whether it is as it should be, and what there is to say."""

    check: str
    status: str
    detail: str


def shown(names: Sequence[str], separator: str = ", ") -> str:
    """The first of ``names``, in one line."""
    return separator.join(names[:_SHOWN]) + (f"{separator}…" if len(names) > _SHOWN else "")
