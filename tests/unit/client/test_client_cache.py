"""`KeyCache`: the decisions alone, with clocks that the test sets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dox_core_store.client.cache import KeyCache
from dox_core_store.client.key import Key, Source
from dox_core_store.sensitive import Sensitive
from dox_core_store.wire import KeyValue

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass
class Clocks:
    now: float = 1000.0
    today: float = NOON.timestamp()


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def cache(clocks: Clocks) -> KeyCache[Key]:
    """Of a client that follows the store's stream."""
    owner: Any = clocks

    def make(answer: KeyValue, source: Source, fetched_at: float) -> Key:
        return Key(answer, source=source, fetched_at=fetched_at, owner=owner)

    made = KeyCache(elapsed=lambda: clocks.now, wall=lambda: clocks.today, make=make)
    made.trusted_until = float("inf")
    return made


def _answer(
    path: str = "a.b",
    environment: str = "production",
    *,
    version: int = 1,
    ceiling: int = 3600,
    expires_at: datetime | None = None,
) -> KeyValue:
    return KeyValue(
        key_path=path,
        environment=environment,
        version=version,
        version_id=f"{version:032x}",
        state="current",
        value=Sensitive(f"value {version}"),
        expires_at=expires_at,
        cache_ttl_ceiling_seconds=ceiling,
        outage_grace_seconds=0,
    )


def _keep(cache: KeyCache[Key], spelling: str, answer: KeyValue, sent_at: float = 1000.0) -> None:
    cache.keep(spelling, answer, sent_at=sent_at, epoch=cache.epoch)


@pytest.mark.parametrize(
    ("age", "ttl", "ceiling", "is_served"),
    [
        (0, 0, 3600, False),
        (0, 1, 3600, True),
        (299, 300, 3600, True),
        (300, 300, 3600, False),
        (59, 3600, 60, True),
        (60, 3600, 60, False),
        (0, 3600, 0, False),
        (1, -1, 3600, False),
        (1, float("nan"), 3600, False),
        (3599, float("inf"), 3600, True),
    ],
)
def test_freshness_is_the_callers_and_the_stores(
    *, cache: KeyCache[Key], clocks: Clocks, age: float, ttl: float, ceiling: int, is_served: bool
) -> None:
    _keep(cache, "a.b", _answer(ceiling=ceiling))
    clocks.now += age
    assert (cache.lookup("a.b", ttl) is not None) is is_served


def test_an_expired_key_is_not_served(cache: KeyCache[Key], clocks: Clocks) -> None:
    _keep(cache, "a.b", _answer(expires_at=NOON + timedelta(seconds=10)))
    clocks.today += 9
    assert cache.lookup("a.b", 300) is not None
    clocks.today += 1
    assert cache.lookup("a.b", 300) is None


def test_each_caller_is_judged_by_his_own_limit(cache: KeyCache[Key], clocks: Clocks) -> None:
    _keep(cache, "a.b", _answer())
    clocks.now += 100
    assert cache.lookup("a.b", 50) is None
    assert cache.lookup("a.b", 200) is not None


def test_the_canonical_name_is_known_at_once_and_the_bare_one_when_told(
    cache: KeyCache[Key],
) -> None:
    _keep(cache, "a.b", _answer())
    assert cache.lookup("a.b.production", 300) is cache.lookup("a.b", 300)
    _keep(cache, "c.d.production", _answer("c.d"))
    assert cache.lookup("c.d", 300) is None, "c.d may be another environment's"
    assert cache.lookup("a.b.staging", 300) is None


def test_an_older_question_does_not_replace_a_younger_answer(cache: KeyCache[Key]) -> None:
    _keep(cache, "a.b", _answer(version=2), sent_at=999.0)
    _keep(cache, "a.b.production", _answer(version=1), sent_at=998.0)
    found = cache.lookup("a.b", 300)
    assert found is not None
    assert found.version == 2


def test_what_was_asked_before_clearing_is_not_kept(cache: KeyCache[Key]) -> None:
    epoch = cache.epoch
    cache.forget("a.b")
    cache.keep("a.b", _answer(), sent_at=1000.0, epoch=epoch)
    assert cache.lookup("a.b", 300) is None


def test_a_bare_path_is_cleared_in_every_environment(cache: KeyCache[Key]) -> None:
    _keep(cache, "a.b.production", _answer())
    _keep(cache, "a.b.staging", _answer(environment="staging"))
    _keep(cache, "a.bc", _answer("a.bc"))
    cache.forget("a.b")
    assert cache.lookup("a.b.production", 300) is None
    assert cache.lookup("a.b.staging", 300) is None
    assert cache.lookup("a.bc", 300) is not None


def test_one_environment_is_cleared_alone(cache: KeyCache[Key]) -> None:
    _keep(cache, "a.b.production", _answer())
    _keep(cache, "a.b.staging", _answer(environment="staging"))
    cache.forget("a.b.staging")
    assert cache.lookup("a.b.production", 300) is not None
    assert cache.lookup("a.b.staging", 300) is None


def test_a_refusal_of_what_is_not_held_disturbs_nobody(cache: KeyCache[Key]) -> None:
    epoch = cache.epoch
    cache.refused("no.such")
    assert cache.epoch == epoch


def test_outlived_values_do_not_stay_in_memory(cache: KeyCache[Key], clocks: Clocks) -> None:
    _keep(cache, "a.b", _answer(ceiling=60))
    clocks.now += 61
    _keep(cache, "c.d", _answer("c.d"), sent_at=clocks.now)
    assert list(cache._held) == ["c.d.production"]  # memory is what is tested
