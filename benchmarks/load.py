"""One measurement: wrk against one server, with one number of connections.

wrk is a closed loop: each connection sends its next request when the last one was answered. So
throughput and latency are two views of one number, and a server's stall is undercounted in its
p99 for every server alike. One wrk thread is enough (it sends several times what bare Granian
answers) and leaves the second core to the server.

A measurement with a single refused, failed or late answer is worth nothing: `measure` raises.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.process import BenchError

__all__ = ["Measurement", "measure", "median_of", "wrk_version"]

_SCRIPT = Path(__file__).with_name("cycle.lua")
_ANSWER_TIMEOUT_SECONDS = 10
_STOP_TIMEOUT_SECONDS = 60
_ERRORS = ("bad_status", "connect_errors", "read_errors", "write_errors", "timeouts")


class Measurement(NamedTuple):
    """``requests`` were answered, all of them 2xx, in ``seconds``."""

    requests: int
    seconds: float
    p50_milliseconds: float
    p99_milliseconds: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def measure(
    *,
    name: str,
    port: int,
    requests: Path,
    connections: int,
    seconds: int,
    script: Path = _SCRIPT,
    arguments: Sequence[str] = (),
    threads: int = 1,
) -> Measurement:
    """Load the server ``name`` on loopback ``port`` with what ``script`` makes of ``requests`` and
    ``arguments``. Raises `BenchError` on any bad answer."""
    # What the server before left unwritten is written now, so that this one does not wait for it.
    os.sync()
    finished = subprocess.run(
        [
            _wrk(),
            f"--threads={threads}",
            f"--connections={connections}",
            f"--duration={seconds}s",
            f"--timeout={_ANSWER_TIMEOUT_SECONDS}s",
            f"--script={script}",
            f"http://127.0.0.1:{port}/",
            "--",
            str(requests),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=seconds + _STOP_TIMEOUT_SECONDS,
        check=False,
    )
    lines = [line for line in finished.stdout.splitlines() if line.startswith("RESULT ")]
    if finished.returncode != 0 or len(lines) != 1:
        raise BenchError(f"wrk failed against {name}: {finished.stderr or finished.stdout}")
    result = json.loads(lines[0].removeprefix("RESULT "))
    bad = {error: result[error] for error in _ERRORS if result[error]}
    if bad:
        raise BenchError(
            f"{name} at {connections} connections: {bad} of {result['requests']} requests. "
            "The run is void: every answer must be 2xx."
        )
    if result["requests"] == 0:
        raise BenchError(f"{name} at {connections} connections answered nothing")
    return Measurement(
        requests=result["requests"],
        seconds=result["duration_us"] / 1e6,
        p50_milliseconds=result["p50_us"] / 1e3,
        p99_milliseconds=result["p99_us"] / 1e3,
    )


def median_of(rounds: Sequence[Measurement]) -> Measurement:
    """The median of each number by itself; ``requests`` and ``seconds`` of the median round."""
    middle = sorted(rounds, key=lambda one: one.per_second)[len(rounds) // 2]
    return middle._replace(
        p50_milliseconds=statistics.median(one.p50_milliseconds for one in rounds),
        p99_milliseconds=statistics.median(one.p99_milliseconds for one in rounds),
    )


def wrk_version() -> str:
    # `wrk -v` prints its version and its usage, and exits with 1.
    shown = subprocess.run([_wrk(), "-v"], capture_output=True, text=True, check=False).stdout
    words = shown.split()
    return words[1].removeprefix("debian/") if len(words) > 1 else "of unknown version"


def _wrk() -> str:
    found = shutil.which("wrk")
    if found is None:
        raise BenchError("wrk is not installed; on Debian: apt-get install wrk")
    return found
