"""Whose traffic fills a ledger: services, their keys, tokens and addresses, and what they do.

Few services do most of it, and most do a little, as everywhere (the weight of the n-th is
1 / (n + 20)). Nearly all of it is reads that are granted; refusals of every kind are as rare as
they are. On top comes what a search must find far back: `RARE`, `DEAD_PREFIX`, and the busiest
service once from the address of the next one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.ledger import Action, Entry, Status
from dox_core_store.server.web.request import RequestIds

if TYPE_CHECKING:
    from benchmarks.ledger_fill import PastClock

__all__ = [
    "BLOCKS_PER_BURST",
    "DEAD_PREFIX",
    "ENTRIES_PER_BLOCK",
    "KEYS_PER_SERVICE",
    "RARE",
    "SERVICES",
    "Burst",
    "Service",
    "Traffic",
]

SERVICES = 10_000
KEYS_PER_SERVICE = 10

RARE = "once-a-year"
"""A service that was seen once, at the very beginning."""

DEAD_PREFIX = "retired"
"""Thousands of keys that were read at the beginning, and never since."""

BLOCKS_PER_BURST = 1_000
ENTRIES_PER_BLOCK = 35

_DEAD_KEYS = 3_000
_DEAD_UNTIL = 0.02
_DEAD_SHARE = 0.8
_ENVIRONMENT = "production"
_AGENT = "dox-core-store/1.0 python/3.11"
_FEWEST, _MOST = 10, 60
_TOKENS = 3
_CHANGES_PER_BURST = 5
_MAIN_ADDRESS = 0.7

_GET, _GRANTED = str(Action.GET), str(Status.GRANTED)
_made = Entry._make

# Shares of all reads; what remains is granted calls.
_REFRESH = 0.15
_REFUSALS = (
    (str(Status.DENIED), "not_authorized", 0.004),
    (str(Status.NOT_FOUND), "key_not_found", 0.002),
    (str(Status.INVALID), "malformed_path", 0.0005),
    (str(Status.FAILED), "ledger_unavailable", 0.0002),
    (str(Status.LIMITED), "rate_limited", 0.00002),
)
_CALL = 1 - sum(share for _, _, share in _REFUSALS)


class Burst(NamedTuple):
    """Some seconds of traffic; ``passed`` is how much of the whole is over."""

    number: int
    passed: float
    length: timedelta


class Service(NamedTuple):
    """One that reads. ``paths`` are with their environment."""

    name: str
    paths: list[str]
    tokens: list[str]
    addresses: list[str]


class Traffic:
    """All of it, in order: the same for the same number of entries, but for the ids of requests."""

    def __init__(self, entries: int) -> None:
        self._random = random.Random(entries)
        self.services = [self._service(number) for number in range(SERVICES)]
        self._weights = list(accumulate(1 / (number + 20) for number in range(SERVICES)))
        self._request_ids = RequestIds()
        self.made = 0
        self.sampled: list[str] = []
        """Ids of requests, one of each burst."""

    def new_process(self) -> None:
        """From here on another server process takes the requests."""
        self._request_ids = RequestIds()

    def blocks(self, clock: PastClock, burst: Burst) -> Iterator[list[Entry]]:
        """What is committed together, one after the other; the clock is moved on with them."""
        began = clock.at
        for number in range(BLOCKS_PER_BURST):
            clock.at = began + burst.length * number / BLOCKS_PER_BURST
            at = clock.at
            stamp = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"
            entries = self._reads(self._random.randint(_FEWEST, _MOST), stamp, burst.passed)
            if number == 0:
                entries += self._planted(stamp, burst)
                self.sampled.append(entries[0].request_id)
            self.made += len(entries)
            yield entries

    def changes(self) -> Iterator[tuple[Caller, dict[str, Any]]]:
        """What operators change in the time of a burst, each a transaction."""
        some = self._random
        for _ in range(_CHANGES_PER_BURST):
            self.made += 1
            yield (
                Caller("operator:alice", (), self._request_ids(), "10.200.0.1", "doxstore"),
                {
                    "action": Action.PUT,
                    "key_path": some.choice(some.choice(self.services).paths),
                    "environment": _ENVIRONMENT,
                    "version": some.randint(1, 40),
                    "reason": "rotation",
                },
            )

    def _service(self, number: int) -> Service:
        bits = self._random.getrandbits
        return Service(
            f"scale-{number:05d}",
            [f"scale.g{number:05d}.key{key}.{_ENVIRONMENT}" for key in range(KEYS_PER_SERVICE)],
            [f"tok_{bits(64):016x}" for _ in range(_TOKENS)],
            [f"10.{number >> 8}.{number & 255}.{host}" for host in (1, 2)],
        )

    def _reads(self, count: int, stamp: str, passed: float) -> list[Entry]:
        make, chance = self._request_ids, self._random.random
        token = min(int(passed * _TOKENS), _TOKENS - 1)
        entries = []
        chosen = self._random.choices(self.services, cum_weights=self._weights, k=count)
        for name, paths, tokens, addresses in chosen:
            drawn = chance()
            status, reason = _GRANTED, "call"
            version: int | None = 1
            if drawn < _REFRESH:
                reason = "refresh"
            elif drawn > _CALL:
                status, reason = _refusal(1 - drawn)
                version = None
            path = paths[int(chance() * KEYS_PER_SERVICE)]
            if passed < _DEAD_UNTIL and drawn > _DEAD_SHARE:
                path = f"{DEAD_PREFIX}.key{int(chance() * _DEAD_KEYS)}.{_ENVIRONMENT}"
            entries.append(
                _made((
                    stamp, name, path, _GET, status, make(), addresses[drawn < _MAIN_ADDRESS],
                    _AGENT, _ENVIRONMENT, version, tokens[token], None, reason, 1,
                ))
            )  # fmt: skip
        return entries

    def _planted(self, stamp: str, burst: Burst) -> list[Entry]:
        busy, other = self.services[:2]
        if burst.number == 0:
            who, path, address = RARE, f"scale.rare.{_ENVIRONMENT}", "10.201.0.1"
        elif burst.number == 1:
            who, path, address = busy.name, busy.paths[0], other.addresses[0]
        else:
            return []
        return [
            _made((
                stamp, who, path, _GET, _GRANTED, self._request_ids(), address, _AGENT,
                _ENVIRONMENT, 1, None, None, "call", 1,
            ))
        ]  # fmt: skip


def _refusal(rest: float) -> tuple[str, str]:
    for status, code, share in _REFUSALS[:-1]:
        rest -= share
        if rest < 0:
            return status, code
    return _REFUSALS[-1][:2]
