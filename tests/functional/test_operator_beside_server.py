"""Commands on the store's files while a server runs on them: the server follows, nothing breaks."""

from __future__ import annotations

import json
import time

from tests.functional.running import RunningStore, run_doxstore

FOLLOW_SECONDS = 5.0
"""The server follows within about a second; the rest is for a busy machine."""


def operator(store: RunningStore, *arguments: str) -> str:
    done = run_doxstore(
        "operator", *arguments, "--data", store.data, "--key-file", store.key_file, "--json"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def token_for(store: RunningStore, name: str) -> str:
    token: str = json.loads(operator(store, "token", name))["token"]
    return token


def status_becomes(store: RunningStore, token: str, status: int) -> str:
    """Wait until a listing with ``token`` is answered so; returns the code of a refusal."""
    deadline = time.monotonic() + FOLLOW_SECONDS
    while (answer := store.request("GET", "/v1/keys", token=token)).status != status:
        assert time.monotonic() < deadline, f"still {answer.status}: {answer.body!r}"
        time.sleep(0.05)
    return "" if status == 200 else answer.json["code"]


def test_an_operator_is_added_and_disabled_beside_a_running_server(store: RunningStore) -> None:
    operator(store, "add", "alice", "--role", "maintainer")
    alice = token_for(store, "alice")
    status_becomes(store, alice, 200)
    written = store.request("PUT", "/v1/keys/alice.key", token=alice, json={"value": "hers"})
    assert written.status == 201
    assert store.request("GET", "/v1/ledger", token=alice).status == 403

    operator(store, "disable", "alice", "--reason", "left")
    assert status_becomes(store, alice, 401) == "token_revoked"
    assert store.get("alice.key").json["value"] == "hers"

    operator(store, "add", "alice", "--role", "maintainer")
    again = token_for(store, "alice")
    status_becomes(store, again, 200)
    answer = store.request("GET", "/v1/keys", token=alice)
    assert (answer.status, answer.json["code"]) == (401, "token_revoked")

    by_hand = [e for e in store.verified_export() if e["service_name"].startswith("local:")]
    done = [e["action"] for e in by_hand if e["key_path"] == "_store.operators.alice"]
    assert done == ["ADD_OPERATOR", "DISABLE_OPERATOR", "ADD_OPERATOR"]
    issued = [e for e in by_hand if e["action"] == "ISSUE_TOKEN"]
    assert len(issued) == 3, "two for alice, one by init, all on record"


def test_a_lost_operator_token_is_recovered_beside_a_running_server(
    shared_store: RunningStore,
) -> None:
    token = token_for(shared_store, shared_store.operator)
    assert shared_store.request("GET", "/v1/keys", token=token).status == 200
