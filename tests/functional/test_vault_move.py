"""Values on the move between a real OpenBao, AWS and here, while services read all the time."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.functional.openbao_site import BaoSite
from tests.functional.real_servers import Moto, OpenBao
from tests.functional.running import RunningStore, run_doxstore

REGION = "eu-central-1"
KEYS = [f"move.k{number}" for number in range(12)]
PATIENCE_SECONDS = 30


class Places:
    """A server that knows OpenBao, AWS and the place here, where new values go."""

    def __init__(self, store: RunningStore, site: BaoSite, moto: Moto) -> None:
        self.store = store
        self.site = site
        self.moto = moto
        self.bao = f"openbao+{site.bao.url}/{site.mount}/{site.prefix}"
        self.aws = f"aws://{REGION}/move-{site.mount}"
        also = (f"{self.bao}?{site.approle()}", f"{self.aws}?endpoint={moto.url}", "here")
        store.environment |= moto.environment
        store.environment["DOXSTORE_VAULT_ALSO"] = ",".join(also)
        store.start()
        for path in KEYS:
            store.put(path, f"old {path}")
            store.put(path, path)
        self.token = store.issue("reader", "move.**")

    def move(self, to: str, *options: str, code: int = 0) -> Any:
        done = run_doxstore(
            "vault",
            "move",
            "--to",
            to,
            "--json",
            *options,
            KEY_SERVICE_URL=self.store.url,
            ADMIN_TOKEN=self.store.admin_token,
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if done.stdout else done.stderr

    def lie(self) -> dict[str, tuple[int, int]]:
        rows = self.store.request("GET", "/v1/vaults").json["items"]
        assert all(each["status"] == "ok" for each in rows), rows
        return {each["vault"]: (each["versions"], each["copies"]) for each in rows}

    def values(self) -> None:
        for path in KEYS:
            assert self.store.get(path, self.token).json["value"] == path
            assert self.store.get(path, version=1).json["value"] == f"old {path}"

    def bao_shows(self, path: str) -> str | None:
        found = self.site.data(f"production/{path.replace('.', '/')}")
        return None if found is None or found["data"] is None else str(found["data"]["value"])

    def aws_shows(self, path: str) -> str:
        client = self.moto.client("secretsmanager", REGION)
        name = f"move-{self.site.mount}/production/{path.replace('.', '/')}"
        found = client.get_secret_value(SecretId=name, VersionStage="AWSCURRENT")
        return str(found["SecretString"])

    def settled(self) -> None:
        """Wait until the vaults were told of everything."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(e["tasks"] for e in self.store.request("GET", "/v1/vaults").json["items"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @contextlib.contextmanager
    def read_all_the_time(self) -> Iterator[None]:
        """Readers, by number too so that no cache answers; any wrong answer fails."""
        ended, wrong = threading.Event(), list[str]()
        reads = itertools.count()

        def read(version: int | None, token: str) -> None:
            for path in itertools.cycle(KEYS):
                if ended.is_set():
                    return
                expected = f"old {path}" if version == 1 else path
                told = self.store.get(path, token, version=version)
                next(reads)
                if told.status != 200 or told.json["value"] != expected:
                    wrong.append(f"{path}: {told.status} {told.body[:200]!r}")

        readers = [
            threading.Thread(target=read, args=each)
            for each in ((None, self.token), (1, self.token), (2, self.store.admin_token))
        ]
        for each in readers:
            each.start()
        try:
            yield
        finally:
            ended.set()
            for each in readers:
                each.join()
        assert wrong == []
        assert next(reads) > len(KEYS)


@pytest.fixture
def places(idle_store: RunningStore, openbao: OpenBao, moto: Moto, tmp_path: Path) -> Places:
    return Places(idle_store, BaoSite(openbao, tmp_path), moto)


