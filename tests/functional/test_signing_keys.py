"""Replacing the key that signs tokens on a real server: as planned, and because somebody has it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from tests.functional.kept_connection import connected
from tests.functional.raw_http import code_of
from tests.functional.running import Answer, RunningStore, run_doxstore

READERS = 16


def kid_of(token: str) -> str:
    header = token.partition(".")[0]
    kid: str = json.loads(base64.urlsafe_b64decode(header + "=="))["kid"]
    return kid


def published(store: RunningStore) -> set[str]:
    answer = store.request("GET", "/.well-known/jwks.json", token="")
    return {key["kid"] for key in answer.json["keys"]}


def rotate(store: RunningStore, **body: Any) -> Answer:
    return store.request("POST", "/v1/signing-keys/rotate", json=body)


def listed(store: RunningStore) -> dict[str, Any]:
    page = store.request("GET", "/v1/signing-keys").json
    assert page["next_cursor"] is None
    return {key["kid"]: key for key in page["items"]}


def way_back(store: RunningStore) -> str:
    """A new token for the operator, made on the store's own files beside the server."""
    command = ("operator", "token", store.operator, "--data", store.data)
    made = run_doxstore(*command, "--key-file", store.key_file, "--json")
    assert made.returncode == 0, made.stderr
    token: str = json.loads(made.stdout)["token"]
    return token


def test_a_planned_rotation_lets_old_tokens_live_and_signs_new_ones_with_the_new_key(
    store: RunningStore,
) -> None:
    store.put("app.key", "value")
    old_token = store.issue("jules", "app.key")
    old = kid_of(old_token)
    assert published(store) == {old}
    done = rotate(store, reason="once a year").json
    new = done["kid"]
    assert done == {"kid": new, "retired": old, "compromised": None, "tokens_ended": 0}
    assert published(store) == {old, new}
    new_token = store.issue("jules")
    assert kid_of(new_token) == new
    for token in (old_token, new_token):
        assert store.get("app.key", token).json["value"] == "value"
    assert kid_of(way_back(store)) == new, "a command beside the server follows at once"

    keys = listed(store)
    assert list(keys) == [new, old], "the newest first"
    assert (keys[old]["status"], keys[new]["status"]) == ("retired", "signing")
    assert (keys[old]["live_tokens"], keys[new]["live_tokens"]) == (2, 2)
    assert keys[old]["verifies_until"] > keys[old]["retired_at"] == keys[new]["created_at"]

    entries = [e for e in store.verified_export() if e["action"] == "ROTATE_SIGNING_KEY"]
    assert [(e["service_name"], e["key_path"], e["reason"]) for e in entries] == [
        (
            f"operator:{store.operator}",
            f"_store.signing_keys.{new}",
            f"in place of {old}: once a year",
        )
    ]

    store.stop()
    store.start()
    assert published(store) == {old, new}
    assert store.get("app.key", old_token).status == 200
    assert kid_of(store.issue("jules")) == new


def test_a_retired_key_without_living_tokens_is_published_no_more(store: RunningStore) -> None:
    service_token = store.issue("jules")
    old = kid_of(service_token)
    assert rotate(store).status == 200
    dying = store.admin_token
    store.admin_token = way_back(store)
    for page in store.request("GET", "/v1/tokens").json["items"]:
        if page["signing_key"] == old:
            revoked = store.request("POST", f"/v1/tokens/{page['token_id']}/revoke", json={})
            assert revoked.status == 204
    store.stop()
    store.start()
    assert old not in published(store)
    assert listed(store)[old]["status"] == "spent"
    assert store.get("app.key", dying).json["code"] == "token_invalid"


