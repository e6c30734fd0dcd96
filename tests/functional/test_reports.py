"""What clients report to have served by themselves: what becomes of it, and what it cannot do."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.functional.raw_http import ask, code_of, recorded
from tests.functional.running import Answer, RunningStore, run_doxstore
from tests.functional.test_bound_tokens import bound

REPORTS = "/v1/reports"
KEY = "reported.key"


def row(**changed: Any) -> dict[str, Any]:
    return {
        "key_path": KEY,
        "environment": "production",
        "version": 1,
        "source": "cache",
        "count": 40,
        "since": "2025-01-01T00:00:00Z",
        "until": "2025-01-01T00:01:00.5Z",
    } | changed


def report(store: RunningStore, token: str | None, *rows: Any, **more: Any) -> Answer:
    return ask(store, "POST", REPORTS, token=token, body={"reads": list(rows), **more})


def entries(store: RunningStore, *answers: Answer) -> list[dict[str, Any]]:
    """What is on record of them, oldest first."""
    asked = {answer.request_id for answer in answers}
    return [each for each in store.export() if each["request_id"] in asked]


@pytest.fixture
def reader(shared_store: RunningStore) -> str:
    return shared_store.issue("reporting", "reported.**")


def test_each_row_is_an_entry_under_the_tokens_name(
    shared_store: RunningStore, reader: str
) -> None:
    answer = ask(
        shared_store,
        "POST",
        REPORTS,
        token=reader,
        body={
            "reads": [
                row(),
                row(source="outage", count=2, version=7, since="2025-01-01T02:00:30+02:00"),
            ]
        },
        headers=[("X-Request-Id", "mine")],
    )
    assert (answer.status, answer.json) == (200, {"taken": 2})
    assert '"service";r=' in answer.headers["ratelimit"]
    first, second = entries(shared_store, answer)
    for entry in (first, second):
        assert (entry["action"], entry["status"]) == ("GET", "REPORTED")
        assert (entry["service_name"], entry["environment"]) == ("reporting", "production")
        assert entry["key_path"] == f"{KEY}.production"
        assert entry["token_id"].startswith("tok_")
        assert (entry["correlation_id"], entry["ip_address"]) == ("mine", "127.0.0.1")
        assert entry["timestamp"] > "2025-06"
    assert (first["count"], first["version"]) == (40, 1)
    assert first["reason"] == "cache 2025-01-01T00:00:00.000Z/2025-01-01T00:01:00.500Z"
    assert (second["count"], second["version"]) == (2, 7)
    assert second["reason"] == "outage 2025-01-01T00:00:30.000Z/2025-01-01T00:01:00.500Z"
    assert first["seq"] + 1 == second["seq"]  # one commit


def test_nobody_reports_under_another_name(shared_store: RunningStore, reader: str) -> None:
    for forged in (
        row(service_name="payments"),
        row(token_id="tok_other"),
        row(timestamp="2020-01-01T00:00:00.000Z"),
        row(status="GRANTED"),
        row(reason="call"),
    ):
        answer = report(shared_store, reader, row(), forged)
        assert (answer.status, code_of(answer)) == (400, "invalid_field")
    assert code_of(report(shared_store, reader, row(), service_name="payments")) == "invalid_field"
    answer = ask(
        shared_store,
        "POST",
        REPORTS,
        token=reader,
        body={"reads": [row()]},
        headers=[("X-Service-Name", "payments"), ("X-Request-Id", "operator:root")],
    )
    assert [each["service_name"] for each in entries(shared_store, answer)] == ["reporting"]


@pytest.mark.parametrize(
    "changed",
    [
        {"key_path": "a..b"},
        {"key_path": ""},
        {"key_path": "a b"},
        {"key_path": "a\0b"},
        {"key_path": "a\nb"},
        {"key_path": "x" * 300},
        {"key_path": "_store.tokens"},
        {"key_path": "_Store.tokens"},
        {"key_path": "batch-get"},
        {"key_path": "reported.key.staging"},
        {"environment": "nowhere"},
        {"environment": ""},
        {"environment": "Production"},
        {"environment": "pro\0duction"},
        {"environment": None},
        {"version": 0},
        {"version": -1},
        {"version": 10**9},
        {"version": 1.5},
        {"version": None},
        {"count": 0},
        {"count": -5},
        {"count": 10**13},
        {"count": True},
        {"source": "call"},
        {"source": "service"},
        {"source": "cache\n"},
        {"since": "2025-01-01T00:02:00Z"},
        {"since": "2025-01-01T00:00:00"},
        {"until": "2025-01-01T00:01:00"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"since": "yesterday"},
        {"since": 5},
        {"until": "9999-12-31T23:59:59Z"},
        {"until": "9999-12-31T23:59:59-14:00"},
    ],
)
def test_a_row_that_makes_no_sense_refuses_the_report(
    shared_store: RunningStore, reader: str, changed: dict[str, Any]
) -> None:
    answer = report(shared_store, reader, row(), row(**changed), row())
    assert (answer.status, code_of(answer)) == (400, "invalid_field")
    (entry,) = entries(shared_store, answer)
    assert (entry["status"], entry["key_path"]) == ("INVALID", "_store.reports")
    assert (entry["action"], entry["count"]) == ("GET", 1)


def test_a_clock_may_be_a_little_ahead(shared_store: RunningStore, reader: str) -> None:
    now = datetime.now(UTC)
    ahead = (now + timedelta(seconds=30)).isoformat()
    assert report(shared_store, reader, row(until=ahead)).status == 200
    far = (now + timedelta(seconds=120)).isoformat()
    assert code_of(report(shared_store, reader, row(until=far))) == "invalid_field"


@pytest.mark.parametrize("body", [{}, {"reads": []}, {"reads": None}, {"reads": {}}, [], "x"])
def test_what_is_no_report_is_refused(shared_store: RunningStore, reader: str, body: Any) -> None:
    answer = ask(shared_store, "POST", REPORTS, token=reader, body=body)
    assert (answer.status, code_of(answer)) == (400, "invalid_field")


def test_a_report_has_a_size(shared_store: RunningStore, reader: str) -> None:
    began = time.monotonic()
    full = report(shared_store, reader, *[row()] * 500)
    assert full.json == {"taken": 500}
    assert len(entries(shared_store, full)) == 500
    over = report(shared_store, reader, *[row()] * 501)
    assert (over.status, code_of(over)) == (400, "invalid_field")
    huge = report(shared_store, reader, *[row()] * 10_000)
    assert (huge.status, code_of(huge)) == (413, "body_too_large")
    assert [each["status"] for each in entries(shared_store, over, huge)] == ["INVALID"] * 2
    longest = row(key_path=".".join(["reported", *["x" * 60] * 4]), count=10**12, version=10**9 - 1)
    assert report(shared_store, reader, *[longest] * 500).json == {"taken": 500}
    assert time.monotonic() - began < 60
    assert shared_store.is_running


def test_it_costs_one_request_however_many_rows(shared_store: RunningStore) -> None:
    token = shared_store.issue("reporting-limited", "reported.*")
    limit = {"limit": "2/h"}
    shared_store.request("PUT", "/v1/services/reporting-limited/limit", json=limit)
    assert '"service";r=1;' in report(shared_store, token, *[row()] * 90).headers["ratelimit"]
    assert report(shared_store, token, row()).status == 200
    over = report(shared_store, token, row())
    assert (over.status, code_of(over)) == (429, "rate_limited")
    assert '"service";r=0;' in over.headers["ratelimit"]
    assert [each["status"] for each in entries(shared_store, over)] == ["LIMITED"]


def test_only_services_report(shared_store: RunningStore) -> None:
    operator = report(shared_store, None, row())
    assert (operator.status, code_of(operator)) == (403, "role_required")
    assert code_of(report(shared_store, "", row())) == "token_missing"
    assert code_of(report(shared_store, "a.b.c", row())) == "token_invalid"
    assert {each["status"] for each in entries(shared_store, operator)} == {"DENIED"}


def test_nobody_writes_what_they_like_about_others_keys(store: RunningStore) -> None:
    """Such a row is a refused read; a flood of them is folded, and none is lost."""
    token = store.issue("reporting", "reported.*")
    answer = report(store, token, row(key_path="payments.key"), row(), row(environment="staging"))
    assert answer.json == {"taken": 1}
    found = entries(store, answer)
    told = [(each["key_path"], each["status"], each["reason"]) for each in found]
    assert sorted(told) == [
        ("payments.key.production", "DENIED", "not_authorized"),
        (f"{KEY}.production", "REPORTED", found[0]["reason"]),
        (f"{KEY}.staging", "DENIED", "not_authorized"),
    ]
    assert [each["version"] for each in found if each["status"] == "DENIED"] == [None, None]
    since = "/v1/ledger/since?key_path=payments.key&since=2020-01-01T00:00:00Z"
    assert store.request("GET", since).json["reported"] == 0
    flood = [row(key_path=f"payments.k{number}") for number in range(500)]
    assert report(store, token, *flood).json == {"taken": 0}
    store.stop()
    store.start()
    denied = [each for each in store.verified_export() if each["status"] == "DENIED"]
    assert sum(each["count"] for each in denied) == 502
    assert len(denied) <= 103


def test_what_was_reported_is_told_beside_who_was_handed_it(store: RunningStore) -> None:
    store.put(KEY, "value")
    token = store.issue("reporting", "reported.*")
    assert store.get(KEY, token).status == 200
    assert report(store, token, row(count=40), row(source="outage", count=2)).status == 200
    told = run_doxstore(
        *("ledger", "since", KEY, "--from", "1h"),
        KEY_SERVICE_URL=store.url,
        ADMIN_TOKEN=store.admin_token,
    )
    assert told.returncode == 0, told.stderr
    assert len(told.stdout.splitlines()) == 2
    assert "call:1" in told.stdout.split()
    assert "Clients also reported 42 reads from their caches." in told.stderr
    assert "1 handed it" in told.stderr


def test_a_bound_token_reports_with_its_proof(shared_store: RunningStore, tmp_path: Path) -> None:
    shared_store.put("held.key", "held value")
    shared_store.put("held.other", "other value")
    shared_store.register("holder", "held.key", "held.other")
    held = bound(shared_store, tmp_path / "service.key")
    body = json.dumps({"reads": [row(key_path="held.key")]}).encode()
    swapped = json.dumps({"reads": [row(key_path="held.key", count=1)]}).encode()
    nonce = held.nonce()
    answer = held.send("POST", REPORTS, held.proof("POST", REPORTS, nonce, body=body), body=body)
    assert (answer.status, answer.json) == (200, {"taken": 1})
    assert answer.headers["dpop-nonce"]
    refused = held.send(
        "POST", REPORTS, held.proof("POST", REPORTS, nonce, body=body), body=swapped
    )
    assert (refused.status, code_of(refused)) == (401, "proof_invalid")
    assert recorded(shared_store, refused)[0]["service_name"] == "holder"
    plain = ask(shared_store, "POST", REPORTS, token=held.token, body=body)
    assert (plain.status, code_of(plain)) == (401, "proof_needed")
