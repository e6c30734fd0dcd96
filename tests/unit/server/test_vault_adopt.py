"""Adopting what lies in a vault already: names, fields, plans, and keys that share an entry."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.server.vaulted import Killed, Vaulted

from dox_core_store.server.domain.vault_task import HomeRecord

WHEN = ("before", "after")


def adopt(vaulted: Vaulted, *entries: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    body = {"vault": vaulted.vault.name, "entries": list(entries), **more}
    told = vaulted.asking("POST", "/v1/vaults/adopt", body)
    assert told.status == 200, told
    return list(told.json["entries"])


def entry(path: str, key_path: str, field: str | None = "value", **more: Any) -> dict[str, Any]:
    return {"path": path, "field": field, "key_path": key_path, **more}


def outcomes(done: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [(each["outcome"], each["code"]) for each in done]


def homes(vaulted: Vaulted) -> list[HomeRecord]:
    return vaulted.asking.write(lambda tx: tx.find(HomeRecord))


@pytest.fixture
def team(vaulted: Vaulted) -> Vaulted:
    """A vault in which somebody keeps things."""
    vaulted.vault.put("team/token", {"value": "s3cret"})
    vaulted.vault.put("team/db", {"user": "u", "password": "p"})
    return vaulted


SHARED = [
    entry("team/db", "team.db.user", "user", shared=True),
    entry("team/db", "team.db.password", "password", shared=True),
]


def test_an_entry_is_a_key_at_once_and_lies_where_it_lay(team: Vaulted) -> None:
    (done,) = adopt(team, entry("team/token", "team.token"))
    assert (done["key_path"], done["environment"], done["outcome"]) == (
        "team.token", "production", "adopted"
    )  # fmt: skip
    assert team.value("team.token") == "s3cret"
    assert team.vault.calls.count("store") == 0
    (version,) = team.versions("team.token")
    assert (version.number, version.created_by) == (1, "operator:root")
    items = team.asking("GET", "/v1/ledger?action=ADOPT").json["items"]
    assert [(e["key_path"], e["version"], e["reason"]) for e in items] == [
        ("team.token.production", 1, f"lies at team/token in {team.vault.name}")
    ]
    assert [each.managed for each in team.vault.entries()] == [True, False]
    assert team.put("new", path="team.token").status == 200
    assert team.vault.fields("team/token") == {"value": "new"}
    assert (team.value("team.token"), team.value("team.token", 1)) == ("new", "s3cret")


def test_a_plan_changes_nothing_and_says_what_would_be(team: Vaulted) -> None:
    team.put("x", path="team.db.user")
    wanted = [
        entry("team/token", "team.token"),
        *SHARED,
        entry("team/token", "Team.Token2"),
        entry("team/none", "team.none"),
        entry("team/token", "a..b"),
        entry("team/token", "_store.x"),
        entry("../sys", "team.sys"),
    ]
    before = team.asking.run(team.asking.catalog.feed_head())
    planned = adopt(team, *wanted, dry_run=True)
    expected = [
        ("adopted", None),
        ("refused", "already_exists"),
        ("adopted", None),
        ("known", None),
        ("refused", "vault_value_missing"),
        ("refused", "malformed_path"),
        ("refused", "reserved_path"),
        ("refused", "invalid_field"),
    ]
    assert outcomes(planned) == expected
    assert team.asking.run(team.asking.catalog.feed_head()) == before
    assert (homes(team), team.value("team.token")) == ([], "key_not_found")
    assert outcomes(adopt(team, *wanted)) == expected


def test_names_that_differ_only_in_case_are_refused(team: Vaulted) -> None:
    done = adopt(team, SHARED[0], entry("team/token", "Team.token"))
    assert outcomes(done) == [("adopted", None), ("refused", "case_collision")]
    assert team.put("free", path="team.tokens").status == 201


def test_what_cannot_be_a_value_is_refused(team: Vaulted) -> None:
    team.vault.put("team/long", {"value": "x" * 65_537})
    (done,) = adopt(team, entry("team/long", "team.long"))
    assert done["code"] == "value_too_large"


def test_done_again_it_is_known(team: Vaulted) -> None:
    wanted = [entry("team/token", "team.token"), *SHARED]
    assert outcomes(adopt(team, *wanted)) == [("adopted", None)] * 3
    assert outcomes(adopt(team, *wanted)) == [("known", None)] * 3
    (moved,) = adopt(team, entry("team/token", "another.name"))
    assert (moved["outcome"], moved["key_path"]) == ("known", "team.token")


@pytest.mark.parametrize(
    ("when", "method"), [("before", "head"), ("before", "promote"), ("after", "promote")]
)
def test_whoever_is_killed_meanwhile_is_done_again(team: Vaulted, when: str, method: str) -> None:
    wanted = [entry("team/token", "team.token"), *SHARED]
    team.vault.kill(when, method)
    body = {"vault": team.vault.name, "entries": wanted}
    with pytest.raises(Killed):
        team.asking("POST", "/v1/vaults/adopt", body)
    team.vault.spare()
    adopt(team, *wanted)
    team.recover()
    assert team.tasks() == []
    assert [team.value(each["key_path"]) for each in wanted] == ["s3cret", "u", "p"]


def test_more_than_a_transaction_takes_are_taken(team: Vaulted) -> None:
    wanted = []
    for number in range(60):
        team.vault.put(f"many/k{number}", {"value": f"v{number}"})
        wanted.append(entry(f"many/k{number}", f"many.k{number}"))
    assert outcomes(adopt(team, *wanted)) == [("adopted", None)] * 60
    assert [team.value(f"many.k{number}") for number in (0, 30, 59)] == ["v0", "v30", "v59"]
    assert team.tasks() == []


def test_an_environment_may_be_said(team: Vaulted) -> None:
    done = adopt(
        team,
        entry("team/token", "team.token", environment="staging"),
        entry("team/db", "team.db.production", "user", environment="staging"),
    )
    assert [(each["environment"], each["code"]) for each in done] == [
        ("staging", None),
        ("staging", "environment_conflict"),
    ]
    assert team.value("team.token.staging") == "s3cret"


# --- entries of several keys ----------------------------------------------------------------------


def test_a_key_of_several_is_read_and_not_written(team: Vaulted) -> None:
    adopt(team, *SHARED)
    assert (team.value("team.db.user"), team.value("team.db.password")) == ("u", "p")
    assert team.put("new", path="team.db.user").code == "entry_shared"
    assert team.vault.fields("team/db") == {"user": "u", "password": "p"}
    assert team.vault.calls.count("store") == 0


def split(vaulted: Vaulted, *paths: str) -> list[dict[str, Any]]:
    told = vaulted.asking("POST", "/v1/vaults/split", {"key_paths": list(paths)})
    assert told.status == 200, told
    return list(told.json["keys"])


def test_a_key_that_is_split_is_written(team: Vaulted) -> None:
    adopt(team, *SHARED)
    (done,) = split(team, "team.db.user")
    assert (done["outcome"], done["version"]) == ("split", 2)
    assert team.value("team.db.user") == "u"
    assert team.shows("team.db.user") == "u"
    assert team.put("new", path="team.db.user").status == 200
    assert team.value("team.db.user") == "new"
    assert team.vault.fields("team/db") == {"user": "u", "password": "p"}
    assert team.put("new", path="team.db.password").code == "entry_shared"
    assert [each["outcome"] for each in split(team, "team.db.user", "no.key")] == ["own", "refused"]
    assert team.post("destroy", path="team.db.user", version=1).status == 200
    team.recover()
    assert team.vault.fields("team/db") == {"user": "u", "password": "p"}
    assert team.value("team.db.password") == "p"


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("method", ["open", "store", "promote"])
def test_a_split_that_is_killed_is_done_again(team: Vaulted, when: str, method: str) -> None:
    adopt(team, *SHARED)
    team.vault.kill(when, method)
    with pytest.raises(Killed):
        team.asking("POST", "/v1/vaults/split", {"key_paths": ["team.db.user"]})
    team.vault.spare()
    assert team.value("team.db.user") == "u"
    split(team, "team.db.user")
    team.recover()
    assert team.tasks() == []
    assert team.vault.waiting == set()
    assert team.put("new", path="team.db.user").status == 200
    assert (team.value("team.db.user"), team.shows("team.db.user")) == ("new", "new")


def test_a_key_that_was_revoked_may_be_split_and_stored_anew(team: Vaulted) -> None:
    adopt(team, *SHARED)
    assert team.post("revoke", path="team.db.user").status == 200
    assert team.put("new", path="team.db.user").code == "entry_shared"
    assert [each["outcome"] for each in split(team, "team.db.user")] == ["own"]
    assert team.put("new", path="team.db.user").status == 200
    assert team.value("team.db.user") == "new"


def test_a_list_that_cannot_begin_says_why(team: Vaulted) -> None:
    team.fail("vault_refused", "entries")
    told = team.asking("GET", f"/v1/vaults/entries?vault={team.vault.name}")
    assert (told.status, told.code) == (503, "vault_refused")
    assert team.asking("GET", "/v1/vaults/entries?vault=here").code == "unknown_vault"
    assert team.asking("GET", "/v1/vaults/entries").code == "invalid_parameter"
