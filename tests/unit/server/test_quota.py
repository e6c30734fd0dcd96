"""Limits that nodes share: exact over all of them, whatever comes when, and little is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.server.virtual_time import in_virtual_time

from dox_core_store.errors import StoreUnavailableError
from dox_core_store.server.domain.limit import DEFAULT_RATE, Bucket, Rate
from dox_core_store.server.domain.quota import NOT_AT_HAND
from dox_core_store.server.ports import Take, Taken
from dox_core_store.server.usecases.quota import SharedBucket, SharedBuckets

SET_OFF = 86_400.0
"""The database's clock is nobody else's."""


class Rows:
    """What the database does, by its own clock."""

    def __init__(self) -> None:
        self.arrivals: dict[str, int] = {}
        self.statements = 0

    def take(self, wanted: Take) -> Taken:
        self.statements += 1
        now = int((asyncio.get_running_loop().time() + SET_OFF) * 1e6)
        before = self.arrivals.get(wanted.name, 0)
        after = max(before, now) + wanted.cost
        granted = after <= now + wanted.tolerance
        if granted:
            self.arrivals[wanted.name] = after
        return Taken(granted, max(0, (after if granted else before) - now) / 1e6)


class FarQuotas:
    """A node's way to the rows: it takes time to get there, and back."""

    def __init__(self, rows: Rows, there: Iterable[float] = (), back: float = 0.001) -> None:
        self.rows = rows
        self.there = list(there)
        self.back = back
        self.took_at = 0.0
        self.silent = False

    async def take(self, wanted: Take) -> Taken:
        if self.silent:
            await asyncio.sleep(3_600)
        self.there.append(self.there.pop(0)) if self.there else None
        await asyncio.sleep(self.there[-1] if self.there else 0.001)
        taken = self.rows.take(wanted)
        self.took_at = asyncio.get_running_loop().time()
        await asyncio.sleep(self.back)
        return taken


class Passed(NamedTuple):
    at: float
    cost: int


class Node:
    """One node's limiter, and what it let through."""

    def __init__(self, rate: Rate, quotas: FarQuotas, passed: list[Passed] | None = None) -> None:
        self.quotas = quotas
        self.passed = [] if passed is None else passed
        self.refused = 0
        time = asyncio.get_running_loop().time
        buckets = SharedBuckets(quotas=quotas, monotonic=time)
        bucket = buckets(rate, "service", "service:jules")
        assert isinstance(bucket, SharedBucket)
        self.bucket = bucket

    async def ask(self, cost: int = 1) -> bool:
        now = asyncio.get_running_loop().time()
        verdict = self.bucket.take(now, cost)
        if verdict is NOT_AT_HAND:
            try:
                verdict = await self.bucket.fetch(cost)
            except StoreUnavailableError:
                return False
            now = self.quotas.took_at  # it was let through by its statement
        if verdict.allowed:
            self.passed.append(Passed(now, cost))
        else:
            self.refused += 1
        return verdict.allowed


def check_promise(rate: Rate, passed: list[Passed]) -> None:
    passed = sorted(passed)
    for first, (begin, _) in enumerate(passed):
        total = 0
        for end, cost in passed[first:]:
            total += cost
            most = rate.burst + rate.count / rate.period_seconds * (end - begin)
            assert total <= most + 1e-3


rates = st.builds(
    Rate,
    count=st.integers(1, 1_000),
    period_seconds=st.sampled_from([1, 60]),
    burst=st.integers(1, 200),
)
latencies = st.lists(st.sampled_from([0.001, 0.004, 0.05, 0.4, 1.5]), min_size=1, max_size=4)


class Asking(NamedTuple):
    """``times`` one after the other, each ``gap`` later; of all nodes in turn if ``node`` is
    None."""

    wait: float
    node: int | None
    times: int
    cost: int
    gap: float


askings = st.lists(
    st.builds(
        Asking,
        wait=st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.2, 0.9, 1.1]),
        node=st.one_of(st.none(), st.integers(0, 3)),
        times=st.integers(1, 100),
        cost=st.sampled_from([1, 1, 1, 2, 10]),
        gap=st.sampled_from([0.0001, 0.001, 0.007]),
    ),
    max_size=8,
)


