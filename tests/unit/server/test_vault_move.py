"""Moving values between places: what lies where, who may be killed when, and who reads meanwhile.

The store is a real one and the vaults are in memory; real ones are asked in tests/functional.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.server.asking import Asking, MovedClock
from tests.unit.server.vaulted import Killed, Vaulted, WatchedVault, vaults_are

from dox_core_store.server.bootstrap import node, vaults
from dox_core_store.server.domain.key import VersionRecord
from dox_core_store.server.domain.vault_task import CopyAct, CopyRecord

NEW, OTHER = "memory://new", "memory://other"
WHEN = ("before", "after")
EVERY_METHOD = [(when, method) for method in ("store", "open", "promote") for when in WHEN]


class Moving(Vaulted):
    """Values go to ``vault``; ``other`` is known too, and so is the place here."""

    def __init__(self, asking: Asking, vault: WatchedVault, other: WatchedVault) -> None:
        super().__init__(asking, vault)
        self.other = other

    def move(self, to: str, **more: Any) -> Any:
        told = self.asking("POST", "/v1/vaults/move", {"to": to, **more})
        assert told.status == 200, told
        return told.json

    def erase(self, to: str) -> Any:
        return self.asking("POST", "/v1/vaults/erase-copies", {"to": to}).json

    def copies(self) -> list[CopyRecord]:
        return self.asking.write(lambda tx: tx.find(CopyRecord))

    def tidy(self) -> None:
        """What the sweepers do once nobody can be at it any more."""
        self.recover()
        self.asking.run(self.asking.composed.fronting.copies.sweep())

    def lie(self, path: str = "a.b") -> set[str | None]:
        return {each.vault for each in self.versions(path) if each.sealed is not None}

    def filled(self) -> dict[int, str]:
        """A key with a version in every state that can be read, and one that cannot."""
        for value in ("one", "two", "three", "four"):
            self.put(value)
        self.post("revoke", version=1)
        self.post("propose", value="five")
        self.recover()
        return {2: "two", 3: "three", 4: "four"}

    def same(self, values: dict[int, str]) -> None:
        for number, value in values.items():
            assert self.value(number=number) == value
        assert self.post("promote", version=5).status in (200, 409)


@pytest.fixture
def moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Moving]:
    monkeypatch.setattr(node, "SystemClock", MovedClock)
    monkeypatch.setattr(vaults, "_SWEEP_SECONDS", 3_600.0)
    monkeypatch.setattr(vaults, "_WATCH_SECONDS", 3_600.0)
    monkeypatch.setattr(MovedClock, "ahead_minutes", 0)
    vault, other = WatchedVault(NEW), WatchedVault(OTHER)
    vaults_are(monkeypatch, vault, other)
    with asyncio.Runner() as runner:
        asking = Asking(tmp_path, runner)
        yield Moving(asking, vault, other)
        vault.spare()
        other.spare()
        asking.stop()


def entries(moving: Moving, action: str) -> list[tuple[str, Any]]:
    items = moving.asking("GET", f"/v1/ledger?limit=100&action={action}").json["items"]
    return [(each["key_path"], each["reason"]) for each in reversed(items)]


class DyingCatalog:
    """The catalog's ``write``, whose caller is killed before or after one of its transactions."""

    def __init__(self, moving: Moving, number: int, when: str) -> None:
        self._catalog: Any = moving.asking.catalog
        self._left = number
        self._when = when
        self._write = self._catalog.write
        self._catalog.write = self

    async def __call__(self, work: Callable[[Any], Any], *, urgent: bool = False) -> Any:
        self._left -= 1
        if not self._left and self._when == "before":
            raise Killed
        result = await self._write(work, urgent=urgent)
        if not self._left and self._when == "after":
            raise Killed
        return result

    @property
    def was_reached(self) -> bool:
        self._catalog.write = self._write
        return self._left <= 0


