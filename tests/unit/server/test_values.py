"""The node's cache of values: sealed, bounded, and never behind what was forgotten."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.usecases import values
from dox_core_store.server.usecases.values import Prepared, ValueCache

BODY = b'{"value":"canary-8d2"}'


def prepared(
    cache: ValueCache, path: str = "a.b", environment: str = "production", body: bytes = BODY
) -> Prepared:
    nonce, sealed = cache.seal(body, "v1")
    return Prepared(
        address=KeyAddress(path, environment),
        version_id="v1",
        number=1,
        expires_at=datetime(2999, 1, 1, tzinfo=UTC),
        nonce=nonce,
        sealed=sealed,
    )


def test_what_is_kept_is_sealed_and_opens() -> None:
    cache = ValueCache()
    one = prepared(cache)
    cache.keep(one, cache.generation)
    assert cache.get(KeyAddress("a.b", "production")) is one
    assert b"canary" not in one.sealed
    assert cache.open(one) == BODY


def test_what_is_kept_opens_in_its_own_process_and_as_its_own_version_only() -> None:
    cache = ValueCache()
    one = prepared(cache)
    with pytest.raises(InvalidTag):
        ValueCache().open(one)
    other = Prepared(
        address=one.address,
        version_id="v2",
        number=2,
        expires_at=None,
        nonce=one.nonce,
        sealed=one.sealed,
    )
    with pytest.raises(InvalidTag):
        cache.open(other)


def test_an_environment_is_another_value() -> None:
    cache = ValueCache()
    cache.keep(prepared(cache), cache.generation)
    assert cache.get(KeyAddress("a.b", "staging")) is None
    assert cache.get(KeyAddress("a", "production")) is None


def test_a_path_is_forgotten_in_every_environment() -> None:
    cache = ValueCache()
    for environment in ("production", "staging"):
        cache.keep(prepared(cache, environment=environment), cache.generation)
    cache.keep(prepared(cache, "a.c"), cache.generation)
    cache.forget("a.b")
    assert cache.get(KeyAddress("a.b", "production")) is None
    assert cache.get(KeyAddress("a.b", "staging")) is None
    assert cache.get(KeyAddress("a.c", "production")) is not None
    cache.forget(None)
    assert cache.get(KeyAddress("a.c", "production")) is None


@pytest.mark.parametrize("forgotten", ["a.b", "other", None])
def test_what_was_read_before_something_was_forgotten_is_not_kept(forgotten: str | None) -> None:
    cache = ValueCache()
    generation = cache.generation
    late = prepared(cache)
    cache.forget(forgotten)
    cache.keep(late, generation)
    assert cache.get(late.address) is None


def test_the_oldest_leave_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "_MAX_KEYS", 3)
    cache = ValueCache()
    for name in "abcd":
        cache.keep(prepared(cache, name), cache.generation)
    assert [name for name in "abcd" if cache.get(KeyAddress(name, "production"))] == ["b", "c", "d"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"), st.sampled_from(["keep", "forget"]), st.integers(0, 4_000)
        )
    )
)
def test_it_never_holds_more_bytes_than_allowed(acts: list[tuple[str, str, int]]) -> None:
    limit = 6_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "_MAX_BYTES", limit)
        cache = ValueCache()
        for name, act, size in acts:
            if act == "keep":
                cache.keep(prepared(cache, name, body=b"x" * size), cache.generation)
            else:
                cache.forget(name)
            kept = [cache.get(KeyAddress(each, "production")) for each in "abcd"]
            assert sum(len(each.sealed) for each in kept if each) <= limit
        for name in "abcd":
            cache.forget(name)
        assert cache._bytes == 0
