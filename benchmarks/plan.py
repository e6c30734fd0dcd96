"""How long everything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.ledger_search import ENTRIES
from benchmarks.scale import SIZES

__all__ = ["FULL", "QUICK", "Plan"]


class Plan(NamedTuple):
    """``warm_up`` seconds per server and number of connections, not measured. ``client_passes``:
    how often a round of each client goes through all keys; ``rotations`` of the key that the
    connected clients hold, and as many revocations."""

    warm_up: int
    rounds: int
    seconds: int
    node_seconds: int
    cached_calls: int
    sizes: Sequence[int]
    ledger_entries: int
    client_passes: int
    rotations: int


FULL = Plan(
    warm_up=3,
    rounds=3,
    seconds=5,
    node_seconds=4,
    cached_calls=200_000,
    sizes=SIZES,
    ledger_entries=ENTRIES,
    client_passes=5,
    rotations=10,
)
QUICK = Plan(
    warm_up=1,
    rounds=1,
    seconds=2,
    node_seconds=2,
    cached_calls=20_000,
    sizes=SIZES[:2],
    ledger_entries=200_000,
    client_passes=1,
    rotations=2,
)
