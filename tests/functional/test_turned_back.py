"""Someone who can write the database puts back what was there before, each row with its own MAC.

Every row is whole by itself then. What was revoked or destroyed stays so all the same, by its
tombstone. The rest is for the doctor: it compares the rows with what the ledger says of them.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from tests.functional.raw_http import ask, code_of
from tests.functional.running import RunningStore, run_doxstore

VALUE = "canary-turned-back"


@contextlib.contextmanager
def database(store: RunningStore) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(store.data / "store.db")) as connection, connection:
        yield connection


def rows(store: RunningStore, table: str) -> list[tuple[Any, ...]]:
    """The whole table, as somebody would keep it who means to put it back."""
    with database(store) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608


def put_back(store: RunningStore, table: str, saved: list[tuple[Any, ...]]) -> None:
    with database(store) as connection:
        for row in saved:
            places = ", ".join("?" for _ in row)
            connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({places})", row)  # noqa: S608


def doctor(store: RunningStore) -> dict[str, dict[str, str]]:
    done = run_doxstore("doctor", "--data", store.data, "--key-file", store.key_file, "--json")
    assert VALUE not in done.stdout + done.stderr
    return {check["check"]: check for check in json.loads(done.stdout)["checks"]}


def alarms(store: RunningStore) -> list[str]:
    lines = [json.loads(line) for line in store.log_text().splitlines() if line[:1] == "{"]
    return [line["table"] for line in lines if line["event"] == "integrity_alarm"]


def revoke(store: RunningStore, key: str, **fields: Any) -> None:
    assert ask(store, "POST", f"/v1/keys/{key}/revoke", body=fields).status == 200


def test_a_revoked_version_whose_old_row_is_put_back_stays_revoked(store: RunningStore) -> None:
    store.put("t.a", VALUE)
    store.put("t.b", VALUE)
    store.put("t.b", f"{VALUE} newer")
    token = store.issue("reader", "t.*")
    saved = rows(store, "version")
    revoke(store, "t.a")
    destroyed = ask(store, "POST", "/v1/keys/t.b/destroy", body={"version": 1})
    assert destroyed.status == 200
    assert store.stop() == 0
    put_back(store, "version", saved)
    found = doctor(store)
    assert found["records"]["status"] == "ok", "each row is whole by itself"
    told = found["ledger and records"]
    assert told["status"] == "failure"
    assert "t.a.production version 1 was revoked" in told["detail"]
    assert "t.b.production version 1 was destroyed" in told["detail"]
    store.start()
    for version in (None, 1):
        assert code_of(store.get("t.a", token, version)) == "version_revoked"
        assert VALUE.encode() not in store.get("t.a", None, version).body
    assert code_of(store.get("t.b", token, 1)) == "version_destroyed"
    assert store.get("t.b", token).json["value"] == f"{VALUE} newer"
    assert "version" in alarms(store)
    for key, body in (("t.a", {"to_version": 1}), ("t.b", {"to_version": 1})):
        refused = ask(store, "POST", f"/v1/keys/{key}/rollback", body=body)
        assert code_of(refused) == "illegal_transition", refused.body
    store.put("t.a", f"{VALUE} after")  # the key goes on, and what was put back is not superseded
    assert code_of(store.get("t.a", token, 1)) == "version_revoked"
    assert store.get("t.a", token).json["value"] == f"{VALUE} after"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tombstone SET state = 'current'",
        "UPDATE tombstone SET mac = zeroblob(length(mac))",
        "UPDATE tombstone SET buried_at = buried_at + 1",
    ],
)
def test_a_tombstone_that_was_changed_still_says_that_the_version_is_gone(
    store: RunningStore, statement: str
) -> None:
    store.put("t.a", VALUE)
    token = store.issue("reader", "t.*")
    saved = rows(store, "version")
    revoke(store, "t.a")
    assert store.stop() == 0
    put_back(store, "version", saved)
    with database(store) as connection:
        assert connection.execute(statement).rowcount == 1
    assert doctor(store)["records"]["status"] == "failure"
    store.start()
    assert code_of(store.get("t.a", token)) == "version_revoked"
    assert "tombstone" in alarms(store)


def test_the_doctor_names_a_version_whose_tombstone_was_taken_away_too(
    store: RunningStore,
) -> None:
    store.put("t.a", VALUE)
    saved = rows(store, "version")
    revoke(store, "t.a")
    assert store.stop() == 0
    put_back(store, "version", saved)
    with database(store) as connection:
        connection.execute("DELETE FROM tombstone")
    told = doctor(store)["ledger and records"]
    assert told["status"] == "failure"
    assert "t.a.production version 1 was revoked, and its row says current" in told["detail"]


def test_the_doctor_names_whatever_else_was_put_back(store: RunningStore) -> None:
    """Grants with their service, a token, generations, an operator, an older head of a key."""
    store.put("t.a", VALUE)
    store.put("t.old", VALUE)
    store.issue("granted", "t.a")
    store.issue("ended", "t.a")
    store.issue("gone", "t.a")
    place = ("--data", store.data, "--key-file", store.key_file)
    assert run_doxstore("operator", "add", "low", "--role", "admin", *place).returncode == 0
    assert run_doxstore("operator", "add", "was", "--role", "admin", *place).returncode == 0
    saved = {
        table: rows(store, table)
        for table in ("version", "key", "service", "access_grant", "token", "operator")
    }
    (grant,) = ask(store, "GET", "/v1/grants?service_name=granted").json["items"]
    taken = ask(store, "DELETE", f"/v1/grants/{grant['grant_id']}")
    assert taken.status == 204
    (token_id,) = [
        entry["key_path"].removeprefix("_store.tokens.")
        for entry in ask(store, "GET", "/v1/ledger?action=ISSUE_TOKEN").json["items"]
        if entry["reason"] == "for service granted"
    ]
    assert ask(store, "POST", f"/v1/tokens/{token_id}/revoke", body={}).status == 204
    assert ask(store, "POST", "/v1/services/ended/revoke-tokens", body={}).status == 200
    assert ask(store, "POST", "/v1/services/gone/decommission", body={}).status == 200
    assert run_doxstore("operator", "disable", "low", *place).returncode == 0
    assert run_doxstore("operator", "add", "was", "--role", "auditor", *place).returncode == 0
    store.put("t.old", f"{VALUE} newer")
    assert store.stop() == 0
    assert doctor(store)["ledger and records"]["status"] == "ok"
    for table, kept in saved.items():
        put_back(store, table, kept)
    found = doctor(store)
    assert found["records"]["status"] == "ok", "each row is whole by itself"
    told = found["ledger and records"]
    assert told["status"] == "failure"
    (count,) = [int(word) for word in told["detail"].split()[:1]]
    assert count == 8
    local = found_all(store)
    assert {
        "granted has a grant that was removed: allow t.a in production",
        "gone has a grant that was removed: allow t.a in production",
        "service ended is in generation 1, and the ledger says 2",
        "service gone was ended, and its row says nothing of it",
        "operator low was ended, and its row says nothing of it",
        "operator was has roles admin, and the ledger says auditor",
        f"token {token_id} was revoked, and its row says nothing of it",
        "t.old.production is at version 1, and the ledger says 2",
    } == set(local)


def found_all(store: RunningStore) -> list[str]:
    """All that the doctor's line shortens."""
    from dox_core_store.server.bootstrap import LocalStore
    from dox_core_store.server.settings import Settings

    local = LocalStore(Settings(data=str(store.data), key_file=str(store.key_file)))
    return local.inspection.contradictions()


