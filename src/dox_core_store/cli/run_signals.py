r"""`SignalListener`: hears signals, and from whom, so that a command gets each of them once.

A terminal sends its signals (Ctrl-C, Ctrl-\, Ctrl-Z, a changed size, the end of a line) to all of
its foreground processes, so the command has got those already. Everybody else sends to us alone,
and means the command. The kernel tells which it was only to whoever waits for a signal, so they
are blocked, and a thread waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

__all__ = ["ENDING", "FORWARDED", "Received", "SignalListener", "stop_as_usual"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
FORWARDED = (
    *ENDING,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGTSTP,
)

_SI_KERNEL = 0x80
"""``si_code`` of what no process sent: ``asm-generic/siginfo.h``."""

_END_SECONDS = 1.0


class Received(NamedTuple):
    """A signal; ``sender`` is a process id, 0 for the kernel (a terminal)."""

    number: int
    is_of_terminal: bool
    sender: int


class SignalListener:
    """Inside, ``heard`` is told of each signal, on a thread of its own. ``original`` is the mask
    of signals as it was outside, for processes that are started inside."""

    def __init__(self, heard: Callable[[Received], None]) -> None:
        self._heard = heard
        self._is_over = False
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self.original: set[int] = set()

    def __enter__(self) -> Self:
        # Before any other thread begins: each thread inherits the mask of whoever started it.
        self.original = set(signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over = True
        if self._thread.ident is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pthread_kill(self._thread.ident, signal.SIGCONT)
        self._thread.join(_END_SECONDS)
        # They stay blocked: what comes now finds us ending anyway, with the command's own code.

    def _listen(self) -> None:
        while True:
            received = _wait()
            if self._is_over:
                return
            self._heard(received)


def stop_as_usual() -> None:
    """Do what SIGTSTP does where nobody listens to it: stop, unless nobody could let us go on."""
    here = threading.main_thread().ident
    if here is not None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTSTP,))
        try:
            signal.pthread_kill(here, signal.SIGTSTP)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTSTP,))


def _wait() -> Received:
    if hasattr(signal, "sigwaitinfo"):
        info = signal.sigwaitinfo(FORWARDED)
        return Received(info.si_signo, info.si_code == _SI_KERNEL, info.si_pid)
    # Not told by macOS: whoever has the terminal got it from there.
    number = signal.sigwait(FORWARDED)
    with contextlib.suppress(OSError):
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        try:
            return Received(number, os.tcgetpgrp(terminal) == os.getpgrp(), 0)
        finally:
            os.close(terminal)
    return Received(number, is_of_terminal=False, sender=0)
