"""This process: who runs it, and what one that serves keys does to itself (no dumps, no pauses)."""

from __future__ import annotations

import ctypes
import gc
import getpass
import resource
import secrets

from dox_core_store.server.domain.access import Caller

__all__ = ["forbid_dumps", "local_caller", "settle_memory"]

_COLLECT_AFTER = 50_000
"""Allocations between two young collections: a request makes no cycles, so rarely is often."""

_PR_SET_DUMPABLE = 4
"""prctl(2): a process that is not dumpable writes no core and cannot be traced by its user."""


def local_caller() -> Caller:
    """Whoever runs this process, as the ledger names them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no passwd entry, as in small containers
        user = "unknown"
    return Caller(f"local:{user}", (), f"req_{secrets.token_hex(8)}", "", "doxstore")


def forbid_dumps() -> None:
    """No core dumps, no tracing by others than root. Where the system has no such switch,
    nothing."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def settle_memory() -> None:
    """What start-up made stays: keep it out of every later garbage collection, which would
    otherwise walk the whole program and stop all requests for tens of milliseconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)