def test_every_version_that_may_be_read_moves_and_what_ended_does_not(moving: Moving) -> None:
    values = moving.filled()
    told = moving.move(OTHER)
    assert told == {"moved": 1, "skipped": 0, "failed": [], "next": None}
    assert [each.vault for each in moving.versions() if each.sealed] == [NEW, *[OTHER] * 4]
    moving.same(values)
    assert moving.other.shows(moving.binding()) == b"five"
    assert moving.move(OTHER) == {"moved": 0, "skipped": 1, "failed": [], "next": None}
    assert entries(moving, "MOVE") == [("a.b.production", f"to {OTHER}")]


@pytest.mark.parametrize("place", [OTHER, "here"])
def test_there_and_back_copies_once(moving: Moving, place: str) -> None:
    values = moving.filled()
    moving.move(place)
    before = (moving.vault.calls.count("store"), moving.other.calls.count("store"))
    assert moving.move(NEW, back=True)["moved"] == 1
    assert moving.lie() == {NEW}
    assert moving.move(place, back=True)["moved"] == 1
    assert (moving.vault.calls.count("store"), moving.other.calls.count("store")) == before
    assert moving.lie() == {NEW, None if place == "here" else OTHER}  # the revoked one
    moving.same(values)


def test_the_way_back_needs_nothing_of_the_vault_that_is_left(moving: Moving) -> None:
    values = moving.filled()
    moving.move(OTHER)
    moving.other.before = refuse
    assert moving.move(NEW, back=True)["moved"] == 1
    moving.same(values)


def refuse(method: str) -> None:
    raise AssertionError(method)


def test_what_has_no_copy_does_not_go_back(moving: Moving) -> None:
    moving.put("one")
    told = moving.move(OTHER, back=True)
    assert [each["code"] for each in told["failed"]] == ["vault_value_missing"]
    assert moving.lie() == {NEW}


@pytest.mark.parametrize(("when", "method"), EVERY_METHOD)
@pytest.mark.parametrize("side", ["from", "to"])
def test_a_mover_that_is_killed_at_a_vault_is_done_again(
    moving: Moving, side: str, when: str, method: str
) -> None:
    values = moving.filled()
    moving.move("here")
    vault = moving.other if side == "to" else moving.vault
    if side == "from":
        moving.move(NEW)
    vault.kill(when, method)
    try:
        moving.asking("POST", "/v1/vaults/move", {"to": OTHER})
    except Killed:
        vault.spare()
        for number, value in values.items():
            assert moving.value(number=number) == value, "it is read all the time"
    vault.spare()
    told = moving.move(OTHER)
    assert told["failed"] == []
    moving.tidy()
    assert [each.vault for each in moving.versions()][1:] == [OTHER] * 4
    assert moving.tasks() == []
    assert all(each.act is CopyAct.KEEP for each in moving.copies())
    assert moving.other.shows(moving.binding()) == b"four"
    moving.same(values)


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("to", [OTHER, "here"])
def test_a_mover_that_is_killed_between_two_transactions_is_done_again(
    moving: Moving, to: str, when: str
) -> None:
    values = moving.filled()
    for number in range(1, 20):
        dying = DyingCatalog(moving, number, when)
        try:
            moving.asking("POST", "/v1/vaults/move", {"to": to})
        except Killed:
            assert dying.was_reached
        else:
            assert not dying.was_reached or number > 1
        for version, value in values.items():
            assert moving.value(number=version) == value
        assert moving.move(to)["failed"] == []
        moving.tidy()
        assert moving.tasks() == []
        assert all(each.act is CopyAct.KEEP for each in moving.copies())
        moving.same({})
        if not dying._left <= 0:
            break
        moving.move(NEW)
        moving.erase(NEW)
        moving.tidy()
        assert moving.copies() == []
    else:
        pytest.fail("it never came to its end")


