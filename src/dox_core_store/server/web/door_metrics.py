"""The door's own counts: outcomes, values and times, for ``/metrics``."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["DoorMetrics"]


class DoorMetrics:
    """What the door counts of itself, since no middleware sees its requests."""

    BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.values = 0
        self.seconds = 0.0
        self.counts = [0] * (len(self.BUCKETS) + 1)

    def note(self, code: str, values: int, seconds: float) -> None:
        """Count one request that ended with ``code`` (``ok`` or an error's) after ``seconds``."""
        self.outcomes[code] = self.outcomes.get(code, 0) + 1
        self.values += values
        self.seconds += seconds
        self.counts[bisect_left(self.BUCKETS, seconds)] += 1
