"""Tokens that may be used from some networks alone, on a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.functional.raw_http import ask, code_of, recorded
from tests.functional.running import Answer, RunningStore, run_doxstore

HERE, THERE = "127.0.0.2", "127.0.0.3"
KEY = "bound.key"


@pytest.fixture(scope="module")
def store(shared_store: RunningStore) -> RunningStore:
    shared_store.put(KEY, "value")
    shared_store.register("bound", KEY)
    return shared_store


def issued(store: RunningStore, *addresses: str, status: int = 201) -> Any:
    body = {"service_name": "bound", "addresses": list(addresses)}
    answer = ask(store, "POST", "/tokens", body=body)
    assert answer.status == status, answer
    return answer.json


def told(store: RunningStore, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in store.log_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def one(store: RunningStore, token: str, source: str) -> Answer:
    return ask(store, "GET", f"/v1/keys/{KEY}", token=token, source=source)


def several(store: RunningStore, token: str, source: str) -> Answer:
    body = {"key_paths": [KEY]}
    return ask(store, "POST", "/v1/keys/batch-get", token=token, body=body, source=source)


@pytest.mark.parametrize("read", [one, several])
def test_a_bound_token_reads_from_its_network_alone(
    store: RunningStore, read: Callable[[RunningStore, str, str], Answer]
) -> None:
    made = issued(store, f"{HERE}/32", "10.0.0.0/8")
    assert made["addresses"] == [f"{HERE}/32", "10.0.0.0/8"]
    token = made["token"]
    for _ in range(2):  # the second time the token is at hand
        assert read(store, token, HERE).status == 200
        refused = read(store, token, THERE)
        assert (refused.status, code_of(refused)) == (401, "address_not_allowed")
    [entry] = recorded(store, refused)
    assert entry["service_name"] == "bound"
    assert entry["token_id"] == made["token_id"]
    assert entry["ip_address"] == THERE
    assert (entry["status"], entry["reason"]) == ("DENIED", "address_not_allowed")


def test_a_token_from_elsewhere_is_alarmed_once_and_counted_each_time(
    store: RunningStore,
) -> None:
    made = issued(store, HERE)
    before = counted(store)
    for _ in range(5):
        assert code_of(one(store, made["token"], THERE)) == "address_not_allowed"
    alarms = [
        each for each in told(store, "token_from_elsewhere") if each["token_id"] == made["token_id"]
    ]
    assert len(alarms) == 1
    assert (alarms[0]["name"], alarms[0]["address"]) == ("bound", THERE)
    assert counted(store) == before + 5
    assert made["token"] not in store.log_text()


def counted(store: RunningStore) -> int:
    metrics = ask(store, "GET", "/metrics", token="").body.decode()
    line = next(
        each
        for each in metrics.splitlines()
        if each.startswith("doxstore_tokens_from_elsewhere_total")
    )
    return round(float(line.split()[1]))


def test_an_unbound_token_reads_from_anywhere(store: RunningStore) -> None:
    token = issued(store)["token"]
    for source in (HERE, THERE):
        assert one(store, token, source).status == 200


def test_an_operators_token_may_be_bound_too(store: RunningStore) -> None:
    files = ("--data", store.data, "--key-file", store.key_file, "--json")
    made = run_doxstore(
        "operator", "token", store.operator, "--address", HERE, "--reason", "laptop", *files
    )
    assert made.returncode == 0, made.stderr
    token = json.loads(made.stdout)["token"]
    assert ask(store, "GET", "/v1/services", token=token, source=HERE).status == 200
    refused = ask(store, "GET", "/v1/services", token=token, source=THERE)
    assert code_of(refused) == "address_not_allowed"
    changed = ask(
        store,
        "PUT",
        f"/v1/keys/{KEY}",
        token=token,
        body={"value": "theirs"},
        source=THERE,
    )
    assert code_of(changed) == "address_not_allowed"
    [entry] = recorded(store, changed)
    assert entry["service_name"] == f"operator:{store.operator}"
    bad = run_doxstore("operator", "token", store.operator, "--address", "10.0.0.1/8", *files)
    assert bad.returncode == 1
    assert "invalid_field" in bad.stderr


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1/8"],
        ["nowhere"],
        [""],
        ["10.0.0.0/8 192.0.2.0/24"],
        ["10.0.0.0/8", "10.0.0.0/8"],
        [f"10.0.{n}.0/24" for n in range(17)],
        ["fe80::1%eth0"],
        ["10.0.0.0/33"],
    ],
)
def test_what_is_no_network_binds_nothing(store: RunningStore, addresses: list[str]) -> None:
    assert issued(store, *addresses, status=400)["code"] == "invalid_field"


def test_the_longest_binding_still_fits_a_token(store: RunningStore) -> None:
    widest = [f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{n:x}/128" for n in range(0x1000, 0x100F)]
    token = issued(store, *widest, HERE)["token"]
    assert one(store, token, HERE).status == 200
    assert code_of(one(store, token, THERE)) == "address_not_allowed"


def test_the_list_says_what_a_token_is_bound_to(store: RunningStore) -> None:
    made = issued(store, "2001:DB8::/32", "::ffff:10.1.2.3", HERE)
    answer = ask(store, "GET", f"/v1/tokens/{made['token_id']}")
    assert answer.json["addresses"] == ["2001:db8::/32", "10.1.2.3/32", f"{HERE}/32"]
    assert "token" not in answer.json


def test_issuing_is_told_in_the_log_without_the_token(store: RunningStore) -> None:
    made = issued(store)
    deadline = time.monotonic() + 5
    while not (
        found := [e for e in told(store, "token_issued") if e["token_id"] == made["token_id"]]
    ):
        assert time.monotonic() < deadline
    assert (found[0]["name"], found[0]["by"]) == ("bound", f"operator:{store.operator}")
    assert made["token"].split(".")[2] not in store.log_text()
