"""A database that another takes over from, that turns read-only, and a node without any room.

Two real servers: the second follows the first by PostgreSQL's own replication. The nodes know both
by one address and are not told which of them it is.
"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.functional.cluster import Cluster, running_cluster, until
from tests.functional.postgres import Postgres
from tests.functional.running import RunningStore

KEY = "service_keys.jules_api"
WRITING = "?options=-c%20default_transaction_read_only%3Doff"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Postgres]:
    server = Postgres(tmp_path / "postgres")
    server.init()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def standby_of(primary: Postgres, folder: Path) -> Postgres:
    """A server that follows ``primary``, not started yet."""
    standby = Postgres(folder)
    standby.init()
    shutil.rmtree(standby.data)
    standby.data.mkdir(mode=0o700)
    standby._own(standby.data)
    standby._run(
        "pg_basebackup", "-h", "127.0.0.1", "-p", str(primary.port), "-U", "doxstore",
        "-D", str(standby.data), "-R", "-X", "stream", "-c", "fast", "--no-sync",
    )  # fmt: skip
    return standby


def set_to(server: Postgres, name: str, value: str) -> None:
    server.run(server.url("postgres") + WRITING, f"ALTER SYSTEM SET {name} = {value}")
    server.run("postgres", "SELECT pg_reload_conf()")


def code(node: RunningStore, token: str) -> int | str:
    """What a read comes to."""
    try:
        answer = node.get(KEY, token)
    except OSError:
        return "away"
    return 200 if answer.status == 200 else str(answer.json["code"])


def noted(node: RunningStore) -> bytes:
    return (node.data / "seen.json").read_bytes()


@pytest.mark.parametrize("in_step", [True, False], ids=["in step", "behind"])
def test_another_server_takes_over_and_what_it_lacks_is_found_out(
    tmp_path: Path, own: Postgres, in_step: bool
) -> None:
    """In step, as by synchronous replication, it lacks nothing. One that was behind is an older
    copy: nothing is handed out before somebody has looked at that."""
    database = own.create_database()
    standby = standby_of(own, tmp_path / "standby")
    both = database.replace(f":{own.port}/", f":{own.port},127.0.0.1:{standby.port}/")
    standby.start()
    with ExitStack() as stack:
        stack.callback(standby.stop)
        set_to(own, "synchronous_standby_names", "'*'")
        state = "SELECT sync_state FROM pg_stat_replication"
        until(lambda: own.run("postgres", state) == [("sync",)], "it follows")
        cluster = stack.enter_context(running_cluster(tmp_path, both, 2))
        cluster[0].put(KEY, "as-it-was")
        token = cluster[0].issue("jules", f"{KEY}.production")
        assert [node.get(KEY, token).status for node in cluster.nodes] == [200, 200]
        if not in_step:
            set_to(own, "synchronous_standby_names", "''")
            standby.stop()
        written = {f"written.no{number}": f"value-{number}" for number in range(10)}
        for path, value in written.items():
            cluster[0].put(path, value)
        until(lambda: all(node.has_noted_all() for node in cluster.nodes), "it is noted")
        own.kill()
        if not in_step:
            standby.start()
        assert code(cluster[0], token) != 200
        standby.run("postgres", "SELECT pg_promote()")
        told = 200 if in_step else "unreviewed"
        until(lambda: [code(node, token) for node in cluster.nodes] == [told, told], str(told))
        if in_step:
            for path, value in written.items():
                until(lambda path=path: cluster[1].get(path).status == 200, path)  # type: ignore[misc]
                assert cluster[1].get(path).json["value"] == value
        until(lambda: _writes(cluster[0]), "writes are taken again")
        actions = {each["action"] for each in cluster[1].verified_export()}
        assert ("HISTORY_LOST" in actions) is not in_step


def _writes(node: RunningStore) -> bool:
    """Each connection of a node finds out by itself that its server is gone."""
    answer = node.request("PUT", "/v1/keys/written.after", json={"value": "x"})
    return answer.status in (200, 201)  # one whose end was not heard of may have been written


@pytest.fixture
def cluster(tmp_path: Path, own: Postgres) -> Iterator[Cluster]:
    with running_cluster(tmp_path, own.create_database(), 2) as made:
        yield made


def test_a_database_that_takes_no_writes_hands_out_nothing_until_it_does(
    cluster: Cluster, own: Postgres
) -> None:
    cluster[0].put(KEY, "as-it-was")
    token = cluster[0].issue("jules", f"{KEY}.production")
    assert [code(node, token) for node in cluster.nodes] == [200, 200]
    set_to(own, "default_transaction_read_only", "on")
    refused = "ledger_unavailable"
    until(lambda: [code(n, token) for n in cluster.nodes] == [refused] * 2, "reads are refused")
    write = cluster[0].request("PUT", f"/v1/keys/{KEY}", json={"value": "new"})
    revoke = cluster[0].request("POST", f"/v1/keys/{KEY}/revoke", json={})
    assert [(each.status, each.json["code"]) for each in (write, revoke)] == [(503, refused)] * 2
    set_to(own, "default_transaction_read_only", "off")
    until(lambda: [code(n, token) for n in cluster.nodes] == [200, 200], "reads are answered again")
    assert cluster[1].get(KEY, token).json["version"] == 1
    cluster[0].verified_export()


def test_a_node_whose_own_disk_is_full_serves_on(cluster: Cluster) -> None:
    """Nothing that counts lies in its folder: what it has seen is noted again once there is
    room."""
    cluster[0].put(KEY, "as-it-was")
    token = cluster[0].issue("jules", f"{KEY}.production")
    full = cluster[1]
    until(full.has_noted_all, "it is noted")
    before = noted(full)
    resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    assert code(full, token) == 200
    assert full.put(KEY, "stored")["version"] == 2
    assert full.get(KEY, token).json["value"] == "stored"
    assert full.request("POST", f"/v1/keys/{KEY}/revoke", json={}).status == 200
    assert [code(node, token) for node in cluster.nodes] == ["version_revoked"] * 2
    assert noted(full) == before
    assert [path.name for path in full.data.iterdir()] == ["seen.json"]
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(full.pid, resource.RLIMIT_FSIZE, unlimited)
    until(full.has_noted_all, "it is noted again")
    assert full.is_running
