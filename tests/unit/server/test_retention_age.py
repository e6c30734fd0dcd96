from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dox_core_store.server.domain.ledger_retention import Anchor, Anchors, due, prune_reason

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HASH = bytes(32)


class Written:
    """A ledger with an entry at each of ``times``."""

    def __init__(self, *times: datetime) -> None:
        self._times = sorted(times)

    def before(self, at: datetime) -> datetime | None:
        return max((each for each in self._times if each <= at), default=None)


def hourly(days: float, until: datetime = NOW) -> list[datetime]:
    return [until - timedelta(hours=each) for each in range(int(days * 24))]


def test_with_steady_traffic_age_is_age() -> None:
    written = Written(*hourly(40))
    until = due(NOW, keep_days=30, before=written.before)
    assert until is not None
    assert abs(until - (NOW - 30 * DAY)) <= timedelta(hours=1)


def test_what_is_younger_than_it_is_kept_stays() -> None:
    assert due(NOW, keep_days=30, before=Written(*hourly(29)).before) is None
    assert due(NOW, keep_days=0, before=Written(*hourly(40)).before) is None
    assert due(NOW, keep_days=30, before=Written().before) is None


@pytest.mark.parametrize("years", [1, 10])
def test_a_clock_that_jumped_ahead_makes_nothing_old_at_once(years: int) -> None:
    ahead = NOW + years * 365 * DAY
    written = Written(*hourly(26))
    assert due(ahead, keep_days=30, before=written.before) is None  # 3 days count of the pause
    written = Written(*hourly(40), *hourly(0.1, ahead))  # and after a start with that clock
    until = due(ahead, keep_days=30, before=written.before)
    assert until is not None
    assert abs(until - (NOW - 27 * DAY)) <= timedelta(hours=4)


def test_pauses_count_for_a_tenth_each() -> None:
    weekly = [NOW - 7 * DAY * each for each in range(20)]
    until = due(NOW, keep_days=30, before=Written(*weekly).before)
    assert until == NOW - 7 * DAY * 10  # ten pauses of three days


def test_a_prune_entry_says_what_it_anchors() -> None:
    anchors = Anchors()
    streams = {"str_2": (7, HASH), "str_1": (3, HASH)}
    anchors.take("changes", 5, prune_reason("2026-01-01T00:00:00.000Z", streams))
    assert anchors.at("str_2", 7) == Anchor(HASH.hex(), "changes", 5)
    assert anchors.at("str_2", 6) is None
    assert (anchors.last("str_1"), anchors.last("str_9"), anchors.streams) == (3, 0, 2)


@pytest.mark.parametrize("reason", [None, "", "{}", "[]", '{"until":"x","streams":{"str_1":3}}'])
def test_what_is_no_prune_entry_anchors_nothing(reason: str | None) -> None:
    anchors = Anchors()
    anchors.take("changes", 5, reason)
    anchors.take("str_1", 5, prune_reason("x", {"str_2": (7, HASH)}))  # not where they stand
    anchors.take("changes", 6, prune_reason("x", {"changes": (7, HASH)}))  # never dropped
    assert anchors.streams == 0
