"""A store that people open: a sealed node, the ceremony at several terminals, key services down.

Every person is a process of their own (``doxstore seal unseal``), and the node is a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.functional.real_servers import OpenBao
from tests.functional.running import (
    DOXSTORE,
    EXIT_REFUSED,
    START_SECONDS,
    Answer,
    RunningStore,
    clean_environment,
    free_port,
    run_doxstore,
)

from dox_core_store.client import KeyClient
from dox_core_store.errors import DoxStoreError

PASSPHRASE = "correct horse battery staple"
MAY_CHANGE = {"server.lock", "store.db-shm"}
CEREMONY = re.compile(r"doxstore seal unseal (unseal-[0-9a-f]{32})")
EXIT_NOT_PERMITTED = 77


class SealedStore(RunningStore):
    """A store that its server cannot open by itself."""

    def start_sealed(self) -> None:
        """Serve, and return once the node answers and has said so."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(**self.environment),
            )
        self.until(lambda: self.health() is not None and bool(self.ceremonies() or self.waits()))

    def until(self, holds: Any) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not holds():
            assert self.is_running, f"the server ended:\n{self.log_text()}"
            assert time.monotonic() < deadline, f"in vain:\n{self.log_text()}"
            time.sleep(0.02)

    def health(self) -> Any:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.request("GET", "/v1/health", token="").json
        return None

    def ready(self) -> Answer:
        return self.request("GET", "/v1/ready", token="")

    def until_ready(self) -> None:
        self.until(lambda: self.ready().status == 200)
        self.store_id = self.ready().json["store_id"]

    def seal(self) -> Any:
        answer = self.request("GET", "/v1/seal", token="")
        assert answer.status == 200
        return answer.json

    def ceremonies(self) -> list[str]:
        """The ids that the node printed, in order."""
        return CEREMONY.findall(self.log_text())

    @property
    def ceremony(self) -> str:
        return self.ceremonies()[-1]

    def waits(self) -> bool:
        return "It opens by itself" in self.log_text()

    def send(self, **entry: Any) -> Answer:
        return self.request("POST", "/v1/seal/unseal", token="", json=entry)

    def person(
        self, secret: str, *options: str, ceremony: str | None = None
    ) -> tuple[int, str, str]:
        """Somebody at a terminal enters ``secret``: exit code, stdout, stderr."""
        done = run_doxstore(
            "seal", "unseal", ceremony or self.ceremony, "--stdin", *options,
            stdin=f"{secret}\n", KEY_SERVICE_URL=self.url,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def contents(self) -> dict[str, bytes]:
        files = {path.name: path.read_bytes() for path in self.data.iterdir()}
        return {
            name: content
            for name, content in files.items()
            if name not in MAY_CHANGE and not (name == "store.db-wal" and not content)
        }

    def shares(self) -> list[str]:
        return shares_in(self.folder / "shares")


def shares_in(folder: Path) -> list[str]:
    return [path.read_text().split("\n")[-2].strip() for path in sorted(folder.iterdir())]


def add_slot(store: RunningStore, *arguments: str | Path, stdin: str = "") -> None:
    """Add a slot by the key file."""
    where = ("--data", str(store.data), "--key-file", str(store.key_file))
    done = subprocess.run(
        [DOXSTORE, "seal", "slots", "add", *arguments, *where],
        input=stdin, capture_output=True, text=True, check=False, timeout=60,
        env=clean_environment(**store.environment),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def made_sealed(
    tmp_path_factory: pytest.TempPathFactory, made_store: RunningStore
) -> Iterator[SealedStore]:
    """A store with a value in it that shares and a passphrase open, and whose last server was
    killed; its key file is gone."""
    store = SealedStore(tmp_path_factory.mktemp("people") / "store")
    store.copy_of(made_store)
    add_slot(store, "shares", "--label", "board", "--shares-dir", store.folder / "shares")
    add_slot(store, "passphrase", "--stdin", stdin=f"{PASSPHRASE}\n")
    store.start()
    store.put("kept.key", "kept")
    store.kill()
    store.log.unlink()
    store.key_file.unlink()
    yield store
    store.dispose()


@pytest.fixture
def sealed(made_sealed: SealedStore, tmp_path: Path) -> Iterator[SealedStore]:
    """A copy of it, served."""
    store = SealedStore(tmp_path / "store")
    store.copy_of(made_sealed)
    store.start_sealed()
    yield store
    store.dispose()


@pytest.fixture(scope="module")
def others_share(tmp_path_factory: pytest.TempPathFactory, made_store: RunningStore) -> str:
    """A share of another set of the same store."""
    store = RunningStore(tmp_path_factory.mktemp("others") / "store")
    store.copy_of(made_store)
    add_slot(store, "shares", "--shares-dir", store.folder / "shares")
    return shares_in(store.folder / "shares")[0]


# --- the ceremony ---------------------------------------------------------------------------------


def test_two_people_open_the_store_from_terminals_of_their_own(sealed: SealedStore) -> None:
    before = sealed.contents()
    shares = sealed.shares()
    code, said, _ = sealed.person(shares[2])
    assert code == 0
    assert re.fullmatch(r"1 of 2 shares of slot slot_[0-9a-f]+ entered\.\n", said)
    assert "1 of 2 shares" in sealed.ready().json["checks"]["seal"]
    assert sealed.get("kept.key").json["code"] == "sealed"
    assert sealed.contents() == before

    code, said, _ = sealed.person(shares[0])
    assert (code, said) == (0, "The store is open.\n")
    assert sealed.ready().status == 200  # at once: the answer comes when it serves
    assert sealed.get("kept.key").json["value"] == "kept"
    assert "dox-core-store serves" in sealed.log_text()
    assert b"doxstore_sealed 0.0" in sealed.request("GET", "/metrics", token="").body

    sealed.store_id = sealed.health()["store_id"]
    (entry,) = [each for each in sealed.verified_export() if each["action"] == "UNSEAL"]
    assert entry["service_name"].startswith("local:")
    assert entry["key_path"].startswith("_store.slots.slot_")
    assert entry["reason"] == "2 shares from 127.0.0.1"
    assert entry["status"] == "GRANTED"
    written = sealed.log_text() + json.dumps(sealed.export())
    for share in shares:
        assert share not in written
        assert share.split(" ", 4)[4] not in written


def test_a_sealed_node_serves_nothing_and_writes_nothing(sealed: SealedStore) -> None:
    before = sealed.contents()
    for method, path in (
        ("GET", "/v1/keys/kept.key"),
        ("HEAD", "/v1/keys/kept.key"),
        ("PUT", "/v1/keys/other.key"),
        ("POST", "/v1/keys/batch-get"),
        ("POST", "/tokens"),
        ("GET", "/v1/ledger"),
        ("GET", "/.well-known/jwks.json"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
        ("GET", "/v1/seal/"),
        ("GET", "/v1/%73eal"),
        ("POST", "/v1/health"),
    ):
        answer = sealed.request(method, path, json={"value": "x"} if method == "PUT" else None)
        assert answer.status == 503, (method, path)
        assert answer.headers["retry-after"] == "5"
        assert answer.headers["content-type"] == "application/problem+json"
        if method != "HEAD":
            assert answer.json["code"] == "sealed"
            assert answer.json["store_id"] == sealed.health()["store_id"]
    assert sealed.health()["status"] == "sealed"
    ready = sealed.ready()
    assert (ready.status, ready.json["status"]) == (503, "sealed")
    assert b"doxstore_sealed 1.0" in sealed.request("GET", "/metrics", token="").body
    assert "dox-core-store serves" not in sealed.log_text()
    assert sealed.contents() == before


def test_the_seal_s_state_is_public_and_names_no_ceremony(sealed: SealedStore) -> None:
    found = sealed.seal()
    assert found["sealed"] is True
    shares, passphrase = found["slots"]
    assert (shares["kind"], shares["label"], shares["needed"]) == ("shares", "board", 2)
    assert (passphrase["kind"], passphrase["label"]) == ("passphrase", None)
    assert sealed.ceremony not in json.dumps(found)
    shown = run_doxstore("seal", "status", KEY_SERVICE_URL=sealed.url)
    assert shown.returncode == 0
    assert "0 of 2" in shown.stdout
    assert sealed.ceremony not in shown.stdout
    as_json = run_doxstore("seal", "status", "--json", KEY_SERVICE_URL=sealed.url)
    assert json.loads(as_json.stdout) == found


def test_three_wrong_entries_close_the_ceremony(sealed: SealedStore, others_share: str) -> None:
    first, second, _ = sealed.shares()
    old = sealed.ceremony
    assert sealed.person(first)[0] == 0
    code, _, error = sealed.person(first)  # typed twice: right, and no progress
    assert (code, error.partition(":")[0]) == (1, "error[share_repeated]")
    assert sealed.seal()["wrong_entries"] == 0
    mistyped = second.replace(second.split()[9], "academic", 1)
    code, _, error = sealed.person(mistyped)
    assert code == 1
    assert error.startswith("error[malformed_share]")
    assert "1 of 3 wrong entries" in error
    code, _, error = sealed.person(others_share)
    assert code == EXIT_NOT_PERMITTED
    assert error.startswith("error[wrong_share]")
    assert "2 of 3 wrong entries" in error
    assert sealed.seal()["wrong_entries"] == 2
    assert sealed.seal()["slots"][0]["entered"] == 1
    code, _, error = sealed.person("no words at all", "--passphrase")
    assert error.startswith("error[wrong_passphrase]")
    assert "the ceremony is closed" in error

    sealed.until(lambda: len(sealed.ceremonies()) == 2)
    assert sealed.ceremony != old
    assert sealed.seal()["wrong_entries"] == 0
    assert sealed.seal()["slots"][0]["entered"] == 0
    code, _, error = sealed.person(first, ceremony=old)
    assert (code, error.partition(":")[0]) == (1, "error[ceremony_not_found]")
    assert sealed.person(first)[0] == 0
    assert sealed.person(second)[1] == "The store is open.\n"


def test_a_passphrase_opens_the_store(sealed: SealedStore) -> None:
    assert sealed.person("not it, but long enough", "--passphrase")[0] == EXIT_NOT_PERMITTED
    code, said, _ = sealed.person(PASSPHRASE, "--passphrase", "--json")
    assert code == 0
    assert json.loads(said)["sealed"] is False
    assert sealed.get("kept.key").json["value"] == "kept"
    assert PASSPHRASE not in sealed.log_text()
    sealed.store_id = sealed.health()["store_id"]
    (entry,) = [each for each in sealed.verified_export() if each["action"] == "UNSEAL"]
    assert entry["reason"] == "a passphrase from 127.0.0.1; wrong entries before: 1"


def test_a_restart_forgets_what_was_entered(sealed: SealedStore) -> None:
    before = sealed.contents()
    first, second, _ = sealed.shares()
    old = sealed.ceremony
    assert sealed.person(first)[0] == 0
    assert sealed.stop() == 0  # SIGTERM while sealed
    assert sealed.contents() == before
    sealed.start_sealed()
    sealed.until(lambda: len(sealed.ceremonies()) == 2)
    assert sealed.ceremony != old
    assert sealed.seal()["slots"][0]["entered"] == 0
    assert sealed.send(ceremony=old, share=second).json["code"] == "ceremony_not_found"
    assert sealed.person(second)[0] == 0
    assert sealed.person(first)[1] == "The store is open.\n"
    assert sealed.stop() == 0
    sealed.start_sealed()  # and what was open is sealed again
    assert sealed.get("kept.key").json["code"] == "sealed"


def test_a_flood_of_other_ids_closes_nothing_and_tells_nothing(sealed: SealedStore) -> None:
    first, second, _ = sealed.shares()
    assert sealed.send(ceremony=sealed.ceremony, share=first).status == 200
    log = len(sealed.log_text())
    for number in range(300):
        guess = f"unseal-{number:032x}"
        secret = {"share": second} if number % 3 else {"passphrase": PASSPHRASE}
        answer = sealed.send(ceremony=guess, **secret)
        assert (answer.status, answer.json["code"]) == (404, "ceremony_not_found")
    assert len(sealed.log_text()) == log
    assert sealed.seal()["wrong_entries"] == 0
    assert sealed.send(ceremony=sealed.ceremony, share=second).json["sealed"] is False


def test_people_who_enter_at_once_open_the_store_once(sealed: SealedStore) -> None:
    answers: list[Answer] = []
    people = [
        threading.Thread(
            target=lambda share=share: answers.append(
                sealed.send(ceremony=sealed.ceremony, share=share)
            )
        )
        for share in sealed.shares()
    ]
    for each in people:
        each.start()
    for each in people:
        each.join()
    assert sealed.get("kept.key").json["value"] == "kept"
    assert sorted(answer.status for answer in answers) == [200, 200, 404]
    sealed.store_id = sealed.health()["store_id"]
    assert sum(each["action"] == "UNSEAL" for each in sealed.verified_export()) == 1


def test_a_bad_entry_is_refused_and_is_not_wrong(sealed: SealedStore) -> None:
    ceremony, share = sealed.ceremony, sealed.shares()[0]
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"ceremony": ceremony}, 400, "invalid_field"),
        ({"share": share}, 400, "invalid_field"),
        ({"ceremony": ceremony, "share": share, "passphrase": "x"}, 400, "invalid_field"),
        ({"ceremony": ceremony, "share": share, "name": "ann"}, 400, "invalid_field"),
        ({"ceremony": ceremony, "share": 7}, 400, "invalid_field"),
        ({"ceremony": ceremony, "passphrase": "x" * 1_001}, 400, "invalid_field"),
        ({"ceremony": ceremony, "passphrase": "x" * 5_000}, 413, "body_too_large"),
        ({"ceremony": ceremony, "share": share, "slot_id": "slot_0"}, 404, "slot_not_found"),
    ]
    for entry, status, code in cases:
        answer = sealed.send(**entry)
        assert (answer.status, answer.json["code"]) == (status, code), entry
        assert share not in answer.body.decode()
    for method, path, status in (
        ("GET", "/v1/seal/unseal", 405),
        ("DELETE", "/v1/seal", 405),
        ("POST", f"/v1/seal/unseal?share={share.replace(' ', '+')}", 400),
    ):
        assert sealed.request(method, path, token="", body=b"{}").status == status
    assert sealed.request("POST", "/v1/seal/unseal", body=b"[").json["code"] == "malformed_json"
    assert sealed.seal()["wrong_entries"] == 0
    assert sealed.seal()["slots"][0]["entered"] == 0


