"""Reading values that lie in a vault: its faults, and what was changed there behind the store."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.server.asking import Asking, MovedClock
from tests.unit.server.vaulted import Vaulted, WatchedVault, restart, vaults_are

from dox_core_store.errors import DoxStoreError, StoreUnavailableError, error_for
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.bootstrap import node
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.vault_task import VaultAct
from dox_core_store.server.usecases.vault import Vaults
from dox_core_store.server.usecases.vault_task import owe
from dox_core_store.testing.clock import FixedClock

CEILING_MINUTES = 60


class PlainSealer:
    """A seal that is none."""

    def store(self, binding: Binding, value: bytes) -> bytes:
        return binding.version_id.encode() + b":" + value

    def open(self, binding: Binding, kept: bytes) -> bytes:
        assert kept.partition(b":")[0].decode() == binding.version_id
        return kept.partition(b":")[2]


def reads(vaulted: Vaulted, path: str = "a.b") -> list[tuple[str, str]]:
    vaulted.asking("GET", "/v1/ledger")  # a refusal does not wait for its commit; this does
    items = vaulted.asking("GET", "/v1/ledger?limit=100&action=GET").json["items"]
    mine = [entry for entry in items if entry["key_path"] == f"{path}.production"]
    return [(entry["status"], entry["reason"]) for entry in reversed(mine)]


# --- the vault and its faults ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("vault_unavailable", 503),
        ("vault_refused", 503),
        ("vault_value_missing", 500),
        ("value_damaged", 500),
    ],
)
def test_what_a_vault_refuses_is_an_answer_on_record(
    vaulted: Vaulted, code: str, status: int
) -> None:
    vaulted.put("one")
    vaulted.fail(code, "open")
    told = vaulted.get()
    assert (told.status, told.code) == (status, code)
    assert reads(vaulted) == [("FAILED", code)]
    asked = {"key_paths": ["a.b", "nope"]}
    items = vaulted.asking("POST", "/v1/keys/batch-get", asked).json["keys"]
    assert [item["problem"]["code"] for item in items] == [code, "key_not_found"]


def test_a_value_at_hand_needs_no_vault_until_the_ceiling(vaulted: Vaulted) -> None:
    vaulted.put("one")
    assert vaulted.value() == "one"
    vaulted.fail("vault_unavailable", "open")
    MovedClock.ahead_minutes = CEILING_MINUTES - 1
    assert vaulted.value() == "one"
    MovedClock.ahead_minutes = CEILING_MINUTES + 1
    assert vaulted.value() == "vault_unavailable"
    vaulted.post("revoke")
    assert vaulted.value() == "version_revoked", "which is known without it"


def test_readers_of_one_version_share_one_request(vaulted: Vaulted) -> None:
    vaulted.put("one")
    vaulted.vault.calls.clear()
    entered, go_on = threading.Event(), threading.Event()

    def wait(method: str) -> None:
        if method == "open":
            entered.set()
            go_on.wait(10)

    vaulted.vault.before = wait

    async def many() -> list[Any]:
        asked = [asyncio.create_task(vaulted.ask("GET", "a.b", None)) for _ in range(20)]
        await asyncio.to_thread(entered.wait, 10)
        asked[0].cancel()  # a reader who goes away takes nothing from the others
        go_on.set()
        return await asyncio.gather(*asked[1:])

    assert {told.json["value"] for told in vaulted.asking.run(many())} == {"one"}
    assert vaulted.vault.calls.count("open") == 1


def test_a_revocation_while_the_vault_answers_holds(vaulted: Vaulted) -> None:
    vaulted.put("one")
    revoked: list[Any] = []

    def revoke_meanwhile(method: str) -> None:
        if method == "open" and not revoked:
            loop = vaulted.asking._runner.get_loop()
            asked = vaulted.ask("POST", "a.b/revoke", {})
            revoked.append(asyncio.run_coroutine_threadsafe(asked, loop).result(10).status)

    vaulted.vault.after = revoke_meanwhile
    assert vaulted.value() == "version_revoked"
    assert revoked == [200]


def test_what_moved_since_its_row_was_read_is_found(vaulted: Vaulted) -> None:
    vaulted.put("one")
    (version,) = vaulted.versions()
    lost = error_for("vault_value_missing", "gone from there")
    stored = vaulted.asking.composed.fronting.stored
    vault, sealer = vaulted.vault, vaulted.asking.composed.fronting.vaults.sealer
    old = sealer.store(vaulted.binding(version.version_id), b'{"pending": "elsewhere"}')
    real, seen = vault.open, list[bytes]()

    def open_there(bound: Binding, place: bytes) -> Any:
        seen.append(place)
        if b"elsewhere" in place:
            raise lost
        return real(bound, place)

    vault.open = open_there  # type: ignore[method-assign]
    opened = stored.open(KeyAddress("a.b", "production"), replace(version, sealed=old))
    assert vaulted.asking.run(opened) == b"one"
    assert len(seen) == 2


def test_a_place_does_not_open_for_another_key(vaulted: Vaulted) -> None:
    """Whoever edits the database moves no place: it is sealed under its own name, as a value is."""
    vaulted.put("one")
    vaulted.put("two", path="c.d")
    (mine,), (theirs,) = vaulted.versions(), vaulted.versions("c.d")
    vaulted.asking.write(lambda tx: tx.put(replace(mine, sealed=theirs.sealed)))
    assert vaulted.value() == "value_damaged"


def test_a_vault_that_nobody_named_here_is_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "SystemClock", MovedClock)
    monkeypatch.setattr(MovedClock, "ahead_minutes", 0)
    vault, other = WatchedVault(), WatchedVault("memory://other")
    vaults_are(monkeypatch, None)
    with asyncio.Runner() as runner:
        asking = Asking(tmp_path, runner)
        vaulted = Vaulted(asking, vault)
        vaulted.put("one")
        (version,) = vaulted.versions()
        elsewhere = replace(version, vault=other.name)
        asking.write(lambda tx: tx.put(elsewhere))
        told = vaulted.get()
        assert (told.status, told.code) == (503, "vault_not_configured")
        assert vaulted.get(number=1).code == "vault_not_configured"
        assert reads(vaulted) == [("FAILED", "vault_not_configured")] * 2
        vaulted.put("two")
        assert vaulted.value() == "two"
        assert vaulted.post("rollback").code == "vault_not_configured"
        asking.stop()


def test_values_go_where_the_settings_say_and_are_read_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "SystemClock", MovedClock)
    monkeypatch.setattr(MovedClock, "ahead_minutes", 0)
    old, new = WatchedVault("memory://old"), WatchedVault("memory://new")
    with asyncio.Runner() as runner:
        vaults_are(monkeypatch, old)
        asking = Asking(tmp_path, runner)
        Vaulted(asking, old).put("one")
        asking.stop()
        vaults_are(monkeypatch, new, old)
        restart(asking, runner)
        vaulted = Vaulted(asking, new)
        assert vaulted.value() == "one"
        vaulted.put("two")
        assert (vaulted.value(), vaulted.shows()) == ("two", "two")
        assert vaulted.post("rollback").status == 200
        assert (vaulted.value(), vaulted.shows()) == ("one", "one")
        assert [each.vault for each in vaulted.versions()] == [old.name, new.name, new.name]
        asking.stop()
        vaults_are(monkeypatch, None, old, new)
        restart(asking, runner)
        assert vaulted.post("rollback", to_version=2).status == 200
        assert (vaulted.value(), vaulted.versions()[-1].vault) == ("two", None)
        asking.stop()


# --- changed behind the store ---------------------------------------------------------------------


def changes(vaulted: Vaulted) -> list[tuple[int, str, str]]:
    items = vaulted.asking("GET", "/v1/ledger?limit=100&action=PUT").json["items"]
    return [(each["version"], each["service_name"], each["reason"]) for each in reversed(items)]


def look(vaulted: Vaulted) -> None:
    address = KeyAddress("a.b", "production")
    vaulted.asking.run(vaulted.asking.composed.fronting.watch.look([address]))


def told_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if '"vault_changed"' in line]


def test_a_value_that_was_changed_there_becomes_the_next_version(
    vaulted: Vaulted, capfd: pytest.CaptureFixture[str]
) -> None:
    vaulted.put("ours")
    vaulted.vault.change(vaulted.binding(), b"theirs")
    look(vaulted)
    look(vaulted)
    assert vaulted.value() == "theirs"
    assert vaulted.value(number=1) == "ours"
    vaulted.agree({1: "ours", 2: "theirs"}, 2)
    items = vaulted.asking("GET", "/v1/keys/a.b/versions").json["items"]
    assert [(v["state"], v["created_by"], v.get("origin")) for v in items] == [
        ("previous", "operator:root", None),
        ("current", "external", "external"),
    ]
    assert changes(vaulted)[-1] == (2, "vault:memory://vault", "origin: external")
    (line,) = told_of(capfd.readouterr().err)
    assert '"change": "changed"' in line
    assert "theirs" not in line
    vaulted.put("next")
    vaulted.agree({1: "ours", 2: "theirs", 3: "next"}, 3)


def test_a_reader_who_comes_by_notices(vaulted: Vaulted) -> None:
    vaulted.put("ours")
    vaulted.vault.change(vaulted.binding(), b"theirs")
    assert vaulted.value() == "ours", "the catalog says what is current"
    assert any(vaulted.value() == "theirs" for _ in range(500)), "nobody looked there"


def test_the_watcher_comes_round_to_every_key(vaulted: Vaulted) -> None:
    for n in range(45):
        vaulted.put(f"v{n}", path=f"many.k{n:02}")
    vaulted.vault.change(vaulted.binding(path="many.k44"), b"theirs")
    watch = vaulted.asking.composed.fronting.watch
    for _ in range(4):
        vaulted.asking.run(watch.step())
    assert vaulted.value("many.k44") == "theirs"
    asked = len(vaulted.vault.calls)
    vaulted.asking.run(watch.step())
    assert len(vaulted.vault.calls) == asked, "a round is not begun again at once"


def test_a_value_that_was_deleted_there_is_missing_and_told_once(
    vaulted: Vaulted, capfd: pytest.CaptureFixture[str]
) -> None:
    vaulted.put("ours")
    vaulted.vault.delete(vaulted.binding())
    assert vaulted.value() == "vault_value_missing"
    look(vaulted)
    look(vaulted)
    (line,) = told_of(capfd.readouterr().err)
    assert '"change": "deleted"' in line
    vaulted.put("again")
    assert vaulted.value() == "again"


def test_a_key_that_was_made_anew_there_is_taken_over(vaulted: Vaulted) -> None:
    vaulted.put("ours")
    vaulted.vault.recreate(vaulted.binding(), b"theirs")
    look(vaulted)
    assert vaulted.value() == "theirs"


def test_our_own_writes_are_no_changes(vaulted: Vaulted) -> None:
    """Also while the vault was not told of them yet."""
    vaulted.put("one")
    vaulted.fail("vault_unavailable", "promote")
    vaulted.put("two")
    look(vaulted)
    vaulted.vault.spare()
    look(vaulted)
    vaulted.recover()
    look(vaulted)
    vaulted.agree({1: "one", 2: "two"}, 2)


def test_what_the_vault_is_still_to_be_told_comes_first(vaulted: Vaulted) -> None:
    vaulted.put("one")
    (version,) = vaulted.versions()
    address = KeyAddress("a.b", "production")
    vaulted.asking.write(lambda tx: owe(tx, VaultAct.PROMOTE, version, address))
    vaulted.vault.change(vaulted.binding(), b"theirs")
    look(vaulted)
    assert len(vaulted.versions()) == 1


def test_what_is_no_value_is_not_taken_over(
    vaulted: Vaulted, capfd: pytest.CaptureFixture[str]
) -> None:
    vaulted.put("ours")
    vaulted.vault.change(vaulted.binding(), b"x" * (64 * 1024 + 1))
    look(vaulted)
    assert vaulted.value() == "ours"
    (line,) = told_of(capfd.readouterr().err)
    assert '"change": "unusable"' in line


# --- how a vault is reached -----------------------------------------------------------------------


class Reached:
    """Vaults without a store around them."""

    def __init__(self, timeout_seconds: float = 30) -> None:
        self.clock = FixedClock()
        self.vault = WatchedVault()
        self.vaults = Vaults(
            store_id="sto",
            sealer=PlainSealer(),
            threads=ThreadPoolExecutor(4),
            new=self.vault,
            timeout_seconds=timeout_seconds,
            monotonic=self.clock.monotonic,
        )

    async def read(self) -> str:
        try:
            await self.vaults.read(self.vault.name, lambda vault: vault.check())
        except DoxStoreError as error:
            return error.code
        return "answered"

    def asked(self) -> int:
        return self.vault.calls.count("check")


def test_a_vault_that_does_not_answer_rests_for_a_second_and_is_tried_by_one() -> None:
    async def run() -> None:
        reached = Reached()
        reached.vault.fault = StoreUnavailableError("vault_unavailable", "sealed")
        assert await reached.read() == "vault_unavailable"
        assert [await reached.read() for _ in range(5)] == ["vault_unavailable"] * 5
        assert reached.asked() == 1
        reached.clock.advance(1.1)
        tried = await asyncio.gather(*(reached.read() for _ in range(5)))
        assert (set(tried), reached.asked()) == ({"vault_unavailable"}, 2)
        reached.vault.fault = None
        reached.clock.advance(1.1)
        tried = await asyncio.gather(*(reached.read() for _ in range(3)))
        assert sorted(tried) == ["answered", "vault_unavailable", "vault_unavailable"]
        assert await reached.read() == "answered"

    asyncio.run(run())


@pytest.mark.parametrize("code", ["vault_refused", "vault_value_missing"])
def test_a_vault_that_answers_does_not_rest(code: str) -> None:
    async def run() -> None:
        reached = Reached()
        reached.vault.fault = error_for(code, "no")
        assert [await reached.read() for _ in range(3)] == [code] * 3
        assert reached.asked() == 3

    asyncio.run(run())


def test_nobody_waits_longer_than_the_timeout() -> None:
    async def run() -> None:
        reached, go_on = Reached(timeout_seconds=0.01), threading.Event()
        reached.vault.before = lambda _: go_on.wait(10)
        assert await reached.read() == "vault_unavailable"
        go_on.set()

    asyncio.run(run())


def test_a_version_is_bound_to_its_vault_by_name() -> None:
    async def run() -> None:
        with pytest.raises(StoreUnavailableError) as refused:
            await Reached().vaults.read("memory://unknown", lambda vault: vault.check())
        assert refused.value.code == "vault_not_configured"

    asyncio.run(run())