def held_then_rushed(pause: float) -> list[Asking]:
    """Steady below the rate, so that all nodes hold chunks; a pause, in which the row comes to
    rest; and then everything at once."""
    return [Asking(0.0, None, 150, 1, 0.007), Asking(pause, None, 400, 1, 0.0001)]


@settings(max_examples=150, deadline=None)
@given(rates, askings, latencies)
@example(Rate(200, 1, 200), held_then_rushed(0.2), [0.001])
@example(Rate(200, 1, 800), held_then_rushed(0.9), [0.001])
@example(Rate(200, 1, 200), held_then_rushed(0.3), [0.004, 0.05])
def test_all_nodes_together_never_pass_more_than_burst_and_rate(
    rate: Rate, asked: list[Asking], there: list[float]
) -> None:
    passed: list[Passed] = []

    async def run() -> None:
        rows = Rows()
        nodes = [Node(rate, FarQuotas(rows, there), passed) for _ in range(4)]
        async with asyncio.TaskGroup() as group:
            for wait, node, times, cost, gap in asked:
                await asyncio.sleep(wait)
                for at in range(times):
                    group.create_task(nodes[at % 4 if node is None else node].ask(cost))
                    await asyncio.sleep(gap)

    in_virtual_time(run)
    check_promise(rate, passed)


@pytest.mark.parametrize("rate", [DEFAULT_RATE, Rate(1_000, 1, 1_000), Rate(20, 1, 20)])
def test_who_stays_below_the_rate_is_never_refused(rate: Rate) -> None:
    """For half a minute, at 80 % of the rate, spread over three nodes: no chunk is wasted."""

    async def run() -> tuple[int, int]:
        rows = Rows()
        nodes = [Node(rate, FarQuotas(rows)) for _ in range(3)]
        pause = rate.period_seconds / rate.count / 0.8
        count = min(int(30 / pause), 6_000)
        for at in range(count):
            await nodes[at % 3].ask()
            await asyncio.sleep(pause)
        return sum(node.refused for node in nodes), sum(len(node.passed) for node in nodes)

    refused, passed = in_virtual_time(run)
    assert refused == 0
    assert passed > 200


def test_a_busy_service_is_served_from_chunks_that_were_fetched_ahead_of_need() -> None:
    async def run() -> tuple[int, int, int]:
        node = Node(Rate(10_000, 1, 10_000), FarQuotas(rows := Rows()))
        waited = 0
        for _ in range(2_000):
            waited += node.bucket.take(asyncio.get_running_loop().time()) is NOT_AT_HAND
            await node.ask()
            await asyncio.sleep(0.001)
        return waited, rows.statements, node.refused

    waited, statements, refused = in_virtual_time(run)
    assert refused == 0
    assert waited < 40
    assert statements < 100


def test_what_is_held_and_not_used_expires() -> None:
    async def run() -> None:
        node = Node(Rate(100, 1, 400), FarQuotas(Rows()))
        for _ in range(100):
            await node.ask()
            await asyncio.sleep(0.005)
        now = asyncio.get_running_loop().time()
        assert node.bucket.take(now) is not NOT_AT_HAND
        await asyncio.sleep(1.0)
        assert node.bucket.take(asyncio.get_running_loop().time()) is NOT_AT_HAND

    in_virtual_time(run)


@pytest.mark.parametrize("burst", [1, 3, 7])
def test_a_small_burst_passes_whole_and_no_more(burst: int) -> None:
    async def run() -> list[bool]:
        nodes = [Node(Rate(1, 3_600, burst), FarQuotas(rows)) for rows in [Rows()] for _ in "12"]
        return [await nodes[at % 2].ask() for at in range(burst + 2)]

    assert in_virtual_time(run) == [True] * burst + [False] * 2


def test_a_batch_is_taken_whole_or_not_at_all() -> None:
    async def run() -> None:
        node, other = (Node(Rate(1, 3_600, 5), FarQuotas(rows)) for rows in [Rows()] for _ in "12")
        assert [await node.ask(3), await other.ask(3), await other.ask(2)] == [True, False, True]
        verdict = node.bucket.take(asyncio.get_running_loop().time(), 6)
        assert (verdict.allowed, verdict.retry_after_seconds) == (False, None)

    in_virtual_time(run)