def test_the_command_says_what_it_cannot_do(sealed: SealedStore) -> None:
    unasked = run_doxstore("seal", "unseal", sealed.ceremony, KEY_SERVICE_URL=sealed.url)
    assert unasked.returncode == 2
    assert "--stdin" in unasked.stderr
    nameless = run_doxstore("seal", "unseal", "--stdin", stdin="x\n", KEY_SERVICE_URL=sealed.url)
    assert nameless.returncode == 2
    clear = run_doxstore("seal", "status", KEY_SERVICE_URL="http://keys.example.com")
    assert (clear.returncode, clear.stderr.partition(":")[0]) == (78, "error[insecure_url]")
    assert sealed.person(PASSPHRASE, "--passphrase")[0] == 0
    late = sealed.person(sealed.shares()[0])
    assert late[:2] == (0, "The store is open already; nothing was sent.\n")
    after = sealed.send(ceremony=sealed.ceremony, share=sealed.shares()[0])
    assert (after.status, after.json["code"]) == (404, "ceremony_not_found")
    assert sealed.seal()["slots"] == []  # those who may see them ask the store
    assert sealed.request("DELETE", "/v1/seal", token="").status == 405


def test_a_client_takes_a_sealed_node_for_an_outage(sealed: SealedStore) -> None:
    async def ask() -> tuple[str, str]:
        async with KeyClient("tester", service_token=token, url=sealed.url) as keys:
            with pytest.raises(DoxStoreError) as caught:
                await keys.get_key("kept.key")
            return caught.value.code, (await keys.health_check()).status

    assert sealed.person(PASSPHRASE, "--passphrase")[0] == 0
    token = sealed.issue("tester", "kept.key")
    assert sealed.stop() == 0
    sealed.start_sealed()
    assert asyncio.run(ask()) == ("sealed", "sealed")


