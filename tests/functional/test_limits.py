"""Limits of services and of keys, over real HTTP: what passes, what is told, what is on record.

Rates here are so slow that a second more or less brings no request back, or so fast that waiting as
told takes a second.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest
from tests.functional.kept_connection import connected
from tests.functional.raw_http import ask, code_of, recorded
from tests.functional.running import Answer, RunningStore, run_doxstore

POLICY = re.compile(r'"(service|key)";q=(\d+);w=(\d+)')
LEFT = re.compile(r'"(service|key)";r=(\d+);t=(\d+)')


def limit_service(store: RunningStore, service: str, limit: str, burst: int | None = None) -> None:
    body = {"limit": limit, "burst": burst}
    answer = store.request("PUT", f"/v1/services/{service}/limit", json=body)
    assert answer.status == 200, answer.body


def limit_key(store: RunningStore, key: str, limit: str, burst: int | None = None) -> Any:
    body = {"limit": limit, "burst": burst, "reason": "the provider counts"}
    answer = store.request("PUT", f"/v1/keys/{key}/limit", json=body)
    assert answer.status == 200, answer.body
    return answer.json


def policies(answer: Answer) -> dict[str, tuple[int, int]]:
    """Quota and window of each policy that an answer names."""
    items = answer.headers["ratelimit-policy"].split(", ")
    found = [POLICY.fullmatch(item) for item in items]
    assert all(found), items
    return {each[1]: (int(each[2]), int(each[3])) for each in found if each}


def left(answer: Answer) -> dict[str, int]:
    """What each policy leaves; the same policies are named as in the other header."""
    items = answer.headers["ratelimit"].split(", ")
    found = [LEFT.fullmatch(item) for item in items]
    assert all(found), items
    remaining = {each[1]: int(each[2]) for each in found if each}
    assert remaining.keys() == policies(answer).keys()
    return remaining


def told_to_wait(answer: Answer) -> int:
    assert code_of(answer) == "rate_limited"
    text = answer.headers["retry-after"]
    assert text.isdigit()
    assert answer.json["retry_after_seconds"] == int(text) >= 1
    return int(text)


def test_a_burst_passes_at_once_and_one_more_after_waiting_as_told(
    shared_store: RunningStore,
) -> None:
    shared_store.put("limits.burst", "x")
    token = shared_store.issue("limit-burst", "limits.burst")
    limit_service(shared_store, "limit-burst", "1/s", 5)
    began = time.monotonic()
    answers = [shared_store.get("limits.burst", token) for _ in range(6)]
    if time.monotonic() - began < 1:  # on a machine that stood still one may be back already
        assert [each.status for each in answers] == [200] * 5 + [429]
    refused = shared_store.get("limits.burst", token)
    while refused.status != 429:
        refused = shared_store.get("limits.burst", token)
    assert refused.json["detail"] == "Too many key requests"
    assert told_to_wait(refused) == 1
    time.sleep(1)
    began = time.monotonic()
    again = [shared_store.get("limits.burst", token) for _ in range(2)]
    assert again[0].status == 200
    assert again[1].status == 429 or time.monotonic() - began > 0.5


def test_every_answer_to_a_service_says_what_is_left(shared_store: RunningStore) -> None:
    store = shared_store
    tag = store.put("limits.told", "x")["version_id"]
    token = store.issue("limit-told", "limits.told", "limits.absent")
    limit_service(store, "limit-told", "6/h", 6)
    etag = [("If-None-Match", f'"{tag}"')]
    answers = [
        store.get("limits.told", token),
        ask(store, "GET", "/v1/keys/limits.told", token=token, headers=etag),
        store.get("limits.forbidden", token),
        store.get("limits.absent", token),
        ask(
            store,
            "POST",
            "/v1/keys/batch-get",
            token=token,
            body={"key_paths": ["limits.told"] * 2},
        ),
        store.get("limits.told", token),
    ]
    assert [each.status for each in answers] == [200, 304, 403, 404, 200, 429]
    assert all(policies(each) == {"service": (6, 3600)} for each in answers)
    assert [left(each)["service"] for each in answers] == [5, 4, 3, 2, 0, 0]
    assert 590 <= told_to_wait(answers[-1]) <= 600
    entries = recorded(store, *answers[:4], answers[5])
    assert [each["status"] for each in entries] == [
        "GRANTED",
        "GRANTED",
        "DENIED",
        "NOT_FOUND",
        "LIMITED",
    ]
    assert "ratelimit" not in store.get("limits.told").headers, "an operator has no limit"
    assert "ratelimit" not in store.get("limits.told", "no.good.token").headers


def test_a_batch_over_the_burst_is_told_that_waiting_does_not_help(
    shared_store: RunningStore,
) -> None:
    shared_store.put("limits.batch", "x")
    token = shared_store.issue("limit-batch", "limits.batch")
    limit_service(shared_store, "limit-batch", "60/h", 3)
    body = {"key_paths": ["limits.batch"] * 4}
    answer = ask(shared_store, "POST", "/v1/keys/batch-get", token=token, body=body)
    assert code_of(answer) == "rate_limited"
    assert "retry-after" not in answer.headers
    assert left(answer) == {"service": 3}
    body = {"key_paths": ["limits.batch"] * 3}
    assert ask(shared_store, "POST", "/v1/keys/batch-get", token=token, body=body).status == 200


def test_a_key_s_limit_holds_for_all_services_together(shared_store: RunningStore) -> None:
    store = shared_store
    store.put("limits.shared", "x")
    one = store.issue("limit-one", "limits.shared", "limits.other")
    two = store.issue("limit-two", "limits.shared")
    store.put("limits.other", "x")
    limit_service(store, "limit-one", "600/h", 100)
    limit_service(store, "limit-two", "600/h", 100)
    assert store.get("limits.shared", one).status == 200  # at hand, without its limit
    said = limit_key(store, "limits.shared", "30/h", 3)
    assert (said["limit"], said["burst"]) == ("30/h", 3)
    answers = [store.get("limits.shared", token) for token in (one, two, one, two, one)]
    assert [each.status for each in answers] == [200, 200, 200, 429, 429]
    assert all(policies(each) == {"service": (600, 3600), "key": (30, 3600)} for each in answers)
    assert [left(each)["key"] for each in answers] == [2, 1, 0, 0, 0]
    # Refused or not, each read cost its service one, and none cost it two.
    assert [left(each)["service"] for each in answers] == [98, 99, 97, 98, 96]
    assert 100 <= told_to_wait(answers[3]) <= 120
    assert "this key" in answers[3].json["detail"]
    entries = recorded(store, *answers)
    assert [each["status"] for each in entries] == ["GRANTED"] * 3 + ["LIMITED"] * 2
    assert entries[3]["service_name"] == "limit-two"
    assert entries[3]["key_path"] == "limits.shared.production"
    assert store.get("limits.other", one).status == 200, "other keys are as they were"
    assert store.get("limits.shared").status == 200, "and an operator has no limit"


def test_a_service_over_its_own_limit_costs_the_key_nothing(shared_store: RunningStore) -> None:
    store = shared_store
    store.put("limits.spared", "x")
    greedy = store.issue("limit-greedy", "limits.spared")
    modest = store.issue("limit-modest", "limits.spared")
    limit_service(store, "limit-greedy", "1/h", 1)
    limit_key(store, "limits.spared", "1/h", 3)
    assert store.get("limits.spared", greedy).status == 200
    refused = store.get("limits.spared", greedy)
    assert left(refused) == {"service": 0}
    answers = [store.get("limits.spared", modest) for _ in range(3)]
    assert [each.status for each in answers] == [200, 200, 429]


def test_by_number_it_is_the_same_key_and_another_environment_another(
    shared_store: RunningStore,
) -> None:
    store = shared_store
    store.put("limits.numbered", "1")
    store.put("limits.numbered", "2")
    store.put("limits.numbered", "s", environment="staging")
    token = store.issue("limit-number", "limits.numbered", "limits.numbered.staging")
    limit_key(store, "limits.numbered", "1/h", 2)
    answers = [store.get("limits.numbered", token, version=number) for number in (1, 2, 1)]
    assert [each.status for each in answers] == [200, 200, 429]
    assert store.get("limits.numbered", token).status == 429
    assert store.get("limits.numbered.staging", token).status == 200
    store.put("limits.numbered", "3")
    assert store.get("limits.numbered", token).status == 429, "a new version brings no new reads"


def test_in_a_batch_each_key_counts_for_itself(shared_store: RunningStore) -> None:
    store = shared_store
    for name in ("one", "two", "free"):
        store.put(f"limits.each.{name}", name)
    token = store.issue("limit-each", "limits.each.*")
    limit_service(store, "limit-each", "600/h", 100)
    limit_key(store, "limits.each.one", "1/h", 2)
    limit_key(store, "limits.each.two", "1/h", 5)
    asked = ["limits.each.one"] * 3 + ["limits.each.two", "limits.each.free"]
    answer = ask(store, "POST", "/v1/keys/batch-get", token=token, body={"key_paths": asked})
    assert answer.status == 200
    items = answer.json["keys"]
    assert ["key" in item for item in items] == [True, True, False, True, True]
    problem = items[2]["problem"]
    assert (problem["code"], problem["status"]) == ("rate_limited", 429)
    assert 3_590 <= problem["retry_after_seconds"] <= 3_600
    assert left(answer) == {"service": 95, "key": 0}
    entries = [each for each in store.export() if each["request_id"] == answer.request_id]
    told = [(each["status"], each["key_path"].split(".")[2]) for each in entries]
    assert sorted(told) == [
        ("GRANTED", "free"),
        ("GRANTED", "one"),
        ("GRANTED", "one"),
        ("GRANTED", "two"),
        ("LIMITED", "one"),
    ]


def test_never_more_than_burst_and_rate_however_many_ask_at_once(store: RunningStore) -> None:
    """Twelve connections of four services on one key, one of them changing the key meanwhile."""
    store.put("limits.rush", "x")
    tokens = [store.issue(f"limit-rush-{number}", "limits.rush") for number in range(4)]
    rate, burst, seconds = 50, 20, 2.0
    limit_key(store, "limits.rush", f"{rate}/s", burst)

    async def rush(token: str, until: float) -> list[int]:
        statuses = []
        async with connected(store, token) as connection:
            while time.monotonic() < until:
                statuses.append((await connection.get("limits.rush")).status)
        return statuses

    async def rotate(until: float) -> None:
        async with connected(store, store.admin_token) as connection:
            number = 0
            while time.monotonic() < until:
                number += 1
                assert (await connection.put("limits.rush", f"{number}")).status == 200
                await asyncio.sleep(0.02)

    async def all_at_once() -> tuple[list[int], float]:
        began = time.monotonic()
        until = began + seconds
        *found, _ = await asyncio.gather(
            *(rush(token, until) for token in tokens * 3), rotate(until)
        )
        return [status for statuses in found for status in statuses], time.monotonic() - began

    statuses, took = asyncio.run(all_at_once())
    granted = statuses.count(200)
    assert granted <= burst + rate * took
    assert granted >= (burst + rate * seconds) * 0.5, "and what is allowed does pass"
    assert set(statuses) == {200, 429}
    entries = store.export()
    granted_entries = [
        each
        for each in entries
        if each["action"] == "GET" and each["key_path"] == "limits.rush.production"
    ]
    counts = {
        status: sum(each["count"] for each in granted_entries if each["status"] == status)
        for status in ("GRANTED", "ABORTED", "LIMITED")
    }
    assert counts["GRANTED"] - counts["ABORTED"] == granted


def test_a_limit_outlives_a_restart_and_the_cli_sets_shows_and_takes_it_away(
    store: RunningStore,
) -> None:
    def cli(*arguments: str) -> Any:
        told = run_doxstore(
            "key", *arguments, "--json", KEY_SERVICE_URL=store.url, ADMIN_TOKEN=store.admin_token
        )
        assert told.returncode == 0, told.stderr
        return json.loads(told.stdout)

    store.put("limits.cli", "x")
    token = store.issue("limit-cli", "limits.cli")
    said = cli("limit", "limits.cli", "2/h", "--burst", "2", "--reason", "too fast")
    assert (said["limit"], said["burst"]) == ("2/h", 2)
    shown, (listed,) = cli("show", "limits.cli"), cli("list", "--prefix", "limits.cli")
    assert (shown["limit"], shown["burst"]) == (listed["limit"], listed["burst"]) == ("2/h", 2)
    assert store.get("limits.cli", token).status == 200
    assert cli("limit", "limits.cli", "2/h", "--burst", "2")["limit"] == "2/h"
    assert [store.get("limits.cli", token).status for _ in range(2)] == [200, 429], "it counts on"
    assert store.stop() == 0
    store.start()
    assert [store.get("limits.cli", token).status for _ in range(3)] == [200, 200, 429]
    assert cli("limit", "limits.cli", "--none", "--reason", "enough")["limit"] is None
    assert [store.get("limits.cli", token).status for _ in range(3)] == [200] * 3
    assert "key" not in policies(store.get("limits.cli", token))
    assert cli("limit", "limits.cli", "--none")["limit"] is None, "taking none away is fine"
    reasons = [each["reason"] for each in store.verified_export() if each["action"] == "LIMIT"]
    assert reasons[-4:] == [
        "2/h, burst 2: too fast",
        "2/h, burst 2",
        "none: enough",
        "none",
    ]


def test_a_limit_moves_with_a_backup(store: RunningStore) -> None:
    store.put("limits.kept", "x")
    token = store.issue("limit-kept", "limits.kept")
    limit_key(store, "limits.kept", "1/h", 1)
    place = ("--data", store.data, "--key-file", store.key_file)
    backup = store.folder / "kept.backup"
    made = run_doxstore("backup", "create", backup, *place)
    assert made.returncode == 0, made.stderr
    drill = run_doxstore("backup", "drill", backup, *place)
    assert drill.returncode == 0, drill.stdout + drill.stderr
    assert store.stop() == 0
    other = RunningStore(store.folder / "other")
    restored = run_doxstore(
        *("backup", "restore", backup, "--sign-off", "a test"),
        *("--data", other.data, "--key-file", store.key_file),
    )
    assert restored.returncode == 0, restored.stdout + restored.stderr
    other.key_file, other.admin_token = store.key_file, store.admin_token
    try:
        other.start()
        assert [other.get("limits.kept", token).status for _ in range(2)] == [200, 429]
    finally:
        other.dispose()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"limit": "60/day"}, 400, "invalid_field"),
        ({"limit": "60/min", "burst": 0}, 400, "invalid_field"),
        ({"limit": None}, 400, "invalid_field"),
        ({}, 400, "invalid_field"),
        ({"limit": "60/min", "environment": "nowhere"}, 400, "unknown_environment"),
        ({"limit": "60/min", "environment": "staging"}, 404, "key_not_found"),
        ({"limit": "60/min", "extra": 1}, 400, "invalid_field"),
    ],
)
def test_no_limit_of_a_key(
    shared_store: RunningStore, body: dict[str, Any], status: int, code: str
) -> None:
    shared_store.put("limits.bad", "x")
    answer = ask(shared_store, "PUT", "/v1/keys/limits.bad/limit", body=body)
    assert (answer.status, code_of(answer)) == (status, code)


def test_a_service_may_not_change_what_limits_it(shared_store: RunningStore) -> None:
    shared_store.put("limits.own", "x")
    token = shared_store.issue("limit-own", "limits.own")
    for method, body in (("PUT", {"limit": "9/s"}), ("DELETE", None)):
        answer = ask(shared_store, method, "/v1/keys/limits.own/limit", token=token, body=body)
        assert (answer.status, code_of(answer)) == (403, "role_required")
