"""`Child`: the command itself, as a process of ours.

It is in our process group, has our terminal and every file that we were given, and nothing stands
between it and its input and output (unless values in its output are masked). It dies with us:
the kernel ends it when we are killed, for nobody would restart it, stop it, or take away its files.
That does not reach programs that change their user (sudo), nor processes that the command started.

Our own memory, which holds a token and the keys, is closed to other processes of the same user,
the command among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from dox_core_store.cli.run_mask import Forms, Mask
from dox_core_store.errors import ConfigurationError

__all__ = ["NOT_FOUND", "NOT_RUNNABLE", "Child", "close_memory", "locate"]

NOT_FOUND = 127
NOT_RUNNABLE = 126
"""As shells say it."""

_BY_SIGNAL = 128

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
"""prctl(2)."""

_CHUNK_BYTES = 64 * 1024
_PAUSE_MS = 100
_OUTPUT_SECONDS = 2.0
"""How long output is waited for after the command's end, where others hold its pipe open."""


class Child:
    """Started when it is made, on the main thread: the kernel ends it with the thread that did.
    Raises `ConfigurationError`: ``command_not_found``, ``command_not_runnable``."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[bytes, bytes],
        *,
        signal_mask: set[int],
        forms: Forms | None,
    ) -> None:
        output = None if forms is None else subprocess.PIPE
        try:
            self._process = subprocess.Popen(  # noqa: S603 - it is what we are for
                command,
                executable=locate(command[0]),
                env=environment,
                stdout=output,
                stderr=output,
                bufsize=0,
                # Ours are closed on exec; what we were given (sockets of systemd) is passed on.
                close_fds=False,
                preexec_fn=_dies_with_us(signal_mask),  # noqa: PLW1509 - it calls the kernel only
            )
        except OSError as error:
            raise ConfigurationError(
                "command_not_runnable", f"{command[0]} cannot be run: {error.strerror}."
            ) from None
        self._outputs = [
            _MaskedOutput(pipe, target, Mask(forms))
            for pipe, target in ((self._process.stdout, 1), (self._process.stderr, 2))
            if pipe is not None and forms is not None
        ]
        self.exited = asyncio.ensure_future(asyncio.to_thread(self._wait))
        """Done when it has ended, and its output is through; the exit code."""

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: int) -> None:
        """Send it a signal, if it is there still."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, grace_seconds: float) -> int:
        """End it: SIGTERM, and SIGKILL if it takes longer than it may. Returns its exit code."""
        self.send(signal.SIGTERM)
        await asyncio.wait({self.exited}, timeout=grace_seconds)
        if not self.exited.done():
            self.send(signal.SIGKILL)
        return await self.exited

    def _wait(self) -> int:
        code = self._process.wait()
        for output in self._outputs:
            output.join(_OUTPUT_SECONDS)
        return code if code >= 0 else _BY_SIGNAL - code


class _MaskedOutput(threading.Thread):
    """Brings what comes from ``source`` to ``target``, masked; ends with either."""

    def __init__(self, source: IO[bytes], target: int, mask: Mask) -> None:
        super().__init__(name="output", daemon=True)
        self._source = source
        self._target = target
        self._mask = mask
        self.start()

    def run(self) -> None:
        # Closed in any case: where whoever read it is gone, the command learns of it as ever.
        with self._source, contextlib.suppress(OSError):
            self._bring()

    def _bring(self) -> None:
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        while True:
            if not poll.poll(_PAUSE_MS if self._mask.is_waiting else None):
                self._show(self._mask.pause())
                continue
            chunk = os.read(self._source.fileno(), _CHUNK_BYTES)
            if not chunk:
                self._show(self._mask.end())
                return
            self._show(self._mask.feed(chunk))

    def _show(self, text: bytes) -> None:
        while text:
            text = text[os.write(self._target, text) :]


def locate(command: str) -> str:
    """The file that ``command`` names, as a shell finds it. Raises as `Child`."""
    found = shutil.which(command)
    if found is not None:
        return found
    folders = [""] if "/" in command else os.get_exec_path()
    if any((Path(folder) / command).exists() for folder in folders):
        raise ConfigurationError("command_not_runnable", f"{command} is no program to run.")
    raise ConfigurationError("command_not_found", f"There is no command {command}.")


def close_memory() -> None:
    """Nobody but root may look into our memory or environment, nor does it get into a core."""
    prctl = _prctl()
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _dies_with_us(signal_mask: set[int]) -> Callable[[], None]:
    parent, prctl = os.getpid(), _prctl()  # looked up before the fork

    def prepare() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:  # we were killed before the kernel knew
                os._exit(_BY_SIGNAL + signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, signal_mask)

    return prepare


def _prctl() -> Any:
    """prctl(2), where there is one."""
    return getattr(ctypes.CDLL(None), "prctl", None)
