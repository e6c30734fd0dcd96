"""`access explain`, `who-can` and dry runs against the door itself: every explanation is compared
with what a read of the same key by the same service is answered."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from tests.unit.server.asking import Asking, MovedClock, Told

from dox_core_store.server.domain.access import Role
from dox_core_store.server.usecases import grant_preview

ENVIRONMENTS = ("production", "staging")
PATHS = (
    "a.current",
    "a.revoked",
    "a.expired",
    "a.pending",
    "a.destroyed",
    "a.absent",
    "a",
    "b.current",
    "b.c.current",
    "B.current",
    "_store.services.reader",
)
GRANT_SETS: tuple[tuple[tuple[str, str, str], ...], ...] = (
    (),
    (("a.*", "production", "allow"),),
    (("**", "production", "allow"), ("b.**", "production", "deny")),
    (("**", "staging", "allow"), ("a.current", "production", "allow")),
    (("*.current", "staging", "allow"), ("*.*.current", "production", "allow")),
    (("a.current", "production", "allow"), ("a.current", "production", "deny")),
)


def post(asking: Asking, target: str, body: Any = None) -> Any:
    told = asking("POST", target, body)
    assert told.status < 300, told
    return told.json


def explained(
    asking: Asking, path: str, environment: str = "", service: str = "reader"
) -> dict[str, Any]:
    query = f"?environment={environment}" if environment else ""
    told = asking("GET", f"/v1/access/services/{service}/keys/{path}{query}")
    assert told.status == 200, told
    return dict(told.json)


def store_keys(asking: Asking) -> None:
    """The same keys in both environments, one for each thing that can be wrong with one."""
    for environment in ENVIRONMENTS:
        there = {"environment": environment}
        for path in ("a.current", "a.revoked", "a.expired", "a.destroyed", "b.current"):
            assert asking("PUT", f"/v1/keys/{path}", {"value": "v", **there}).status == 201
        assert asking("PUT", "/v1/keys/b.c.current", {"value": "v", **there}).status == 201
        post(asking, "/v1/keys/a.pending/propose", {"value": "v", **there})
        post(asking, "/v1/keys/a.revoked/revoke", there)
        post(asking, "/v1/keys/a.expired/expire", there)
        post(asking, "/v1/keys/a.destroyed/revoke", there)
        post(asking, "/v1/keys/a.destroyed/destroy", {"version": 1, **there})


def register(asking: Asking, name: str = "reader") -> None:
    post(asking, "/v1/services", {"service_name": name})
    assert asking("PUT", f"/v1/services/{name}/limit", {"limit": "100000/s"}).status == 200


def token_for(asking: Asking, environment: str, name: str = "reader") -> str:
    return str(post(asking, "/tokens", {"service_name": name, "environment": environment})["token"])


def grant(asking: Asking, pattern: str, environment: str, effect: str = "allow") -> str:
    body = {
        "service_name": "reader",
        "pattern": pattern,
        "environment": environment,
        "effect": effect,
    }
    return str(post(asking, "/v1/grants", body)["grant_id"])


def agree(asking: Asking, told: dict[str, Any], read: Told) -> None:
    """An explanation and the answer to a read say the same."""
    assert told["allowed"] == (read.status == 200), told
    assert told["code"] == (None if read.status == 200 else read.code), told
    assert told["version"] == (read.json["version"] if read.status == 200 else None)
    refused = [step["code"] for step in told["steps"] if step["code"] is not None]
    assert refused[:1] == ([] if told["allowed"] else [told["code"]])
    assert told["steps"][-1]["step"] != "door"  # every rule of the door is told


def test_an_explanation_is_what_the_door_does(asking: Asking) -> None:
    store_keys(asking)
    register(asking)
    tokens = {environment: token_for(asking, environment) for environment in ENVIRONMENTS}
    for grants in GRANT_SETS:
        ids = [grant(asking, *each) for each in grants]
        for path, environment in itertools.product(PATHS, ENVIRONMENTS):
            read = asking("GET", f"/v1/keys/{path}", token=tokens[environment])
            agree(asking, explained(asking, path, environment), read)
            asked = f"{path}.{environment}"
            for token in tokens.values():
                agree(
                    asking,
                    explained(asking, asked),
                    asking("GET", f"/v1/keys/{asked}", token=token),
                )
        for each in ids:
            assert asking("DELETE", f"/v1/grants/{each}").status == 204


def test_the_grant_that_is_named_first_decides(asking: Asking) -> None:
    assert asking("PUT", "/v1/keys/a.b", {"value": "v"}).status == 201
    register(asking)
    token = token_for(asking, "production")
    loose, close = grant(asking, "**", "production"), grant(asking, "a.b", "production")
    deny = grant(asking, "a.*", "production", "deny")
    order = [deny, close, loose]
    while order:
        told = explained(asking, "a.b")
        assert [each["grant_id"] for each in told["grants"]] == order
        assert told["allowed"] == (order[0] != deny)
        agree(asking, told, asking("GET", "/v1/keys/a.b", token=token))
        assert asking("DELETE", f"/v1/grants/{order.pop(0)}").status == 204
    assert not explained(asking, "a.b")["allowed"]


def test_a_store_that_is_held_says_so_before_anything_else(asking: Asking) -> None:
    register(asking)
    token = token_for(asking, "production")
    registry = asking.composed.feed._registry
    registry.hold("unreviewed", "Nobody signed it off.")
    told = explained(asking, "a.b")
    agree(asking, told, asking("GET", "/v1/keys/a.b", token=token))
    assert told["code"] == "unreviewed"
    assert [step["code"] for step in told["steps"]].count("not_authorized") == 1
    registry.hold("unreviewed", None)
    assert explained(asking, "a.b")["code"] == "not_authorized"


def test_limits_are_told_and_nothing_is_taken_from_them(asking: Asking) -> None:
    asking("PUT", "/v1/keys/a.b", {"value": "v"})
    register(asking)
    grant(asking, "a.b", "production")
    token = token_for(asking, "production")
    assert asking("PUT", "/v1/services/reader/limit", {"limit": "1/h", "burst": 1}).status == 200
    assert all(explained(asking, "a.b")["allowed"] for _ in range(3))
    assert asking("GET", "/v1/keys/a.b", token=token).status == 200
    told = explained(asking, "a.b")
    agree(asking, told, asking("GET", "/v1/keys/a.b", token=token))
    assert told["code"] == "rate_limited"


def test_a_service_that_cannot_ask_is_told_apart(asking: Asking) -> None:
    asking("PUT", "/v1/keys/a.b", {"value": "v"})
    assert explained(asking, "a.b", service="nobody")["code"] == "token_invalid"
    register(asking)
    grant(asking, "a.b", "production")
    assert explained(asking, "a.b")["code"] == "token_missing"
    issued = post(asking, "/tokens", {"service_name": "reader", "expires_in": "1h"})
    assert explained(asking, "a.b")["allowed"]
    post(asking, f"/v1/tokens/{issued['token_id']}/revoke", {})
    assert explained(asking, "a.b")["code"] == "token_missing"
    post(asking, "/tokens", {"service_name": "reader", "expires_in": "1h"})
    post(asking, "/v1/services/reader/revoke-tokens", {})
    assert explained(asking, "a.b")["code"] == "token_missing"
    post(asking, "/tokens", {"service_name": "reader", "expires_in": "1h"})
    assert explained(asking, "a.b")["allowed"]
    MovedClock.ahead_minutes = 0
    post(asking, "/v1/services/reader/decommission", {})
    told = explained(asking, "a.b")
    assert told["code"] == "token_revoked"
    assert told["grants"] == []


def test_the_environment_is_the_paths_then_the_one_asked_for_then_the_tokens(
    asking: Asking,
) -> None:
    register(asking)

    def where(path: str, environment: str = "") -> tuple[str, str]:
        told = explained(asking, path, environment)
        (step,) = (each for each in told["steps"] if each["step"] == "environment")
        return told["environment"], step["detail"]

    assert where("a.b") == ("production", "production: the store's default")
    token_for(asking, "staging")
    assert where("a.b") == ("staging", "staging: what its live tokens are for")
    assert where("a.b.production") == ("production", "production: the path ends in it")
    assert where("a.b", "production")[1].endswith(
        "; with a token for staging only a.b.production means it"
    )
    told = explained(asking, "a.b", "preview")
    assert told["code"] == "unknown_environment"
    assert "doxstore env add preview" in [each["command"] for each in told["remedies"]]
    twice = asking("GET", "/v1/access/services/reader/keys/a.b.staging?environment=production")
    assert twice.code == "environment_conflict"


def test_nothing_is_proposed_for_a_key_that_differs_only_in_case(asking: Asking) -> None:
    register(asking)
    token_for(asking, "production")
    grant(asking, "a.b", "production")
    (proposed,) = explained(asking, "a.B")["remedies"]
    assert proposed == {"command": None, "effect": "ask for a.b, as granted: case counts"}


def test_what_is_asked_about_access_is_on_record(asking: Asking) -> None:
    register(asking)
    explained(asking, "a.seen")
    asking("GET", "/v1/access/keys/a.seen")
    asking("GET", "/v1/access/unused")
    asking("POST", "/v1/access/dry-run", {"add": [{"service_name": "reader", "pattern": "a.b"}]})
    entries = asking("GET", "/v1/ledger?action=LIST&limit=50").json["items"]
    subjects = [each["key_path"] for each in entries if each["status"] == "GRANTED"]
    assert subjects.count("a.seen") == 2
    assert subjects.count("_store.access") == 2


def test_a_service_may_not_ask_about_access(asking: Asking) -> None:
    for method, target in (
        ("GET", "/v1/access/services/model/keys/a.b"),
        ("GET", "/v1/access/keys/a.b"),
        ("GET", "/v1/access/unused"),
        ("POST", "/v1/access/dry-run"),
    ):
        body = {"remove": ["gra_x"]} if method == "POST" else None
        assert asking(method, target, body, token=asking.service).code == "role_required"


# --- who can --------------------------------------------------------------------------------------


def test_who_can_is_exactly_whom_the_door_lets(asking: Asking) -> None:
    assert asking("PUT", "/v1/keys/a.b", {"value": "v"}).status == 201
    given = {
        "exact": [("a.b", "allow")],
        "loose": [("**", "allow")],
        "denied": [("a.*", "allow"), ("a.b", "deny")],
        "only-denied": [("**", "deny")],
        "other": [("a.c", "allow")],
        "elsewhere": [("a.b.staging", "allow")],
        "gone": [("a.b", "allow")],
    }
    tokens = {}
    for name, grants in given.items():
        register(asking, name)
        for pattern, effect in grants:
            body = {"service_name": name, "pattern": pattern, "effect": effect}
            post(asking, "/v1/grants", body)
        tokens[name] = token_for(asking, "production", name)
    post(asking, "/v1/services/gone/decommission", {})
    may = {
        name
        for name, token in tokens.items()
        if asking("GET", "/v1/keys/a.b", token=token).status == 200
    }
    found = asking("GET", "/v1/access/keys/a.b").json
    readers = {each["service_name"]: each for each in found["services"]}
    assert readers.keys() == may | {"model"} == {"exact", "loose", "model"}
    assert readers["exact"]["grant"]["pattern"] == "a.b"
    assert readers["exact"]["live_tokens"] == 1
    denied = {each["service_name"]: each["grant"]["pattern"] for each in found["denied"]}
    assert denied == {"denied": "a.b", "only-denied": "**"}
    (operator,) = found["operators"]
    assert operator["operator_name"] == "root"
    assert Role.MAINTAINER in operator["roles"]


def test_readers_come_in_pages(asking: Asking) -> None:
    names = [f"s{number}" for number in range(5)]
    for name in names:
        body = {"service_name": name, "required_keys": ["a.b"]}
        post(asking, "/v1/services", body)
    found: list[str] = []
    cursor = ""
    while True:
        page = asking("GET", f"/v1/access/keys/a.b?limit=2{cursor}").json
        found += [each["service_name"] for each in page["services"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == ["model", *names]


# --- dry runs -------------------------------------------------------------------------------------


def shifts(asking: Asking, **change: Any) -> set[tuple[str, str, bool]]:
    """What a dry run says, page after page."""
    found: list[tuple[str, str, bool]] = []
    cursor = None
    while True:
        page = post(asking, "/v1/access/dry-run", {**change, "cursor": cursor})
        found += [
            (each["service_name"], f"{each['key_path']}.{each['environment']}", each["gains"])
            for each in page["shifts"]
        ]
        cursor = page["next_cursor"]
        if cursor is None:
            assert len(found) == len(set(found))
            return set(found)


def allowed(asking: Asking, services: tuple[str, ...]) -> set[tuple[str, str]]:
    """Which of the keys there are which service is granted."""
    keys = asking("GET", "/v1/keys?limit=500").json["items"]
    found = set()
    for service, key in itertools.product(services, keys):
        path = f"{key['key_path']}.{key['environment']}"
        steps = explained(asking, path, service=service)["steps"]
        if not any(step["step"] == "grants" and step["code"] for step in steps):
            found.add((service, path))
    return found


@pytest.mark.parametrize("keys_an_answer", [1, 5_000])
def test_a_dry_run_says_what_the_change_then_does(
    asking: Asking, monkeypatch: pytest.MonkeyPatch, keys_an_answer: int
) -> None:
    monkeypatch.setattr(grant_preview, "_KEYS", keys_an_answer)
    monkeypatch.setattr(grant_preview, "_PAGE", min(keys_an_answer, 500))
    store_keys(asking)
    services = ("reader", "other")
    for name in services:
        register(asking, name)
    kept = grant(asking, "a.*", "production")
    for add, remove in (
        ([("reader", "**", "production", "allow")], []),
        ([("reader", "a.current", "production", "deny")], []),
        ([("other", "b.**", "staging", "allow"), ("other", "*.revoked", None, "allow")], []),
        ([("reader", "**", "production", "allow")], []),  # it is there already
        ([("reader", "b.*", "production", "allow")], [kept]),
    ):
        change = {
            "add": [
                dict(zip(("service_name", "pattern", "environment", "effect"), each, strict=True))
                for each in add
            ],
            "remove": remove,
        }
        before = allowed(asking, services)
        said = shifts(asking, **change)
        assert allowed(asking, services) == before, "a dry run changed something"
        for each in change["add"]:
            post(asking, "/v1/grants", each)
        for each in remove:
            assert asking("DELETE", f"/v1/grants/{each}").status == 204
        after = allowed(asking, services)
        assert said == {(*each, True) for each in after - before} | {
            (*each, False) for each in before - after
        }


def test_a_dry_run_refuses_what_the_change_would_refuse(asking: Asking) -> None:
    good = {"service_name": "model", "pattern": "a"}
    for change, code in (
        ({}, "invalid_field"),
        ({"add": [{**good, "service_name": "nobody"}]}, "service_not_found"),
        ({"add": [{**good, "pattern": "a.**.b"}]}, "malformed_pattern"),
        ({"add": [{**good, "effect": "maybe"}]}, "invalid_field"),
        ({"remove": ["gra_none"]}, "grant_not_found"),
        ({"add": [good] * 60, "remove": ["gra_none"] * 60}, "invalid_field"),
        ({"add": [good], "cursor": "!"}, "invalid_parameter"),
        ({"add": [good], "cursor": "OTk"}, "invalid_parameter"),  # 99: there is one range
    ):
        assert asking("POST", "/v1/access/dry-run", change).code == code


def test_a_decommissioned_service_is_granted_nothing(asking: Asking) -> None:
    register(asking)
    post(asking, "/v1/services/reader/decommission", {})
    body = {"service_name": "reader", "pattern": "a.b"}
    assert asking("POST", "/v1/grants", body).code == "service_decommissioned"
    assert asking("POST", "/v1/access/dry-run", {"add": [body]}).code == "service_decommissioned"
