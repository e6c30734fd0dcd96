"""What leaves the machine, and when it counts as late.

Shipped is what proves the rest: every checkpoint, whatever its stream, and every entry of the
`changes` streams, in stored order, as an export tells them. A destination is **behind** by the age
of the oldest such entry that it has not taken. What a destination takes twice, after a fault or a
restart, is the same line: whoever reads it leaves out what was there before.

Format: ``docs/spec/ledger.md``, "Shipping".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dox_core_store.server.domain.ledger import Action, is_changes

__all__ = [
    "BEGINNING",
    "Batch",
    "Place",
    "Shipped",
    "ShippingError",
    "backoff_seconds",
    "is_shipped",
]

_BACKOFF_MOST_SECONDS = 30.0


class ShippingError(Exception):
    """Why something is not shipped now: a few words for the log, without a secret."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Place(NamedTuple):
    """A block of the ledger, and the hash (hex) at its end; empty: not known."""

    block_id: int
    head: str


BEGINNING = Place(0, "")


class Shipped(NamedTuple):
    """One entry: its line of an export without the newline, and what a carrier may want to know."""

    line: bytes
    timestamp: str
    action: str


class Batch(NamedTuple):
    """What comes next. ``place`` is how far it reaches, ``oldest`` when its first entry was made
    (seconds since 1970), ``is_last`` whether nothing stands behind it. It may be empty."""

    store_id: str
    entries: Sequence[Shipped]
    place: Place
    oldest: float
    is_last: bool

    def lines(self) -> bytes:
        """JSON Lines."""
        return b"".join(entry.line + b"\n" for entry in self.entries)


def is_shipped(stream: str, action: str) -> bool:
    """Whether an entry leaves the machine."""
    return action == Action.CHECKPOINT or is_changes(stream)


def backoff_seconds(failures: int) -> float:
    """How long to wait after so many failures in a row: 1, 2, 4, … at most 30 seconds."""
    return min(2.0 ** (failures - 1), _BACKOFF_MOST_SECONDS)