@pytest.mark.parametrize("act", ["revoke", "destroy"])
@pytest.mark.parametrize("to", [OTHER, "here"])
def test_what_ends_takes_its_copies_with_it(moving: Moving, to: str, act: str) -> None:
    moving.put("one")
    moving.put("two")
    moving.move(to)
    moving.post(act, version=1)
    moving.tidy()
    first, _ = moving.versions()
    assert {each.version_id for each in moving.copies()} == {moving.versions()[1].version_id}
    assert first.version_id not in moving.vault.waiting | moving.other.waiting
    values = [each.fields for entry in moving.vault._entries.values() for each in entry.versions]
    assert {"value": "one"} not in values
    assert moving.value() == "two"


def test_what_ends_on_its_way_is_erased_where_it_arrives(moving: Moving) -> None:
    moving.put("one")
    (version,) = moving.versions()
    during(moving, "open", "revoke", {"version": 1})
    assert moving.move(OTHER)["moved"] == 0
    moving.tidy()
    moving.tidy()
    assert moving.copies() == []
    assert version.version_id not in moving.other.waiting
    assert moving.value() == "version_revoked"


def during(moving: Moving, method: str, act: str, body: Any) -> None:
    """Have somebody do something to the key while the other vault is asked for ``method``."""
    loop = moving.asking._runner.get_loop()

    def strike(asked: str) -> None:
        if asked == method:
            moving.other.spare()
            verb = "PUT" if act == "put" else "POST"
            path = "a.b" if act == "put" else f"a.b/{act}"
            asyncio.run_coroutine_threadsafe(moving.ask(verb, path, body), loop).result(10)

    moving.other.before = strike


@pytest.mark.parametrize("method", ["store", "open", "promote"])
def test_a_value_that_is_put_meanwhile_wins(moving: Moving, method: str) -> None:
    moving.put("one")
    during(moving, method, "put", {"value": "two"})
    assert moving.move(OTHER)["failed"] == []
    assert moving.value() == "two"
    assert moving.value(number=1) == "one"
    moving.move(OTHER)
    moving.tidy()
    assert moving.lie() == {OTHER}
    assert moving.other.shows(moving.binding()) == b"two"
    assert moving.value() == "two"


def test_two_movers_at_once_do_no_harm(moving: Moving) -> None:
    paths = [f"k.n{number}" for number in range(12)]
    for path in paths:
        moving.put(path, path=path)

    async def both(*places: str) -> None:
        body = [{"to": place, "limit": 100} for place in places]
        ask = moving.asking._ask
        await asyncio.gather(
            *(ask("POST", "/v1/vaults/move", each, moving.asking.maintainer) for each in body)
        )

    for places in ((OTHER, OTHER), (NEW, OTHER), ("here", OTHER), ("here", NEW), (NEW, NEW)):
        moving.asking.run(both(*places))
        moving.recover()
        assert [moving.value(path) for path in paths] == paths
    moving.move(OTHER, limit=100)
    moving.tidy()
    assert moving.other.waiting == set()
    assert [moving.other.shows(moving.binding(path=path)) for path in paths] == [
        path.encode() for path in paths
    ]


def test_a_value_that_does_not_arrive_whole_stays_where_it_is(moving: Moving) -> None:
    moving.put("one")
    moving.put("two", path="c.d")
    moving.other.after = lambda method: _garble(moving.other) if method == "store" else None
    told = moving.move(OTHER)
    assert {(each["key_path"], each["code"]) for each in told["failed"]} == {
        ("a.b.production", "value_damaged"),
        ("c.d.production", "value_damaged"),
    }
    assert moving.lie() == {NEW}
    moving.other.spare()
    moving.tidy()
    assert moving.other.waiting == set()


def _garble(vault: WatchedVault) -> None:
    for version_id in vault._pending:
        vault._pending[version_id] = "garbled"


def test_a_lost_old_version_holds_up_no_other(moving: Moving) -> None:
    moving.put("one")
    moving.put("two")
    entry = moving.vault._entries["production/a/b"]
    entry.versions[0] = entry.versions[0]._replace(fields=None)
    told = moving.move(OTHER)
    assert [each["code"] for each in told["failed"]] == ["vault_value_missing"]
    assert [each.vault for each in moving.versions()] == [NEW, OTHER]
    assert moving.value() == "two"