def test_a_compromised_key_verifies_nothing_and_the_operator_finds_the_way_back(
    store: RunningStore,
) -> None:
    store.put("app.key", "value")
    token = store.issue("jules", "app.key")
    old, old_admin = kid_of(token), store.admin_token
    done = rotate(store, compromised=True, reason="leaked")
    assert done.status == 200, "who asked is told, by the token that died of it"
    new = done.json["kid"]
    assert done.json == {"kid": new, "retired": None, "compromised": old, "tokens_ended": 2}
    for dead in (token, old_admin):
        answer = store.get("app.key", dead)
        assert (answer.status, code_of(answer)) == (401, "token_invalid")
    assert store.request("GET", "/v1/services", token=old_admin).status == 401
    assert published(store) == {new}

    store.admin_token = way_back(store)
    assert store.get("app.key", store.issue("jules")).json["value"] == "value"
    keys = listed(store)
    assert keys[old]["status"] == "compromised"
    assert keys[old]["verifies_until"] is None
    dead_ones = store.request("GET", "/v1/tokens").json["items"]
    assert sorted(each["status"] for each in dead_ones) == ["compromised"] * 2 + ["live"] * 2
    said = {
        e["key_path"]: e["reason"]
        for e in store.verified_export()
        if e["action"] == "ROTATE_SIGNING_KEY"
    }
    assert said == {
        f"_store.signing_keys.{new}": f"in place of {old}: leaked",
        f"_store.signing_keys.{old}": "compromised: leaked",
    }
    store.stop()
    store.start()
    assert store.get("app.key", token).json["code"] == "token_invalid"


def test_a_retired_key_may_turn_out_to_be_compromised(store: RunningStore) -> None:
    store.put("app.key", "value")
    old_token = store.issue("jules", "app.key")
    old = kid_of(old_token)
    new = rotate(store).json["kid"]
    store.admin_token = way_back(store)
    new_token = store.issue("jules")
    answer = rotate(store, compromised=True, kid=old, reason="found in a backup").json
    assert answer == {"kid": new, "retired": None, "compromised": old, "tokens_ended": 2}
    assert store.get("app.key", old_token).json["code"] == "token_invalid"
    assert store.get("app.key", new_token).status == 200
    assert published(store) == {new}
    again = rotate(store, compromised=True, kid=old)
    assert again.status == 200, "repeating it changes nothing"
    assert code_of(rotate(store, compromised=True, kid="nobody")) == "signing_key_not_found"
    assert code_of(rotate(store, kid=old)) == "invalid_field"
    assert published(store) == {new}


def test_only_an_admin_rotates(store: RunningStore) -> None:
    command = ("--data", store.data, "--key-file", store.key_file)
    roles = ("maintainer", "security_team_lead", "auditor")
    named = [word for role in roles for word in ("--role", role)]
    assert run_doxstore("operator", "add", "eve", *named, *command).returncode == 0
    made = run_doxstore("operator", "token", "eve", *command)
    eve = made.stdout.strip()
    before = published(store)
    for token in (eve, store.issue("jules")):
        body = {"compromised": True}
        answer = store.request("POST", "/v1/signing-keys/rotate", token=token, json=body)
        assert code_of(answer) == "role_required"
    assert published(store) == before


def test_no_value_leaves_by_a_compromised_key_once_that_is_answered(store: RunningStore) -> None:
    """Readers that never pause while the key is compromised: the reads under way then are decided
    again, so a value that was answered later than the rotation is a leak."""
    store.put("app.key", "value")
    token = store.issue("jules", "app.key")
    revoked = threading.Event()

    async def read() -> tuple[int, int]:
        before = 0
        async with connected(store, token) as connection:
            while True:
                was_revoked = revoked.is_set()
                answer = await connection.get("app.key")
                if answer.status != 200:
                    assert answer.json["code"] == "token_invalid"
                    return before, 0
                assert not was_revoked, "a value left by a compromised key"
                before += 1

    async def all_of_them() -> int:
        readers = [asyncio.create_task(read()) for _ in range(READERS)]
        await asyncio.sleep(0.3)
        answer = await asyncio.to_thread(rotate, store, compromised=True)
        assert answer.status == 200
        revoked.set()
        return sum(before for before, _ in await asyncio.gather(*readers))

    read_before = asyncio.run(all_of_them())
    assert read_before > READERS
    store.admin_token = way_back(store)
    entries = store.verified_export()
    at = next(e["timestamp"] for e in entries if e["action"] == "ROTATE_SIGNING_KEY")
    reads = [e for e in entries if e["action"] == "GET" and e["status"] == "GRANTED"]
    undone = [e for e in entries if e["action"] == "GET" and e["status"] == "ABORTED"]
    assert len(reads) - len(undone) == read_before, "one entry for each value that left"
    late = {e["request_id"] for e in reads if e["timestamp"] > at}
    assert late <= {e["request_id"] for e in undone}, "what was recorded after it did not leave"


