"""A server under test as a child process that never outlives the bench.

Children get a session of their own: Ctrl-C reaches the bench alone, which then ends each child by
its pid, first politely (SIGTERM), then not (SIGKILL). What a child prints goes to a file in the
bench's folder, and its last lines into the error when it fails to start.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["BenchError", "free_port", "serving", "wait_until"]

_STOP_SECONDS = 15
_POLL_SECONDS = 0.05
_SHOWN_LINES = 30


class BenchError(Exception):
    """The run is void, and why."""


def free_port() -> int:
    """A port of the loopback address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(
    command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` in ``folder`` until the block ends, however it ends."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        _end(child)


def wait_until(
    ready: Callable[[], bool], *, child: subprocess.Popen[bytes], log: Path, seconds: float
) -> None:
    """Return once ``ready()``; raise `BenchError` if ``child`` ends or ``seconds`` pass first."""
    deadline = time.monotonic() + seconds
    while not ready():
        if child.poll() is not None:
            raise BenchError(f"ended with {child.returncode} while starting:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise BenchError(f"not ready after {seconds:.0f} s:\n{_tail(log)}")
        time.sleep(_POLL_SECONDS)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    except BaseException:
        # A second Ctrl-C while waiting: no more patience, but no orphan either.
        child.kill()
        child.wait()
        raise


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:])
