"""Lists of tokens: what they say of each, filters, pages, and that what is dead is called dead."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from tests.functional.kept_connection import connected
from tests.functional.raw_http import code_of
from tests.functional.running import RunningStore, run_doxstore

from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.seals.key_file import KeyFileHolder
from dox_core_store.server.adapters.seals.unlocking import Unlocking
from dox_core_store.server.adapters.sql.store import open_store
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.domain.access import TokenRecord
from dox_core_store.server.domain.signing_key import SigningKeyRecord
from dox_core_store.server.ports import Transaction

READERS = 16


def tokens(store: RunningStore, **query: str) -> list[dict[str, Any]]:
    """Every page of a list, two a page."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        rest = "".join(f"&{name}={text}" for name, text in query.items())
        page = store.request("GET", f"/v1/tokens?limit=2{rest}{cursor}").json
        assert len(page["items"]) <= 2
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


def issue(store: RunningStore, service: str, **fields: Any) -> tuple[str, str]:
    answer = store.request("POST", "/tokens", json={"service_name": service, **fields})
    assert answer.status == 201, answer.body
    return answer.json["token"], answer.json["token_id"]


def test_a_token_is_listed_with_all_that_is_known_of_it(store: RunningStore) -> None:
    store.put("app.key", "value")
    store.register("jules", "app.key")
    token, token_id = issue(store, "jules", expires_in="45d", environment="production")
    answer = store.request("GET", f"/v1/tokens/{token_id}")
    said = answer.json
    assert said["last_used_at"] is None
    assert (said["kind"], said["name"], said["status"]) == ("service", "jules", "live")
    assert (said["environment"], said["issued_by"]) == ("production", f"operator:{store.operator}")
    assert (said["revoked_at"], said["addresses"]) == (None, [])
    assert said["issued_at"] < said["expires_at"]
    assert token not in answer.body.decode()
    assert store.get("app.key", token).status == 200
    deadline = time.monotonic() + 30
    while store.request("GET", f"/v1/tokens/{token_id}").json["last_used_at"] is None:
        assert time.monotonic() < deadline, "its use is some seconds behind, and no more"
        time.sleep(0.2)
    assert code_of(store.request("GET", "/v1/tokens/tok_nobody")) == "token_not_found"


def test_lists_are_filtered_and_paged(store: RunningStore) -> None:
    for service in ("one", "two"):
        store.register(service)
    short = issue(store, "one", expires_in="10d")[1]
    long = [issue(store, "one")[1] for _ in range(3)]
    other = issue(store, "two", expires_in="20d")[1]
    everyone = tokens(store)
    assert [each["token_id"] for each in everyone] == sorted(each["token_id"] for each in everyone)
    assert {short, *long, other} < {each["token_id"] for each in everyone}
    assert {each["kind"] for each in everyone} == {"service", "operator"}
    assert {each["token_id"] for each in tokens(store, service_name="one")} == {short, *long}
    soon = tokens(store, expiring_within="30d")
    assert {each["token_id"] for each in soon if each["kind"] == "service"} == {short, other}
    assert tokens(store, service_name="two", expiring_within="12h") == []
    assert tokens(store, unused_for="1d") == []
    for wrong in ("expiring_within=soon", "unused_for=2y", "ended=maybe", "kind=service"):
        answer = store.request("GET", f"/v1/tokens?{wrong}")
        assert code_of(answer) == "invalid_parameter"
    jules = store.issue("jules")
    assert code_of(store.request("GET", "/v1/tokens", token=jules)) == "role_required"


@pytest.mark.parametrize("how", ["token", "service", "decommission"])
def test_what_is_dead_is_called_dead(store: RunningStore, how: str) -> None:
    store.register("jules")
    ids = [issue(store, "jules")[1] for _ in range(3)]
    target = {
        "token": f"/v1/tokens/{ids[0]}/revoke",
        "service": "/v1/services/jules/revoke-tokens",
        "decommission": "/v1/services/jules/decommission",
    }[how]
    assert store.request("POST", target, json={"reason": "test"}).status in (200, 204)
    dead = {each["token_id"] for each in tokens(store) if each["status"] == "revoked"}
    assert dead == ({ids[0]} if how == "token" else set(ids))
    if how == "service":
        young = issue(store, "jules")[1]
        assert store.request("GET", f"/v1/tokens/{young}").json["status"] == "live"
    assert not [each for each in tokens(store, expiring_within="400d") if each["token_id"] in dead]


def test_a_disabled_operators_tokens_are_listed_as_dead(store: RunningStore) -> None:
    files = ("--data", store.data, "--key-file", store.key_file)
    for arguments in (
        ("add", "lena", "--role", "auditor", "--reason", "joined"),
        ("token", "lena", "--reason", "first day"),
        ("disable", "lena", "--reason", "left"),
    ):
        assert run_doxstore("operator", *arguments, *files).returncode == 0
    [hers] = [each for each in tokens(store) if each["name"] == "lena"]
    assert hers["status"] == "revoked"
    said = [e["reason"] for e in store.export() if e["key_path"] == "_store.operators.lena"]
    assert said == ["auditor: joined", "left"]
    issued = [e["reason"] for e in store.export() if e["action"] == "ISSUE_TOKEN"]
    assert "for operator lena: first day" in issued


