"""An event loop whose time is the test's: it passes when nobody has anything to do."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["in_virtual_time"]

Result = TypeVar("Result")


class _Waiting(selectors.SelectSelector):
    """Instead of waiting, it moves the time on."""

    now = 1_000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits for somebody else"
        self.now += max(timeout, 0.0)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._waiting = _Waiting()
        super().__init__(self._waiting)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._waiting.now


def in_virtual_time(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run ``work``; `asyncio.sleep` takes as long as it says, and no time at all."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work())
