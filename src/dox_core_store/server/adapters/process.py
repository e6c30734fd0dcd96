"""What a process that holds keys forbids itself."""

from __future__ import annotations

import ctypes
import resource

__all__ = ["forbid_dumps"]

_PR_SET_DUMPABLE = 4
"""prctl(2): a process that is not dumpable writes no core and cannot be traced by its user."""


def forbid_dumps() -> None:
    """No core dumps, no tracing by others than root. Where the system has no such switch, nothing."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