def test_from_here_to_openbao_to_aws_and_back_while_everybody_reads(places: Places) -> None:
    count = 2 * len(KEYS)
    assert places.lie() == {"here": (count, 0), places.bao: (0, 0), places.aws: (0, 0)}
    with places.read_all_the_time():
        told = places.move(places.bao)
        assert (told["moved"], told["failed"]) == (len(KEYS), [])
        assert places.lie() == {"here": (0, count), places.bao: (count, 0), places.aws: (0, 0)}
        assert places.move(places.aws)["moved"] == len(KEYS)
        assert places.move("here", "--back")["moved"] == len(KEYS)
        assert places.lie()["here"] == (count, 0)
        assert places.move(places.bao, "--back")["moved"] == len(KEYS)
        assert places.move(places.bao)["moved"] == 0
        assert places.move(places.aws)["skipped"] == 0
        places.settled()
    assert [places.bao_shows(path) for path in KEYS] == KEYS
    assert [places.aws_shows(path) for path in KEYS] == KEYS
    places.values()
    told = places.move("here", "--erase", "--yes")
    assert (told["moved"], told["erased"], told["failed"]) == (len(KEYS), len(KEYS), [])
    assert places.lie() == {"here": (count, 0), places.bao: (0, 0), places.aws: (0, 0)}
    assert [places.bao_shows(path) for path in KEYS] == [None] * len(KEYS)
    assert places.site.waiting() == []
    places.values()
    assert len(places.move(places.bao, "--back", code=1)["failed"]) == len(KEYS)
    moved = places.store.request("GET", "/v1/ledger?action=MOVE&limit=500").json["items"]
    assert {each["key_path"] for each in moved} == {f"{path}.production" for path in KEYS}


@pytest.mark.parametrize("kind", ["bao", "aws"])
def test_a_server_that_is_killed_in_the_middle_goes_on(places: Places, kind: str) -> None:
    store, to = places.store, places.bao if kind == "bao" else places.aws
    found = []
    for _ in range(3):
        mover = threading.Thread(target=_move_quietly, args=(store, to))
        mover.start()
        deadline = time.monotonic() + PATIENCE_SECONDS
        begun = places.lie()[to][0]
        while places.lie()[to][0] in (begun, 2 * len(KEYS)) and mover.is_alive():
            assert time.monotonic() < deadline
        store.kill()
        mover.join()
        store.start()
        places.values()
        found.append(places.lie()[to][0])
    count = 2 * len(KEYS)
    assert 0 < found[0] < count, "it was killed in the middle"
    assert places.move(to)["failed"] == []
    places.settled()
    assert places.lie()[to] == (count, 0)
    places.values()
    if kind == "bao":
        assert [places.bao_shows(path) for path in KEYS] == KEYS
        assert len(places.site.waiting()) == len(KEYS), "only what is no key's current version"
    else:
        assert [places.aws_shows(path) for path in KEYS] == KEYS
    assert places.move("here", "--back")["moved"] == len(KEYS)
    places.values()


def _move_quietly(store: RunningStore, to: str) -> None:
    for path in KEYS:
        with contextlib.suppress(OSError, ValueError):
            store.request("POST", "/v1/vaults/move", json={"to": to, "prefix": path})


def test_new_values_are_stored_while_the_old_ones_move(places: Places) -> None:
    """The setting says where new ones go; the next run takes them along."""
    ended = threading.Event()
    written: dict[str, str] = {}

    def write() -> None:
        for number, path in enumerate(itertools.cycle(KEYS)):
            if ended.is_set():
                return
            places.store.put(path, f"new {number}")
            written[path] = f"new {number}"

    writer = threading.Thread(target=write)
    writer.start()
    for to in (places.bao, "here", places.aws, places.bao):
        assert places.move(to)["failed"] == []
    ended.set()
    writer.join()
    places.move(places.bao)
    places.settled()
    for path in KEYS:
        assert places.store.get(path, places.token).json["value"] == written.get(path, path)
        assert places.bao_shows(path) == written.get(path, path)


def test_a_vault_that_cannot_be_reached_stops_the_move_and_says_how_far_it_is(
    places: Places,
) -> None:
    places.move(places.bao, "--prefix", KEYS[0])
    places.site.bao.seal()
    try:
        told = places.move(places.bao, code=75)
        assert "vault_unavailable" in told
    finally:
        places.site.bao.unseal()
    assert places.move(places.bao)["moved"] == len(KEYS) - 1
    places.values()
