"""Refusals on the ledger: the first of a kind at once, a flood counted, none lost."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dox_core_store.errors import CODES, DoxStoreError, StoreUnavailableError, error_for
from dox_core_store.server.domain.ledger import Entry, Status
from dox_core_store.server.usecases import refusals
from dox_core_store.server.usecases.refusals import INDIVIDUAL, Refusals, status_of
from dox_core_store.testing.ledger import RecordingLedger


def entry(
    who: str = "jules", path: str = "a.b", code: str = "not_authorized", address: str = "127.0.0.1"
) -> Entry:
    return Entry(
        timestamp="t",
        service_name=who,
        key_path=path,
        action="GET",
        status=Status.DENIED,
        request_id="r",
        ip_address=address,
        user_agent="",
        reason=code,
    )


def told(entries: list[Entry]) -> Counter[tuple[str, str, str | None]]:
    """How many refusals the ledger tells of, by kind."""
    counted: Counter[tuple[str, str, str | None]] = Counter()
    for each in entries:
        counted[each.service_name, each.ip_address, each.reason] += each.count
    return counted


async def recorded(entries: list[Entry]) -> list[Entry]:
    ledger = RecordingLedger()
    folding = Refusals(ledger=ledger)
    for each in entries:
        await folding.record(each)
    folding.flush()
    assert not ledger.commits  # a refusal waits for nothing
    return ledger.entries


def test_the_first_of_a_kind_are_entries_of_their_own() -> None:
    found = asyncio.run(recorded([entry()] * INDIVIDUAL))
    assert found == [entry()] * INDIVIDUAL


def test_the_rest_of_a_window_is_one_entry_with_its_count() -> None:
    found = asyncio.run(recorded([entry()] * 1_000))
    assert len(found) == INDIVIDUAL + 1
    assert found[-1] == entry()._replace(count=1_000 - INDIVIDUAL)


def test_a_folded_entry_names_the_path_only_if_it_was_one() -> None:
    paths = [f"a.n{number}" for number in range(INDIVIDUAL + 5)]
    found = asyncio.run(recorded([entry(path=path) for path in paths]))
    assert [each.key_path for each in found] == [*paths[:INDIVIDUAL], "*"]


def test_a_known_service_is_one_kind_wherever_it_asks_from_and_a_stranger_is_its_address() -> None:
    many = [entry(address=f"10.0.0.{number}") for number in range(120)]
    assert len(asyncio.run(recorded(many))) == INDIVIDUAL + 1
    strangers = [each._replace(service_name="anonymous") for each in many]
    assert len(asyncio.run(recorded(strangers))) == 120


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["one", "two", "anonymous"]), st.sampled_from("xy"), st.integers(1, 150)
        ),
        max_size=8,
    )
)
def test_nothing_is_lost_however_it_comes(floods: list[tuple[str, str, int]]) -> None:
    sent = [entry(who, code=code) for who, code, number in floods for _ in range(number)]
    assert told(asyncio.run(recorded(sent))) == told(sent)


def test_more_kinds_than_memory_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "_MAX_ADDRESSES", 5)
    strangers = [entry("anonymous", address=f"10.0.{n // 250}.{n % 250}") for n in range(600)]
    found = asyncio.run(recorded(strangers))
    assert sum(each.count for each in found) == 600
    assert len(found) == 5 + 1 + 5 + 1  # each first, the first and some of the rest, and the rest
    assert (found[-1].ip_address, found[-1].count) == ("*", 600 - 11)


def test_what_strangers_can_write_is_bounded_however_many_they_are_and_however_long() -> None:
    async def flood() -> tuple[int, int, list[float]]:
        ledger = RecordingLedger()
        folding = Refusals(ledger=ledger)
        sent, lengths = 0, []
        for _ in range(8):
            for number in range(3_000):
                address = f"10.{number // 250}.{number % 250}.1"
                await folding.record(entry("anonymous", address=address, code="token_invalid"))
                sent += 1
            lengths.append(folding._strangers.seconds)
            folding.flush()  # as the window's end would
        assert sum(each.count for each in ledger.entries) == sent
        return sent, len(ledger.entries), lengths

    sent, entries, lengths = asyncio.run(flood())
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60]
    assert entries < 2_200 + 7 * 300 < sent / 5


def test_a_flood_of_strangers_leaves_named_ones_and_other_codes_their_own_entries() -> None:
    async def flood() -> list[Entry]:
        ledger = RecordingLedger()
        folding = Refusals(ledger=ledger)
        for number in range(5_000):
            address = f"10.{number // 250}.{number % 250}.1"
            await folding.record(entry("anonymous", address=address, code="token_invalid"))
        await folding.record(entry("jules", code="not_authorized"))
        await folding.record(entry("anonymous", address="192.0.2.7", code="token_expired"))
        return ledger.entries

    found = asyncio.run(flood())[-2:]
    assert [(each.service_name, each.ip_address, each.reason) for each in found] == [
        ("jules", "127.0.0.1", "not_authorized"),
        ("anonymous", "192.0.2.7", "token_expired"),
    ]


def test_windows_are_short_again_once_the_flood_is_over() -> None:
    async def flood() -> None:
        folding = Refusals(ledger=RecordingLedger())
        for _ in range(3):
            for _ in range(INDIVIDUAL + 1):
                await folding.record(entry("anonymous"))
            folding.flush()
        assert folding._strangers.seconds == 8
        await folding.record(entry("anonymous"))
        folding.flush()
        assert folding._strangers.seconds == 1

    asyncio.run(flood())


def test_addresses_of_one_ipv6_subscriber_are_one_stranger() -> None:
    many = [entry("anonymous", address=f"2001:db8:1:2::{number:x}") for number in range(1, 251)]
    found = asyncio.run(recorded(many))
    assert len(found) == INDIVIDUAL + 1
    assert (found[-1].ip_address, found[-1].count) == ("2001:db8:1:2::/64", 150)


def test_the_window_ends_by_itself() -> None:
    async def flood() -> None:
        ledger = RecordingLedger()
        folding = Refusals(ledger=ledger)
        for _ in range(INDIVIDUAL + 7):
            await folding.record(entry())
        assert len(ledger.entries) == INDIVIDUAL
        timer = folding._named._timer
        assert timer is not None
        timer._run()  # as the loop will, a second from now
        assert ledger.entries[-1].count == 7
        await folding.record(entry())
        assert ledger.entries[-1].count == 1

    asyncio.run(flood())


def test_while_the_ledger_is_in_trouble_the_answer_is_its_own() -> None:
    async def refuse() -> None:
        ledger = RecordingLedger()
        ledger.fault = StoreUnavailableError("ledger_unavailable", "full")
        with pytest.raises(StoreUnavailableError) as caught:
            await Refusals(ledger=ledger).record(entry())
        assert caught.value.code == "ledger_unavailable"
        assert ledger.entries == []

    asyncio.run(refuse())


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_its_status(code: str) -> None:
    by_http = {
        401: "DENIED",
        403: "DENIED",
        410: "DENIED",
        404: "NOT_FOUND",
        429: "LIMITED",
        409: "FAILED",
        500: "FAILED",
        503: "FAILED",
        None: "FAILED",
        400: "INVALID",
        405: "INVALID",
        413: "INVALID",
    }
    error = error_for(code, "detail")
    assert status_of(error) == by_http[error.status]


def test_a_fault_without_a_code_of_its_own_is_a_failure() -> None:
    assert status_of(DoxStoreError("internal_error", "")) == Status.FAILED
