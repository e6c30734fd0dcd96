"""Values that lie in a vault: written, ended, read, and killed between any two steps of it.

The store is a real one, the vault one in memory that keeps the contract of the port; real ones are
asked the same in tests/functional.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.server.asking import MovedClock
from tests.unit.server.vaulted import Killed, Vaulted

from dox_core_store.server.domain.key import ImportRecord, KeyRecord, State
from dox_core_store.server.domain.vault_task import HomeRecord, VaultAct
from dox_core_store.server.usecases.vault_task import VaultTasks

KEY = "/v1/keys/a.b"
WHEN = ("before", "after")


def destroyed(vaulted: Vaulted) -> list[tuple[int, str]]:
    items = vaulted.asking("GET", "/v1/ledger?limit=100&action=DESTROY").json["items"]
    return [(entry["version"], entry["reason"]) for entry in reversed(items)]


def imported(vaulted: Vaulted, values: dict[str, str]) -> tuple[str, dict[str, Any]]:
    import_id = vaulted.asking("POST", "/v1/imports").json["import_id"]
    entries = [
        {"key_path": path, "environment": "production", "value": value}
        for path, value in values.items()
    ]
    body = {"sequence": 0, "entries": entries}
    told = vaulted.asking("POST", f"/v1/imports/{import_id}/entries", body)
    return import_id, told.json


def end(vaulted: Vaulted, import_id: str, how: str) -> None:
    assert vaulted.asking("POST", f"/v1/imports/{import_id}/{how}", {}).status == 200
    vaulted.asking.sweep()


# --- writing --------------------------------------------------------------------------------------


def test_a_value_lies_in_the_vault_and_not_in_the_catalog(vaulted: Vaulted) -> None:
    assert vaulted.put("s3cret-canary").status == 201
    (version,) = vaulted.versions()
    assert version.vault == vaulted.vault.name
    assert vaulted.shows() == "s3cret-canary"
    assert vaulted.value() == "s3cret-canary"
    assert vaulted.tasks() == []
    for file in vaulted.asking.data.rglob("*"):
        assert not file.is_file() or b"s3cret-canary" not in file.read_bytes()


def test_every_change_of_a_key_is_followed_by_its_vault(vaulted: Vaulted) -> None:
    vaulted.put("one")
    vaulted.put("two")
    assert vaulted.post("rollback").json["rolled_back_from"] == 1
    vaulted.agree({1: "one", 2: "two", 3: "one"}, 3)
    assert vaulted.post("propose", value="four").json["version"] == 4
    assert vaulted.shows() == "one"
    assert vaulted.post("promote").json["version"] == 4
    vaulted.agree({1: "one", 2: "two", 3: "one", 4: "four"}, 4)
    vaulted.post("revoke")
    vaulted.recover()
    vaulted.agree({1: "one", 2: "two", 3: "one"}, None)
    vaulted.post("destroy", version=1)
    vaulted.recover()
    vaulted.agree({2: "two", 3: "one"}, None)
    assert destroyed(vaulted) == [(1, None), (1, "erased in memory://vault")]


def test_what_retention_ends_is_erased_in_the_vault(vaulted: Vaulted) -> None:
    for value in ("one", "two", "three", "four", "five"):
        vaulted.put(value)
    vaulted.recover()
    vaulted.agree({2: "two", 3: "three", 4: "four", 5: "five"}, 5)
    assert destroyed(vaulted) == [(1, "retention"), (1, "erased in memory://vault")]


def test_a_discarded_proposal_leaves_nothing(vaulted: Vaulted) -> None:
    vaulted.put("one")
    vaulted.post("propose", value="two")
    vaulted.post("destroy", version=2)
    vaulted.recover()
    vaulted.agree({1: "one"}, 1)
    assert vaulted.vault.waiting == set()


def test_what_is_refused_anyway_is_not_sent_to_the_vault(vaulted: Vaulted) -> None:
    vaulted.put("one")
    assert vaulted.put("two", if_version=7).code == "version_conflict"
    assert vaulted.put("two", path="nope..b").status == 400
    assert vaulted.vault.calls.count("store") == 1


@pytest.mark.parametrize("code", ["vault_unavailable", "vault_refused", "vault_conflict"])
def test_a_vault_that_does_not_take_the_value_changes_nothing(vaulted: Vaulted, code: str) -> None:
    vaulted.put("one")
    vaulted.fail(code, "store")
    assert vaulted.put("two").code == code
    vaulted.vault.spare()
    vaulted.recover()
    vaulted.agree({1: "one"}, 1)


@pytest.mark.parametrize("code", ["vault_unavailable", "vault_refused", "vault_conflict"])
def test_a_write_stands_though_the_vault_fails_after_it(vaulted: Vaulted, code: str) -> None:
    vaulted.put("one")
    vaulted.fail(code, "promote")
    assert vaulted.put("two").status == 200
    assert (vaulted.value(), vaulted.shows()) == ("two", "one")
    assert [task.act for task in vaulted.tasks()] == [VaultAct.PROMOTE]
    vaulted.vault.spare()
    vaulted.recover()
    vaulted.agree({1: "one", 2: "two"}, 2)


@pytest.mark.parametrize("code", ["vault_unavailable", "vault_refused"])
@pytest.mark.parametrize(("act", "method"), [("revoke", "withdraw"), ("destroy", "erase")])
def test_ending_a_version_does_not_need_the_vault(
    vaulted: Vaulted, act: str, method: str, code: str
) -> None:
    vaulted.put("one")
    vaulted.put("two")
    vaulted.fail(code, method)
    assert vaulted.post(act, version=1).status == 200
    assert vaulted.value(number=1) == f"version_{'revoked' if act == 'revoke' else 'destroyed'}"
    vaulted.recover()
    assert len(vaulted.tasks()) == 1
    vaulted.vault.spare()
    vaulted.recover()
    vaulted.agree({2: "two"}, 2)


def test_of_two_writers_one_wins_and_the_vault_agrees(vaulted: Vaulted) -> None:
    vaulted.put("one")

    async def both() -> list[int]:
        bodies = [{"value": value, "if_version": 1} for value in ("left", "right")]
        asked = [vaulted.ask("PUT", "a.b", body) for body in bodies]
        return [told.status for told in await asyncio.gather(*asked)]

    assert sorted(vaulted.asking.run(both())) == [200, 409]
    assert vaulted.vault.calls.count("store") == 3, "both were on their way"
    assert vaulted.vault.waiting == set(), "what lost is gone before it is answered"
    vaulted.recover()
    winner = vaulted.value()
    assert winner in ("left", "right")
    vaulted.agree({1: "one", 2: winner}, 2)
    assert vaulted.vault.waiting == set()


def test_writers_without_a_condition_follow_each_other(vaulted: Vaulted) -> None:
    async def many() -> None:
        asked = [vaulted.ask("PUT", "a.b", {"value": f"v{n}"}) for n in range(8)]
        assert {told.status for told in await asyncio.gather(*asked)} <= {200, 201}

    vaulted.asking.run(many())
    vaulted.recover()
    assert (vaulted.tasks(), vaulted.shows()) == ([], vaulted.value())


@pytest.mark.parametrize("answers", [True, False], ids=["erased", "not_erased_yet"])
def test_a_writer_who_was_given_up_writes_nothing(vaulted: Vaulted, answers: bool) -> None:
    """It slept while its value lay in the vault, and the sweeper came by."""
    vaulted.put("one")
    if not answers:
        vaulted.fail("vault_unavailable", "find", "erase")
    swept: list[Any] = []

    def sweep_meanwhile(method: str) -> None:
        if method == "store" and not swept:
            swept.append(True)
            MovedClock.ahead_minutes = 20
            loop = vaulted.asking._runner.get_loop()
            sweeping = vaulted.asking.composed.fronting.tasks.sweep()
            asyncio.run_coroutine_threadsafe(sweeping, loop).result(10)

    vaulted.vault.after = sweep_meanwhile
    assert vaulted.put("two").code == "vault_unavailable"
    vaulted.vault.spare()
    vaulted.recover()
    vaulted.agree({1: "one"}, 1)
    assert vaulted.vault.waiting == set()


# --- killed in between ----------------------------------------------------------------------------


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("act", ["put", "rollback"])
def test_killed_around_storing_nothing_was_written(vaulted: Vaulted, when: str, act: str) -> None:
    vaulted.put("one")
    vaulted.put("two")
    vaulted.vault.kill(when, "store")
    if act == "put":
        vaulted.killed("PUT", KEY, {"value": "three"})
    else:
        vaulted.killed("POST", f"{KEY}/rollback", {})
    assert [task.act for task in vaulted.tasks()] == [VaultAct.STORE]
    vaulted.recover()
    vaulted.agree({1: "one", 2: "two"}, 2)
    assert vaulted.vault.waiting == set()


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("act", ["put", "promote"])
def test_killed_around_promoting_it_was_written(vaulted: Vaulted, when: str, act: str) -> None:
    vaulted.put("one")
    if act == "promote":
        vaulted.post("propose", value="two")
    vaulted.vault.kill(when, "promote")
    if act == "put":
        vaulted.killed("PUT", KEY, {"value": "two"})
    else:
        vaulted.killed("POST", f"{KEY}/promote", {})
    assert vaulted.value() == "two", "readers do not wait for that"
    vaulted.recover()
    vaulted.agree({1: "one", 2: "two"}, 2)


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("promoted", [False, True], ids=["waiting", "promoted"])
@pytest.mark.parametrize(("act", "method"), [("revoke", "withdraw"), ("destroy", "erase")])
def test_killed_around_ending_it_is_ended(
    vaulted: Vaulted,
    monkeypatch: pytest.MonkeyPatch,
    act: str,
    method: str,
    promoted: bool,
    when: str,
) -> None:
    monkeypatch.setattr(VaultTasks, "soon", lambda _self, _version_id: None)
    vaulted.put("one")
    if not promoted:
        vaulted.vault.kill("after", "promote")
        vaulted.killed("PUT", KEY, {"value": "two"})
    else:
        vaulted.put("two")
    vaulted.put("three")
    vaulted.post(act, version=2)
    vaulted.vault.kill(when, method)
    MovedClock.ahead_minutes += 1
    with contextlib.suppress(Killed):  # unless it is the node's own sweeper that met it
        vaulted.sweep()
    vaulted.recover()
    vaulted.agree({1: "one", 3: "three"}, 3)


@pytest.mark.parametrize("acts", [("revoke",), ("revoke", "destroy")])
def test_a_version_that_ends_while_it_is_promoted_is_ended(
    vaulted: Vaulted, acts: tuple[str, ...]
) -> None:
    """The vault was told of its end at once, and had read the value for the promotion before."""
    vaulted.put("one")
    loop = vaulted.asking._runner.get_loop()
    ended: list[str] = []

    def end_meanwhile(method: str) -> None:
        if method != "promote" or ended:
            return
        (ended[:],) = [vaulted.vault.waiting]
        for act in acts:
            asked = vaulted.ask("POST", f"a.b/{act}", {"version": 2})
            assert asyncio.run_coroutine_threadsafe(asked, loop).result(10).status == 200
        told = vaulted.asking.composed.fronting.tasks.finish(ended)
        asyncio.run_coroutine_threadsafe(told, loop).result(10)
        vaulted.vault._pending[ended[0]] = "two"

    vaulted.vault.before = end_meanwhile
    assert vaulted.put("two").status == 200
    vaulted.recover()
    vaulted.agree({1: "one"}, None)


@pytest.mark.parametrize("acts", [("revoke",), ("revoke", "destroy")])
def test_a_version_that_ends_before_the_vault_heard_of_it_leaves_nothing_current(
    vaulted: Vaulted, monkeypatch: pytest.MonkeyPatch, acts: tuple[str, ...]
) -> None:
    """As after an import, which the sweeper tells the vault of some seconds later."""
    monkeypatch.setattr(VaultTasks, "soon", lambda _self, _version_id: None)
    vaulted.put("one")
    import_id, _ = imported(vaulted, {"a.b": "two"})
    assert vaulted.asking("POST", f"/v1/imports/{import_id}/commit", {}).status == 200
    assert vaulted.shows() == "one"
    for act in acts:
        assert vaulted.post(act, version=2).status == 200
    vaulted.recover()
    vaulted.recover()
    vaulted.agree({1: "one"}, None)


# --- imports --------------------------------------------------------------------------------------


def test_an_import_goes_to_the_vault_and_becomes_current_at_once(vaulted: Vaulted) -> None:
    vaulted.put("one")
    vaulted.put("same", path="c.d")
    values = {"a.b": "two", "c.d": "same", **{f"many.k{n}": f"v{n}" for n in range(40)}}
    import_id, told = imported(vaulted, values)
    assert (told["created"], told["replaced"], told["unchanged"]) == (40, 1, 1)
    assert (vaulted.value(), vaulted.shows()) == ("one", "one")
    body = {"sequence": 0, "entries": []}
    assert vaulted.asking("POST", f"/v1/imports/{import_id}/entries", body).status == 200
    assert vaulted.asking("POST", f"/v1/imports/{import_id}/commit", {}).status == 200
    assert vaulted.value() == "two", "before the sweeper came by"
    vaulted.asking.sweep()
    vaulted.recover()
    vaulted.agree({1: "one", 2: "two"}, 2)
    vaulted.agree({1: "same"}, 1, path="c.d")
    vaulted.agree({1: "v7"}, 1, path="many.k7")
    assert vaulted.vault.waiting == set()


def test_an_aborted_import_leaves_nothing_in_the_vault(vaulted: Vaulted) -> None:
    vaulted.put("one")
    import_id, _ = imported(vaulted, {"a.b": "two", "c.d": "new"})
    assert len(vaulted.vault.waiting) == 2
    end(vaulted, import_id, "abort")
    vaulted.recover()
    vaulted.agree({1: "one"}, 1)
    assert vaulted.vault.waiting == set()
    assert vaulted.value("c.d") == "key_not_found"


def test_a_slice_that_the_vault_does_not_take_is_not_there(vaulted: Vaulted) -> None:
    import_id = vaulted.asking("POST", "/v1/imports").json["import_id"]
    entries = [{"key_path": f"k{n}", "environment": "production", "value": "v"} for n in range(9)]
    body = {"sequence": 0, "entries": entries}
    stored: list[str] = []

    def refuse_the_fifth(method: str) -> None:
        stored.extend([method] if method == "store" else [])
        if stored.count("store") == 5:
            vaulted.vault.spare()
            raise ConnectionError

    vaulted.vault.before = refuse_the_fifth
    assert vaulted.asking("POST", f"/v1/imports/{import_id}/entries", body).status == 500
    vaulted.recover()
    assert vaulted.vault.waiting == set()
    told = vaulted.asking("POST", f"/v1/imports/{import_id}/entries", body)
    assert told.json["created"] == 9
    end(vaulted, import_id, "commit")
    assert vaulted.value("k8") == "v"


def test_a_slice_with_a_key_twice_is_refused(vaulted: Vaulted) -> None:
    import_id = vaulted.asking("POST", "/v1/imports").json["import_id"]
    entries = [
        {"key_path": "k", "environment": "production", "value": value} for value in ("v", "w")
    ]
    body = {"sequence": 0, "entries": entries}
    told = vaulted.asking("POST", f"/v1/imports/{import_id}/entries", body)
    assert told.code == "malformed_import"
    vaulted.recover()
    assert vaulted.vault.waiting == set()


def test_a_slice_sent_again_stages_nothing_again(vaulted: Vaulted) -> None:
    import_id, _ = imported(vaulted, {"a.b": "two"})

    def unsaid(tx: Any) -> None:
        """The answer, and that it was the whole slice, were lost."""
        record = tx.get(ImportRecord, import_id=import_id)
        tx.put(replace(record, next_sequence=0))

    vaulted.asking.write(unsaid)
    entry = {"key_path": "a.b", "environment": "production", "value": "two"}
    body = {"sequence": 0, "entries": [entry]}
    told = vaulted.asking("POST", f"/v1/imports/{import_id}/entries", body)
    assert told.json["unchanged"] == 1
    assert len(vaulted.vault.waiting) == 1


# --- entries of others ----------------------------------------------------------------------------


def test_a_key_in_an_entry_with_others_is_not_written(vaulted: Vaulted) -> None:
    vaulted.put("one")
    vaulted.put("two")

    def share(tx: Any) -> None:
        key = tx.get(KeyRecord, path="a.b", environment="production")
        tx.put(HomeRecord(key.key_id, vaulted.vault.name, "team/db", "password", shared=True))

    vaulted.asking.write(share)
    assert vaulted.put("three").code == "entry_shared"
    assert vaulted.post("rollback").code == "entry_shared"
    assert vaulted.post("revoke").status == 200
    vaulted.recover()
    assert vaulted.tasks() == []
    assert vaulted.shows() == "two", "what lies in it is other keys' too"


def test_an_adopted_entry_gets_the_next_version_where_it_lies(vaulted: Vaulted) -> None:
    vaulted.put("one")
    vaulted.vault.put("team/db", {"password": "theirs"})

    def move_in(tx: Any) -> None:
        key = tx.get(KeyRecord, path="a.b", environment="production")
        tx.put(HomeRecord(key.key_id, vaulted.vault.name, "team/db", "password", shared=False))

    vaulted.asking.write(move_in)
    vaulted.put("two")
    assert vaulted.vault.fields("team/db") == {"password": "two"}
    assert vaulted.value() == "two"


def test_the_state_of_what_is_ended_says_where_it_lay(vaulted: Vaulted) -> None:
    vaulted.put("one")
    vaulted.post("revoke")
    vaulted.post("destroy", version=1)
    vaulted.recover()
    (version,) = vaulted.versions()
    assert (version.state, version.sealed) == (State.DESTROYED, None)
    assert version.vault == vaulted.vault.name
