"""A running server under test, as the load needs to know it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["Target"]


class Target(NamedTuple):
    """``requests`` is a file that `workload.write_requests` wrote."""

    name: str
    port: int
    requests: Path
