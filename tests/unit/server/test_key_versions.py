"""Versions of keys over a real store: what random operations meet too seldom to be relied on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.server.asking import KEPT, Asking, MovedClock, Told

from dox_core_store.server.domain.key import (
    KeyRecord,
    State,
    TombstoneRecord,
    UpkeepRecord,
    VersionRecord,
)
from dox_core_store.server.ports import Transaction

KEY = "/v1/keys/a.b"
SECONDS = 20
MANY = 47
"""More than two steps of retention."""


def put(asking: Asking, *values: str) -> None:
    for value in values:
        assert asking("PUT", KEY, {"value": value}).status in (200, 201)


def post(asking: Asking, act: str, **body: Any) -> Told:
    return asking("POST", f"{KEY}/{act}", body)


def states(asking: Asking) -> dict[int, str]:
    """The state of every version, by number."""
    return {v["version"]: v["state"] for v in asking("GET", f"{KEY}/versions").json["items"]}


def listed(asking: Asking) -> list[tuple[int | None, str | None]]:
    return [(row["version"], row["state"]) for row in asking("GET", "/v1/keys").json["items"]]


def staged(asking: Asking, value: str) -> str:
    """An open import that brings a version of the key."""
    import_id: str = asking("POST", "/v1/imports").json["import_id"]
    entry = {"key_path": "a.b", "environment": "production", "value": value}
    body = {"sequence": 0, "entries": [entry]}
    assert asking("POST", f"/v1/imports/{import_id}/entries", body).status == 200
    return import_id


def end(asking: Asking, import_id: str, how: str) -> None:
    assert asking("POST", f"/v1/imports/{import_id}/{how}", {}).status == 200
    asking.sweep()


def ledger(asking: Asking, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = asking("GET", f"/v1/ledger?limit=500&{query}").json["items"]
    return found


def of_version(asking: Asking, statement: str, *parameters: Any) -> list[Any]:
    """What somebody else does to the database."""
    with closing(sqlite3.connect(asking.data / "store.db")) as database, database:
        return database.execute(statement, parameters).fetchall()


# --- promoting ------------------------------------------------------------------------------------


def test_what_has_expired_is_not_promoted(asking: Asking) -> None:
    put(asking, "one")
    until = (MovedClock().now() + timedelta(minutes=5)).isoformat()
    post(asking, "propose", value="two", expires_at=until)
    MovedClock.ahead_minutes = 6
    told = post(asking, "promote")
    assert (told.status, told.code) == (409, "illegal_transition")
    assert asking("GET", KEY).json["value"] == "one"


def test_an_older_version_is_promoted_only_once_the_newer_one_is_revoked(asking: Asking) -> None:
    post(asking, "propose", value="one")
    put(asking, "two")
    told = post(asking, "promote", version=1)
    assert (told.status, told.code, told.json["actual_version"]) == (409, "version_conflict", 2)
    post(asking, "revoke")
    assert post(asking, "promote", version=1).json["state"] == "current"
    assert asking("GET", KEY).json["value"] == "one"


def test_what_an_import_brings_is_not_there_before_it_is_committed(asking: Asking) -> None:
    import_id = staged(asking, "one")
    assert listed(asking) == []
    for act in ("promote", "revoke", "destroy"):
        assert post(asking, act, version=1).code == "key_not_found"
    for act in ("retire", "rollback", "expire", "describe"):
        assert post(asking, act).code == "key_not_found"
    for address in (KEY, f"{KEY}/versions", f"{KEY}/description"):
        assert asking("GET", address).code == "key_not_found"
    end(asking, import_id, "commit")  # and none of these attempts took it away
    assert states(asking) == {1: "current"}


def test_an_aborted_import_leaves_proposals_where_they_are(asking: Asking) -> None:
    post(asking, "propose", value="one")
    import_id = staged(asking, "two")
    assert post(asking, "promote", version=2).code == "version_not_found"
    end(asking, import_id, "abort")
    assert states(asking) == {1: "pending"}
    assert listed(asking) == [(None, "pending")]
    assert post(asking, "propose", value="three").json["version"] == 3


def test_a_key_whose_proposals_are_gone_is_not_pending(asking: Asking) -> None:
    post(asking, "propose", value="one")
    assert post(asking, "destroy", version=1).json["state"] == "destroyed"
    import_id = staged(asking, "two")
    assert listed(asking) == [(None, None)]
    end(asking, import_id, "abort")
    assert (listed(asking), states(asking)) == ([(None, None)], {1: "destroyed"})


def test_a_rollback_without_a_number_takes_the_previous_version(asking: Asking) -> None:
    put(asking, "one", "two", "three")
    assert post(asking, "rollback").json["rolled_back_from"] == 2
    assert asking("GET", KEY).json["value"] == "two"
    post(asking, "retire")
    post(asking, "retire", version=3)  # again: nothing changes
    assert states(asking) == {1: "retired", 2: "retired", 3: "retired", 4: "current"}
    assert post(asking, "retire").code == "version_not_found"
    assert post(asking, "rollback").json["rolled_back_from"] == 3


# --- retention ------------------------------------------------------------------------------------


def test_what_is_too_old_is_destroyed_when_a_version_becomes_current(asking: Asking) -> None:
    post(asking, "propose", value="never")
    put(asking, "two", "three", "four", "five")
    assert states(asking) == {
        1: "pending", 2: "retired", 3: "retired", 4: "previous", 5: "current",
    }  # fmt: skip
    post(asking, "propose", value="six")
    post(asking, "promote", version=6)
    assert states(asking)[2] == "destroyed"
    assert asking("GET", f"{KEY}?version=2").code == "version_destroyed"
    (entry,) = ledger(asking, "action=DESTROY")
    assert (entry["version"], entry["reason"], entry["status"]) == (2, "retention", "GRANTED")
    assert entry["key_path"] == "a.b.production"
    assert entry["service_name"] == "operator:root"
    assert asking.write(lambda tx: tx.get(VersionRecord, number=2)).sealed is None


def test_an_import_ends_old_versions_too(asking: Asking) -> None:
    put(asking, "one", "two", "three", "four")
    assert list(states(asking).values()).count("retired") == KEPT
    end(asking, staged(asking, "five"), "commit")
    assert states(asking)[1] == "destroyed"
    (entry,) = ledger(asking, "action=DESTROY")
    assert (entry["reason"], entry["service_name"]) == ("retention", "operator:root")
    assert entry["correlation_id"].startswith("imp_")
    assert entry["request_id"].startswith("req_")


def test_whoever_changes_a_key_next_finds_an_import_done(asking: Asking) -> None:
    """Before the sweeper had a turn: what retention has to end is ended first."""
    put(asking, "one", "two", "three", "four")
    import_id = staged(asking, "five")
    committed, told = asking.in_a_row(
        ("POST", f"/v1/imports/{import_id}/commit", {}),
        ("POST", f"{KEY}/rollback", {"to_version": 1}),
    )
    assert committed.status == 200
    assert (told.status, told.code) == (409, "illegal_transition")


def test_keeping_fewer_versions_takes_effect_at_once(asking: Asking) -> None:
    put(asking, "v")
    assert post(asking, "describe", keep_versions=0).json["keep_versions"] == 0
    put(asking, *map(str, range(MANY)))
    assert set(states(asking).values()) == {"retired", "previous", "current"}
    told = post(asking, "describe", keep_versions=1).json
    assert [v["state"] for v in told["versions"]] == [
        *["destroyed"] * (MANY - 2), "retired", "previous", "current",
    ]  # fmt: skip
    assert len(ledger(asking, "action=DESTROY")) == MANY - 2
    assert post(asking, "describe", keep_versions="default").json["keep_versions"] is None


@pytest.mark.parametrize("keep", [-1, 10**12, "all", 1.5])
def test_a_number_to_keep_is_a_number(asking: Asking, keep: object) -> None:
    put(asking, "one")
    told = post(asking, "describe", keep_versions=keep)
    assert (told.status, told.code) == (400, "invalid_field")


def test_describing_a_key_takes_nothing_away_from_an_import(asking: Asking) -> None:
    put(asking, "one")
    import_id = staged(asking, "two")
    assert post(asking, "describe", owner="ada", usage="a test").json["owner"] == "ada"
    end(asking, import_id, "commit")
    told = asking("GET", f"{KEY}/description").json
    assert (told["version"], told["owner"], told["usage"]) == (2, "ada", "a test")
    told = post(asking, "describe", usage="").json
    assert (told["owner"], told["usage"]) == ("ada", None)
    assert [entry["version"] for entry in ledger(asking, "action=DESCRIBE")] == [None, None]


# --- what a restore leaves in doubt ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["put", "promote", "rollback", "import", "describe"])
def test_a_new_value_ends_the_doubt_about_a_restored_key(asking: Asking, how: str) -> None:
    put(asking, "one", "two")
    doubted = MovedClock().now()

    def doubt(tx: Transaction) -> None:
        key = tx.get(KeyRecord, path="a.b")
        assert key is not None
        tx.put(UpkeepRecord(key_id=key.key_id, keep_versions=7, unverified_since=doubted))

    asking.write(doubt)
    post(asking, "propose", value="three")
    post(asking, "describe", owner="ada")
    (row,) = asking("GET", "/v1/keys").json["items"]
    assert row["unverified_since"] is not None
    if how == "put":
        put(asking, "four")
    elif how == "import":
        end(asking, staged(asking, "four"), "commit")
    else:
        assert post(asking, how, **({"verified": True} if how == "describe" else {})).status == 200
    (row,) = asking("GET", "/v1/keys").json["items"]
    assert (row["unverified_since"], row["keep_versions"]) == (None, 7)


# --- tombstones -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["revoke", "destroy", "retention"])
def test_an_older_copy_of_a_row_brings_nothing_back(asking: Asking, how: str) -> None:
    put(asking, "one", "two", "three", "four")
    version_id = asking("GET", f"{KEY}/versions").json["items"][0]["version_id"]
    row = of_version(asking, "SELECT * FROM version WHERE version_id = ?", version_id)[0]
    if how == "retention":
        put(asking, "five")
    else:
        post(asking, how, version=1)
    of_version(asking, "DELETE FROM version WHERE version_id = ?", version_id)
    places = ", ".join("?" * len(row))
    of_version(asking, f"INSERT INTO version VALUES ({places})", *row)  # noqa: S608
    ended = "revoked" if how == "revoke" else "destroyed"
    assert asking("GET", f"{KEY}?version=1").code == f"version_{ended}"
    assert post(asking, "rollback", to_version=1).code == "illegal_transition"
    assert states(asking)[1] == ended


def test_a_revoked_version_that_is_destroyed_has_one_tombstone(asking: Asking) -> None:
    put(asking, "one")
    for act in ("revoke", "revoke", "destroy", "destroy"):
        assert post(asking, act).status == 200
    (tombstone,) = asking.write(lambda tx: tx.find(TombstoneRecord))
    assert tombstone.state is State.DESTROYED
    assert post(asking, "revoke").code == "illegal_transition"


# --- the node -------------------------------------------------------------------------------------


def test_a_node_ends_although_an_import_ended_just_before(asking: Asking) -> None:
    """Its sweeper is woken and told to end at once: neither may be lost."""
    asking.stop_when_woken(SECONDS)


def test_what_an_import_brought_is_the_keys_before_it_is_tidied_up(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever describes or limits a key right after a commit finds it."""

    async def later() -> None:
        """The sweeper has not had a turn yet."""

    monkeypatch.setattr(asking.composed.imports, "sweep", later)
    one = f"/v1/imports/{asking('POST', '/v1/imports').json['import_id']}"
    entries = [{"key_path": "brought.key", "environment": "production", "value": "v"}]
    asking("POST", f"{one}/entries", {"sequence": 0, "entries": entries})
    committed, limited, described = asking.in_a_row(
        ("POST", f"{one}/commit", {}),
        ("PUT", "/v1/keys/brought.key/limit", {"limit": "5/min"}),
        ("POST", "/v1/keys/brought.key/describe", {"owner": "alice"}),
    )
    assert [committed.status, limited.status, described.status] == [200, 200, 200]
    assert asking("GET", "/v1/keys/brought.key").json["value"] == "v"
