"""Who was handed a key since a time: what a real store tells of reads that it answered."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from tests.unit.server.asking import Asking, MovedClock

from dox_core_store.server.domain.ledger import Entry
from dox_core_store.server.usecases import ledger as usecase

KEY = "/v1/keys/a.b"
BEFORE = "2020-01-01T00:00:00Z"
HOURS_2 = timedelta(seconds=2 * 3600)
"""The ceiling of cache_ttl, and the grace, as a store has them that was told nothing else."""


@pytest.fixture
def asked(asking: Asking) -> Asking:
    assert asking("PUT", KEY, {"value": "one"}).status == 201
    return asking


def since(asking: Asking, **query: str) -> dict[str, Any]:
    asked = {"key_path": "a.b", "since": BEFORE, **query}
    told = asking("GET", f"/v1/ledger/since?{urlencode(asked)}")
    assert told.status == 200, told.json
    found: dict[str, Any] = told.json
    return found


def read(asking: Asking, path: str = KEY, token: str = "") -> None:
    assert asking("GET", path, token=token or asking.service).status == 200


def entry(asking: Asking, status: str, **changed: Any) -> None:
    """An entry that the node itself wrote, as one is after a commit that took too long."""
    made = Entry(
        timestamp="2025-01-01T00:00:00.000Z",
        service_name="model",
        key_path="a.b.production",
        action="GET",
        status=status,
        request_id="req_lost",
        ip_address="10.0.0.9",
        user_agent="",
        environment="production",
        version=1,
        token_id="tok_gone",
        reason="call",
    )._replace(**changed)
    asking.record(made)


def test_reads_are_told_by_service_token_and_address(asked: Asking) -> None:
    read(asked)
    assert asked("PUT", KEY, {"value": "two"}).status == 200
    read(asked)
    (told,) = since(asked)["items"]
    assert (told["service_name"], told["ip_address"], told["environment"]) == (
        "model",
        "127.0.0.1",
        "production",
    )
    assert (told["versions"], told["count"], told["reasons"]) == ([1, 2], 2, {"call": 2})
    assert told["token_id"].startswith("tok_")
    assert told["first_handed_at"] < told["last_handed_at"]
    last, until = told["last_handed_at"], told["may_serve_until"]
    assert datetime.fromisoformat(until) - datetime.fromisoformat(last) == HOURS_2


def test_whose_token_was_revoked_is_told(asked: Asking) -> None:
    other = asked("POST", "/tokens", {"service_name": "model"}).json
    read(asked)
    read(asked, token=other["token"])
    assert asked("POST", f"/v1/tokens/{other['token_id']}/revoke", {}).status == 204
    lives = {each["token_id"]: each["token_lives"] for each in since(asked)["items"]}
    assert lives.pop(other["token_id"]) is False
    assert list(lives.values()) == [True]


def test_what_did_not_leave_does_not_count(asked: Asking) -> None:
    entry(asked, "GRANTED")
    entry(asked, "GRANTED")
    entry(asked, "ABORTED")
    entry(asked, "GRANTED", request_id="req_other", version=2)
    entry(asked, "ABORTED", request_id="req_other", version=1)
    (told,) = since(asked)["items"]
    assert (told["count"], told["versions"]) == (2, [1, 2])


def test_refusals_and_other_keys_are_not_told(asked: Asking) -> None:
    entry(asked, "DENIED")
    entry(asked, "GRANTED", key_path="a.b.c.production")
    entry(asked, "GRANTED", action="PUT")
    entry(asked, "GRANTED", timestamp="2019-01-01T00:00:00.000Z")
    assert since(asked)["items"] == []


def test_what_clients_reported_is_added_up_beside(asked: Asking) -> None:
    entry(asked, "REPORTED", count=40, reason="cache")
    entry(asked, "REPORTED", count=2, reason="outage")
    found = since(asked)
    assert (found["items"], found["reported"]) == ([], 42)


def test_one_environment_or_all(asked: Asking) -> None:
    entry(asked, "GRANTED")
    entry(asked, "GRANTED", key_path="a.b.staging", environment="staging")
    assert len(since(asked)["items"]) == 2
    for query in ({"environment": "staging"}, {"key_path": "a.b.staging"}):
        found = since(asked, **query)
        assert [each["environment"] for each in found["items"]] == ["staging"]
        assert (found["key_path"], found["environment"]) == ("a.b", "staging")


def test_many_readers_come_page_by_page(asked: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usecase, "_MOST_GROUPS", 3)
    monkeypatch.setattr(usecase, "_AT_ONCE", 3)
    for number in range(8):
        entry(asked, "GRANTED", ip_address=f"10.0.0.{number}", request_id=f"req_{number}")
    entry(asked, "ABORTED", ip_address="10.0.0.0", request_id="req_0")
    found, cursor, pages = [], "", 0
    while True:
        page = since(asked, **({"cursor": cursor} if cursor else {}))
        found += [each["ip_address"] for each in page["items"]]
        pages += 1
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == [f"10.0.0.{number}" for number in range(7, 0, -1)]
    assert pages > 1


def test_asking_is_itself_on_record_and_for_those_who_may_read_the_ledger(asked: Asking) -> None:
    since(asked)
    (told,) = asked("GET", "/v1/ledger?action=READ_LEDGER&limit=1").json["items"]
    assert (told["status"], told["service_name"]) == ("GRANTED", "operator:root")
    refused = asked("GET", f"/v1/ledger/since?key_path=a.b&since={BEFORE}", token=asked.service)
    assert refused.status == 403


@pytest.mark.parametrize(
    "query",
    [
        "key_path=a.b",
        f"since={BEFORE}",
        f"key_path=a..b&since={BEFORE}",
        "key_path=a.b&since=yesterday",
        f"key_path=a.b.staging&environment=production&since={BEFORE}",
        f"key_path=a.b&environment=nowhere&since={BEFORE}",
        f"key_path=a.b&since={BEFORE}&cursor=x",
    ],
)
def test_what_cannot_be_asked_is_refused(asked: Asking, query: str) -> None:
    assert asked("GET", f"/v1/ledger/since?{query}").status == 400


def test_a_token_that_expired_is_dead(asked: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    short = asked("POST", "/tokens", {"service_name": "model", "expires_in": "5m"}).json
    read(asked, token=short["token"])
    monkeypatch.setattr(MovedClock, "ahead_minutes", 10)
    (told,) = since(asked)["items"]
    assert told["token_lives"] is False
