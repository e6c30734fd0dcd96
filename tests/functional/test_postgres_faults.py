"""What nodes do when their database restarts, crashes, or is not the one that it was."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.cluster import Cluster, running_cluster, until
from tests.functional.postgres import Postgres
from tests.functional.running import RunningStore, run_doxstore

KEY = "service_keys.jules_api"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Postgres]:
    """A server for one test, which may do with it what it likes."""
    server = Postgres(tmp_path / "postgres")
    server.init()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def cluster(tmp_path: Path, own: Postgres) -> Iterator[Cluster]:
    with running_cluster(tmp_path, own.create_database(), 2) as made:
        yield made


class Asking:
    """A client for each node that reads and writes all the time."""

    def __init__(self, cluster: Cluster, token: str) -> None:
        self.reads: Counter[tuple[int, int]] = Counter()
        self.acknowledged: dict[str, str] = {}
        self.values: list[tuple[str, str]] = []
        self._cluster, self._token = cluster, token
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=each, args=(node, number), daemon=True)
            for number, node in enumerate(cluster.nodes)
            for each in (self._read, self._write)
        ]

    def __enter__(self) -> Asking:  # noqa: PYI034 - nobody derives from it
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(60)

    def _read(self, node: RunningStore, number: int) -> None:
        while not self._ending.is_set():
            try:
                answer = node.get(KEY, self._token, None)
            except OSError:
                time.sleep(0.02)
                continue
            self.reads[number, answer.status] += 1
            if answer.status == 200:
                self.values.append((answer.request_id, answer.json["value"]))

    def _write(self, node: RunningStore, number: int) -> None:
        count = 0
        while not self._ending.is_set():
            count += 1
            path, value = f"written.by{number}.no{count}", f"value-{number}-{count}"
            try:
                answer = node.request("PUT", f"/v1/keys/{path}", json={"value": value})
            except OSError:
                time.sleep(0.02)
                continue
            if answer.status == 201:
                self.acknowledged[path] = value
            time.sleep(0.02)


def served_again(cluster: Cluster, token: str) -> bool:
    try:
        return all(node.get(KEY, token).status == 200 for node in cluster.nodes)
    except OSError:
        return False


def test_a_long_answer_is_refused_before_it_begins_and_whole_once_the_database_is_back(
    cluster: Cluster, own: Postgres
) -> None:
    cluster[0].put(KEY, "as-it-was")
    token = cluster[0].issue("jules", f"{KEY}.production")
    for node in cluster.nodes:
        assert node.verified_export()
    own.stop()
    for node in cluster.nodes:
        refused = node.request("GET", "/v1/ledger/export")
        assert (refused.status, refused.json["code"]) == (503, "ledger_unavailable")
    own.start()
    until(lambda: served_again(cluster, token), "reads are answered again")
    for node in cluster.nodes:
        assert node.verified_export()


@pytest.mark.parametrize("how", ["restarted", "killed"])
def test_a_database_that_comes_back_loses_no_acknowledged_write_and_no_entry(
    cluster: Cluster, own: Postgres, how: str
) -> None:
    cluster[0].put(KEY, "as-it-was")
    token = cluster[0].issue("jules", f"{KEY}.production")
    with Asking(cluster, token) as asking:
        until(lambda: len(asking.acknowledged) > 20, "writes")
        own.stop() if how == "restarted" else own.kill()
        until(lambda: asking.reads[0, 503] and asking.reads[1, 503], "reads are refused")
        own.start()
        until(lambda: served_again(cluster, token), "reads are answered again")
        before = len(asking.acknowledged)
        until(lambda: len(asking.acknowledged) > before + 20, "writes again")
    assert {status for _, status in asking.reads} <= {200, 503}
    assert len(asking.acknowledged) > 40
    for path, value in asking.acknowledged.items():
        assert cluster[0].get(path).json["value"] == value
    entries = cluster[0].verified_export()
    granted = Counter(
        each["request_id"]
        for each in entries
        if each["action"] == "GET" and each["status"] == "GRANTED"
    )
    aborted = Counter(each["request_id"] for each in entries if each["status"] == "ABORTED")
    revealed = Counter(request_id for request_id, _ in asking.values)
    assert all(granted[request_id] == 1 for request_id in revealed)
    assert not revealed.keys() & aborted.keys()
    assert all(node.is_running for node in cluster.nodes)


def test_a_database_that_hangs_is_answered_for_within_two_seconds(
    cluster: Cluster, own: Postgres
) -> None:
    cluster[0].put(KEY, "as-it-was")
    token = cluster[0].issue("jules", f"{KEY}.production")
    assert cluster[0].get(KEY, token).status == 200
    backends = own.backends()
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert cluster[0].get(KEY, token).status == 503
        assert time.monotonic() - began < 3
    finally:
        for pid in backends:
            os.kill(pid, signal.SIGCONT)
    until(lambda: served_again(cluster, token), "reads are answered again")
    entries = cluster[0].verified_export()
    granted = sum(1 for each in entries if each["status"] == "GRANTED" and each["action"] == "GET")
    aborted = sum(1 for each in entries if each["status"] == "ABORTED")
    assert granted - aborted >= 2


def test_an_older_copy_of_the_database_is_found_out_and_serves_nothing_until_signed_off(
    cluster: Cluster, own: Postgres, tmp_path: Path
) -> None:
    cluster[0].put(KEY, "as-it-was")
    token = cluster[0].issue("jules", f"{KEY}.production")
    assert served_again(cluster, token)
    own.stop()
    own.copy_to(tmp_path / "older")
    own.start()
    until(lambda: served_again(cluster, token), "reads are answered again")
    revoked = cluster[0].request("POST", f"/v1/keys/{KEY}/revoke", json={"reason": "leaked"})
    assert revoked.status == 200
    until(lambda: all(node.has_noted_all() for node in cluster.nodes), "the nodes have noted it")
    own.stop()
    own.go_back_to(tmp_path / "older")
    own.start()

    def found_out(node: RunningStore) -> bool:
        try:
            answer = node.get(KEY, token)
        except OSError:
            return False
        assert answer.status != 200, answer.body
        return answer.status == 503 and bool(answer.json["code"] == "unreviewed")

    until(lambda: all(found_out(node) for node in cluster.nodes), "both nodes refuse")
    entries = cluster[0].verified_export()
    (lost,) = [each for each in entries if each["action"] == "HISTORY_LOST"]
    assert "seen:" in lost["reason"]
    signed = run_doxstore(
        "backup", "sign-off", "--data", cluster[0].data, "--key-file", cluster[0].key_file,
        "--reason", "looked at", **cluster[0].environment,
    )  # fmt: skip
    assert signed.returncode == 0, signed.stderr
    until(lambda: served_again(cluster, token), "reads are answered again")
