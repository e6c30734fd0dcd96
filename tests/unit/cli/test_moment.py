from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from dox_core_store.cli.moment import ahead, moment, since

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-01-31T12:00:00Z", NOW),
        ("2026-01-31T13:00:00+01:00", NOW),
        ("2026-01-31 12:00", NOW),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_as_utc_unless_it_says_otherwise(text: str, meant: datetime) -> None:
    assert moment(text) == meant
    assert moment(text).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("24h", timedelta(days=1)),
        ("90d", timedelta(days=90)),
        ("2w", timedelta(days=14)),
        ("1y", timedelta(days=365)),
    ],
)
def test_a_duration_counts_from_now_forwards_or_backwards(text: str, span: timedelta) -> None:
    assert ahead(text, now=NOW) == NOW + span
    assert since(text, now=NOW) == NOW - span


def test_since_takes_a_time_too() -> None:
    assert since("2026-01-01", now=NOW) == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "tomorrow", "0d", "-1d", "1.5h", "90", "d", "90 d", "٩d"])
def test_what_is_neither_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        ahead(text, now=NOW)
    with pytest.raises(typer.BadParameter):
        since(text, now=NOW)
