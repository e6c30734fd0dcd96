"""`Breaker`: an unreachable store costs one caller the wait, and the next ones nothing.

It opens with the first call that gets no answer of the store. While it is open nobody asks: the
client's own thread tries, and says when the store answers again. Where there is no such thread,
one caller tries now and then. Who has nothing to serve instead may try all the same, as long as
that fails at once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

from dox_core_store.errors import ConnectionFailedError

__all__ = ["Breaker"]

_TURN_SECONDS = 5.0
_COSTLY_SECONDS = 0.25


class Breaker:
    """``elapsed`` in seconds; ``is_watched`` tells whether somebody else tries."""

    def __init__(self, *, elapsed: Callable[[], float], is_watched: Callable[[], bool]) -> None:
        self._elapsed = elapsed
        self._is_watched = is_watched
        self._error: ConnectionFailedError | None = None
        self._turn_at = math.inf
        self.is_costly = False
        """Whether the last call that failed took its time."""

    @property
    def is_open(self) -> bool:
        return self._error is not None

    def blocks(self) -> ConnectionFailedError | None:
        """Why there is no use in asking now; None if there may be."""
        error = self._error
        if error is None:
            return None
        if self._is_watched():
            return copy.copy(error)
        if self.is_costly and self._elapsed() < self._turn_at:
            return copy.copy(error)
        self._turn_at = self._elapsed() + _TURN_SECONDS
        return None

    def failed(self, error: ConnectionFailedError, took_seconds: float) -> None:
        """No answer came."""
        self.is_costly = took_seconds >= _COSTLY_SECONDS
        if self._error is None:
            self._turn_at = self._elapsed() + _TURN_SECONDS
        self._error = error

    def worked(self) -> None:
        """The store answered, whatever it said."""
        self._error = None
