"""Every route as it is meant to be used, and what the product promises about reads and writes."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.functional.kept_connection import connected
from tests.functional.raw_http import ask, catalog, code_of, nothing_changes, recorded
from tests.functional.running import Answer, RunningStore

SECONDS = 10
"""How long to wait for what is promised soon."""


@pytest.fixture(scope="module")
def store(shared_store: RunningStore) -> RunningStore:
    return shared_store


def until(seconds: float = SECONDS) -> Iterator[None]:
    """Try again, for a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.02)
    pytest.fail(f"not within {seconds} s")


def read(store: RunningStore, path: str, token: str | None = None) -> str:
    """The value at ``path``, or the code of its refusal."""
    answer = ask(store, "GET", f"/v1/keys/{path}", token=token)
    return str(answer.json["value"]) if answer.status == 200 else code_of(answer)


def post(store: RunningStore, target: str, status: int = 200, **body: Any) -> Any:
    answer = ask(store, "POST", target, body=body)
    assert answer.status == status, answer
    return answer.json if answer.body else None


def entries(store: RunningStore, query: str) -> list[dict[str, Any]]:
    """All ledger entries that a search finds, newest first."""
    assert ask(store, "GET", "/v1/environments").status == 200
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = ask(store, "GET", f"/v1/ledger?limit=500&{query}{cursor}").json
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


