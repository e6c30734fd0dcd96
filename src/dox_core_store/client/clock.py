"""The client's clock for ages: seconds that pass, also while the machine sleeps.

``time.monotonic`` stands still during a suspend on Linux, and a value would then seem younger than
it is: a revocation could pass unnoticed in a laptop that was shut. ``CLOCK_BOOTTIME`` goes on.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

__all__ = ["elapsed"]

_BOOT = getattr(time, "CLOCK_BOOTTIME", None)

elapsed: Callable[[], float] = (
    time.monotonic if _BOOT is None else functools.partial(time.clock_gettime, _BOOT)
)
"""Seconds from some moment in the past; never goes back."""