def test_a_kill_in_the_middle_leaves_the_old_key_or_the_new_one(store: RunningStore) -> None:
    store.put("app.key", "value")
    token = store.issue("jules", "app.key")
    for delay in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3):
        asked = threading.Thread(target=rotate_and_forget, args=(store,))
        asked.start()
        asked.join(delay)
        store.kill()
        asked.join()
        store.start()
        keys = listed(store)
        signing = [kid for kid, key in keys.items() if key["status"] == "signing"]
        assert len(signing) == 1
        assert kid_of(store.issue("jules")) == signing[0]
        assert store.get("app.key", token).status == 200


def test_a_compromise_after_the_backup_is_done_again_by_the_restore(
    store: RunningStore, tmp_path: Path
) -> None:
    """Otherwise the leaked key would sign for the restored store."""
    store.put("app.key", "value")
    token = store.issue("jules", "app.key")
    old = kid_of(token)
    files = ("--data", store.data, "--key-file", store.key_file)
    backup, shipped = tmp_path / "store.backup", tmp_path / "shipped.jsonl"
    assert run_doxstore("backup", "create", backup, *files).returncode == 0
    assert rotate(store, compromised=True, reason="leaked").status == 200
    store.admin_token = way_back(store)
    store.stop()
    store.start()  # what was done is under a checkpoint
    exported = store.request("GET", "/v1/ledger/export", timeout=60).body
    shipped.write_bytes(exported)
    store.stop()
    store.data = tmp_path / "restored"
    restored = run_doxstore(
        *("backup", "restore", backup, "--data", store.data, "--key-file", store.key_file),
        *("--checkpoints", shipped, "--json"),
    )
    assert restored.returncode == 0, restored.stderr
    store.start()
    assert store.get("app.key", token).json["code"] == "token_invalid"
    assert old not in published(store)
    store.admin_token = way_back(store)
    assert kid_of(store.admin_token) not in (old, "")
    said = [e["reason"] for e in store.export() if e["key_path"].endswith(old)]
    assert said[-1].startswith("compromised: since the backup, by operator:")


def test_doctor_finds_a_compromised_key_that_was_turned_back(store: RunningStore) -> None:
    def row(kid: str, put: tuple[Any, ...] | None = None) -> tuple[Any, ...]:
        with contextlib.closing(sqlite3.connect(store.data / "store.db")) as database:
            if put is not None:
                database.execute("REPLACE INTO signing_key VALUES (?, ?, ?, ?, ?, ?)", put)
                database.commit()
            where = "SELECT * FROM signing_key WHERE kid = ?"
            return tuple(database.execute(where, (kid,)).fetchone())

    [kid] = published(store)
    before = row(kid)
    assert rotate(store, compromised=True).status == 200
    store.stop()
    row(kid, put=before)
    files = ("--data", store.data, "--key-file", store.key_file)
    looked = run_doxstore("doctor", *files, "--json")
    assert looked.returncode == 1
    assert f"signing key {kid} was compromised" in looked.stdout


def rotate_and_forget(store: RunningStore) -> None:
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        rotate(store)
