"""What may be searched for in the ledger: whatever an entry can hold, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.domain.ledger import Action, Status
from dox_core_store.server.ports import LedgerFilter
from dox_core_store.server.usecases.ledger import check_filter

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DETAIL = 500
HOUR = timedelta(hours=1)
ENVIRONMENTS = {"production", "staging"}


def checked(wanted: LedgerFilter) -> LedgerFilter:
    return check_filter(wanted, ENVIRONMENTS, NOW)


@pytest.mark.parametrize(
    "wanted",
    [
        LedgerFilter(),
        *(LedgerFilter(action=str(action)) for action in Action),
        *(LedgerFilter(status=str(status)) for status in Status),
        LedgerFilter(environment="staging"),
        LedgerFilter(service_name="nobody", key_path="no key", prefix="%", token_id="x"),
        LedgerFilter(since=NOW - HOUR, until=NOW + HOUR),
        LedgerFilter(since=NOW + timedelta(seconds=29)),
        LedgerFilter(until=NOW - 9999 * HOUR),
        *(LedgerFilter(ip_address=each) for each in ("192.0.2.7", "::1", "2001:db8::/64", "*", "")),
    ],
)
def test_what_an_entry_can_hold_is_searched_for_as_it_is(wanted: LedgerFilter) -> None:
    assert checked(wanted) == wanted


@pytest.mark.parametrize(
    ("asked", "held"),
    [("::ffff:192.0.2.7", "192.0.2.7"), ("2001:DB8:0:0::7", "2001:db8::7")],
)
def test_an_address_is_searched_for_in_its_one_spelling(asked: str, held: str) -> None:
    assert checked(LedgerFilter(ip_address=asked)).ip_address == held


@pytest.mark.parametrize(
    ("wanted", "code", "told"),
    [
        (LedgerFilter(action="get"), "invalid_parameter", "'get'. Nearest: GET."),
        (LedgerFilter(action="REVOKE_TOKENS"), "invalid_parameter", "REVOKE_TOKEN"),
        (LedgerFilter(action="\U0001f511" * 999), "invalid_parameter", "Nearest: "),
        (LedgerFilter(ip_address="\U0001f511" * 999), "invalid_parameter", "no address"),
        (LedgerFilter(environment="\U0001f511" * 999), "unknown_environment", "not declared"),
        (LedgerFilter(status="OK"), "invalid_parameter", "GRANTED"),
        (LedgerFilter(environment="Staging"), "unknown_environment", "'Staging'"),
        (LedgerFilter(since=NOW, until=NOW), "invalid_parameter", "earlier"),
        (LedgerFilter(since=NOW, until=NOW - HOUR), "invalid_parameter", "earlier"),
        (LedgerFilter(since=NOW + HOUR), "invalid_parameter", "2026-01-31 13:00:00Z"),
        *(
            (LedgerFilter(ip_address=each), "invalid_parameter", "no address")
            for each in ("localhost", "1.2.3", "10.0.0.0/8", "10.0.0.1/32", "2001:db8::7/64", "a:b")
        ),
    ],
)
def test_what_no_entry_can_hold_is_refused(wanted: LedgerFilter, code: str, told: str) -> None:
    with pytest.raises(DoxStoreError) as caught:
        checked(wanted)
    assert caught.value.code == code
    assert told in caught.value.detail
    assert len(caught.value.detail) <= DETAIL
