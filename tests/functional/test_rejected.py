"""A reader says that a value was refused where it is for: who may, what is told, what is kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.functional.raw_http import ask, code_of, nothing_changes, recorded
from tests.functional.running import Answer, RunningStore, run_doxstore
from tests.functional.test_bound_tokens import Held, bound

from dox_core_store.server.bootstrap import LocalStore
from dox_core_store.server.domain.access import Role
from dox_core_store.server.settings import Settings


def reject(
    store: RunningStore, key: str, version_id: str, token: str | None = None, **more: Any
) -> Answer:
    body = {"version_id": version_id, **more}
    return ask(store, "POST", f"/v1/keys/{key}/rejected", token=token, body=body)


def numbers(answer: Answer) -> tuple[int, int | None]:
    assert answer.status == 200, answer.body
    return answer.json["rejected_version"], answer.json["other_version"]


def lines(store: RunningStore, key: str) -> list[dict[str, Any]]:
    """What the log tells of rejections of one key."""
    told = [json.loads(line) for line in store.log_text().splitlines() if '"key_rejected"' in line]
    return [each for each in told if each["key_path"] == f"{key}.production"]


def rejections(store: RunningStore) -> float:
    text = store.request("GET", "/metrics", token="").body.decode()
    found = re.search(r"^doxstore_rejections_total (\S+)$", text, re.MULTILINE)
    assert found
    return float(found[1])


def told(answer: Answer, key: str) -> tuple[int, str, str]:
    """What somebody learns from a refusal of ``key``."""
    return answer.status, code_of(answer), answer.json["detail"].replace(key, "KEY")


def test_it_is_on_record_logged_and_counted_and_changes_nothing(
    shared_store: RunningStore,
) -> None:
    key = "rejected.one"
    version = shared_store.put(key, "canary-rejected")["version_id"]
    token = shared_store.issue("rejecting", "rejected.*")
    before = rejections(shared_store)
    with nothing_changes(shared_store):
        answer = reject(shared_store, key, version, token, reason="401 from the provider")
    assert answer.json == {
        "key_path": key,
        "environment": "production",
        "rejected_version": 1,
        "other_version": None,
    }
    (entry,) = recorded(shared_store, answer)
    assert (entry["action"], entry["status"]) == ("REJECT", "REPORTED")
    assert (entry["service_name"], entry["key_path"]) == ("rejecting", f"{key}.production")
    assert (entry["environment"], entry["version"]) == ("production", 1)
    assert (entry["reason"], entry["count"]) == ("401 from the provider", 1)
    assert entry["token_id"].startswith("tok_")
    (line,) = lines(shared_store, key)
    assert (line["service"], line["version"], line["count"]) == ("rejecting", 1, 1)
    assert (line["level"], line["reason"]) == ("warning", "401 from the provider")
    assert version not in shared_store.log_text()
    assert rejections(shared_store) == before + 1
    assert shared_store.get(key, token).json["value"] == "canary-rejected"
    assert "canary-rejected" not in shared_store.log_text()


def test_the_newest_other_version_that_may_be_read_is_named(shared_store: RunningStore) -> None:
    key = "rejected.rotated"
    ids = [shared_store.put(key, f"value {number}")["version_id"] for number in range(3)]
    token = shared_store.issue("rejecting", "rejected.*")
    assert numbers(reject(shared_store, key, ids[2], token)) == (3, 2)
    assert numbers(reject(shared_store, f"{key}.production", ids[1], token)) == (2, 3)
    assert numbers(reject(shared_store, key, ids[0], token)) == (1, 3)
    assert shared_store.get(key, token, version=2).status == 200
    retired = shared_store.request("POST", f"/v1/keys/{key}/revoke", json={"version": 2})
    assert retired.status == 200
    assert numbers(reject(shared_store, key, ids[2], token)) == (3, None)
    assert numbers(reject(shared_store, key, ids[1], token)) == (2, 3)
    assert shared_store.get(key, token, version=2).status == 410


def test_an_expired_version_and_one_that_waits_are_not_named(shared_store: RunningStore) -> None:
    key = "rejected.waiting"
    body = {"value": "short", "expires_at": "2999-01-01T00:00:00Z"}
    first = shared_store.put(key, **body)["version_id"]
    assert shared_store.request("POST", f"/v1/keys/{key}/expire", json={}).status == 200
    token = shared_store.issue("rejecting", "rejected.*")
    assert told(reject(shared_store, key, first, token), key) == (
        told(shared_store.get(key, token), key)
    )
    second = shared_store.put(key, "current")["version_id"]
    proposed = shared_store.request("POST", f"/v1/keys/{key}/propose", json={"value": "next"})
    assert numbers(reject(shared_store, key, second, token)) == (2, None)
    waits = reject(shared_store, key, proposed.json["version_id"], token)
    assert (waits.status, code_of(waits)) == (404, "version_not_found")


def test_an_id_of_another_key_or_of_none_is_not_found(shared_store: RunningStore) -> None:
    shared_store.put("rejected.mine", "x")
    other = shared_store.put("rejected.theirs", "x")["version_id"]
    token = shared_store.issue("rejecting", "rejected.*")
    elsewhere = shared_store.put("rejected.mine", "y", environment="staging")["version_id"]
    for version_id in (other, elsewhere, "ver_none", "x" * 64):
        answer = reject(shared_store, "rejected.mine", version_id, token)
        assert (answer.status, code_of(answer)) == (404, "version_not_found")
        assert recorded(shared_store, answer)[0]["status"] == "NOT_FOUND"
    for malformed in ("", "x" * 65, "a b", "a\n", "a\0", "é", None, 7, ["x"]):
        answer = reject(shared_store, "rejected.mine", malformed, token)  # type: ignore[arg-type]
        assert (answer.status, code_of(answer)) == (400, "invalid_field")


def test_who_may_not_read_learns_nothing(shared_store: RunningStore) -> None:
    """The answer is that of a read, and the same for a key that is not there."""
    key, absent = "rejected.secret", "rejected.absent"
    version = shared_store.put(key, "x")["version_id"]
    stranger = shared_store.issue("rejecting-stranger", "elsewhere.*")
    there = reject(shared_store, key, version, stranger)
    nowhere = reject(shared_store, absent, version, stranger)
    assert told(there, key) == told(nowhere, absent) == told(shared_store.get(key, stranger), key)
    assert (there.status, code_of(there)) == (403, "not_authorized")
    (entry,) = recorded(shared_store, there)
    assert (entry["action"], entry["status"]) == ("REJECT", "DENIED")
    assert (entry["version"], entry["reason"]) == (None, "not_authorized")
    for reserved in ("_store.signing", "_STORE.x"):
        assert reject(shared_store, reserved, version, stranger).status == 403
    missing = reject(shared_store, absent, version, shared_store.issue("rejecting", "rejected.*"))
    assert (missing.status, code_of(missing)) == (404, "key_not_found")
    for token, code in (("", "token_missing"), ("a.b.c", "token_invalid")):
        nobody = reject(shared_store, key, version, token)
        assert (nobody.status, code_of(nobody)) == (401, code)
    assert lines(shared_store, key) == []


def test_after_a_revocation_it_is_refused_as_a_read_is(shared_store: RunningStore) -> None:
    key = "rejected.revoked"
    version = shared_store.put(key, "x")["version_id"]
    token = shared_store.issue("rejecting", "rejected.*")
    shared_store.request("POST", f"/v1/keys/{key}/revoke", json={})
    answer = reject(shared_store, key, version, token)
    assert (answer.status, code_of(answer)) == (410, "version_revoked")
    assert told(answer, key) == told(shared_store.get(key, token), key)


def test_operators_may_if_they_may_read_values(idle_store: RunningStore) -> None:
    here = LocalStore(Settings(data=str(idle_store.data), key_file=str(idle_store.key_file)))
    here.add_operator("auditor", [Role.AUDITOR])
    here.add_operator("keeper", [Role.MAINTAINER])
    tokens = {name: here.operator_token(name, "1h") for name in ("auditor", "keeper")}
    idle_store.start()
    version = idle_store.put("rejected.key", "x")["version_id"]
    refused = reject(idle_store, "rejected.key", version, tokens["auditor"])
    assert (refused.status, code_of(refused)) == (403, "role_required")
    answer = reject(idle_store, "rejected.key", version, tokens["keeper"])
    assert numbers(answer) == (1, None)
    assert "ratelimit" not in answer.headers
    assert recorded(idle_store, answer)[0]["service_name"] == "operator:keeper"


def test_it_costs_one_request_of_the_limit(shared_store: RunningStore) -> None:
    key = "rejected.limited"
    version = shared_store.put(key, "x")["version_id"]
    token = shared_store.issue("rejecting-limited", "rejected.*")
    limit = {"limit": "3/h"}
    shared_store.request("PUT", "/v1/services/rejecting-limited/limit", json=limit)
    assert shared_store.get(key, token).status == 200
    for left in (1, 0):
        answer = reject(shared_store, key, version, token)
        assert f'"service";r={left};' in answer.headers["ratelimit"]
    over = reject(shared_store, key, version, token)
    assert (over.status, code_of(over)) == (429, "rate_limited")
    assert '"service";r=0;' in over.headers["ratelimit"]
    assert int(over.headers["retry-after"]) >= 1
    assert recorded(shared_store, over)[0]["status"] == "LIMITED"


def test_a_reason_steers_no_terminal_and_ends_no_line(shared_store: RunningStore) -> None:
    key = "rejected.reason"
    version = shared_store.put(key, "x")["version_id"]
    token = shared_store.issue("rejecting", "rejected.*")
    evil = 'x\n{"event":"forged"}\r\x1b[2J\x9b\u2028\x7f'
    answer = reject(shared_store, key, version, token, reason=evil)
    assert answer.status == 200
    (entry,) = recorded(shared_store, answer)
    assert entry["reason"] == evil
    (line,) = [each for each in shared_store.log_text().split("\n") if "rejected.reason" in each]
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["reason"] == evil
    shown = run_doxstore(
        *("ledger", "search", "--action", "REJECT", "--key", key),
        KEY_SERVICE_URL=shared_store.url,
        ADMIN_TOKEN=shared_store.admin_token,
    )
    assert shown.returncode == 0, shown.stderr
    assert all(each.isprintable() for each in shown.stdout.split("\n"))
    for refused in ("a\0b", "x" * 1_001, 7, ["x"]):
        answer = reject(shared_store, key, version, token, reason=refused)
        assert (answer.status, code_of(answer)) == (400, "invalid_field")
    longest = reject(shared_store, "rejected.reason", version, token, reason="\U0001f511" * 1_000)
    assert longest.status == 200
    huge = reject(shared_store, key, version, token, reason="x" * 20_000)
    assert (huge.status, code_of(huge)) == (413, "body_too_large")


def test_what_is_logged_of_a_reason_is_short(store: RunningStore) -> None:
    version = store.put("rejected.long", "x")["version_id"]
    token = store.issue("rejecting", "rejected.*")
    answer = reject(store, "rejected.long", version, token, reason="y" * 1_000)
    assert recorded(store, answer)[0]["reason"] == "y" * 1_000
    (line,) = lines(store, "rejected.long")
    assert line["reason"] == "y" * 200


def test_a_storm_makes_few_lines_and_an_entry_each(store: RunningStore) -> None:
    key, services, times = "rejected.storm", 20, 10
    version = store.put(key, "x")["version_id"]
    tokens = [store.issue(f"storm-{number}", "rejected.*") for number in range(services)]
    answers = [reject(store, key, version, token) for _ in range(times) for token in tokens]
    assert {answer.status for answer in answers} == {200}
    assert rejections(store) == services * times
    found = lines(store, key)
    assert len(found) == services
    assert {each["count"] for each in found} == {1}
    entries = [each for each in store.verified_export() if each["action"] == "REJECT"]
    assert len(entries) == services * times
    assert {each["request_id"] for each in entries} == {each.request_id for each in answers}
    assert all(each["count"] == 1 for each in entries)
    assert store.get(key, tokens[0]).json["version"] == 1


def test_a_rejection_is_no_hand_over_and_no_use(store: RunningStore) -> None:
    version = store.put("rejected.since", "x")["version_id"]
    token = store.issue("rejecting", "rejected.*")
    assert reject(store, "rejected.since", version, token).status == 200
    since = "/v1/ledger/since?key_path=rejected.since&since=2020-01-01T00:00:00Z"
    page = store.request("GET", since).json
    assert (page["items"], page["reported"]) == ([], 0)


@pytest.fixture
def holder(shared_store: RunningStore, tmp_path: Path) -> Held:
    shared_store.put("held.key", "held value")
    shared_store.put("held.other", "other value")
    shared_store.register("holder", "held.key", "held.other")
    return bound(shared_store, tmp_path / "service.key")


def test_a_bound_token_needs_its_proof_of_this_body(holder: Held) -> None:
    store, target = holder.store, "/v1/keys/held.key/rejected"
    version = store.put("held.key", "held value")["version_id"]
    body = json.dumps({"version_id": version, "reason": "refused"}).encode()
    swapped = json.dumps({"version_id": version, "reason": "never said"}).encode()
    without = holder.send("POST", target, holder.proof("POST", target, None, body=body), body=body)
    assert (without.status, code_of(without)) == (401, "nonce_needed")
    nonce = without.headers["dpop-nonce"]
    answer = holder.send("POST", target, holder.proof("POST", target, nonce, body=body), body=body)
    assert (answer.status, answer.json["other_version"] is not None) == (200, True)
    assert answer.headers["dpop-nonce"]
    (entry,) = recorded(store, answer)
    assert (entry["service_name"], entry["token_id"]) == ("holder", holder.token_id)
    proof = holder.proof("POST", target, nonce, body=body)
    assert holder.send("POST", target, proof, body=body).status == 200
    for sent, shown in (
        (body, proof),
        (swapped, holder.proof("POST", target, nonce, body=body)),
        (body, holder.proof("POST", "/v1/keys/held.other/rejected", nonce, body=body)),
    ):
        refused = holder.send("POST", target, shown, body=sent)
        assert (refused.status, code_of(refused)) == (401, "proof_invalid")
        assert recorded(store, refused)[0]["service_name"] == "holder"
    plain = ask(store, "POST", target, token=holder.token, body=body)
    assert (plain.status, code_of(plain)) == (401, "proof_needed")


def test_other_spellings_of_the_address_are_refused(shared_store: RunningStore) -> None:
    key = "rejected.spelled"
    version = shared_store.put(key, "x")["version_id"]
    token = shared_store.issue("rejecting", "rejected.*")
    body = {"version_id": version}
    for target in (
        f"/v1/keys/{key}/rejected/",
        f"/v1/keys//{key}/rejected",
        "/v1/keys/rejected%2Espelled/rejected",
        f"/v1/keys/../keys/{key}/rejected",
    ):
        answer = ask(shared_store, "POST", target, token=token, body=body)
        assert (answer.status, code_of(answer)) == (400, "malformed_path"), target
    for method in ("GET", "PUT", "DELETE"):
        answer = ask(shared_store, method, f"/v1/keys/{key}/rejected", token=token, body=body)
        assert answer.status in (400, 405)
    query = ask(shared_store, "POST", f"/v1/keys/{key}/rejected?version=1", token=token, body=body)
    assert code_of(query) == "invalid_parameter"
    assert lines(shared_store, key) == []