# --- starts that are refused all the same ---------------------------------------------------------


def start_refused(store: RunningStore, code: str, unseal_with: str = "") -> None:
    refused = run_doxstore(*store.command()[1:], DOXSTORE_UNSEAL_WITH=unseal_with)
    assert refused.returncode == EXIT_REFUSED, refused.stderr
    assert refused.stderr.startswith(f"error[{code}]: ")
    assert refused.stdout == ""


@pytest.fixture
def copy(made_sealed: SealedStore, tmp_path: Path) -> Iterator[SealedStore]:
    store = SealedStore(tmp_path / "store")
    store.copy_of(made_sealed)
    yield store
    store.dispose()


def test_a_damaged_store_is_refused_and_not_served_sealed(copy: SealedStore) -> None:
    database = copy.data / "store.db"
    database.write_bytes(database.read_bytes()[:20_000])
    start_refused(copy, "store_damaged")


def test_a_way_that_was_chosen_is_the_only_one(copy: SealedStore) -> None:
    start_refused(copy, "key_file_missing", unseal_with="key-file")
    copy.environment["DOXSTORE_UNSEAL_WITH"] = "passphrase"
    copy.start_sealed()
    assert [slot["kind"] for slot in copy.seal()["slots"]] == ["passphrase"]
    answer = copy.send(ceremony=copy.ceremony, share=copy.shares()[0])
    assert answer.json["code"] == "slot_not_found"


