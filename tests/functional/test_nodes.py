"""Several nodes on one PostgreSQL: what one does is true on all, whatever happens to any."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import psycopg
import pytest
from tests.functional.cluster import Cluster, running_cluster, until
from tests.functional.postgres import Postgres
from tests.functional.running import RunningStore
from tests.functional.wire_proxy import WireProxy

from dox_core_store.server.adapters.sql.transacting import MUTATING

KEY = "service_keys.jules_api"
OLD, NEW = "the-value-before", "the-value-after"
WRK = ["wrk", "-t1", "-c8", "-d4"]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Cluster]:
    database = postgres.create_database()
    with running_cluster(tmp_path_factory.mktemp("nodes"), database, 3) as made:
        yield made
    postgres.drop_database(database)


@pytest.fixture
def cluster(three: Cluster) -> Cluster:
    """Three nodes that run, whatever the test before did to them."""
    for node in three.nodes:
        if not node.is_running:
            node.start()
    return three


@pytest.fixture
def key() -> str:
    """A key that no other test knows."""
    return f"service_keys.{secrets.token_hex(8)}"


class Reading:
    """Clients that read ``path`` on ``nodes`` without a pause; what each answer was, and when its
    request began."""

    def __init__(self, nodes: list[RunningStore], path: str, token: str, clients: int = 4) -> None:
        self.seen: list[tuple[float, int, str, int]] = []
        self.failed: list[str] = []
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, args=(node, number, path, token), daemon=True)
            for number, node in enumerate(nodes)
            for _ in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(60)

    def count(self, number: int) -> int:
        return sum(1 for _, where, _, _ in self.seen if where == number)

    def _read(self, node: RunningStore, number: int, path: str, token: str) -> None:
        connection = node.connection()
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                connection.request(
                    "GET", f"/v1/keys/{path}", headers={"Authorization": f"Bearer {token}"}
                )
                answer = connection.getresponse()
                body = answer.read()
            except OSError as error:
                self.failed.append(f"{number}: {error!r}")
                connection.close()
                time.sleep(0.05)
                continue
            value = OLD if OLD.encode() in body else NEW if NEW.encode() in body else ""
            self.seen.append((began, number, value, answer.status))


def test_a_write_on_one_node_is_read_on_all(cluster: Cluster, key: str) -> None:
    cluster[0].put(key, OLD)
    token = reader_of(cluster[1], key)
    assert [node.get(key, token).json["value"] for node in cluster.nodes] == [OLD] * 3
    cluster[2].put(key, NEW)
    assert [node.get(key, token).json["value"] for node in cluster.nodes] == [NEW] * 3
    assert [node.get(key, token, version=1).json["value"] for node in cluster.nodes] == [OLD] * 3


def test_under_load_no_node_reveals_a_value_whose_revocation_was_acknowledged(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    cluster[0].put(key, OLD)
    token = reader_of(cluster[0], key)
    with Reading(cluster.nodes, key, token) as reading:
        for number in range(3):
            until(lambda number=number: reading.count(number) > 100, "reads")  # type: ignore[misc]
        asked_at = time.monotonic()
        revoked = cluster[0].request("POST", f"/v1/keys/{key}/revoke", json={"reason": "leaked"})
        told_at, told = time.monotonic(), datetime.now(UTC)
        assert revoked.status == 200
        before = len(reading.seen)
        until(lambda: len(reading.seen) > before + 300, "reads after the revocation")
    after = [each for each in reading.seen if each[0] > told_at]
    meanwhile = [each for each in reading.seen if asked_at < each[0] <= told_at]
    statuses = Counter(status for _, _, _, status in after)
    with capsys.disabled():
        print(
            f"\nrevoked on node 1 in {told_at - asked_at:.3f} s under load;"
            f" {len(meanwhile)} reads began meanwhile on three nodes,"
            f" {len(after)} after it: {dict(statuses)}, values among them:"
            f" {sum(1 for each in after if each[2])}"
        )
    assert reading.failed == []
    assert {number for _, number, _, _ in after} == {0, 1, 2}
    assert statuses.keys() == {410}
    assert_taken_back(cluster[0], key, told)


def assert_taken_back(store: RunningStore, key: str, told: datetime) -> None:
    """Whatever was put on record as handed out after ``told`` is followed by ABORTED."""
    entries = [each for each in store.verified_export() if each["key_path"] == f"{key}.production"]
    (change,) = [each for each in entries if each["action"] == "REVOKE"]
    reads = [each for each in entries if each["action"] == "GET"]
    granted = Counter(
        each["request_id"]
        for each in reads
        if each["status"] == "GRANTED"
        and each["version"] == change["version"]
        and datetime.fromisoformat(each["timestamp"]) > told
    )
    aborted = Counter(each["request_id"] for each in reads if each["status"] == "ABORTED")
    assert granted - aborted == Counter()


def test_a_node_that_was_stopped_across_a_revocation_knows_when_it_goes_on(
    cluster: Cluster, key: str
) -> None:
    cluster[0].put(key, OLD)
    token = reader_of(cluster[0], key)
    stopped = cluster[2]
    assert stopped.get(key, token).status == 200
    for _ in range(3):
        os.kill(stopped.pid, signal.SIGSTOP)
        answer: list[int] = []
        asking = threading.Thread(
            target=lambda answer=answer: answer.append(stopped.get(key, token).status)  # type: ignore[misc]
        )
        asking.start()  # the first that it will find when it goes on
        revoked = cluster[0].request("POST", f"/v1/keys/{key}/revoke", json={"reason": "leaked"})
        assert revoked.status == 200
        os.kill(stopped.pid, signal.SIGCONT)
        asking.join(30)
        assert answer == [410]
        cluster[0].put(key, OLD)
        assert stopped.get(key, token).status == 200


def test_a_read_whose_commit_is_heard_of_too_late_is_decided_again(
    tmp_path: Path, postgres: Postgres, database: str
) -> None:
    """The entry is on record, the key is revoked, and only then the node hears of its commit: as
    one that was stopped, or whose network was slow."""
    with running_cluster(tmp_path, database, 1) as cluster, WireProxy(postgres.port) as proxy:
        slow = RunningStore(
            tmp_path / "slow",
            database=database.replace(f":{postgres.port}/", f":{proxy.port}/"),
        )
        cluster.join(slow)
        slow.start()
        try:
            cluster[0].put(KEY, OLD)
            assert slow.get(KEY).status == 200  # by an operator, who has no limit to be asked for
            granted = (
                "SELECT count(*) FROM ledger_block WHERE position('\"GET\"'::bytea in body) > 0"
            )
            assert postgres.run(database, granted) == [(1,)]
            answer: list[bytes] = []
            asking = threading.Thread(target=lambda: answer.append(slow.get(KEY).body))
            with proxy.holding():
                asking.start()
                until(lambda: postgres.run(database, granted) == [(2,)], "the read is on record")
                assert cluster[0].request("POST", f"/v1/keys/{KEY}/revoke", json={}).status == 200
            asking.join(30)
            assert OLD.encode() not in answer[0]
            reads = [each["status"] for each in cluster[0].export() if each["action"] == "GET"]
            assert reads == ["GRANTED", "GRANTED", "ABORTED", "DENIED"]
        finally:
            slow.dispose()


def test_a_node_whose_connections_are_swallowed_goes_on_with_new_ones(
    tmp_path: Path, postgres: Postgres, database: str
) -> None:
    """No packet passes and nobody says so: reads are refused, not answered from what was, until the
    node has found it out."""
    with running_cluster(tmp_path, database, 1) as cluster, WireProxy(postgres.port) as proxy:
        cut = RunningStore(
            tmp_path / "cut", database=database.replace(f":{postgres.port}/", f":{proxy.port}/")
        )
        cluster.join(cut)
        cut.start()
        try:
            cluster[0].put(KEY, OLD)
            token = cluster[0].issue("jules", f"{KEY}.production")
            assert cut.get(KEY, token).status == 200
            assert proxy.swallow() > 2
            assert cluster[0].request("POST", f"/v1/keys/{KEY}/revoke", json={}).status == 200
            began = time.monotonic()
            refused = cut.get(KEY, token)
            assert refused.status in (410, 503)
            assert time.monotonic() - began < 4
            until(lambda: cut.get(KEY, token).status == 410, "it has new connections", 60)
            cluster[0].put(KEY, NEW)
            assert cut.get(KEY, token).json["value"] == NEW
            cluster[0].verified_export()
        finally:
            cut.dispose()


def test_a_node_that_was_stopped_for_long_begins_anew(
    cluster: Cluster, postgres: Postgres, key: str
) -> None:
    cluster[0].put(key, OLD)
    token = reader_of(cluster[0], key)
    assert cluster[2].get(key, token).status == 200
    os.kill(cluster[2].pid, signal.SIGSTOP)
    # As if it had been half a minute: the others close its stream.
    postgres.run(cluster.database, "UPDATE node SET seen_at = seen_at - 60000000 WHERE name = 'n2'")
    streams = "SELECT count(*) FROM ledger_stream WHERE closed_at IS NULL AND stream LIKE 'str_%'"
    until(lambda: postgres.run(cluster.database, streams) == [(2,)], "its stream is closed")
    os.kill(cluster[2].pid, signal.SIGCONT)
    until(lambda: answers(cluster[2], key, token) == 200, "the node serves again")
    assert "node_begins_anew" in cluster[2].log_text()
    cluster[0].verified_export()


def reader_of(node: RunningStore, key: str) -> str:
    """A token that may read ``key``, and nothing else."""
    return node.issue(f"reader-{key[-8:]}", f"{key}.production")


def answers(node: RunningStore, key: str, token: str) -> int | None:
    try:
        return node.get(key, token).status
    except OSError:
        return None


def test_a_killed_node_costs_a_client_that_asks_another_nothing(cluster: Cluster, key: str) -> None:
    cluster[0].put(key, OLD)
    token = reader_of(cluster[0], key)
    asked, failed = 0, 0
    killed = False
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        if asked == 200:
            cluster[1].kill()
            killed = True
        node, other = cluster[asked % 3], cluster[(asked + 1) % 3]
        asked += 1
        if answers(node, key, token) != 200 and answers(other, key, token) != 200:
            other = cluster[(asked + 1) % 3]
            failed += answers(other, key, token) != 200
    assert killed
    assert failed == 0


def test_the_stream_of_a_killed_node_is_closed_by_another(
    cluster: Cluster, postgres: Postgres
) -> None:
    query = "SELECT stream FROM node WHERE name = 'n1' ORDER BY started_at DESC LIMIT 1"
    ((stream,),) = postgres.run(cluster.database, query)
    cluster[1].kill()
    postgres.run(cluster.database, "UPDATE node SET seen_at = seen_at - 60000000 WHERE name = 'n1'")
    names = "SELECT name FROM node ORDER BY name"
    until(lambda: postgres.run(cluster.database, names) == [("n0",), ("n2",)], "it is forgotten")
    last = [each for each in cluster[0].verified_export() if each["stream"] == stream][-1]
    assert (last["action"], last["reason"]) == ("CLOSE", "the process ended without closing it")


def test_two_nodes_that_write_one_key_at_once_make_two_versions_or_a_conflict(
    cluster: Cluster, key: str
) -> None:
    cluster[0].put(key, OLD)
    results: list[int] = []

    def write(node: RunningStore, number: int) -> None:
        answer = node.request(
            "PUT", f"/v1/keys/{key}", json={"value": f"value-{number}", "if_version": 1}
        )
        results.append(answer.status)

    threads = [
        threading.Thread(target=write, args=(cluster[number % 3], number)) for number in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [200, 409, 409, 409, 409, 409]
    versions = cluster[1].request("GET", f"/v1/keys/{key}/versions").json["items"]
    assert [(each["version"], each["state"]) for each in versions] == [
        (1, "previous"),
        (2, "current"),
    ]


def test_a_mutation_that_is_held_open_delays_others_and_no_read(cluster: Cluster, key: str) -> None:
    """It holds what every mutation takes; a revocation waits for it, and is then true at once."""
    cluster[0].put(key, OLD)
    token = reader_of(cluster[0], key)
    done: list[int] = []
    with psycopg.connect(cluster.database) as held:
        held.execute("SELECT pg_advisory_xact_lock(%s)", (MUTATING,))

        def revoke() -> None:
            answer = cluster[1].request("POST", f"/v1/keys/{key}/revoke", json={"reason": "x"})
            done.append(answer.status)

        thread = threading.Thread(target=revoke)
        thread.start()
        for _ in range(20):
            assert [node.get(key, token).status for node in cluster.nodes] == [200] * 3
        assert done == []
        held.rollback()
        thread.join(30)
    assert done == [200]
    assert [node.get(key, token).status for node in cluster.nodes] == [410] * 3


def test_a_mutation_that_nobody_goes_on_with_is_ended_by_the_database(
    cluster: Cluster, key: str
) -> None:
    """A node that is stopped in the middle of a mutation keeps the others from theirs for seconds,
    and from reading not at all."""
    cluster[0].put(key, OLD)
    token = reader_of(cluster[0], key)
    with psycopg.connect(
        cluster.database, options="-c idle_in_transaction_session_timeout=2s"
    ) as held:
        held.execute("SELECT pg_advisory_xact_lock(%s)", (MUTATING,))
        until(
            lambda: (
                cluster[1].request("POST", f"/v1/keys/{key}/revoke", json={"reason": "x"}).status
                == 200
            ),
            "the revocation",
        )
        held.close()
    assert [node.get(key, token).status for node in cluster.nodes] == [410] * 3


def test_readiness_tells_how_far_each_node_is(cluster: Cluster, key: str) -> None:
    cluster[0].put(key, OLD)

    def told() -> str:
        checks: dict[str, str] = cluster[0].request("GET", "/v1/ready", token="").json["checks"]
        return checks["nodes"]

    until(lambda: all(f"n{number} 0 behind" in told() for number in range(3)), "all are level")


def test_a_node_drains_when_it_is_told_to_end(cluster: Cluster, key: str) -> None:
    """What a rolling restart does: the node says that it is not ready, and answers what it has."""
    cluster[0].put(key, OLD)
    token = reader_of(cluster[0], key)
    with Reading([cluster[2]], key, token) as reading:
        until(lambda: reading.count(0) > 50, "reads")
        assert cluster[2].stop() == 0
    assert {status for _, _, _, status in reading.seen} <= {200, 503}
    refused = [each for each in reading.failed if "refused" not in each.lower()]
    assert len(refused) <= 4, refused  # a kept connection is closed under its client once


def test_nodes_share_the_time_of_the_database(tmp_path: Path, database: str) -> None:
    """A node whose machine is an hour ahead: nothing expires early there, and no entry lies."""
    faketime = tmp_path / "ahead.py"
    faketime.write_text(
        "import time\n_time, _ns = time.time, time.time_ns\n"
        "time.time = lambda: _time() + 3600\ntime.time_ns = lambda: _ns() + 3600 * 10**9\n"
    )
    with running_cluster(tmp_path, database, 1) as cluster:
        ahead = RunningStore(tmp_path / "ahead", database=database)
        cluster.join(ahead)
        (tmp_path / "site").mkdir()
        faketime.rename(tmp_path / "site" / "sitecustomize.py")
        ahead.environment["PYTHONPATH"] = str(tmp_path / "site")
        ahead.start()
        try:
            cluster[0].put(KEY, OLD)
            token = cluster[0].issue("jules", f"{KEY}.production", expires_in="30m")
            assert ahead.get(KEY, token).status == 200
            entries = cluster[0].export()
            times = [each["timestamp"] for each in entries if each["action"] == "GET"]
            now = time.strftime("%Y-%m-%dT%H", time.gmtime())
            later = time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() + 60))
            assert all(each.startswith((now, later)) for each in times)
            until(lambda: "clock_stepped" in ahead.log_text(), "it says so")
        finally:
            ahead.dispose()


def test_wrk_and_a_revocation(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """The same with a load generator: three nodes, a revocation on the first."""
    cluster[0].put(key, OLD)
    token = reader_of(cluster[0], key)
    loads = [
        subprocess.Popen(
            [*WRK, "-H", f"Authorization: Bearer {token}", f"{node.url}/v1/keys/{key}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for node in cluster.nodes
    ]
    time.sleep(2)
    asked_at = time.monotonic()
    assert cluster[0].request("POST", f"/v1/keys/{key}/revoke", json={}).status == 200
    took = time.monotonic() - asked_at
    statuses = [node.get(key, token).status for node in cluster.nodes]
    said = [load.communicate()[0] for load in loads]
    rates = [
        line.split()[-1] for text in said for line in text.splitlines() if "Requests/sec" in line
    ]
    with capsys.disabled():
        print(
            f"\nthree nodes under wrk: {rates} requests/s; revoked in {took:.3f} s; then {statuses}"
        )
    assert statuses == [410, 410, 410]
    assert all("Non-2xx" in text for text in said)
