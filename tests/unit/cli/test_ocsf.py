"""Every entry becomes an event that its OCSF class allows, and leads back to its entry."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dox_core_store import wire
from dox_core_store.cli.ocsf import ACTIVITIES, OCSF_VERSION, OUTCOMES, as_ocsf
from dox_core_store.server.domain.ledger import Action, Status

PAGE = Path(__file__).parents[3] / "docs" / "spec" / "ocsf.md"

# https://schema.ocsf.io/1.3.0/classes/api_activity and …/authentication: what is required, and what
# else a class has. `unmapped` and `count` are of every class.
BASE = {
    "activity_id": int, "category_uid": int, "class_uid": int, "metadata": dict, "severity_id": int,
    "time": int, "type_uid": int,
}  # fmt: skip
REQUIRED: dict[int, dict[str, type]] = {
    6003: {**BASE, "actor": dict, "api": dict, "src_endpoint": dict},
    3002: {**BASE, "user": dict},
}
OPTIONAL = {
    "activity_name", "category_name", "class_name", "type_name", "severity", "status", "status_id",
    "status_code", "status_detail", "count", "http_request", "unmapped", "actor", "src_endpoint",
}  # fmt: skip
ALSO = {6003: {"resources"}, 3002: {"service", "session"}}
ACTIVITY_IDS = {6003: {1, 2, 3, 4, 99}, 3002: {1}}

RECORD = wire.LedgerRecord(
    timestamp="2025-11-04T13:30:00.123Z",
    service_name="jules-mcp",
    key_path="service_keys.jules_api.production",
    action="GET",
    status="GRANTED",
    request_id="req_1",
    ip_address="10.0.0.1",
    user_agent="curl/8",
    seq=7,
    stream="str_1",
    environment="production",
    version=3,
    token_id="tok_1",
    correlation_id="theirs",
    reason="call",
    count=2,
    prev="aa",
    hash="bb",
    format=1,
)


def event(**changed: Any) -> dict[str, Any]:
    return as_ocsf(msgspec.structs.replace(RECORD, **changed))


def check(made: dict[str, Any]) -> None:
    kind = made["class_uid"]
    for name, is_a in REQUIRED[kind].items():
        assert isinstance(made[name], is_a), name
    assert made.keys() <= REQUIRED[kind].keys() | OPTIONAL | ALSO[kind]
    assert made["category_uid"] == kind // 1000
    assert made["activity_id"] in ACTIVITY_IDS[kind]
    assert made["type_uid"] == kind * 100 + made["activity_id"]
    assert made["severity_id"] in {1, 2, 3, 4, 5, 6, 99}
    assert made["metadata"]["version"] == OCSF_VERSION
    assert made["metadata"]["product"]["vendor_name"]
    assert made["src_endpoint"].keys() & {"ip", "name"}
    assert made["actor"]["user"]["name"] == made.get("user", made["actor"]["user"])["name"]
    if kind == 6003:
        assert isinstance(made["api"]["operation"], str)


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("status", Status)
def test_every_kind_of_entry_has_an_event_of_its_class(action: Action, status: Status) -> None:
    assert str(action) in ACTIVITIES
    assert str(status) in OUTCOMES
    for reason in (None, "call", "token_expired", "not_authorized"):
        check(event(action=str(action), status=str(status), reason=reason))


@given(
    st.builds(
        wire.LedgerRecord,
        timestamp=st.datetimes(min_value=datetime(1970, 1, 1)).map(  # noqa: DTZ001 - UTC is said
            lambda at: f"{at:%Y-%m-%dT%H:%M:%S}.000Z"
        ),
    )
)
def test_whatever_an_entry_holds_it_becomes_an_event(record: wire.LedgerRecord) -> None:
    made = as_ocsf(record)
    check(made)
    assert msgspec.json.decode(wire.encode_line(made)) == made


def test_a_read_is_told_in_the_words_of_the_schema() -> None:
    made = event()
    assert (made["class_name"], made["activity_name"]) == ("API Activity", "Read")
    assert made["time"] == 1762263000123
    assert (made["status"], made["severity"], made["count"]) == ("Success", "Informational", 2)
    assert made["resources"] == [
        {
            "name": RECORD.key_path,
            "type": "key",
            "namespace": "production",
            "version": "3",
        }
    ]
    assert made["api"]["request"]["uid"] == "req_1"
    assert made["actor"]["session"] == {"uid": "tok_1"}
    assert made["metadata"]["correlation_uid"] == "theirs"
    assert made["unmapped"]["hash"] == "bb"


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"status": "DENIED", "reason": "token_invalid"}, 3002),
        ({"status": "DENIED", "reason": "not_authorized"}, 6003),
        ({"action": "AUTHENTICATE"}, 3002),
        ({"action": "ISSUE_TOKEN", "reason": "token_of_old"}, 6003),
    ],
)
def test_a_token_that_is_not_taken_is_an_authentication(changed: dict[str, str], kind: int) -> None:
    assert event(**changed)["class_uid"] == kind


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("jules-mcp", "User"),
        ("operator:alice", "Admin"),
        ("local:root", "System"),
        ("anonymous", "Unknown"),
    ],
)
def test_who_acted_keeps_their_kind(name: str, type_: str) -> None:
    assert event(service_name=name)["actor"]["user"] == {
        "name": name,
        "type": type_,
        "type_id": {"User": 1, "Admin": 2, "System": 3, "Unknown": 0}[type_],
    }


def test_a_newer_store_does_not_end_the_export() -> None:
    made = event(action="TELEPORT", status="MAYBE")
    check(made)
    assert (made["activity_id"], made["status_id"]) == (99, 99)


def test_the_page_has_the_tables() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = {tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in text.splitlines()
            if line.startswith("| `")}  # fmt: skip
    told = {(name, str(number), word) for name, number, word in _activities(rows)}
    assert told == {(each, str(number), word) for each, (number, word) in ACTIVITIES.items()}
    for name, outcome in OUTCOMES.items():
        assert (f"`{name}`", *(str(each) for each in outcome)) in rows


def _activities(rows: set[tuple[str, ...]]) -> list[tuple[str, str, str]]:
    return [
        (name.strip("`"), row[1], row[2])
        for row in rows
        if len(row) == 3
        for name in row[0].split()
    ]
