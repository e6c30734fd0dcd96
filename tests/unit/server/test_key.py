"""States of versions: what may follow what, who is handed which, and what a value is."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dox_core_store.errors import ConflictError, InvalidRequestError, PayloadTooLargeError
from dox_core_store.key_path import KeyAddress
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.domain.key import (
    MAX_VALUE_BYTES,
    OUT_OF_USE,
    READABLE,
    TRANSITIONS,
    Act,
    State,
    VersionRecord,
    check_promotion,
    check_value,
    next_state,
    refusal,
    writable_address,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ENVIRONMENTS = ("production", "staging")


def test_every_state_is_named_in_who_may_read() -> None:
    assert set(READABLE) == set(State)


@pytest.mark.parametrize(("state", "act"), list(itertools.product(State, Act)))
def test_what_is_not_in_the_table_is_refused(state: State, act: Act) -> None:
    if (state, act) in TRANSITIONS:
        assert next_state(state, act) is TRANSITIONS[state, act]
    else:
        with pytest.raises(ConflictError) as caught:
            next_state(state, act)
        assert caught.value.code == "illegal_transition"
        assert str(state) in caught.value.detail


@pytest.mark.parametrize(
    ("act", "legal"),
    [
        (Act.PROMOTE, {State.PENDING: State.CURRENT}),
        (Act.SUPERSEDE, {State.CURRENT: State.PREVIOUS, State.PREVIOUS: State.RETIRED}),
        (Act.RETIRE, {State.PREVIOUS: State.RETIRED}),
        (Act.ROLL_BACK, {State.PREVIOUS: State.PREVIOUS, State.RETIRED: State.RETIRED}),
        (Act.EXPIRE, {State.CURRENT: State.CURRENT}),
        (Act.EXTEND, {State.CURRENT: State.CURRENT}),
        (
            Act.REVOKE,
            dict.fromkeys(
                (State.PENDING, State.CURRENT, State.PREVIOUS, State.RETIRED), State.REVOKED
            ),
        ),
        (
            Act.DESTROY,
            dict.fromkeys(
                (State.PENDING, State.PREVIOUS, State.RETIRED, State.REVOKED), State.DESTROYED
            ),
        ),
    ],
)
def test_each_act_is_legal_in_these_states_and_no_others(
    act: Act, legal: dict[State, State]
) -> None:
    assert {state: end for (state, each), end in TRANSITIONS.items() if each is act} == legal


def test_every_act_is_legal_somewhere_and_can_be_refused() -> None:
    assert {act for _, act in TRANSITIONS} == set(Act)
    for act in Act:
        with pytest.raises(ConflictError, match="destroyed version cannot"):
            next_state(State.DESTROYED, act)


def test_what_nobody_reads_and_still_has_a_value_is_out_of_use() -> None:
    assert {state for state in State if "service" not in READABLE[state]} - {
        State.PENDING,
        State.DESTROYED,
    } == set(OUT_OF_USE)


def version(number: int, state: State, expires_at: datetime | None = None) -> VersionRecord:
    return VersionRecord(
        version_id=f"{number:032x}",
        key_id=1,
        number=number,
        state=state,
        created_at=NOW,
        created_by="operator:ada",
        expires_at=expires_at,
        rolled_back_from=None,
        sealed=b"",
    )


@pytest.mark.parametrize("head", [None, *State])
@pytest.mark.parametrize("number", [2, 4])
def test_a_pending_version_is_stale_once_a_newer_one_is_current(
    head: State | None, number: int
) -> None:
    pending = version(number, State.PENDING, NOW + SECOND)
    current = None if head is None else version(3, head)
    if head is State.CURRENT and number == 2:
        with pytest.raises(ConflictError) as caught:
            check_promotion(pending, current, NOW)
        assert (caught.value.code, caught.value.extra) == (
            "version_conflict",
            {"actual_version": 3},
        )
    else:
        check_promotion(pending, current, NOW)


@pytest.mark.parametrize("state", State)
def test_only_a_pending_version_that_lives_is_promoted(state: State) -> None:
    for expires_at in (None, NOW + SECOND, NOW, NOW - SECOND):
        is_over = expires_at is not None and expires_at <= NOW
        if state is State.PENDING and not is_over:
            check_promotion(version(2, state, expires_at), version(1, State.CURRENT), NOW)
            continue
        with pytest.raises(ConflictError) as caught:
            check_promotion(version(2, state, expires_at), None, NOW)
        assert caught.value.code == "illegal_transition"


@given(
    st.sampled_from([State.REVOKED, State.DESTROYED]),
    st.lists(st.sampled_from(list(Act)), max_size=6),
)
def test_nothing_brings_a_revoked_or_destroyed_version_back(state: State, acts: list[Act]) -> None:
    for act in acts:
        state = TRANSITIONS.get((state, act), state)
        assert state in (State.REVOKED, State.DESTROYED)
        assert READABLE[state] == frozenset()


@given(st.lists(st.sampled_from(list(Act)), max_size=8))
def test_only_a_pending_version_ever_becomes_current(acts: list[Act]) -> None:
    state = State.PENDING
    for act in acts:
        after = TRANSITIONS.get((state, act), state)
        if after is State.CURRENT:
            assert state in (State.PENDING, State.CURRENT)
        state = after


def test_the_current_version_is_destroyed_only_after_it_was_revoked() -> None:
    with pytest.raises(ConflictError, match="Revoke it first"):
        next_state(State.CURRENT, Act.DESTROY)


@pytest.mark.parametrize(
    ("state", "to_service", "to_maintainer"),
    [
        (State.PENDING, "version_unavailable", "version_unavailable"),
        (State.CURRENT, None, None),
        (State.PREVIOUS, None, None),
        (State.RETIRED, "version_unavailable", None),
        (State.REVOKED, "version_revoked", "version_revoked"),
        (State.DESTROYED, "version_destroyed", "version_destroyed"),
    ],
)
def test_who_is_handed_what(
    state: State, to_service: str | None, to_maintainer: str | None
) -> None:
    for reader, expected in (("service", to_service), ("maintainer", to_maintainer)):
        for expires_at in (None, NOW + SECOND):
            refused = refusal(state, expires_at, NOW, reader)
            assert (refused.code if refused else None) == expected
        # An expired version is refused whatever it is, and a worse reason is told first.
        expired = refusal(state, NOW, NOW, reader)
        assert expired is not None
        assert expired.code == (expected or "key_expired")
    stranger = refusal(state, None, NOW, "stranger")
    assert stranger is not None
    named = refusal(state, None, NOW, "stranger", KeyAddress("a.b", "staging"))
    assert named is not None
    assert " version of a.b.staging " in named.detail


@pytest.mark.parametrize(
    "text",
    ["", "x" * MAX_VALUE_BYTES, "\N{EURO SIGN}" * (MAX_VALUE_BYTES // 3), "\n\r\0\"'"],
    ids=len,
)
def test_a_value_is_its_bytes(text: str) -> None:
    assert check_value(Sensitive(text)) == text.encode()


@pytest.mark.parametrize("text", ["x" * (MAX_VALUE_BYTES + 1), "\N{EURO SIGN}" * 21_846])
def test_a_value_is_measured_in_bytes(text: str) -> None:
    with pytest.raises(PayloadTooLargeError) as caught:
        check_value(Sensitive(text))
    assert caught.value.code == "value_too_large"


@pytest.mark.parametrize("path", ["_store", "_store.x", "_STORE.x", "_Store.x.staging"])
def test_nothing_is_written_under_the_stores_own_prefix(path: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        writable_address(path, ENVIRONMENTS, default="production", explicit=None)
    assert caught.value.code == "reserved_path"


@pytest.mark.parametrize("path", ["_stores", "a._store", "_store-x", "__store"])
def test_only_that_prefix_is_the_stores_own(path: str) -> None:
    address = writable_address(path, ENVIRONMENTS, default="staging", explicit=None)
    assert address == (path, "staging")
