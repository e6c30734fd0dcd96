"""One node's share of a limit that many nodes keep together, ahead of need.

What all nodes share is one number in the database, the *row*: the theoretical arrival time of
`limit`. A statement takes ``n`` requests from it, or nothing, by the database's clock. A request
takes its own, or is served from a *chunk* that its node took before. The promise is the same as of
one node, and as exact: never more than ``burst + rate x t`` in any window of t seconds, over all
nodes.

**Why.** Let i be the time that a request costs, B = burst x i, and h the time for which a node may
hold what it has taken (`hold_seconds`). A statement at the database's time s takes n requests if
``max(arrival, s) + n x i <= s + (B - h)``: the row tolerates h less than the limit says. Take the
statements whose times lie in a window, in the order in which the row saw them; the first was at f,
the last at l. The first left an arrival of at least f + its cost, each adds its cost, and the last
left at most l + B - h. So together they cost at most (l - f) + B - h, in whatever order their times
are. A request is let through at the moment of its own statement, or from a chunk at most h later.
So what is let through in [a, b] was taken in [a - h, b]: at most ((b - a + h) + B - h) / i =
burst + rate x (b - a). Neither the number of nodes nor the size of a chunk is in it: nodes come and
go, and need not know of each other.

A node counts h from before it sent the statement, by its monotonic clock, so no two clocks have to
agree. The database's has to keep time: set forward by x seconds it lets rate x x more through, set
back it lets nothing through that it let through before.

**How much.** h is one second, or a quarter of B where that is less: what may come at once is a
quarter less at most (590 of the default's 600). Where a chunk would be worth little, because few
requests come to pass in h, h is 0 and every request takes its own. A chunk is half of what this
node used within the last h, so it is used up before it expires: what expires unused is lost to the
service. While more than half of the row is free nothing is lost by that, and a chunk is three times
as large: most limits are far above what is asked for, and each statement costs. The next one is
wanted when half of it is left.

Here is no input and no output, and no clock: `usecases.quota` asks the database.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from dox_core_store.server.domain.limit import Policy, Rate, Verdict

__all__ = ["NOT_AT_HAND", "Share"]

NOT_AT_HAND = Verdict(
    allowed=False,
    remaining=0,
    reset_seconds=0.0,
    retry_after_seconds=0.0,
    policy=Policy(b"", b""),
)
"""No verdict: the database has to be asked. There is only this one: compare with ``is``."""

_MICROSECONDS = 1_000_000
_HOLD = 1 * _MICROSECONDS
_SHORTEST_HOLD = 50_000
"""Some ten round trips to the database: a chunk that came later would be of no use."""

_LEAST_CHUNK = 2
_ROUNDING = 1e-6
"""The row counts in microseconds. It has the last word: here is only what it is asked for."""


class Share:
    """See the module. Seconds are monotonic; those of the database only come as differences.

    ``left`` is at hand; below ``low`` the next chunk is wanted.
    """

    __slots__ = (
        "_arrival", "_began", "_ends", "_hold", "_interval", "_largest", "_next", "_next_ends",
        "_policy", "_rate", "_tolerance", "_used", "_used_before", "left", "low", "tolerance",
    )  # fmt: skip

    def __init__(self, rate: Rate, policy: Policy) -> None:
        self._rate = rate
        self._policy = policy
        self._interval = rate.period_seconds / rate.count
        whole = max(1, rate.burst * rate.period_seconds * _MICROSECONDS // rate.count)
        hold = min(_HOLD, whole // 4)
        in_hold = hold * rate.count // (rate.period_seconds * _MICROSECONDS)
        if hold < _SHORTEST_HOLD or in_hold < _LEAST_CHUNK:
            hold = 0
        self._hold = hold / _MICROSECONDS
        self.tolerance = whole - hold
        """How far the row may be ahead of the database's clock, in microseconds."""
        self._tolerance = self.tolerance / _MICROSECONDS
        self._largest = int(self._tolerance / self._interval) // 8
        self.left, self._ends = 0, -math.inf
        self._next, self._next_ends = 0, -math.inf
        self.low = 0
        self._arrival = -math.inf
        """The row's, as far as known: the real one is never earlier."""
        self._began, self._used, self._used_before = -math.inf, 0, 0

    @property
    def hold_seconds(self) -> float:
        """For how long what was taken may be kept; 0: not at all."""
        return self._hold

    def take(self, now: float, cost: int) -> Verdict:
        """Take ``cost`` requests of what is at hand; or what is known to refuse them; or
        `NOT_AT_HAND`."""
        if (self.left < cost or now >= self._ends) and not self._gather(now, cost):
            return self._refusal(now, cost) or NOT_AT_HAND
        self.left -= cost
        self._used += cost
        return self.allowed(now)

    def cost(self, count: int) -> int:
        """What ``count`` requests cost, in microseconds, rounded up."""
        return -(-count * self._rate.period_seconds * _MICROSECONDS // self._rate.count)

    def spare(self, now: float, need: int) -> int:
        """How many to take beside ``need``, for those who come next."""
        if not self._hold or self._next:
            return 0
        if now - self._began >= self._hold:
            is_stale = now - self._began >= 2 * self._hold
            self._used_before = 0 if is_stale else self._used
            self._used = 0
            self._began = now if is_stale else self._began + self._hold
        passed = (now - self._began) / self._hold
        within = self._used_before * (1 - passed) + self._used + need
        fits = self._fits(now)
        wanted = within * 1.5 if fits * self._interval > self._tolerance / 2 else within / 2
        count = min(int(wanted), self._largest, fits - need)
        return count if count >= _LEAST_CHUNK else 0

    def sort_out(self, now: float, costs: Iterable[int]) -> list[Verdict | None]:
        """Of those who wait, in their order: what refuses each, as far as the row is known; None
        for those who may be asked for together."""
        fits = self._fits(now)
        found: list[Verdict | None] = []
        for cost in costs:
            if cost <= fits:
                fits -= cost
                found.append(None)
            else:
                found.append(self.refused(now, cost))
        return found

    def heard(self, sent: float, ahead_seconds: float) -> None:
        """A statement that was sent at ``sent`` found (or left) the row so far ahead of the
        database's clock."""
        self._arrival = max(self._arrival, sent + ahead_seconds)

    def keep(self, sent: float, count: int, waited: int) -> None:
        """The statement that was sent at ``sent`` took ``count`` for those who come next, and
        ``waited`` for those who waited."""
        self._used += waited
        if not count or not self._hold:
            return
        if self.left:
            self._next, self._next_ends = count, sent + self._hold
        else:
            self.left, self._ends, self.low = count, sent + self._hold, count // 2

    def allowed(self, now: float) -> Verdict:
        return self._verdict(now, allowed=True, retry_after=None)

    def refused(self, now: float, cost: int) -> Verdict:
        """The verdict on ``cost`` requests that the row does not give now."""
        if self.cost(cost) > self.tolerance:
            return self._verdict(now, allowed=False, retry_after=None)
        at_least = self._interval  # another node may have been quicker than we know
        return self._verdict(now, allowed=False, retry_after=self._wait(now, cost) or at_least)

    def wait(self, now: float) -> float:
        """Seconds until one request can be taken, as far as known; 0 if one can be now."""
        at_hand = (self.left and now < self._ends) or (self._next and now < self._next_ends)
        return 0.0 if at_hand else self._wait(now, 1)

    def _refusal(self, now: float, cost: int) -> Verdict | None:
        if self.cost(cost) <= self.tolerance and not self._wait(now, cost):
            return None
        return self.refused(now, cost)

    def _gather(self, now: float, cost: int) -> bool:
        """Whether ``cost`` requests are at hand, once what has expired is gone."""
        if now >= self._ends:
            self.left = 0
        if self._next and self.left < cost:
            if now < self._next_ends:
                # Together they expire with the first, which is what is left of the older chunk.
                self._ends = min(self._ends, self._next_ends) if self.left else self._next_ends
                self.left += self._next
                self.low = self._next // 2
            self._next = 0
        return self.left >= cost

    def _wait(self, now: float, cost: int) -> float:
        arrival = max(self._arrival, now)
        wait = arrival + cost * self._interval - self._tolerance - now
        return wait if wait > _ROUNDING else 0.0

    def _fits(self, now: float) -> int:
        """How many requests the row gives at ``now``, at most."""
        room = now + self._tolerance - max(self._arrival, now)
        return max(0, int(room / self._interval + _ROUNDING))

    def _verdict(self, now: float, *, allowed: bool, retry_after: float | None) -> Verdict:
        return Verdict(
            allowed=allowed,
            remaining=self.left + self._next + self._fits(now),
            reset_seconds=max(self._arrival - now, 0.0),
            retry_after_seconds=retry_after,
            policy=self._policy,
        )