def test_a_sealed_node_holds_the_store(copy: SealedStore) -> None:
    copy.start_sealed()
    second = SealedStore(copy.folder)
    start_refused(second, "store_locked")
    assert copy.seal()["sealed"] is True


# --- key services that are down -------------------------------------------------------------------


class Relay:
    """A port that leads to a server, once it is open."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition("//")[2].partition(":")
        self._target = (host, int(port))
        self.port = free_port()
        self._server: socket.socket | None = None

    def open(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection(self._target)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65_536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def relay(openbao: OpenBao) -> Iterator[Relay]:
    relay = Relay(openbao.url)
    yield relay
    relay.close()


@pytest.fixture
def transit_store(
    tmp_path: Path, made_store: RunningStore, openbao: OpenBao, relay: Relay
) -> Iterator[SealedStore]:
    """A store that Transit opens, if it can be reached at the relay's port."""
    store = SealedStore(tmp_path / "store")
    store.copy_of(made_store)
    token = store.folder / "bao.token"
    token.write_text(openbao.transit_token())
    token.chmod(0o600)
    store.environment = {
        "DOXSTORE_TRANSIT_ADDRESS": openbao.url,
        "DOXSTORE_TRANSIT_TOKEN_FILE": str(token),
    }
    add_slot(store, "transit")
    store.environment["DOXSTORE_TRANSIT_ADDRESS"] = f"http://127.0.0.1:{relay.port}"
    (store.folder / "root.key").rename(store.folder / "away.key")
    yield store
    store.dispose()