@pytest.mark.parametrize("how", ["token", "service"])
def test_no_value_leaves_after_a_revocation_is_answered(store: RunningStore, how: str) -> None:
    store.put("app.key", "value")
    store.register("jules", "app.key")
    token, token_id = issue(store, "jules")
    revoked = threading.Event()
    target = {
        "token": f"/v1/tokens/{token_id}/revoke",
        "service": "/v1/services/jules/revoke-tokens",
    }[how]

    async def read() -> int:
        before = 0
        async with connected(store, token) as connection:
            while True:
                was_revoked = revoked.is_set()
                answer = await connection.get("app.key")
                if answer.status != 200:
                    assert answer.json["code"] == "token_revoked"
                    return before
                assert not was_revoked, "a value left after the revocation was answered"
                before += 1

    async def all_of_them() -> int:
        readers = [asyncio.create_task(read()) for _ in range(READERS)]
        await asyncio.sleep(0.3)
        answer = await asyncio.to_thread(store.request, "POST", target, json={"reason": "lost"})
        assert answer.status in (200, 204)
        revoked.set()
        return sum(await asyncio.gather(*readers))

    read_before = asyncio.run(all_of_them())
    assert read_before > READERS
    reads = [e for e in store.verified_export() if e["action"] == "GET"]
    granted = sum(e["count"] for e in reads if e["status"] == "GRANTED")
    aborted = sum(e["count"] for e in reads if e["status"] == "ABORTED")
    assert granted - aborted == read_before, "one entry for each value that left"


def test_the_command_line_lists_issues_and_rotates(store: RunningStore) -> None:
    store.register("jules")
    environment = {"KEY_SERVICE_URL": store.url, "ADMIN_TOKEN": store.admin_token}

    def run(*arguments: str, code: int = 0, stdin: str = "") -> Any:
        done = run_doxstore("token", *arguments, stdin=stdin, **environment)
        assert done.returncode == code, done.stderr
        return done

    made = run("issue", "jules", "--address", "127.0.0.0/8", "--reason", "new host")
    assert "from 127.0.0.0/8 alone" in made.stderr
    assert store.request("GET", "/v1/keys/none", token=made.stdout.strip()).status == 403
    [listed] = json.loads(run("list", "--service", "jules", "--json").stdout)
    assert listed["addresses"] == ["127.0.0.0/8"]
    table = run("list", "--expiring", "100d").stdout
    assert listed["token_id"] in table
    assert json.loads(run("list", "--unused", "90d", "--json").stdout) == []
    rotated = json.loads(run("rotate-signing-key", "--reason", "yearly", "--json").stdout)
    keys = json.loads(run("signing-keys", "--json").stdout)
    assert [key["kid"] for key in keys] == [rotated["kid"], rotated["retired"]]
    unasked = run("rotate-signing-key", "--compromised", "--reason", "leak", code=2)
    assert "live tokens were signed by" in unasked.stderr
    ended = run("rotate-signing-key", "--compromised", "--reason", "leak", "--yes")
    assert "doxstore operator token NAME --data" in ended.stderr
    run("signing-keys", code=0)
    reasons = [e["reason"] for e in store.export() if e["action"] == "ISSUE_TOKEN"]
    assert "for service jules: new host" in reasons


def aged(store: RunningStore, token_id: str, *, issued_days: int, left_days: int) -> None:
    """Make a token that was issued long ago, and the key that signed it: a test cannot wait."""
    opened = open_store(
        SqlitePlace(store.data),
        unlock=Unlocking([KeyFileHolder(store.key_file)]),
        alarm=lambda *_row: None,
    )

    def work(tx: Transaction) -> None:
        long_ago = tx.now - timedelta(days=issued_days)
        for key in tx.find(SigningKeyRecord):
            tx.put(replace(key, created_at=long_ago))
        token = tx.get(TokenRecord, token_id=token_id)
        assert token is not None
        ends = tx.now + timedelta(days=left_days)
        tx.put(replace(token, issued_at=long_ago, expires_at=ends))

    opened.write(work, SystemClock())
    opened.engine.dispose()


def test_tokens_that_expire_soon_are_told_by_log_metrics_and_doctor(store: RunningStore) -> None:
    store.register("jules")
    token, token_id = issue(store, "jules", environment="staging")
    store.stop()
    files = ("--data", store.data, "--key-file", store.key_file, "--json")

    def finding() -> dict[str, str]:
        checks = json.loads(run_doxstore("doctor", *files).stdout)["checks"]
        return next(each for each in checks if each["check"] == "tokens")

    assert finding()["status"] == "ok"
    aged(store, token_id, issued_days=85, left_days=5)
    assert finding()["status"] == "warning"
    assert f"{token_id} of jules" in finding()["detail"]
    assert "doxstore token issue jules -e staging" in finding()["detail"]
    store.start()
    deadline = time.monotonic() + 30
    while "token_expiring" not in store.log_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    line = next(each for each in store.log_text().splitlines() if "token_expiring" in each)
    said = json.loads(line)
    assert (said["token_id"], said["name"], said["within_days"]) == (token_id, "jules", 7)
    metrics = store.request("GET", "/metrics", token="").body.decode()
    assert 'doxstore_tokens_expiring{days="30"} 1.0' in metrics
    assert 'doxstore_tokens_expiring{days="7"} 1.0' in metrics
    assert token_id not in metrics
    assert token not in store.log_text()