def test_a_vault_that_does_not_answer_ends_the_call(moving: Moving) -> None:
    for number in range(10):
        moving.put("one", path=f"k.n{number}")
    moving.fail("vault_refused", "open")
    told = moving.move(OTHER)
    assert (told["moved"], told["failed"][0]["code"]) == (0, "vault_refused")
    assert len(told["failed"]) < 10
    moving.vault.spare()
    assert moving.move(OTHER)["moved"] == 10


def test_it_goes_on_where_the_last_answer_ended(moving: Moving) -> None:
    for number in range(5):
        moving.put("one", path=f"k.n{number}")
    moving.put("one", path="other.k")
    seen, after = 0, None
    while True:
        told = moving.move(OTHER, prefix="k", limit=2, after=after)
        seen += told["moved"]
        after = told["next"]
        if after is None:
            break
    assert (seen, moving.lie("other.k"), moving.lie("k.n4")) == (5, {NEW}, {OTHER})


def test_only_a_known_place_is_moved_to(moving: Moving) -> None:
    for to in ("memory://nowhere", "aws://eu-central-1/x", ""):
        told = moving.asking("POST", "/v1/vaults/move", {"to": to})
        assert (told.status, told.code) == (400, "unknown_vault")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"prefix": "a..b"}, "malformed_path"),
        ({"prefix": "production"}, "malformed_path"),
        ({"after": "nothing"}, "invalid_field"),
        ({"after": "a\nb.production"}, "invalid_field"),
        ({"limit": 0}, "invalid_field"),
        ({"limit": 101}, "invalid_field"),
        ({"to": "x" * 9_000}, "unknown_vault"),
    ],
)
def test_what_cannot_be_walked_is_refused(moving: Moving, more: dict[str, Any], code: str) -> None:
    for path in ("move", "erase-copies"):
        told = moving.asking("POST", f"/v1/vaults/{path}", {"to": OTHER, **more})
        assert (told.status, told.code) == (400, code)


def test_a_prefix_may_end_in_an_environment(moving: Moving) -> None:
    moving.put("one")
    moving.put("two", environment="staging")
    assert moving.move(OTHER, prefix="a.staging")["moved"] == 1
    assert moving.lie() == {NEW}


def test_a_key_in_a_vault_that_nobody_knows_any_more_holds_up_no_other(moving: Moving) -> None:
    for number in range(6):
        moving.put("one", path=f"k.n{number}")
    (version,) = moving.versions("k.n0")
    moving.asking.write(lambda tx: tx.put(replace(version, vault="memory://gone")))
    told = moving.move(OTHER)
    assert told["moved"] == 5
    assert [each["code"] for each in told["failed"]] == ["vault_not_configured"]


def test_what_was_changed_in_the_vault_since_is_not_brought_back(moving: Moving) -> None:
    moving.put("one")
    moving.move("here")
    moving.vault.change(moving.binding(), b"theirs")
    assert [each["code"] for each in moving.move(NEW)["failed"]] == ["vault_conflict"]
    assert moving.value() == "one"
    moving.vault.change(moving.binding(), b"one")
    assert moving.move(NEW)["moved"] == 1


# --- erasing what was left ------------------------------------------------------------------------


def test_copies_are_erased_only_if_asked_and_only_where_the_value_is(moving: Moving) -> None:
    values = moving.filled()
    moving.move(OTHER)
    assert len(moving.copies()) == 4
    assert moving.erase(NEW)["moved"] == 0
    assert len(moving.copies()) == 4
    assert moving.erase(OTHER)["moved"] == 1
    assert moving.copies() == []
    assert moving.vault.shows(moving.binding()) is None
    moving.same(values)
    assert entries(moving, "MOVE")[1:] == [("a.b.production", f"the copy in {NEW} was erased")] * 4
    told = moving.move(NEW, back=True)
    assert [each["code"] for each in told["failed"]] == ["vault_value_missing"]
    assert moving.move(NEW)["moved"] == 1
    moving.same(values)


