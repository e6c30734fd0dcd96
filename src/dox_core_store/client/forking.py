"""What a fork finds, and what begins anew in the process that it makes.

Such a process has a copy of everything but the threads: a lock that one of them held stays locked
for ever, what only they did is not done, and a module that one was importing is never whole. Who
has a lock or a thread says so here. Threads that can are brought to stand for a moment, and a fork
waits for an `unforked` import.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from contextlib import AbstractContextManager
from typing import Protocol

__all__ = ["begin_anew_in_child", "hold_at_fork", "unforked"]

_HOLD_SECONDS = 1.0
"""How long a fork waits for threads to stand."""


class BeginsAnew(Protocol):
    def begin_anew(self) -> None:
        """In the child, before anything else runs in it."""


class Holds(Protocol):
    def hold(self) -> threading.Event | None:
        """Come to stand before a fork; the event tells when. None: nothing runs."""

    def go_on(self) -> None:
        """In the parent, after it."""


def begin_anew_in_child(each: BeginsAnew) -> None:
    """Have ``each`` begin anew in every child of this process, as long as it lives."""
    _known.add(each)


def hold_at_fork(each: Holds) -> None:
    """Have ``each`` stand during every fork of this process, as long as it lives."""
    _held.add(each)


def unforked() -> AbstractContextManager[object]:
    """A fork in another thread waits until this is left. Not for a thread that is held at forks."""
    return _forking


def _hold_all() -> None:
    _forking.acquire()
    deadline = time.monotonic() + _HOLD_SECONDS
    for stands in [each.hold() for each in list(_held)]:
        if stands is not None:
            stands.wait(max(0.0, deadline - time.monotonic()))


def _go_on_all() -> None:
    for each in list(_held):
        each.go_on()
    _forking.release()


def _begin_all_anew() -> None:
    _forking.release()
    for each in list(_known):
        each.begin_anew()


_known: weakref.WeakSet[BeginsAnew] = weakref.WeakSet()
_held: weakref.WeakSet[Holds] = weakref.WeakSet()
_forking = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_hold_all, after_in_parent=_go_on_all, after_in_child=_begin_all_anew
    )