def test_who_waits_as_told_gets_in() -> None:
    async def run() -> None:
        node = Node(Rate(1, 60, 2), FarQuotas(Rows()))
        assert [await node.ask() for _ in range(3)] == [True, True, False]
        refused = node.bucket.take(asyncio.get_running_loop().time())
        assert refused.retry_after_seconds == pytest.approx(60, abs=0.1)
        assert node.bucket.wait(asyncio.get_running_loop().time()) == refused.retry_after_seconds
        await asyncio.sleep(refused.retry_after_seconds)
        assert await node.ask()

    in_virtual_time(run)


def test_a_flood_of_refusals_asks_the_database_next_to_nothing() -> None:
    async def run() -> int:
        node = Node(Rate(1, 60, 2), FarQuotas(rows := Rows()))
        for _ in range(1_000):
            await node.ask()
        return rows.statements

    assert in_virtual_time(run) < 10


def test_who_comes_at_once_goes_with_one_statement_in_the_order_of_coming() -> None:
    async def run() -> tuple[list[bool], int]:
        node = Node(Rate(1, 60, 20), FarQuotas(rows := Rows()))
        return await asyncio.gather(*(node.ask() for _ in range(30))), rows.statements

    passed, statements = in_virtual_time(run)
    assert passed == [True] * 20 + [False] * 10
    assert statements <= 3


def test_what_remains_is_told_as_far_as_it_is_known() -> None:
    async def run() -> None:
        rows = Rows()
        node, other = Node(Rate(1, 60, 10), FarQuotas(rows)), Node(Rate(1, 60, 10), FarQuotas(rows))
        verdicts = [await node.bucket.fetch(), await other.bucket.fetch(4)]
        assert [verdict.remaining for verdict in verdicts] == [9, 5]
        assert verdicts[0].policy == Bucket(Rate(1, 60, 10)).policy

    in_virtual_time(run)


def test_a_silent_database_refuses_within_a_second() -> None:
    async def run() -> None:
        node = Node(DEFAULT_RATE, FarQuotas(Rows()))
        node.quotas.silent = True
        began = asyncio.get_running_loop().time()
        assert node.bucket.take(began) is NOT_AT_HAND
        with pytest.raises(StoreUnavailableError) as caught:
            await node.bucket.fetch()
        assert caught.value.code == "ledger_unavailable"
        assert asyncio.get_running_loop().time() - began <= 1.01

    in_virtual_time(run)


def test_a_database_that_fails_refuses_all_who_wait_and_is_asked_again() -> None:
    class Failing(FarQuotas):
        fails = True

        async def take(self, wanted: Take) -> Taken:
            if self.fails:
                raise StoreUnavailableError("ledger_unavailable", "down")
            return await super().take(wanted)

    async def run() -> None:
        node = Node(DEFAULT_RATE, quotas := Failing(Rows()))
        assert await asyncio.gather(*(node.ask() for _ in range(5))) == [False] * 5
        quotas.fails = False
        assert await node.ask()

    in_virtual_time(run)


def test_who_gave_up_leaves_what_was_taken_to_others() -> None:
    async def run() -> None:
        node = Node(Rate(100, 1, 100), FarQuotas(Rows(), [0.05]))
        asking: list[Awaitable[bool]] = [asyncio.ensure_future(node.ask()) for _ in range(10)]
        await asyncio.sleep(0.01)
        for each in asking[:5]:
            assert isinstance(each, asyncio.Task)
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert [len(node.passed), node.quotas.rows.statements] == [5, 1]
        assert [await node.ask() for _ in range(5)] == [True] * 5
        assert node.quotas.rows.statements == 1

    in_virtual_time(run)


def test_other_numbers_are_another_row() -> None:
    async def run() -> None:
        rows = Rows()
        strict = Node(Rate(1, 3_600, 1), FarQuotas(rows))
        assert [await strict.ask(), await strict.ask()] == [True, False]
        assert await Node(Rate(10, 1, 10), FarQuotas(rows)).ask()

    in_virtual_time(run)
