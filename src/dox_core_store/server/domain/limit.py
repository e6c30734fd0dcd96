"""How fast a service may ask, or a key be read: the generic cell rate algorithm (ITU-T I.371,
annex A).

One number per limit, the theoretical arrival time, says all: never more than
``burst + rate x t`` requests in any window of t seconds. The clock is passed in and monotonic.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple, Protocol

import msgspec

from dox_core_store.errors import InvalidRequestError

__all__ = ["DEFAULT_RATE", "Bucket", "Policy", "Rate", "Verdict", "parse_rate", "rate_of"]

_PERIODS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "hour": 3600}
_MAX_BURST = 1_000_000_000
_RATE = re.compile(r"([1-9][0-9]{0,8})/([a-z]+)", re.ASCII)


class Rate(NamedTuple):
    """``count`` requests per ``period_seconds``, of which ``burst`` may come at once."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    period_seconds: int
    burst: int

    def __str__(self) -> str:
        unit = {1: "s", 60: "min", 3600: "h"}[self.period_seconds]
        return f"{self.count}/{unit}"


DEFAULT_RATE = Rate(600, 60, 600)


def parse_rate(text: str, burst: int | None = None) -> Rate:
    """``600/min`` as a `Rate`; ``burst`` defaults to one period's worth.

    Raises `InvalidRequestError` ``invalid_field``.
    """
    match = _RATE.fullmatch(text)
    if match is None or match[2] not in _PERIODS:
        raise InvalidRequestError("invalid_field", "A limit is written like 600/min, 10/s or 50/h.")
    count = int(match[1])
    if burst is not None and not 1 <= burst <= _MAX_BURST:
        raise InvalidRequestError("invalid_field", "A burst is a number from 1 to 1000000000.")
    return Rate(count, _PERIODS[match[2]], count if burst is None else burst)


class Limited(Protocol):
    """A record that says how fast: of a service or a key."""

    @property
    def limit_count(self) -> int: ...

    @property
    def limit_period_seconds(self) -> int: ...

    @property
    def limit_burst(self) -> int: ...


def rate_of(record: Limited) -> Rate:
    """What ``record`` says."""
    return Rate(record.limit_count, record.limit_period_seconds, record.limit_burst)


class Policy(NamedTuple):
    """A limit as the headers of draft-ietf-httpapi-ratelimit-headers-10 say it: its name, quoted,
    and the whole item of ``RateLimit-Policy``."""

    name: bytes
    item: bytes

    @classmethod
    def of(cls, name: str, rate: Rate) -> Policy:
        quoted = b'"%b"' % name.encode()
        return cls(quoted, b"%b;q=%d;w=%d" % (quoted, rate.count, rate.period_seconds))


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """``remaining`` requests may follow at once; after ``reset_seconds`` the burst is whole again.
    ``retry_after_seconds`` is None where waiting cannot help: the cost is over the burst.
    ``policy`` is the limit that judged."""

    allowed: bool
    remaining: int
    reset_seconds: float
    retry_after_seconds: float | None
    policy: Policy


class Bucket:
    """One limiter: of a service, a key or an address. Not thread-safe: it lives on the event loop.
    ``name`` is what callers are told it limits."""

    __slots__ = ("_arrival", "_interval", "_tolerance", "policy", "rate")

    def __init__(self, rate: Rate, name: str = "service") -> None:
        self.rate = rate
        self.policy = Policy.of(name, rate)
        self._interval = rate.period_seconds / rate.count
        self._tolerance = self._interval * rate.burst
        self._arrival = -math.inf

    def take(self, now: float, cost: int = 1) -> Verdict:
        """Take ``cost`` requests at ``now`` (seconds, monotonic), if there are as many.

        A refusal costs nothing, so that whoever waits as told gets in.
        """
        arrival = max(self._arrival, now)
        after = arrival + cost * self._interval
        allow_at = after - self._tolerance
        # Sums of floats must not refuse the last one: a billionth of a second of tolerance.
        if allow_at > now + 1e-9:
            payable = cost <= self.rate.burst
            return Verdict(
                allowed=False,
                remaining=int((now + self._tolerance - arrival) / self._interval + 1e-9),
                reset_seconds=arrival - now,
                retry_after_seconds=allow_at - now if payable else None,
                policy=self.policy,
            )
        self._arrival = after
        return Verdict(
            allowed=True,
            remaining=int((now + self._tolerance - after) / self._interval + 1e-9),
            reset_seconds=after - now,
            retry_after_seconds=None,
            policy=self.policy,
        )

    def wait(self, now: float) -> float:
        """Seconds until one request can be taken; 0 if one can be now."""
        return max(0.0, self._arrival + self._interval - self._tolerance - now)
