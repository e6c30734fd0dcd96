"""The leader of an OpenBao cluster is killed under a store that fronts it."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from tests.functional.cluster import until
from tests.functional.openbao_raft import BaoCluster, serving_raft
from tests.functional.openbao_site import BaoSite
from tests.functional.real_servers import OpenBao
from tests.functional.running import RunningStore
from tests.functional.wire_proxy import WireProxy

HOT = "service_keys.hot"
PAUSE_SECONDS = 0.02


@pytest.fixture
def raft(tmp_path: Path) -> Iterator[BaoCluster]:
    with serving_raft(tmp_path / "raft") as cluster:
        yield cluster


@pytest.fixture
def site(raft: BaoCluster, tmp_path: Path) -> Iterator[BaoSite]:
    """What a store is to use, behind a load balancer that leads to whoever leads."""
    with WireProxy(raft.leader) as balancer:
        url = f"http://127.0.0.1:{balancer.port}"
        yield BaoSite(OpenBao(url, raft.root_token, raft.unseal_key, 0), tmp_path)


@pytest.fixture
def store(idle_store: RunningStore, site: BaoSite) -> RunningStore:
    address = f"openbao+{site.bao.url}/{site.mount}/{site.prefix}?{site.approle()}"
    idle_store.environment["DOXSTORE_VAULT"] = address
    idle_store.environment["DOXSTORE_VAULT_TIMEOUT_SECONDS"] = "3"
    idle_store.start()
    return idle_store


class Using:
    """Who reads ``HOT``, reads its previous version (which is never at hand), and writes keys."""

    def __init__(self, store: RunningStore, token: str) -> None:
        self.hot: Counter[str] = Counter()
        self.cold: Counter[str] = Counter()
        self.written: dict[str, str] = {}
        self.refused: Counter[str] = Counter()
        self.tried: list[str] = []
        self._store, self._token = store, token
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(act,), daemon=True)
            for act in (self._read_hot, self._read_cold, self._write)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(60)

    def _repeat(self, act: object) -> None:
        assert callable(act)
        while not self._ending.is_set():
            act()
            time.sleep(PAUSE_SECONDS)

    def _read_hot(self) -> None:
        self.hot[said(self._store, HOT, self._token)] += 1

    def _read_cold(self) -> None:
        self.cold[said(self._store, HOT, self._token, 1)] += 1

    def _write(self) -> None:
        path, value = f"written.n{len(self.tried)}", secrets.token_hex(8)
        self.tried.append(path)
        answer = self._store.request("PUT", f"/v1/keys/{path}", json={"value": value})
        if answer.status == 201:
            self.written[path] = value
        else:
            self.refused[answer.json["code"]] += 1


def said(store: RunningStore, path: str, token: str = "", version: int | None = None) -> str:
    answer = store.get(path, token or None, version)
    return str(answer.json["value"] if answer.status == 200 else answer.json["code"])


@pytest.mark.timeout(240)
def test_a_store_outlives_the_leader_of_its_vault(
    store: RunningStore, site: BaoSite, raft: BaoCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put(HOT, "previous")
    store.put(HOT, "current")
    token = store.issue("jules", f"{HOT}.production")
    assert said(store, HOT, token) == "current"
    leader = raft.leader()
    assert leader is not None
    with Using(store, token) as using:
        until(lambda: len(using.written) > 20 and using.cold["previous"] > 20, "it is used")
        killed_at = time.monotonic()
        raft.kill(leader)
        until(lambda: using.refused.total() > 0, "writes are refused")
        until(lambda: using.cold["vault_unavailable"] > 0, "cold reads are refused")
        hot = using.hot["current"]
        until(lambda: raft.leader() not in (None, leader), "another one leads", 60)
        led_at = time.monotonic()
        written, cold = len(using.written), using.cold["previous"]
        until(lambda: len(using.written) > written + 20, "writes again")
        until(lambda: using.cold["previous"] > cold + 20, "cold reads again")
        again_at = time.monotonic()
    with capsys.disabled():
        print(
            f"\nanother leader after {led_at - killed_at:.1f} s, used again after"
            f" {again_at - killed_at:.1f} s; hot {dict(using.hot)}, cold {dict(using.cold)},"
            f" written {len(using.written)}, refused {dict(using.refused)}"
        )
    assert using.hot.keys() == {"current"}
    assert using.hot["current"] > hot
    assert using.cold.keys() == {"previous", "vault_unavailable"}
    assert using.refused.keys() == {"vault_unavailable"}

    def agrees(path: str) -> bool:
        """Whether the vault shows what we say is current, be it that there is nothing."""
        found = site.data(f"production/{path.replace('.', '/')}")
        ours = said(store, path, version=1)
        return (found["data"]["value"] if found else "key_not_found") == (
            "key_not_found" if ours == "version_not_found" else ours
        )

    for path in using.tried:
        until(lambda path=path: agrees(path), path)  # type: ignore[misc]
    for path, value in using.written.items():
        assert said(store, path, version=1) == value
    until(lambda: site.waiting() == [], "nothing is left of what was refused")
