"""How long something lives, as people write it: one number, one unit."""

from __future__ import annotations

import re
from typing import Final

from dox_core_store.errors import InvalidRequestError

__all__ = ["MAX_LIFETIME_SECONDS", "parse_duration"]

MAX_LIFETIME_SECONDS: Final = 400 * 86_400
"""400 days: ``1y`` and a month in which to replace it."""

_UNIT_SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "y": 365 * 86_400}
_DURATION = re.compile(r"([1-9][0-9]{0,8})([mhdy])", re.ASCII)


def parse_duration(text: str) -> int:
    """Seconds of ``30m``, ``12h``, ``90d`` or ``1y`` (365 days).

    Raises `InvalidRequestError` ``invalid_field``, also for more than `MAX_LIFETIME_SECONDS`.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidRequestError(
            "invalid_field", "A lifetime (expires_in) is written like 30m, 12h, 90d or 1y."
        )
    seconds = int(match[1]) * _UNIT_SECONDS[match[2]]
    if seconds > MAX_LIFETIME_SECONDS:
        raise InvalidRequestError(
            "invalid_field",
            f"A token lives (expires_in) {MAX_LIFETIME_SECONDS // 86_400} days at most.",
        )
    return seconds
