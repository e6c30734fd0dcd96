"""The limiter: never more than burst + rate x t, and exact about when to come back."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dox_core_store.errors import InvalidRequestError
from dox_core_store.server.domain.limit import DEFAULT_RATE, Bucket, Rate, parse_rate

rates = st.builds(
    Rate,
    count=st.integers(1, 1_000),
    period_seconds=st.sampled_from([1, 60, 3_600]),
    burst=st.integers(1, 50),
)
steps = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 60)), max_size=60)
START = 1_000.0


@given(rates, steps)
@example(Rate(600, 60, 600), [(0.0, 1)] * 60)
def test_never_more_than_burst_and_rate_in_any_window(
    rate: Rate, asked: list[tuple[float, int]]
) -> None:
    bucket, now = Bucket(rate), START
    allowed: list[tuple[float, int]] = []
    for wait, cost in asked:
        now += wait
        if bucket.take(now, cost).allowed:
            allowed.append((now, cost))
    for first, (begin, _) in enumerate(allowed):
        total = 0
        for end, cost in allowed[first:]:
            total += cost
            elapsed = end - begin
            assert total <= rate.burst + rate.count / rate.period_seconds * elapsed + 1e-6


@given(rates, steps)
def test_what_a_verdict_says_holds(rate: Rate, asked: list[tuple[float, int]]) -> None:
    bucket, now = Bucket(rate), START
    for wait, cost in asked:
        now += wait
        verdict = bucket.take(now, cost)
        assert 0 <= verdict.remaining <= rate.burst
        if verdict.allowed:
            assert verdict.retry_after_seconds is None
        elif cost > rate.burst:
            assert verdict.retry_after_seconds is None  # no waiting would help
        else:
            assert verdict.retry_after_seconds is not None
            assert verdict.retry_after_seconds > 0
    if verdict_after := [each for each in asked if each[1] <= rate.burst]:
        cost = verdict_after[-1][1]
        verdict = bucket.take(now, cost)
        if not verdict.allowed:
            assert verdict.retry_after_seconds is not None
            assert bucket.take(now + verdict.retry_after_seconds + 1e-6, cost).allowed


@given(rates, steps)
def test_what_remains_may_be_taken_at_once_and_no_more(
    rate: Rate, asked: list[tuple[float, int]]
) -> None:
    bucket, now = Bucket(rate), START
    verdict = bucket.take(now)
    for wait, cost in asked:
        now += wait
        verdict = bucket.take(now, cost)
    for _ in range(verdict.remaining):
        assert bucket.take(now).allowed
    assert not bucket.take(now).allowed


@given(rates, steps)
def test_a_refusal_costs_nothing(rate: Rate, asked: list[tuple[float, int]]) -> None:
    one, other, now = Bucket(rate), Bucket(rate), START
    for wait, cost in asked:
        now += wait
        if one.take(now, cost).allowed:
            assert other.take(now, cost).allowed
        assert one.take(now, rate.burst + 1).allowed is False
    assert one.take(now) == other.take(now)


def test_a_whole_burst_may_come_first_and_again_after_a_period() -> None:
    bucket = Bucket(Rate(5, 60, 5))
    assert [bucket.take(START).allowed for _ in range(6)] == [True] * 5 + [False]
    assert [bucket.take(START + 60).allowed for _ in range(6)] == [True] * 5 + [False]
    assert [bucket.take(START + 60 + 12).allowed for _ in range(2)] == [True, False]


def test_the_default_is_600_a_minute() -> None:
    assert str(DEFAULT_RATE) == "600/min"
    assert DEFAULT_RATE.burst == 600


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("600/min", Rate(600, 60, 600)),
        ("600/m", Rate(600, 60, 600)),
        ("10/s", Rate(10, 1, 10)),
        ("10/sec", Rate(10, 1, 10)),
        ("1/h", Rate(1, 3_600, 1)),
        ("1000000/hour", Rate(1_000_000, 3_600, 1_000_000)),
    ],
)
def test_a_limit_is_read_and_told_alike(text: str, expected: Rate) -> None:
    assert parse_rate(text) == expected
    assert parse_rate(str(expected)) == expected
    assert parse_rate(text, 3).burst == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "600",
        "/min",
        "0/min",
        "-1/min",
        "+1/s",
        "1.5/s",
        "1e3/s",
        "01/s",
        "600/day",
        "600/MIN",
        "1/s ",
        " 1/s",
        "1/s\n",
        "1/s/s",
        "9999999999/s",
        "\N{ARABIC-INDIC DIGIT ONE}/s",
    ],
    ids=ascii,
)
def test_no_limit(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_rate(text)
    assert caught.value.code == "invalid_field"


@pytest.mark.parametrize("burst", [0, -1, 1_000_000_001])
def test_no_burst(burst: int) -> None:
    with pytest.raises(InvalidRequestError):
        parse_rate("1/s", burst)
