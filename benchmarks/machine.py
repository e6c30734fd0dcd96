"""The machine and the parts, in words: enough to judge a number, no host names and no paths."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.load import wrk_version
from benchmarks.openbao import openbao_version
from benchmarks.postgres import postgres_version
from benchmarks.process import BenchError

__all__ = ["describe", "require_disk"]

_PARTS = ("dox-core-store", "granian", "uvloop", "sqlalchemy", "msgspec", "cryptography", "psycopg")
_SYNC_TRIES = 200
_SYNC_BYTES = 4096
_IN_MEMORY = ("tmpfs", "ramfs")


def describe(folder: Path) -> list[str]:
    """One statement a line; ``folder`` is where the servers keep their data."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    sync = f"{_sync_microseconds(folder):.0f} µs"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    kernel = ".".join(platform.release().split(".")[:2])
    parts = ", ".join(f"{name} {version(name)}" for name in _PARTS)
    return [
        f"{cores} virtual processor cores ({_processor()}), {memory:.0f} GiB of memory",
        f"{platform.system()} {kernel}, {_filesystem(folder)}, a synced write of 4 KiB in {sync}",
        f"{python}, {parts}, SQLite {sqlite3.sqlite_version}",
        f"PostgreSQL {postgres_version()}, OpenBao {openbao_version()}, wrk {wrk_version()}",
    ]


def require_disk(folder: Path) -> None:
    """Raise `BenchError` where a sync costs nothing: in memory, the table would be fiction."""
    if _filesystem(folder) in _IN_MEMORY:
        raise BenchError(f"{folder} is in memory; name a folder on a disk with --folder")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _filesystem(folder: Path) -> str:
    """The type of the file system that ``folder`` is on: that of the longest mount point."""
    resolved = folder.resolve()
    deepest, kind = -1, "unknown file system"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, point, found, *_ = line.split()
        depth = len(Path(point).parts)
        # On a tie the later line wins: it was mounted over the earlier.
        if depth >= deepest and resolved.is_relative_to(point):
            deepest, kind = depth, found
    return kind


def _sync_microseconds(folder: Path) -> float:
    probe = folder / "sync.probe"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    taken = []
    try:
        for _ in range(_SYNC_TRIES):
            os.write(descriptor, bytes(_SYNC_BYTES))
            began = time.perf_counter()
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        probe.unlink()
    return statistics.median(taken) * 1e6
