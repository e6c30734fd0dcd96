"""Limits and proofs on three real nodes of one store: a client gains nothing by asking all."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from tests.functional.cluster import Cluster, running_cluster, until
from tests.functional.postgres import Postgres
from tests.functional.raw_http import ask, code_of
from tests.functional.running import RunningStore, run_doxstore

from dox_core_store.client.proof import ServiceKey, service_key_from

KEY, SCARCE = "shared.key", "shared.scarce"
BEHIND_PROXY = {"DOXSTORE_TRUSTED_PROXIES": "127.0.0.1/32"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Cluster]:
    database = postgres.create_database()
    with running_cluster(tmp_path_factory.mktemp("cluster"), database, 3, **BEHIND_PROXY) as made:
        made[0].put(KEY, "shared value")
        made[0].put(SCARCE, "scarce value")
        yield made
    postgres.drop_database(database)


def limited(store: RunningStore, service: str, limit: str, burst: int) -> str:
    """The token of a service that has ``limit``."""
    token = store.issue(service, KEY, SCARCE)
    set_limit(store, f"services/{service}", limit, burst)
    return token


def set_limit(store: RunningStore, what: str, limit: str, burst: int) -> None:
    body = {"limit": limit, "burst": burst}
    assert store.request("PUT", f"/v1/{what}/limit", json=body).status == 200


def read_everywhere(cluster: Cluster, token: str, times: int, key: str = KEY) -> Counter[int]:
    """Read at all nodes at once, twice ``times`` at each; how often which status came."""

    def read(node: RunningStore) -> list[int]:
        return [node.get(key, token).status for _ in range(times)]

    with ThreadPoolExecutor(6) as threads:
        return Counter(status for told in threads.map(read, cluster.nodes * 2) for status in told)


def limits_told(node: RunningStore, token: str) -> str:
    return node.get(SCARCE, token).headers["ratelimit"]


def test_three_nodes_hand_out_what_one_would(cluster: Cluster) -> None:
    token = limited(cluster[0], "small", "1/h", 30)
    assert read_everywhere(cluster, token, 10) == {200: 30, 429: 30}
    refused = cluster[1].get(KEY, token)
    assert refused.headers["ratelimit"].startswith('"service";r=0;t=')
    assert 3_000 < int(refused.headers["retry-after"]) <= 3_600


def test_a_fast_limit_is_shared_by_chunks(cluster: Cluster) -> None:
    token = limited(cluster[0], "fast", "100/s", 100)
    began = time.monotonic()
    told = read_everywhere(cluster, token, 100)
    took = time.monotonic() - began
    assert told.keys() <= {200, 429}
    assert 75 <= told[200] <= 100 + 100 * took


def test_a_limit_that_is_set_anew_holds_at_all_nodes(cluster: Cluster) -> None:
    token = limited(cluster[0], "moved", "1/h", 3)
    assert read_everywhere(cluster, token, 1) == {200: 3, 429: 3}
    set_limit(cluster[1], "services/moved", "1/h", 5)
    for node in cluster.nodes:
        until(lambda node=node: node.get(KEY, token).status == 200, "the new limit is there")
    assert read_everywhere(cluster, token, 1) == {200: 2, 429: 4}


def test_a_key_s_own_limit_is_that_of_all_nodes(cluster: Cluster) -> None:
    token = cluster[0].issue("any", KEY, SCARCE)
    set_limit(cluster[0], f"keys/{SCARCE}", "1/h", 4)
    for node in cluster.nodes:
        until(lambda node=node: '"key"' in limits_told(node, token), "the new limit is there")
    assert read_everywhere(cluster, token, 2, SCARCE) == {200: 1, 429: 11}
    batch = {"key_paths": [SCARCE]}
    answer = cluster[2].request("POST", "/v1/keys/batch-get", token=token, json=batch)
    assert answer.json["keys"][0]["problem"]["code"] == "rate_limited"


def test_a_limit_that_cannot_be_counted_lets_nobody_through(cluster: Cluster) -> None:
    token = limited(cluster[0], "counted", "1/h", 30)
    assert cluster[1].get(KEY, token).status == 200
    with psycopg.connect(cluster.database) as other:
        other.execute("LOCK TABLE quota IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        refused = cluster[1].get(KEY, token)
        assert (refused.status, code_of(refused)) == (503, "ledger_unavailable")
        assert time.monotonic() - began < 2.5
    assert cluster[1].get(KEY, token).status == 200


class Held:
    """A token that is bound to a key, and proofs made with it."""

    def __init__(self, store: RunningStore, key_file: Path) -> None:
        store.register("holder", KEY)
        done = run_doxstore(
            *("token", "issue", "holder", "--bind", "--json"),
            KEY_SERVICE_URL=store.url,
            ADMIN_TOKEN=store.admin_token,
            SERVICE_KEY_FILE=str(key_file),
        )
        assert done.returncode == 0, done.stderr
        self.token = json.loads(done.stdout)["token"]
        key = service_key_from({"SERVICE_KEY_FILE": str(key_file)})
        assert key is not None
        self.key: ServiceKey = key

    def proof(self, nonce: str | None) -> str:
        """For whichever node: behind a proxy all are the same host, which is not compared."""
        return self.key.proof(
            method="GET",
            url=f"https://keys.example/v1/keys/{KEY}",
            token=self.token,
            nonce=nonce,
            body=None,
            now=int(time.time()),
        )

    def read(self, store: RunningStore, proof: str) -> tuple[int, str]:
        """The status, and the nonce that came along or the code of what refused."""
        headers = [
            ("Authorization", f"DPoP {self.token}"),
            ("DPoP", proof),
        ]
        answer = ask(store, "GET", f"/v1/keys/{KEY}", token="", headers=headers)
        nonce = answer.headers.get("dpop-nonce")
        return answer.status, nonce or code_of(answer)


def test_a_proof_is_good_at_one_of_three_nodes(cluster: Cluster, tmp_path: Path) -> None:
    held = Held(cluster[0], tmp_path / "service.key")
    status, nonce = held.read(cluster[0], held.proof(None))
    assert status == 401
    with ThreadPoolExecutor(3) as threads:
        for _ in range(20):
            proof = held.proof(nonce)
            told = sorted(
                threads.map(lambda node, proof=proof: held.read(node, proof), cluster.nodes)
            )
            assert [each[0] for each in told] == [200, 401, 401]
            assert [each[1] for each in told[1:]] == ["proof_invalid"] * 2
            nonce = told[0][1]


def test_no_node_takes_a_proof_that_cannot_be_put_on_record(
    cluster: Cluster, tmp_path: Path
) -> None:
    held = Held(cluster[0], tmp_path / "service.key")
    _, nonce = held.read(cluster[0], held.proof(None))
    with psycopg.connect(cluster.database) as other:
        other.execute("LOCK TABLE proof_use IN ACCESS EXCLUSIVE MODE")
        assert held.read(cluster[1], held.proof(nonce)) == (503, "ledger_unavailable")
    assert held.read(cluster[1], held.proof(nonce))[0] == 200


def test_what_services_tell_counts_at_all_nodes_too(cluster: Cluster) -> None:
    token = limited(cluster[0], "telling", "1/h", 3)
    version = cluster[0].get(KEY).json["version_id"]
    rejected = f"/v1/keys/{KEY}/rejected"
    moment = "2025-01-01T00:00:00Z"
    row = {"key_path": KEY, "environment": "production", "version": 1, "source": "cache"}
    reads = [row | {"count": 3, "since": moment, "until": moment}]
    asked = [
        ("GET", f"/v1/keys/{KEY}", None),
        ("POST", rejected, {"version_id": version}),
        ("POST", "/v1/reports", {"reads": reads}),
    ]

    def answers() -> list[int]:
        nodes = cluster.nodes
        return [
            ask(node, method, target, token=token, body=body).status
            for node, (method, target, body) in zip(nodes, asked, strict=True)
        ]

    assert answers() == [200, 200, 200]
    assert answers() == [429, 429, 429]
