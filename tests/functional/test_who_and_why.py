"""Every change carries who and why: each route takes a reason, and it lands on the ledger.

The rows of `CHANGES` are held against the server's own description of its routes, so a new route is
in the table, or in `UNREASONED` with what excuses it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from tests.functional.running import RunningStore, run_doxstore

UNREASONED = {
    ("POST", "/v1/keys/batch-get"): "a read",
    ("POST", "/v1/access/dry-run"): "a read",
    ("POST", "/v1/reports"): "reads that a client served by itself, each with its own",
    ("POST", "/v1/imports"): "nobody sees anything of it before its commit, which has a reason",
    ("POST", "/v1/imports/{import_id}/entries"): "the same",
    ("POST", "/v1/token/exchange"): "a service asks for its own token, by RFC 8693's parameters",
    ("POST", "/v1/seal/unseal"): "an entry of a ceremony: who holds the share is not known",
}


class Change(NamedTuple):
    """One request that changes something, made with a reason in its body or its query."""

    method: str
    route: str
    target: str
    body: dict[str, Any] | None = None

    @property
    def name(self) -> tuple[str, str]:
        return self.method, self.route


KEY, ONE = "/v1/keys/{key_path}", "/v1/keys/who.why"
SERVICE = "/v1/services/{service_name}"
LATER = "2099-01-01T00:00:00Z"


def changes(store: RunningStore) -> Iterator[Change]:
    """Each in an order in which it succeeds; what is made on the way is asked for here."""

    def request(method: str, target: str, **body: Any) -> Any:
        answer = store.request(method, target, json=body)
        assert answer.status < 300, answer.body
        return answer.json if answer.body else None

    yield Change("PUT", KEY, ONE, {"value": "one"})
    yield Change("POST", f"{KEY}/propose", f"{ONE}/propose", {"value": "two"})
    yield Change("POST", f"{KEY}/promote", f"{ONE}/promote", {})
    yield Change("POST", f"{KEY}/retire", f"{ONE}/retire", {"version": 1})
    yield Change("POST", f"{KEY}/rollback", f"{ONE}/rollback", {"to_version": 1})
    yield Change("POST", f"{KEY}/extend", f"{ONE}/extend", {"expires_at": LATER})
    yield Change("POST", f"{KEY}/expire", f"{ONE}/expire", {})
    yield Change("POST", f"{KEY}/revoke", f"{ONE}/revoke", {"version": 2})
    yield Change("POST", f"{KEY}/destroy", f"{ONE}/destroy", {"version": 1})
    yield Change("POST", f"{KEY}/describe", f"{ONE}/describe", {"owner": "ada"})
    yield Change("PUT", f"{KEY}/limit", f"{ONE}/limit", {"limit": "60/min"})
    yield Change("DELETE", f"{KEY}/limit", f"{ONE}/limit")
    for end in ("commit", "abort"):
        opened = store.request("POST", "/v1/imports").json["import_id"]
        yield Change("POST", f"/v1/imports/{{import_id}}/{end}", f"/v1/imports/{opened}/{end}", {})
    yield Change("POST", "/v1/services", "/v1/services", {"service_name": "who"})
    for target in ("/v1/tokens", "/tokens"):
        yield Change("POST", target, target, {"service_name": "who"})
    made = request("POST", "/tokens", service_name="who")["token_id"]
    yield Change("POST", "/v1/tokens/{token_id}/revoke", f"/v1/tokens/{made}/revoke", {})
    yield Change("POST", "/v1/signing-keys/rotate", "/v1/signing-keys/rotate", {})
    yield Change("PUT", f"{SERVICE}/limit", "/v1/services/who/limit", {"limit": "60/min"})
    grant = {"service_name": "who", "pattern": "who.*"}
    yield Change("POST", "/v1/grants", "/v1/grants", grant)
    [granted] = store.request("GET", "/v1/grants?service_name=who").json["items"]
    yield Change("DELETE", "/v1/grants/{grant_id}", f"/v1/grants/{granted['grant_id']}")
    tokens = f"{SERVICE}/revoke-tokens"
    yield Change("POST", tokens, "/v1/services/who/revoke-tokens", {})
    yield Change("POST", f"{SERVICE}/decommission", "/v1/services/who/decommission", {})
    yield Change("POST", "/v1/environments", "/v1/environments", {"name": "qa"})


def described(store: RunningStore) -> dict[tuple[str, str], bool]:
    """Every changing route of the API, and whether it takes a reason."""
    document = store.request("GET", "/openapi.json", token="").json
    schemas = document["components"]["schemas"]
    found = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method == "get":
                continue
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            named = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
            queried = {each["name"] for each in operation.get("parameters", [])}
            found[method.upper(), path] = "reason" in named.get("properties", {}) | dict.fromkeys(
                queried
            )
    return found


def test_every_changing_route_takes_a_reason(shared_store: RunningStore) -> None:
    routes = described(shared_store)
    without = {name for name, takes_reason in routes.items() if not takes_reason}
    assert without == UNREASONED.keys() & routes.keys()


def test_who_changed_it_and_why_is_on_the_ledger_for_every_route(store: RunningStore) -> None:
    performed = set()
    wanted: dict[str, Change] = {}
    for number, change in enumerate(changes(store)):
        why = f"reason-{number}"
        target, body = change.target, change.body
        if body is None:
            target = f"{target}?reason={why}"
        else:
            body = {**body, "reason": why}
        answer = store.request(change.method, target, json=body)
        assert answer.status < 300, (change, answer.body)
        performed.add(change.name)
        wanted[why] = change
    entries = [e for e in store.verified_export() if e["stream"] == "changes"]
    for why, change in wanted.items():
        found = [e for e in entries if why in (e["reason"] or "").replace(": ", " ").split()]
        assert found, f"{change.name} leaves no reason on the ledger"
        assert {e["service_name"] for e in found} == {f"operator:{store.operator}"}
        assert all(e["request_id"] and e["ip_address"] and e["token_id"] for e in found)
    elsewhere = {name for name in described(store) if name[1].startswith(ELSEWHERE)}
    assert performed | UNREASONED.keys() >= described(store).keys() - elsewhere


ELSEWHERE = ("/v1/issuers", "/v1/trusts", "/v1/vaults", "/v1/keys/{key_path}/rejected")
"""Performed, with their reasons, where issuers, vaults and rejections are tested."""


@pytest.mark.parametrize("command", ["add", "token", "disable"])
def test_the_operators_commands_carry_a_reason_and_who_ran_them(
    idle_store: RunningStore, command: str
) -> None:
    files = ("--data", idle_store.data, "--key-file", idle_store.key_file)
    roles = ("--role", "auditor")
    if command != "add":
        assert run_doxstore("operator", "add", "eve", *roles, *files).returncode == 0
    arguments = [command, "eve", *(roles if command == "add" else ()), "--reason", "because"]
    done = run_doxstore("operator", *arguments, *files)
    assert done.returncode == 0, done.stderr
    exported = run_doxstore("ledger", "export", *files)
    if exported.returncode != 0:
        idle_store.start()
        lines = idle_store.export()
    else:
        lines = [json.loads(line) for line in exported.stdout.splitlines()]
    [entry] = [e for e in lines if "because" in (e["reason"] or "")]
    assert entry["service_name"].startswith("local:")
