"""Times and durations as people type them: ``2026-01-31T12:00:00Z``, ``2026-01-31``, ``90d``.

A time without a zone is UTC, as everything that the store prints; a day is its first moment.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

__all__ = ["ahead", "moment", "since"]

_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhdwy])", re.ASCII)
_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}


def moment(text: str) -> datetime:
    """The time that ``text`` names. Raises a usage error."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!a} is not a time such as 2026-01-31T12:00:00Z or 2026-01-31."
        ) from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def ahead(text: str, *, now: datetime) -> datetime:
    """``now`` and the duration that ``text`` names, for example ``90d``. Raises a usage error."""
    return now + _duration(text)


def since(text: str, *, now: datetime) -> datetime:
    """A time, or a duration before ``now``. Raises a usage error."""
    return now - _duration(text) if _DURATION.fullmatch(text) else moment(text)


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!a} is not a duration such as 30m, 24h, 90d or 1y.")
    return int(match[1]) * _UNITS[match[2]]
