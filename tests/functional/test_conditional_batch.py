"""Asking for keys of which versions are held already: what is unchanged is on record as any other
read, and is not sent again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.functional.raw_http import ask, code_of, recorded
from tests.functional.running import Answer, RunningStore
from tests.functional.test_bound_tokens import bound

BATCH = "/v1/keys/batch-get"
ONE, TWO = "held.one", "held.two"


@pytest.fixture
def reader(shared_store: RunningStore) -> str:
    """A service's token."""
    return shared_store.issue("conditional", "held.*")


@pytest.fixture
def ids(shared_store: RunningStore) -> dict[str, str]:
    """The current versions' ids, of versions that are new for each test."""
    return {path: shared_store.put(path, f"value of {path}")["version_id"] for path in (ONE, TWO)}


def batch(store: RunningStore, token: str, paths: list[str], known: Any, **headers: str) -> Answer:
    body = {"key_paths": paths, "known": known}
    return ask(store, "POST", BATCH, token=token, body=body, headers=list(headers.items()))


def revealed(store: RunningStore) -> float:
    text = store.request("GET", "/metrics", token="").body.decode()
    found = re.search(r"^doxstore_values_revealed_total (\S+)$", text, re.MULTILINE)
    assert found
    return float(found[1])


def entries(store: RunningStore, answer: Answer) -> list[tuple[Any, ...]]:
    found = store.request("GET", f"/v1/ledger?request_id={answer.request_id}").json["items"]
    return sorted(
        (each["key_path"], each["status"], each["version"], each["reason"]) for each in found
    )


def test_what_is_still_current_is_told_without_its_value(
    shared_store: RunningStore, reader: str, ids: dict[str, str]
) -> None:
    before = revealed(shared_store)
    answer = batch(shared_store, reader, [ONE, TWO], {ONE: ids[ONE]})
    assert answer.status == 200
    unchanged, sent = answer.json["keys"]
    assert unchanged == {"asked": ONE, "unchanged": True}
    assert sent["key"]["value"] == f"value of {TWO}"
    assert f"value of {ONE}" not in answer.body.decode()
    assert revealed(shared_store) == before + 1
    (first, *_), (second, *_) = told = entries(shared_store, answer)
    assert (first, second) == (f"{ONE}.production", f"{TWO}.production")
    assert {each[1] for each in told} == {"GRANTED"}


def test_where_nothing_changed_there_is_no_body_and_the_store_names_itself(
    shared_store: RunningStore, reader: str, ids: dict[str, str]
) -> None:
    before = revealed(shared_store)
    answer = batch(shared_store, reader, [ONE, TWO], ids, **{"X-Read-Reason": "refresh"})
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["x-store-id"] == shared_store.store_id
    assert answer.headers["cache-control"] == "no-store"
    assert '"service";r=' in answer.headers["ratelimit"]
    assert "content-type" not in answer.headers
    assert revealed(shared_store) == before
    assert [each[0] for each in entries(shared_store, answer)] == [
        f"{ONE}.production",
        f"{TWO}.production",
    ]
    assert {each[1] + str(each[3]) for each in entries(shared_store, answer)} == {"GRANTEDrefresh"}


def test_one_key_that_is_unchanged_says_whose_answer_that_is(
    shared_store: RunningStore, reader: str, ids: dict[str, str]
) -> None:
    headers = [("If-None-Match", f'"{ids[ONE]}"')]
    answer = ask(shared_store, "GET", f"/v1/keys/{ONE}", token=reader, headers=headers)
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["x-store-id"] == shared_store.store_id
    fresh = ask(shared_store, "GET", f"/v1/keys/{ONE}", token=reader)
    assert fresh.status == 200
    assert "x-store-id" not in fresh.headers


def test_two_stores_are_told_apart(
    shared_store: RunningStore, reader: str, ids: dict[str, str], tmp_path: Path
) -> None:
    """A 304 of another store says so, whatever version that one knows: a client believes it not."""
    other = RunningStore(tmp_path / "other")
    other.init()
    other.start()
    try:
        version = other.put(ONE, "of another store")["version_id"]
        token = other.issue("conditional", "held.*")
        there = batch(other, token, [ONE], {ONE: version})
        here = batch(shared_store, reader, [ONE], {ONE: ids[ONE]})
        assert (there.status, here.status) == (304, 304)
        assert there.headers["x-store-id"] == other.store_id != here.headers["x-store-id"]
    finally:
        other.dispose()


def test_an_old_or_a_wrong_id_gets_the_value(
    shared_store: RunningStore, reader: str, ids: dict[str, str]
) -> None:
    shared_store.put(ONE, "the newest")
    for known in (ids[ONE], ids[TWO], "", "x", "x" * 64, f'"{ids[ONE]}"', "ünï"):
        answer = batch(shared_store, reader, [ONE], {ONE: known})
        assert answer.json["keys"][0]["key"]["value"] == "the newest"


