"""What every server under test is filled with and asked for.

1,000 keys over 100 services: one hot key would measure a cache line, not a store. Each service
may read its own ten keys and no others. The values are derived from the key's number, so they
are no secrets, and an answer can be compared with what was stored.

The order of requests is a fixed shuffle, the same for every server, so that neighbours in time
are seldom of one service.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "KEYS",
    "KEYS_PER_SERVICE",
    "SERVICES",
    "BenchKey",
    "Request",
    "keys",
    "write_lines",
    "write_requests",
]

SERVICES = 100
KEYS_PER_SERVICE = 10
KEYS = SERVICES * KEYS_PER_SERVICE

_VALUE_CHARACTERS = 40  # the length of common API keys
_ORDER_SEED = 8420


class BenchKey(NamedTuple):
    """One key: its service, the segments of its path, and its value."""

    service: str
    segments: tuple[str, str, str]
    value: str


class Request(NamedTuple):
    """One GET as `cycle.lua` sends it. ``credential`` is empty where the server asks for none."""

    path: str
    header: str = ""
    credential: str = ""


def keys() -> list[BenchKey]:
    """All keys, in the order in which they are asked for."""
    made = [
        BenchKey(
            service=f"bench-service-{group:02d}",
            segments=("bench", f"group{group:02d}", f"key{number}"),
            value=_value(f"{group}/{number}"),
        )
        for group in range(SERVICES)
        for number in range(KEYS_PER_SERVICE)
    ]
    random.Random(_ORDER_SEED).shuffle(made)
    return made


def write_requests(file: Path, requests: Iterable[Request]) -> None:
    """Write ``requests`` for `cycle.lua`, one a line."""
    write_lines(file, requests)


def write_lines(file: Path, requests: Iterable[Sequence[str]]) -> None:
    """Write what `cycle.lua` reads: of each request its path, then names and values of headers.

    They hold tokens, so the file is for its owner alone, and nothing of it goes on a command line.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        out.writelines("\t".join(request) + "\n" for request in requests)


def _value(seed: str) -> str:
    return hashlib.sha256(seed.encode()).hexdigest()[:_VALUE_CHARACTERS]