def test_nothing_is_erased_while_the_value_cannot_be_read_where_it_is(moving: Moving) -> None:
    moving.put("one")
    moving.move(OTHER)
    moving.other._entries.clear()
    assert [e["code"] for e in moving.erase(OTHER)["failed"]] == ["vault_value_missing"]
    assert len(moving.copies()) == 1
    assert moving.move(NEW, back=True)["moved"] == 1
    assert moving.value() == "one"


@pytest.mark.parametrize("when", WHEN)
def test_an_eraser_that_is_killed_is_done_by_the_sweeper(moving: Moving, when: str) -> None:
    moving.put("one")
    moving.move(OTHER)
    moving.vault.kill(when, "erase")
    moving.killed("POST", "/v1/vaults/erase-copies", {"to": OTHER})
    assert [each["code"] for each in moving.move(NEW)["failed"]] == ["vault_conflict"]
    moving.tidy()
    assert moving.copies() == []
    assert moving.vault.shows(moving.binding()) is None
    assert moving.value() == "one"
    assert moving.move(NEW)["moved"] == 1


def test_two_names_of_one_vault_erase_nothing(moving: Moving) -> None:
    moving.other._pending = moving.vault._pending
    moving.other._entries = moving.vault._entries
    moving.put("one")
    moving.put("two")
    assert moving.move(OTHER)["moved"] == 1
    assert [each["code"] for each in moving.erase(OTHER)["failed"]] == ["vault_conflict"]
    moving.tidy()
    assert (moving.value(), moving.value(number=1)) == ("two", "one")


def test_an_open_import_is_moved_with_the_rest(moving: Moving) -> None:
    import_id = moving.asking("POST", "/v1/imports").json["import_id"]
    row = {"key_path": "a.b", "environment": "production", "value": "one"}
    body = {"sequence": 0, "entries": [row]}
    moving.asking("POST", f"/v1/imports/{import_id}/entries", body)
    moving.move(OTHER)
    assert moving.asking("POST", f"/v1/imports/{import_id}/commit", {}).status == 200
    moving.asking.sweep()
    moving.tidy()
    assert moving.value() == "one"
    assert moving.lie() == {OTHER}
    assert moving.other.shows(moving.binding()) == b"one"


def test_nobody_but_who_may_manage_vaults_moves(moving: Moving) -> None:
    for method, path, body in (
        ("GET", "/v1/vaults", None),
        ("GET", "/v1/vaults/entries?vault=memory://new", None),
        ("POST", "/v1/vaults/move", {"to": NEW}),
        ("POST", "/v1/vaults/erase-copies", {"to": NEW}),
        ("POST", "/v1/vaults/adopt", {"vault": NEW, "entries": []}),
        ("POST", "/v1/vaults/split", {"key_paths": ["a.b"]}),
    ):
        assert moving.asking(method, path, body, moving.asking.service).status == 403


def test_the_list_of_places_says_what_lies_where(moving: Moving) -> None:
    moving.put("one")
    moving.put("two", path="c.d")
    moving.move(OTHER, prefix="c")
    moving.vault, moving.other = moving.other, moving.vault
    moving.fail("vault_refused", "check")
    rows = {e["vault"]: e for e in moving.asking("GET", "/v1/vaults").json["items"]}
    assert [*rows] == [NEW, "here", OTHER]
    told = {name: (e["status"], e["versions"], e["copies"]) for name, e in rows.items()}
    assert told == {
        NEW: ("ok", 1, 1),
        "here": ("ok", 0, 0),
        OTHER: ("vault_refused", 1, 0),
    }
    assert rows[NEW]["takes_new"]


def test_a_record_of_a_version_is_what_moves(moving: Moving) -> None:
    """Numbers, states and times stay as they are."""
    moving.filled()
    before = moving.versions()
    moving.move("here")
    after = moving.versions()

    def told(version: VersionRecord) -> tuple[Any, ...]:
        return (version.number, version.version_id, version.state, version.created_at)

    assert list(map(told, before)) == list(map(told, after))