def test_transit_that_answers_opens_the_store_at_once(
    transit_store: SealedStore, relay: Relay
) -> None:
    relay.open()
    transit_store.start()
    assert transit_store.seal()["sealed"] is False
    assert not transit_store.ceremonies()


def test_a_node_waits_for_transit_and_opens_by_itself(
    transit_store: SealedStore, relay: Relay
) -> None:
    before = transit_store.contents()
    transit_store.start_sealed()
    assert not transit_store.ceremonies()  # nobody has anything to enter
    ready = transit_store.ready()
    assert ready.json["checks"] == {"seal": "transit: slot_unreachable, trying again"}
    assert transit_store.seal()["slots"] == []
    transit_store.until(lambda: "unseal_failed" in transit_store.log_text())
    assert transit_store.request("GET", "/v1/keys/a.b").json["code"] == "sealed"
    assert transit_store.contents() == before
    relay.open()
    transit_store.until_ready()
    (entry,) = [each for each in transit_store.verified_export() if each["action"] == "UNSEAL"]
    assert entry["reason"] == "by itself"
    assert transit_store.stop() == 0


def test_a_transit_that_is_sealed_itself_is_waited_for(
    transit_store: SealedStore, relay: Relay, openbao: OpenBao
) -> None:
    relay.open()
    openbao.seal()
    try:
        transit_store.start_sealed()
        assert "slot_unreachable" in transit_store.ready().json["checks"]["seal"]
    finally:
        openbao.unseal()
    transit_store.until_ready()


def test_a_node_that_waits_ends_when_told_to(transit_store: SealedStore) -> None:
    before = transit_store.contents()
    transit_store.start_sealed()
    assert transit_store.stop() == 0
    assert transit_store.contents() == before


def test_people_are_asked_while_transit_is_down(transit_store: SealedStore) -> None:
    shutil.copy(transit_store.folder / "away.key", transit_store.key_file)
    add_slot(transit_store, "passphrase", "--stdin", stdin=f"{PASSPHRASE}\n")
    transit_store.key_file.unlink()
    transit_store.start_sealed()
    awaits = transit_store.ready().json["checks"]["seal"]
    assert "passphrase" in awaits
    assert "transit: slot_unreachable, trying again" in awaits
    assert transit_store.person(PASSPHRASE, "--passphrase")[1] == "The store is open.\n"
    assert transit_store.ready().status == 200


def test_a_transit_that_comes_back_and_refuses_ends_the_node(
    transit_store: SealedStore, relay: Relay
) -> None:
    before = transit_store.contents()
    (transit_store.folder / "bao.token").write_text("s.revoked")
    transit_store.start_sealed()
    relay.open()
    assert transit_store.wait() == EXIT_REFUSED
    assert "serves" not in transit_store.log_text().replace("serves nothing", "")
    assert "transit/decrypt/doxstore" in transit_store.log_text()  # what it was refused
    assert transit_store.contents() == before