def test_each_spelling_is_known_for_itself(
    shared_store: RunningStore, reader: str, ids: dict[str, str]
) -> None:
    spelled = [ONE, f"{ONE}.production", ONE]
    answer = batch(shared_store, reader, spelled, {f"{ONE}.production": ids[ONE]})
    assert ["key" in each for each in answer.json["keys"]] == [True, False, True]
    assert batch(shared_store, reader, spelled, dict.fromkeys(spelled, ids[ONE])).status == 304


@pytest.mark.parametrize(
    "known",
    [
        {TWO: "x"},
        {ONE: "x", TWO: "x"},
        {ONE: "x" * 65},
        {ONE: None},
        {ONE: 7},
        {ONE: "a\0b"},
        {"": ""},
        [ONE],
        "x",
        None,
    ],
)
def test_known_is_of_what_is_asked_for_and_short(
    shared_store: RunningStore, reader: str, ids: dict[str, str], known: Any
) -> None:
    assert ids
    answer = batch(shared_store, reader, [ONE], known)
    assert (answer.status, code_of(answer)) == (400, "invalid_field")
    assert recorded(shared_store, answer)[0]["status"] == "INVALID"


def test_what_is_known_twice_is_refused(
    shared_store: RunningStore, reader: str, ids: dict[str, str]
) -> None:
    body = f'{{"key_paths":["{ONE}"],"known":{{"{ONE}":"{ids[ONE]}","{ONE}":"x"}}}}'.encode()
    answer = ask(shared_store, "POST", BATCH, token=reader, body=body)
    assert code_of(answer) == "malformed_json"


def test_knowing_an_id_opens_nothing(
    shared_store: RunningStore, reader: str, ids: dict[str, str]
) -> None:
    """Neither for whom no grant names the key, nor once the version was revoked."""
    stranger = shared_store.issue("conditional-stranger", "elsewhere.*")
    there = batch(shared_store, stranger, [ONE], {ONE: ids[ONE]})
    absent = batch(shared_store, stranger, ["held.none"], {"held.none": ids[ONE]})
    (one,), (other,) = there.json["keys"], absent.json["keys"]
    assert (there.status, one["problem"]["code"]) == (200, "not_authorized")
    assert one["problem"]["detail"].replace(ONE, "held.none") == other["problem"]["detail"]
    gone = shared_store.put("held.gone", "value")["version_id"]
    body: dict[str, Any] = {}
    revoked = shared_store.request("POST", "/v1/keys/held.gone/revoke", json=body)
    assert revoked.status == 200
    known = {"held.gone": gone, ONE: ids[ONE]}
    answer = batch(shared_store, reader, ["held.gone", ONE], known)
    assert answer.status == 200
    assert answer.json["keys"][0]["problem"]["code"] == "version_revoked"
    assert answer.json["keys"][1]["unchanged"] is True


def test_what_is_unchanged_costs_what_a_read_costs(shared_store: RunningStore) -> None:
    """Of the service's limit, and of the key's own."""
    version = shared_store.put("held.limited", "value")["version_id"]
    token = shared_store.issue("conditional-limited", "held.limited")
    limit = {"limit": "3/h"}
    assert (
        shared_store.request("PUT", "/v1/services/conditional-limited/limit", json=limit).status
        == 200
    )
    spelled = ["held.limited", "held.limited.production"]
    known = dict.fromkeys(spelled, version)
    assert batch(shared_store, token, spelled, known).status == 304
    over = batch(shared_store, token, spelled, known)
    assert (over.status, code_of(over)) == (429, "rate_limited")
    assert "x-store-id" not in over.headers
    assert batch(shared_store, token, spelled[:1], {spelled[0]: version}).status == 304

    open_limit = {"limit": "1000/s"}
    shared_store.request("PUT", "/v1/services/conditional-limited/limit", json=open_limit)
    shared_store.request("PUT", "/v1/keys/held.limited/limit", json={"limit": "1/h"})
    assert batch(shared_store, token, spelled[:1], {spelled[0]: version}).status == 304
    held_back = batch(shared_store, token, spelled[:1], {spelled[0]: version})
    assert held_back.json["keys"][0]["problem"]["code"] == "rate_limited"


def test_a_bound_token_gets_its_next_nonce_with_it(
    shared_store: RunningStore, tmp_path: Path
) -> None:
    version = shared_store.put("held.key", "held value")["version_id"]
    shared_store.put("held.other", "other value")
    shared_store.register("holder", "held.key", "held.other")
    held = bound(shared_store, tmp_path / "service.key")
    body = json.dumps({"key_paths": ["held.key"], "known": {"held.key": version}}).encode()
    proof = held.proof("POST", BATCH, held.nonce(), body=body)
    answer = held.send("POST", BATCH, proof, body=body)
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["dpop-nonce"]
    assert answer.headers["x-store-id"] == shared_store.store_id