SWAPPED = {
    "the keys of two versions": ("version", "key_id"),
    "the paths of two keys": ("key", "path"),
    "the heads of two keys": ("key", "head"),
    "two sealed values": ("version", "sealed"),
}
"""What is exchanged between the rows of two keys: table and column."""


def swap(store: RunningStore, table: str, column: str) -> None:
    ids = "SELECT key_id FROM key WHERE path IN ('t.a', 't.b')"
    with database(store) as connection:
        (one, mine), (other, theirs) = connection.execute(
            f"SELECT rowid, {column} FROM {table} WHERE key_id IN ({ids})"  # noqa: S608
        ).fetchall()
        for row, value in ((one, _between(mine)), (other, mine), (one, theirs)):
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))  # noqa: S608


def _between(value: Any) -> Any:
    """Something else, for a column whose values must differ."""
    return -1 if isinstance(value, int) else "between"


@pytest.mark.parametrize("what", SWAPPED)
def test_rows_exchanged_between_keys_hand_out_nothing(store: RunningStore, what: str) -> None:
    for name in "ab":
        store.put(f"t.{name}", f"{VALUE} {name}")
    store.put("t.whole", VALUE)
    token = store.issue("reader", "t.*")
    assert store.stop() == 0
    swap(store, *SWAPPED[what])
    store.start()
    for name in "ab":
        for reader in (token, None):
            answer = store.get(f"t.{name}", reader)
            assert code_of(answer) in {"key_not_found", "value_damaged"}, what
            assert VALUE.encode() not in answer.body
    assert store.get("t.whole", token).json["value"] == VALUE
    assert alarms(store), what
    found = doctor(store)
    assert "failure" in {found["records"]["status"], found["values"]["status"]}


def test_one_flipped_byte_ends_one_value_and_the_doctor_names_it(store: RunningStore) -> None:
    store.put("t.flipped", VALUE)
    store.put("t.flipped", f"{VALUE} newer")
    store.put("t.whole", VALUE)
    token = store.issue("reader", "t.*")
    assert store.stop() == 0
    with database(store) as connection:
        (version_id, sealed) = connection.execute(
            """SELECT version_id, sealed FROM version WHERE number = 2
            AND key_id = (SELECT key_id FROM key WHERE path = 't.flipped')"""
        ).fetchone()
        flipped = sealed[:-20] + bytes([sealed[-20] ^ 1]) + sealed[-19:]
        connection.execute(
            "UPDATE version SET sealed = ? WHERE version_id = ?", (flipped, version_id)
        )
    store.start()
    answer = store.get("t.flipped", token)
    assert (answer.status, code_of(answer)) == (500, "value_damaged")
    assert store.get("t.flipped", token, 1).json["value"] == VALUE
    assert store.get("t.whole", token).json["value"] == VALUE
    found = doctor(store)
    assert found["records"]["status"] == "ok"
    assert found["values"]["status"] == "failure"
    assert found["values"]["detail"].endswith("do not open: t.flipped.production version 2")
    store.put("t.flipped", f"{VALUE} again")
    assert store.get("t.flipped", token).json["value"] == f"{VALUE} again"


def test_a_rollback_passes_over_what_was_revoked_and_put_back(store: RunningStore) -> None:
    for text in ("one", "two", "three"):
        store.put("t.a", f"{VALUE} {text}")
    saved = rows(store, "version")
    revoke(store, "t.a", version=2)
    assert store.stop() == 0
    put_back(store, "version", saved)
    store.start()
    rolled = ask(store, "POST", "/v1/keys/t.a/rollback", body={})
    assert rolled.status in (200, 201), rolled.body
    assert store.get("t.a").json["value"] == f"{VALUE} one"