def listed(store: RunningStore, query: str) -> list[dict[str, Any]]:
    """All keys of a listing, three a page."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = ask(store, "GET", f"/v1/keys?limit=3&{query}{cursor}").json
        assert len(page["items"]) <= 3
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


# --- one walk through all routes ------------------------------------------------------------------


def test_every_route_for_keys_does_what_it_says(store: RunningStore) -> None:
    path = "/v1/keys/api.walk"
    first = ask(store, "PUT", path, body={"value": "one", "owner": "ada", "usage": "a test"})
    assert first.status == 201
    assert first.headers["content-type"] == "application/json"
    assert first.headers["cache-control"] == "no-store"
    assert first.request_id.startswith("req_")
    assert set(first.json) == {
        "key_path",
        "environment",
        "version",
        "version_id",
        "state",
        "expires_at",
        "rolled_back_from",
    }
    assert (first.json["key_path"], first.json["environment"]) == ("api.walk", "production")
    second = ask(store, "PUT", path, body={"value": "two", "if_version": 1})
    assert (second.status, second.json["version"], second.json["state"]) == (200, 2, "current")
    back = post(store, f"{path}/rollback")
    assert (back["version"], back["rolled_back_from"], back["state"]) == (3, 1, "current")
    assert read(store, "api.walk") == "one"
    far = post(store, f"{path}/extend", expires_at="2999-01-01T01:00:00+01:00")
    assert (far["version"], far["expires_at"]) == (3, "2999-01-01T00:00:00Z")
    versions = ask(store, "GET", f"{path}/versions").json["items"]
    assert [(v["version"], v["state"]) for v in versions] == [
        (1, "retired"),
        (2, "previous"),
        (3, "current"),
    ]
    assert not any("value" in version for version in versions)
    assert post(store, f"{path}/revoke", version=1)["state"] == "revoked"
    assert post(store, f"{path}/destroy", version=1)["state"] == "destroyed"
    (summary,) = listed(store, "prefix=api.walk")
    assert (summary["owner"], summary["usage"], summary["version"]) == ("ada", "a test", 3)
    assert "value" not in summary


def test_every_route_for_identities_does_what_it_says(store: RunningStore) -> None:
    store.put("api.walked", "one")
    service = ask(
        store,
        "POST",
        "/v1/services",
        body={"service_name": "api-walk", "description": "d", "required_keys": ["api.walked"]},
    )
    assert service.status == 201
    assert service.json["granted"] == ["api.walked.production"]
    assert (service.json["limit"], service.json["burst"]) == ("600/min", 600)
    again = ask(store, "POST", "/v1/services", body={"service_name": "api-walk"})
    assert (again.status, again.json["description"]) == (200, "d")
    limit = ask(store, "PUT", "/v1/services/api-walk/limit", body={"limit": "20/s", "burst": 7})
    assert (limit.json["limit"], limit.json["burst"]) == ("20/s", 7)
    services = ask(store, "GET", "/v1/services?limit=500").json["items"]
    assert "api-walk" in [each["service_name"] for each in services]
    for target in ("/tokens", "/v1/tokens"):
        token = post(store, target, 201, service_name="api-walk", expires_in="1y")
        assert token["token_type"] == "Bearer"
        assert (token["service_name"], token["environment"]) == ("api-walk", "production")
        expires = datetime.fromisoformat(token["expires_at"])
        assert abs(expires - datetime.now(UTC) - timedelta(days=365)) < timedelta(minutes=5)
        assert read(store, "api.walked", token["token"]) == "one"
    gone = ask(store, "POST", f"/v1/tokens/{token['token_id']}/revoke", body={"reason": "walk"})
    assert (gone.status, gone.body) == (204, b"")
    grant = post(store, "/v1/grants", 201, service_name="api-walk", pattern="api.*.staging")
    assert (grant["pattern"], grant["environment"], grant["effect"]) == (
        "api.*",
        "staging",
        "allow",
    )
    assert post(store, "/v1/grants", 201, service_name="api-walk", pattern="api.*.staging") == grant
    grants = ask(store, "GET", "/v1/grants?service_name=api-walk").json["items"]
    assert [each["pattern"] for each in grants if each["grant_id"] == grant["grant_id"]] == [
        "api.*"
    ]
    assert len(grants) == 2
    removed = ask(store, "DELETE", f"/v1/grants/{grant['grant_id']}?reason=walk")
    assert (removed.status, removed.body) == (204, b"")
    assert post(store, "/v1/services/api-walk/revoke-tokens")["generation"] == 2
    assert post(store, "/v1/services/api-walk/decommission")["status"] == "decommissioned"
    assert ask(store, "POST", "/tokens", body={"service_name": "api-walk"}).status == 409

    assert post(store, "/v1/environments", 201, name="api-qa") == {
        "name": "api-qa",
        "is_default": False,
    }
    names = {
        e["name"]: e["is_default"] for e in ask(store, "GET", "/v1/environments").json["items"]
    }
    assert names["production"] is True
    assert names["api-qa"] is False
    assert store.put("api.walk.api-qa", "qa")["environment"] == "api-qa"


def test_what_was_done_is_on_the_ledger_in_the_documented_form(store: RunningStore) -> None:
    store.put("api.form", "one", reason="because")
    token = store.issue("api-form", "api.form")
    answer = ask(
        store,
        "GET",
        "/v1/keys/api.form",
        token=token,
        headers=[
            ("User-Agent", "test/1"),
            ("X-Request-Id", "mine-1"),
            ("X-Read-Reason", "startup"),
        ],
    )
    (entry,) = recorded(store, answer)
    at = datetime.fromisoformat(entry.pop("timestamp"))
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=5)
    assert list(entry)[:7] == [
        "service_name",
        "key_path",
        "action",
        "status",
        "request_id",
        "ip_address",
        "user_agent",
    ]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    for name in ("seq", "stream", "prev", "hash"):
        assert entry.pop(name)
    assert entry == {
        "service_name": "api-form",
        "key_path": "api.form.production",
        "action": "GET",
        "status": "GRANTED",
        "request_id": answer.request_id,
        "ip_address": "127.0.0.1",
        "user_agent": "test/1",
        "environment": "production",
        "version": 1,
        "token_id": claims["jti"],
        "correlation_id": "mine-1",
        "reason": "startup",
        "count": 1,
        "format": 1,
    }
    (put,) = entries(store, "key_path=api.form&action=PUT")
    assert (put["reason"], put["version"], put["status"]) == ("because", 1, "GRANTED")
    assert put["service_name"].startswith("operator:")
    assert put["stream"] == "changes"


def test_the_ledger_is_searched_by_each_of_its_facts(store: RunningStore) -> None:
    store.put("api.search.deep", "one")
    token = store.issue("api-search", "api.search.deep")
    assert read(store, "api.search.deep", token) == "one"
    assert read(store, "api.search.other", token) == "not_authorized"
    both = entries(store, "service_name=api-search")
    assert [entry["status"] for entry in both] == ["DENIED", "GRANTED"]
    at, jti = both[1]["timestamp"], both[1]["token_id"]
    for query, count in (
        ("status=DENIED", 1),
        ("action=GET", 2),
        ("action=PUT", 0),
        ("key_path=api.search.deep", 1),
        ("key_path=api.search.deep.production", 1),
        ("key_path=api.search.deep.staging", 0),
        ("prefix=api.search", 2),
        ("prefix=api.sea", 0),
        ("environment=staging", 0),
        (f"token_id={jti}", 2),
        ("ip_address=127.0.0.1", 2),
        ("ip_address=127.0.0.2", 0),
        (f"request_id={both[0]['request_id']}", 1),
        (f"since={at}", 2),
        (f"until={at}", sum(entry["timestamp"] <= at for entry in both)),
        ("until=2001-01-01", 0),
    ):
        found = entries(store, f"service_name=api-search&{query}")
        assert len(found) == count, query
    for query in ("since=2999-01-01", "action=READ", "ip_address=here"):  # nothing can match
        answer = ask(store, "GET", f"/v1/ledger?{query}")
        assert (answer.status, code_of(answer)) == (400, "invalid_parameter")
    pages = ask(store, "GET", "/v1/ledger?service_name=api-search&limit=1").json
    more = ask(
        store, "GET", f"/v1/ledger?service_name=api-search&limit=1&cursor={pages['next_cursor']}"
    ).json
    assert pages["items"] + more["items"] == both


def test_reading_the_ledger_is_on_the_ledger(store: RunningStore) -> None:
    answer = ask(store, "GET", "/v1/ledger?limit=1")
    exported = ask(store, "GET", "/v1/ledger/export")
    assert exported.headers["content-type"] == "application/x-ndjson"
    first, second = recorded(store, answer, exported)
    assert {first["action"], second["action"]} == {"READ_LEDGER"}
    assert {first["status"], second["status"]} == {"GRANTED"}
    assert store.verified_export()


@pytest.mark.parametrize(
    ("address", "media_type"),
    [
        ("/v1/health", "application/json"),
        ("/v1/ready", "application/json"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/.well-known/jwks.json", "application/jwk-set+json"),
        ("/openapi.json", "application/json"),
        ("/docs/errors", "text/html; charset=utf-8"),
    ],
)
def test_these_pages_take_no_token(store: RunningStore, address: str, media_type: str) -> None:
    answer = ask(store, "GET", address, token="")
    assert (answer.status, answer.headers["content-type"]) == (200, media_type)


def test_the_published_keys_are_public_ones(store: RunningStore) -> None:
    keys = ask(store, "GET", "/.well-known/jwks.json", token="").json["keys"]
    assert keys
    assert all(set(key) == {"kty", "n", "e", "kid", "use", "alg"} for key in keys)


@pytest.mark.parametrize(
    ("method", "address"),
    [
        ("HEAD", "/v1/keys/api.walk"),
        ("HEAD", "/v1/keys"),
        ("PATCH", "/v1/keys/api.walk"),
        ("DELETE", "/v1/keys/api.walk"),
        ("POST", "/v1/keys/api.walk"),
        ("GET", "/v1/keys/batch-get"),
        ("GET", "/tokens"),
        ("PUT", "/v1/services"),
        ("BREW", "/v1/keys/api.walk"),
    ],
)
def test_another_method_is_told_so(store: RunningStore, method: str, address: str) -> None:
    answer = ask(store, method, address)
    assert answer.status == 405
    if method == "HEAD":
        assert answer.body == b""
    else:
        assert code_of(answer) == "method_not_allowed"


@pytest.mark.parametrize("address", ["/", "/nope", "/v1", "/v2/keys/api.walk", "/v1/key/api.walk"])
def test_an_unknown_address_is_told_so(store: RunningStore, address: str) -> None:
    for token in (None, ""):
        answer = ask(store, "GET", address, token=token)
        assert (answer.status, code_of(answer)) == (404, "address_not_found")


# --- reading --------------------------------------------------------------------------------------


def test_a_read_brings_all_that_a_client_needs(store: RunningStore) -> None:
    written = store.put("api.read", "value", expires_at="2999-01-01T00:00:00Z")
    token = store.issue("api-read", "api.read")
    ask(store, "PUT", "/v1/services/api-read/limit", body={"limit": "100/min", "burst": 10})
    answer = ask(store, "GET", "/v1/keys/api.read", token=token)
    assert answer.json == {
        "key_path": "api.read",
        "environment": "production",
        "version": 1,
        "version_id": written["version_id"],
        "state": "current",
        "value": "value",
        "expires_at": "2999-01-01T00:00:00Z",
        "cache_ttl_ceiling_seconds": 3600,
        "outage_grace_seconds": 3600,
    }
    assert answer.headers["etag"] == f'"{written["version_id"]}"'
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["ratelimit-policy"] == '"service";q=100;w=60'
    assert answer.headers["ratelimit"] == '"service";r=9;t=1'
    assert "content-encoding" not in answer.headers
    by_operator = ask(store, "GET", "/v1/keys/api.read", headers=[("Accept-Encoding", "gzip, br")])
    assert "content-encoding" not in by_operator.headers
    assert "ratelimit" not in by_operator.headers


def test_an_unchanged_version_is_not_sent_again(store: RunningStore) -> None:
    store.put("api.etag", "one")
    token = store.issue("api-etag", "api.etag")
    etag = ask(store, "GET", "/v1/keys/api.etag", token=token).headers["etag"]
    headers = [("If-None-Match", etag)]
    same = ask(store, "GET", "/v1/keys/api.etag", token=token, headers=headers)
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", etag)
    assert recorded(store, same)[0]["status"] == "GRANTED"
    store.put("api.etag", "two")
    changed = ask(store, "GET", "/v1/keys/api.etag", token=token, headers=headers)
    assert (changed.status, changed.json["value"]) == (200, "two")
    post(store, "/v1/keys/api.etag/revoke")
    gone = ask(
        store,
        "GET",
        "/v1/keys/api.etag",
        token=token,
        headers=[("If-None-Match", changed.headers["etag"])],
    )
    assert code_of(gone) == "version_revoked"
    stranger = ask(
        store, "GET", "/v1/keys/api.etag", token=store.issue("api-etag-2"), headers=headers
    )
    assert code_of(stranger) == "not_authorized"


def test_which_version_is_handed_to_whom(store: RunningStore) -> None:
    for number in range(1, 6):
        store.put("api.states", f"v{number}")
    post(store, "/v1/keys/api.states/revoke", version=1)
    post(store, "/v1/keys/api.states/destroy", version=2)
    token = store.issue("api-states", "api.states")
    expected = {
        1: ("version_revoked", "version_revoked"),
        2: ("version_destroyed", "version_destroyed"),
        3: ("version_unavailable", "v3"),
        4: ("v4", "v4"),
        5: ("v5", "v5"),
        6: ("version_not_found", "version_not_found"),
    }
    for number, (to_service, to_maintainer) in expected.items():
        path = f"api.states?version={number}"
        assert (read(store, path, token), read(store, path)) == (to_service, to_maintainer)


def test_a_revoked_version_is_gone_by_name_and_by_number_and_nothing_takes_its_place(
    store: RunningStore,
) -> None:
    store.put("api.revoked", "one")
    store.put("api.revoked", "two")
    token = store.issue("api-revoked", "api.revoked")
    assert read(store, "api.revoked", token) == "two"
    first = post(store, "/v1/keys/api.revoked/revoke", reason="leaked")
    assert (first["version"], first["state"]) == (2, "revoked")
    for path in ("api.revoked", "api.revoked.production", "api.revoked?version=2"):
        for reader in (token, None):
            assert read(store, path, reader) == "version_revoked"
    assert post(store, "/v1/keys/api.revoked/revoke")["state"] == "revoked"
    assert (
        code_of(
            ask(
                store,
                "POST",
                "/v1/keys/api.revoked/extend",
                body={"expires_at": "2999-01-01T00:00:00Z"},
            )
        )
        == "illegal_transition"
    )
    refused = ask(store, "POST", "/v1/keys/api.revoked/rollback", body={"to_version": 2})
    assert code_of(refused) == "illegal_transition"
    assert read(store, "api.revoked?version=1", token) == "one"
    assert post(store, "/v1/keys/api.revoked/rollback")["version"] == 3
    assert read(store, "api.revoked", token) == "one"
    assert read(store, "api.revoked?version=2", token) == "version_revoked"


def test_a_destroyed_value_is_erased_from_the_file(store: RunningStore) -> None:
    written = store.put("api.destroyed", "one")
    refused = ask(store, "POST", "/v1/keys/api.destroyed/destroy", body={})
    assert code_of(refused) == "illegal_transition"
    post(store, "/v1/keys/api.destroyed/revoke")
    sealed = [row for row in catalog(store)["version"] if row[0] == written["version_id"]]
    assert post(store, "/v1/keys/api.destroyed/destroy")["state"] == "destroyed"
    after = [row for row in catalog(store)["version"] if row[0] == written["version_id"]]
    assert any(isinstance(field, bytes) and len(field) > 60 for field in sealed[0])
    assert not any(isinstance(field, bytes) and len(field) > 60 for field in after[0])
    assert read(store, "api.destroyed") == "version_destroyed"
    assert (
        code_of(ask(store, "POST", "/v1/keys/api.destroyed/revoke", body={}))
        == "illegal_transition"
    )


def test_a_key_expires_and_can_be_extended(store: RunningStore) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    store.put("api.expires", "value", expires_at=soon.isoformat())
    token = store.issue("api-expires", "api.expires")
    assert read(store, "api.expires", token) == "value"  # so it is at hand, and still expires
    for _ in until():
        if (said := read(store, "api.expires", token)) != "value":
            break
    assert said == "key_expired"
    assert datetime.now(UTC) >= soon
    assert (
        read(store, "api.expires") == read(store, "api.expires?version=1", token) == "key_expired"
    )
    assert read(store, "api.expires", store.issue("api-expires-2")) == "not_authorized"
    post(store, "/v1/keys/api.expires/extend", expires_at="2999-01-01T00:00:00Z")
    assert read(store, "api.expires", token) == "value"


def test_a_proposed_version_is_handed_out_once_it_is_promoted(store: RunningStore) -> None:
    path = "/v1/keys/api.proposed"
    token = store.issue("api-proposed", "api.proposed")
    first = post(store, f"{path}/propose", value="one")
    assert (first["version"], first["state"], first["expires_at"]) == (1, "pending", None)
    for reader in (token, None):
        assert read(store, "api.proposed", reader) == "key_not_found"
        assert read(store, "api.proposed?version=1", reader) == "version_unavailable"
    (row,) = listed(store, "prefix=api.proposed")
    assert (row["version"], row["state"]) == (None, "pending")
    assert code_of(ask(store, "POST", f"{path}/rollback", body={})) == "key_not_found"
    promoted = post(store, f"{path}/promote", if_version=0)
    assert (promoted["version"], promoted["state"]) == (1, "current")
    life = datetime.fromisoformat(promoted["expires_at"]) - datetime.now(UTC)
    assert abs(life - timedelta(days=90)) < timedelta(minutes=5)
    assert read(store, "api.proposed", token) == "one"

    post(store, f"{path}/propose", value="two", expires_at="2999-01-01T00:00:00Z")
    post(store, f"{path}/propose", value="three")
    several = ask(store, "POST", f"{path}/promote", body={})
    assert (several.status, code_of(several)) == (409, "illegal_transition")
    assert "2, 3" in several.json["detail"]
    assert read(store, "api.proposed", token) == "one"
    assert post(store, f"{path}/promote", version=3)["version"] == 3
    stale = ask(store, "POST", f"{path}/promote", body={})
    assert (code_of(stale), stale.json["actual_version"]) == ("version_conflict", 3)
    assert post(store, f"{path}/destroy", version=2)["state"] == "destroyed"
    assert code_of(ask(store, "POST", f"{path}/promote", body={})) == "version_not_found"
    assert [read(store, f"api.proposed{v}", token) for v in ("", "?version=1")] == ["three", "one"]
    assert post(store, f"{path}/retire")["state"] == "retired"
    assert read(store, "api.proposed?version=1", token) == "version_unavailable"
    assert read(store, "api.proposed?version=1") == "one"
    actions = [entry["action"] for entry in entries(store, "key_path=api.proposed.production")]
    assert {"PROPOSE", "PROMOTE", "RETIRE", "DESTROY"} <= set(actions)


def test_a_key_is_expired_and_comes_back(store: RunningStore) -> None:
    store.put("api.ended", "value")
    token = store.issue("api-ended", "api.ended")
    assert read(store, "api.ended", token) == "value"
    ended = post(store, "/v1/keys/api.ended/expire", reason="over")
    assert ended["state"] == "current"
    for reader in (token, None):
        assert read(store, "api.ended", reader) == "key_expired"
    again = post(store, "/v1/keys/api.ended/expire")
    assert again["expires_at"] == ended["expires_at"]
    post(store, "/v1/keys/api.ended/extend", expires_at="2999-01-01T00:00:00Z")
    assert read(store, "api.ended", token) == "value"
    post(store, "/v1/keys/api.ended/revoke")
    for act in ("expire", "extend"):
        body = {"expires_at": "2999-01-01T00:00:00Z"} if act == "extend" else {}
        refused = ask(store, "POST", f"/v1/keys/api.ended/{act}", body=body)
        assert code_of(refused) == "illegal_transition"


def test_a_key_is_described(store: RunningStore) -> None:
    path = "/v1/keys/api.described"
    for value in ("one", "two", "three", "four"):
        store.put("api.described", value, owner="ada")
    store.put("api.described.below", "another key")
    told = ask(store, "GET", f"{path}/description").json
    assert (told["version"], told["state"], told["owner"], told["usage"]) == (
        4, "current", "ada", None,
    )  # fmt: skip
    assert (told["keep_versions"], told["unverified_since"]) == (None, None)
    assert told["created_at"] <= told["rotated_at"]
    assert [v["state"] for v in told["versions"]] == ["retired", "retired", "previous", "current"]
    assert "four" not in json.dumps(told)
    said = post(store, f"{path}/describe", owner="bob", usage="a test", keep_versions=1)
    assert (said["owner"], said["usage"], said["keep_versions"]) == ("bob", "a test", 1)
    assert [v["state"] for v in said["versions"]] == ["destroyed", "retired", "previous", "current"]
    (row, _below) = listed(store, "prefix=api.described")
    assert {name: said[name] for name in row} == row
    by_environment = ask(store, "GET", f"{path}/description?environment=staging")
    assert code_of(by_environment) == "key_not_found"
    (put_away,) = entries(store, "key_path=api.described.production&action=DESTROY")
    assert (put_away["version"], put_away["reason"]) == (1, "retention")
    (described,) = entries(store, "key_path=api.described.production&action=DESCRIBE")
    assert described["version"] is None


def test_a_key_lives_90_days_unless_told_otherwise(store: RunningStore) -> None:
    expires = datetime.fromisoformat(store.put("api.default", "value")["expires_at"])
    assert abs(expires - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=5)


def test_one_entry_for_each_value_handed_out(store: RunningStore) -> None:
    for name in ("a", "b"):
        store.put(f"api.count.{name}", name)
    token = store.issue("api-count", "api.count.*")
    for _ in range(7):
        assert read(store, "api.count.a", token) == "a"
    body = {"key_paths": ["api.count.a", "api.count.b", "api.count.a", "api.count.c", "api.x"]}
    batch = ask(store, "POST", "/v1/keys/batch-get", token=token, body=body)
    assert [
        item.get("key", item.get("problem")).get("value", "-") for item in batch.json["keys"]
    ] == ["a", "b", "a", "-", "-"]
    found = entries(store, "service_name=api-count")
    counted = {
        status: [e["key_path"] for e in found if e["status"] == status]
        for status in ("GRANTED", "NOT_FOUND", "DENIED")
    }
    assert sorted(counted["GRANTED"]) == ["api.count.a.production"] * 9 + ["api.count.b.production"]
    assert counted["NOT_FOUND"] == ["api.count.c.production"]
    assert counted["DENIED"] == ["api.x.production"]
    assert {e["request_id"] for e in found[:5]} == {batch.request_id}


def test_a_batch_is_answered_spelling_by_spelling(store: RunningStore) -> None:
    store.put("api.batch.good", "value")
    store.put("api.batch.old", "value")
    post(store, "/v1/keys/api.batch.old/revoke")
    token = store.issue("api-batch", "api.batch.**")
    asked = [
        "api.batch.good",
        "api.batch.good.production",
        "api.batch.good.staging",
        "api.batch.old",
        "api.batch.none",
        "api..batch",
        "api.else",
    ]
    answer = ask(store, "POST", "/v1/keys/batch-get", token=token, body={"key_paths": asked})
    items = answer.json["keys"]
    assert answer.status == 200
    assert [item["asked"] for item in items] == asked
    assert items[0]["key"] == items[1]["key"] == ask(store, "GET", "/v1/keys/api.batch.good").json
    assert [item["problem"]["code"] for item in items[2:]] == [
        "not_authorized",
        "version_revoked",
        "key_not_found",
        "malformed_path",
        "not_authorized",
    ]
    assert {item["problem"]["request_id"] for item in items[2:]} == {answer.request_id}
    hundred = ask(
        store,
        "POST",
        "/v1/keys/batch-get",
        token=token,
        body={"key_paths": ["api.batch.good"] * 100},
    )
    assert {item["key"]["value"] for item in hundred.json["keys"]} == {"value"}
    over = ask(
        store,
        "POST",
        "/v1/keys/batch-get",
        token=token,
        body={"key_paths": ["api.batch.good"] * 101},
    )
    assert code_of(over) == "invalid_field"


# --- who may read what ----------------------------------------------------------------------------


def test_a_service_gets_its_own_keys_and_no_others(store: RunningStore) -> None:
    for name in ("jules_api", "jules_api.sub", "jules_apis", "dox_api", "jules"):
        store.put(f"api.scope.{name}", name)
    store.put("api.scope.jules_api.staging", "elsewhere")
    token = store.issue("api-scope", "api.scope.jules_api")
    assert read(store, "api.scope.jules_api", token) == "jules_api"
    assert read(store, "api.scope.jules_api.production", token) == "jules_api"
    for other in (
        "jules_api.sub",
        "jules_apis",
        "dox_api",
        "jules",
        "jules_api.staging",
        "JULES_API",
    ):
        assert read(store, f"api.scope.{other}", token) == "not_authorized"
    for other in ("api.scope", "api", "service_keys"):
        assert read(store, other, token) == "not_authorized"


def test_deny_wins_over_allow_however_it_came(store: RunningStore) -> None:
    for path in ("api.deny.a.x", "api.deny.b.x"):
        store.put(path, "value")
    token = store.issue("api-deny", "api.deny.**")
    assert read(store, "api.deny.a.x", token) == "value"
    deny = {"service_name": "api-deny", "effect": "deny"}
    grant = post(store, "/v1/grants", 201, pattern="api.*.a.*", **deny)
    assert read(store, "api.deny.a.x", token) == "not_authorized"
    assert read(store, "api.deny.b.x", token) == "value"
    post(store, "/v1/grants", 201, service_name="api-deny", pattern="api.deny.a.x")
    assert read(store, "api.deny.a.x", token) == "not_authorized"
    assert ask(store, "DELETE", f"/v1/grants/{grant['grant_id']}").status == 204
    assert read(store, "api.deny.a.x", token) == "value"


def test_a_wildcard_never_matches_an_environment(store: RunningStore) -> None:
    store.put("api.wild.key", "production")
    store.put("api.wild.key.staging", "staging")
    token = store.issue("api-wild", "api.**", "*.wild.*")
    assert read(store, "api.wild.key", token) == "production"
    assert read(store, "api.wild.key.staging", token) == "not_authorized"
    post(store, "/v1/grants", 201, service_name="api-wild", pattern="api.**.staging")
    assert read(store, "api.wild.key.staging", token) == "staging"


def test_a_grant_taken_back_ends_at_once(store: RunningStore) -> None:
    store.put("api.ungrant", "value")
    token = store.issue("api-ungrant", "api.ungrant")
    assert read(store, "api.ungrant", token) == "value"
    (grant,) = ask(store, "GET", "/v1/grants?service_name=api-ungrant").json["items"]
    assert ask(store, "DELETE", f"/v1/grants/{grant['grant_id']}").status == 204
    assert read(store, "api.ungrant", token) == "not_authorized"


def test_the_environment_is_the_paths_else_the_tokens(store: RunningStore) -> None:
    for name in ("production", "staging", "development"):
        store.put(f"api.env.{name}", name)
    pattern = [f"api.env.{name}" for name in ("production", "staging", "development")]
    store.register("api-env", *pattern)
    post(store, "/v1/services", service_name="api-env", environment="staging")
    by_request = store.issue("api-env", environment="development")
    by_service = store.issue("api-env")
    store.register("api-env-2", *pattern)
    by_default = store.issue("api-env-2")
    assert read(store, "api.env", by_request) == "development"
    assert read(store, "api.env", by_service) == "staging"
    assert read(store, "api.env", by_default) == "production"
    assert read(store, "api.env") == "production"
    for token in (by_request, by_service, by_default):
        assert read(store, "api.env.staging", token) == "staging"


def test_a_token_dies_with_its_revocation(store: RunningStore) -> None:
    store.put("api.dies", "value")
    first, second = store.issue("api-dies", "api.dies"), store.issue("api-dies")
    assert read(store, "api.dies", first) == read(store, "api.dies", second) == "value"
    claims = json.loads(base64.urlsafe_b64decode(first.split(".")[1] + "=="))
    assert ask(store, "POST", f"/v1/tokens/{claims['jti']}/revoke", body={}).status == 204
    assert (read(store, "api.dies", first), read(store, "api.dies", second)) == (
        "token_revoked",
        "value",
    )
    post(store, "/v1/services/api-dies/revoke-tokens")
    assert read(store, "api.dies", second) == "token_revoked"
    assert read(store, "api.dies", store.issue("api-dies")) == "value"


def test_registering_again_revives_nothing(store: RunningStore) -> None:
    store.put("api.revive", "value")
    old = store.issue("api-revive", "api.revive")
    assert read(store, "api.revive", old) == "value"
    post(store, "/v1/services/api-revive/decommission")
    assert read(store, "api.revive", old) == "token_revoked"
    assert code_of(ask(store, "POST", "/tokens", body={"service_name": "api-revive"})) == (
        "service_decommissioned"
    )
    post(store, "/v1/services", service_name="api-revive")
    assert read(store, "api.revive", old) == "token_revoked"
    new = store.issue("api-revive")
    assert read(store, "api.revive", new) == "not_authorized"
    post(store, "/v1/grants", 201, service_name="api-revive", pattern="api.revive")
    assert (read(store, "api.revive", new), read(store, "api.revive", old)) == (
        "value",
        "token_revoked",
    )


# --- limits and floods ----------------------------------------------------------------------------


def limited(store: RunningStore, name: str, limit: str, burst: int) -> str:
    token = store.issue(name, f"{name.replace('-', '.')}.**")
    body = {"limit": limit, "burst": burst}
    assert ask(store, "PUT", f"/v1/services/{name}/limit", body=body).status == 200
    return token


def remaining(answer: Answer) -> int:
    return int(answer.headers["ratelimit"].partition("r=")[2].partition(";")[0])


def test_over_the_limit_is_told_when_to_come_back(store: RunningStore) -> None:
    store.put("api.burst.x", "value")
    token = limited(store, "api-burst", "5/min", 5)
    answers = [ask(store, "GET", "/v1/keys/api.burst.x", token=token) for _ in range(7)]
    assert [answer.status for answer in answers] == [200] * 5 + [429] * 2
    assert [remaining(answer) for answer in answers] == [4, 3, 2, 1, 0, 0, 0]
    assert code_of(answers[-1]) == "rate_limited"
    assert answers[-1].json["detail"] == "Too many key requests"
    wait = int(answers[-1].headers["retry-after"])
    assert answers[-1].json["retry_after_seconds"] == wait
    assert 1 <= wait <= 12
    assert recorded(store, answers[-1])[0]["status"] == "LIMITED"


def test_waiting_as_told_is_enough(store: RunningStore) -> None:
    store.put("api.wait.x", "value")
    token = limited(store, "api-wait", "1/s", 1)
    assert ask(store, "GET", "/v1/keys/api.wait.x", token=token).status == 200
    refused = ask(store, "GET", "/v1/keys/api.wait.x", token=token)
    assert refused.status == 429
    time.sleep(int(refused.headers["retry-after"]))
    assert ask(store, "GET", "/v1/keys/api.wait.x", token=token).status == 200


def test_a_batch_costs_its_number_and_a_denial_costs_one(store: RunningStore) -> None:
    for name in ("x", "y"):
        store.put(f"api.cost.{name}", "value")
    token = limited(store, "api-cost", "10/h", 10)

    def batch(*paths: str) -> Answer:
        return ask(
            store, "POST", "/v1/keys/batch-get", token=token, body={"key_paths": list(paths)}
        )

    assert remaining(batch("api.cost.x", "api.cost.y", "api.other")) == 7
    assert remaining(ask(store, "GET", "/v1/keys/api.other", token=token)) == 6
    assert remaining(ask(store, "GET", "/v1/keys/api.cost.none", token=token)) == 5
    over = batch(*["api.cost.x"] * 6)
    assert (over.status, code_of(over)) == (429, "rate_limited")
    assert remaining(batch(*["api.cost.x"] * 5)) == 0
    never = batch(*["api.cost.x"] * 11)
    assert code_of(never) == "rate_limited"
    assert "retry-after" not in never.headers  # no waiting would help


def test_one_services_limit_is_nobody_elses(store: RunningStore) -> None:
    for name in ("one", "two"):
        store.put(f"api.lim{name}.x", "value")
    one = limited(store, "api-limone", "1/h", 1)
    two = limited(store, "api-limtwo", "1/h", 1)
    other = store.issue("api-limone")
    assert ask(store, "GET", "/v1/keys/api.limone.x", token=one).status == 200
    assert ask(store, "GET", "/v1/keys/api.limone.x", token=other).status == 429
    assert ask(store, "GET", "/v1/keys/api.limtwo.x", token=two).status == 200
    assert ask(store, "GET", "/v1/keys/api.limone.x").status == 200


def test_a_flood_of_refusals_is_counted_and_folded(store: RunningStore) -> None:
    token = store.issue("api-flood")
    each, callers = 250, 4

    async def flood() -> None:
        async def call() -> None:
            async with connected(store, token) as connection:
                for number in range(each):
                    answer = await connection.get(f"api.flood.{number % 3}")
                    assert answer.status == 403

        await asyncio.gather(*(call() for _ in range(callers)))

    started = time.monotonic()
    asyncio.run(flood())
    windows = int(time.monotonic() - started) + 2
    for _ in until():
        found = entries(store, "service_name=api-flood")
        if sum(entry["count"] for entry in found) >= each * callers:
            break
    assert sum(entry["count"] for entry in found) == each * callers
    assert {(entry["status"], entry["reason"]) for entry in found} == {("DENIED", "not_authorized")}
    assert len(found) <= windows * 101
    # The first are entries of their own, and a window's rest is one.
    assert [entry["count"] for entry in found[-100:]] == [1] * 100


# --- listing and importing ------------------------------------------------------------------------


def stage(store: RunningStore, import_id: str, sequence: int, values: dict[str, str]) -> Answer:
    slice_ = [
        {"key_path": path, "environment": "production", "value": value}
        for path, value in values.items()
    ]
    body = {"sequence": sequence, "entries": slice_}
    return ask(store, "POST", f"/v1/imports/{import_id}/entries", body=body)


def begin(store: RunningStore) -> str:
    return str(post(store, "/v1/imports", 201)["import_id"])


def test_an_import_is_seen_whole_or_not_at_all(store: RunningStore) -> None:
    for number in range(7):
        store.put(f"api.imp.old{number}", "old")
    token = store.issue("api-imp", "api.imp.**")
    import_id = begin(store)
    first = {f"api.imp.old{number}": "new" for number in range(3)}
    second = {f"api.imp.new{number}": "new" for number in range(4)} | {"api.imp.old6": "old"}
    assert stage(store, import_id, 0, first).json["replaced"] == 3
    again = stage(store, import_id, 0, first)
    assert (again.status, again.json["replaced"], again.json["created"]) == (200, 3, 0)
    counted = stage(store, import_id, 1, second).json
    assert (counted["created"], counted["replaced"], counted["unchanged"]) == (4, 3, 1)

    # Before the commit nobody sees any of it: not by name, not by number, not in a list.
    assert read(store, "api.imp.old0", token) == "old"
    assert read(store, "api.imp.new0", token) == "key_not_found"
    for reader in (token, None):
        assert read(store, "api.imp.old0?version=2", reader) == "version_not_found"
        assert read(store, "api.imp.new0?version=1", reader) == "version_not_found"
    rows = listed(store, "prefix=api.imp")
    assert [row["key_path"] for row in rows] == [f"api.imp.old{number}" for number in range(7)]
    assert {row["version"] for row in rows} == {1}
    body = {"key_paths": ["api.imp.old0", "api.imp.old3", "api.imp.new0"]}
    batch = ask(store, "POST", "/v1/keys/batch-get", token=token, body=body).json["keys"]
    assert [item.get("key", {}).get("value") for item in batch] == ["old", "old", None]

    done = post(store, f"/v1/imports/{import_id}/commit", reason="moved in")
    assert done["status"] == "committed"
    batch = ask(store, "POST", "/v1/keys/batch-get", token=token, body=body).json["keys"]
    assert [item.get("key", {}).get("value") for item in batch] == ["new", "old", "new"]
    assert post(store, f"/v1/imports/{import_id}/commit") == done
    assert read(store, "api.imp.old0?version=1", token) == "old"
    assert read(store, "api.imp.old6?version=2") == "version_not_found"
    for _ in until():  # what the import staged is written out behind it
        if not any(import_id in str(row) for row in catalog(store)["key"]):
            break
    assert read(store, "api.imp.new3", token) == "new"
    versions = ask(store, "GET", "/v1/keys/api.imp.old0/versions").json["items"]
    assert [version["state"] for version in versions] == ["previous", "current"]
    rows = listed(store, "prefix=api.imp")
    assert len(rows) == 11
    puts = entries(store, "prefix=api.imp&action=PUT")
    assert sum(entry["reason"] == "import" for entry in puts) == 7
    assert {e["correlation_id"] for e in puts if e["reason"] == "import"} == {import_id}


def test_an_aborted_import_leaves_nothing_not_even_a_spelling(store: RunningStore) -> None:
    store.put("api.abort.kept", "kept")
    before = catalog(store)
    import_id = begin(store)
    values = {"api.abort.Fresh.Name": "x", "api.abort.kept": "other", "api.abort.more": "y"}
    assert stage(store, import_id, 0, values).json["created"] == 2
    aborted = post(store, f"/v1/imports/{import_id}/abort")
    assert aborted["status"] == "aborted"
    assert read(store, "api.abort.kept") == "kept"
    assert read(store, "api.abort.more") == "key_not_found"
    for _ in until():
        if catalog(store)["spelling"] == before["spelling"]:
            break
    assert catalog(store)["version"] == before["version"]
    assert store.put("api.abort.fresh.name", "in another spelling")["version"] == 1
    assert code_of(stage(store, import_id, 1, {"api.abort.z": "z"})) == "import_not_found"
    assert (
        code_of(ask(store, "POST", f"/v1/imports/{import_id}/commit", body={}))
        == "import_not_found"
    )
    assert store.put("api.abort.more", "written")["version"] == 1


def test_an_import_overwrites_nothing_unseen(store: RunningStore) -> None:
    store.put("api.clash.key", "one")
    import_id = begin(store)
    values = {"api.clash.key": "imported", "api.clash.new": "imported"}
    assert stage(store, import_id, 0, values).status == 200
    assert store.put("api.clash.key", "two")["state"] == "current"
    assert store.put("api.clash.new", "mine")["version"] == 1
    refused = ask(store, "POST", f"/v1/imports/{import_id}/commit", body={})
    assert code_of(refused) == "version_conflict"
    assert "api.clash." in refused.json["detail"]
    assert read(store, "api.clash.key") == "two"
    assert read(store, "api.clash.new") == "mine"
    post(store, f"/v1/imports/{import_id}/abort")


@pytest.mark.parametrize("act", ["revoke", "rollback"])
def test_a_change_during_an_import_counts(store: RunningStore, act: str) -> None:
    path = f"api.during.{act}"
    for value in ("one", "two"):
        store.put(path, value)
    import_id = begin(store)
    assert stage(store, import_id, 0, {path: "imported"}).status == 200
    post(store, f"/v1/keys/{path}/{act}")
    said = "version_revoked" if act == "revoke" else "one"
    assert read(store, path) == said
    assert (
        code_of(ask(store, "POST", f"/v1/imports/{import_id}/commit", body={}))
        == "version_conflict"
    )
    post(store, f"/v1/imports/{import_id}/abort")
    assert read(store, path) == said


def test_two_imports_of_one_key_cannot_both_win(store: RunningStore) -> None:
    one, two = begin(store), begin(store)
    assert stage(store, one, 0, {"api.twice.key": "one"}).status == 200
    assert stage(store, two, 0, {"api.twice.key": "two"}).status == 200
    answers = [ask(store, "POST", f"/v1/imports/{each}/commit", body={}) for each in (one, two)]
    assert [answer.status for answer in answers] == [409, 200]
    assert read(store, "api.twice.key") == "two"
    post(store, f"/v1/imports/{one}/abort")
    assert read(store, "api.twice.key") == "two"


def test_a_case_collision_with_a_staged_spelling_is_one(store: RunningStore) -> None:
    import_id = begin(store)
    assert stage(store, import_id, 0, {"api.staged.Name": "x"}).status == 200
    with nothing_changes(store):
        refused = ask(store, "PUT", "/v1/keys/api.staged.name", body={"value": "y"})
        assert code_of(refused) == "case_collision"
        assert code_of(stage(store, import_id, 1, {"api.Staged.other": "z"})) == "case_collision"
    assert post(store, f"/v1/imports/{import_id}/commit")["created"] == 1
    assert read(store, "api.staged.Name") == "x"


def test_a_list_is_paged_in_order_and_by_environment(store: RunningStore) -> None:
    for name in ("b", "a.c", "a", "d_", "d-", "d", "D2"):
        store.put(f"api.list.{name}", "x")
    store.put("api.list.a.staging", "x")
    rows = listed(store, "prefix=api.list")
    addresses = [(row["key_path"], row["environment"]) for row in rows]
    assert addresses == sorted(addresses)
    assert len(addresses) == 8
    only = listed(store, "prefix=api.list&environment=staging")
    assert [row["key_path"] for row in only] == ["api.list.a"]
    assert listed(store, "prefix=api.list.a.staging") == only
    assert len(listed(store, "prefix=api.list.a")) == 3
    assert listed(store, "prefix=api.lis") == []
    assert "_store" not in json.dumps(listed(store, "environment=production"))


def test_when_a_key_was_last_read_is_told(store: RunningStore) -> None:
    store.put("api.last", "x")
    (row,) = listed(store, "prefix=api.last")
    assert row["last_read_at"] is None
    assert read(store, "api.last", store.issue("api-last", "api.last")) == "x"
    for _ in until():
        (row,) = listed(store, "prefix=api.last")
        if row["last_read_at"] is not None:
            break
    assert abs(datetime.now(UTC) - datetime.fromisoformat(row["last_read_at"])) < timedelta(
        minutes=5
    )
