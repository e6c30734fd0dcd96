"""A disk without space: every answer is 503, no value leaves, and nothing is lost.

The kernel refuses to let any file of the running server grow (``RLIMIT_FSIZE``, set from outside):
SQLite sees what it sees on a full disk, and space comes back without a restart.
"""

from __future__ import annotations

import resource
import time

from tests.functional.running import Answer, RunningStore

KEY = "full.key"
VALUE = "value-on-a-full-disk"
FULL_BYTES = 1_024
"""Less than any file of the store: nothing can be written to any of them."""


def fill_disk(store: RunningStore) -> None:
    resource.prlimit(store.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))


def free_disk(store: RunningStore) -> None:
    unlimited = resource.RLIM_INFINITY
    resource.prlimit(store.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))


def check_unavailable(answer: Answer) -> None:
    assert answer.status == 503, answer.body
    assert answer.json["code"] == "ledger_unavailable"
    assert VALUE.encode() not in answer.body


def read_again(store: RunningStore, token: str) -> Answer:
    """A read, once they work again."""
    deadline = time.monotonic() + 10
    while (answer := store.get(KEY, token)).status != 200:
        check_unavailable(answer)
        assert time.monotonic() < deadline, "reads did not come back"
        time.sleep(0.05)
    return answer


def test_a_full_disk_refuses_everything_and_loses_nothing(store: RunningStore) -> None:
    store.put(KEY, VALUE)
    token = store.issue("reader", "full.*")
    assert store.get(KEY, token).json["value"] == VALUE

    fill_disk(store)
    refused = [store.get(KEY, token) for _ in range(5)]
    refused.append(store.request("PUT", f"/v1/keys/{KEY}", json={"value": "never stored"}))
    refused.append(store.get("not.granted", token))
    refused.append(store.get(KEY, "not-a-token"))
    refused.append(store.request("GET", "/v1/keys"))
    refused.append(store.request("POST", "/tokens", json={"service_name": "reader"}))
    batch = {"key_paths": [KEY]}
    refused.append(store.request("POST", "/v1/keys/batch-get", token=token, json=batch))
    for answer in refused:
        check_unavailable(answer)
    assert store.request("GET", "/v1/ready", token="").status == 503
    assert store.request("GET", "/v1/health", token="").status == 200

    free_disk(store)
    after = read_again(store, token)
    assert after.json["value"] == VALUE
    assert after.json["version"] == 1
    assert store.request("GET", "/v1/ready", token="").status == 200
    assert store.get("not.granted", token).status == 403
    assert store.put(KEY, "stored")["version"] == 2

    assert store.stop() == 0
    store.start()
    assert store.get(KEY, token).json["value"] == "stored"
    granted = {
        entry["request_id"]
        for entry in store.verified_export()
        if entry["action"] == "GET" and entry["status"] == "GRANTED"
    }
    assert after.request_id in granted
    assert not granted & {answer.request_id for answer in refused}


def test_a_server_told_to_end_on_a_full_disk_ends_and_starts_again_once_there_is_space(
    idle_store: RunningStore,
) -> None:
    store = idle_store
    store.log.write_bytes(b"\n" * 2 * FULL_BYTES)  # the log stands on the full disk as well
    store.start()
    store.put(KEY, VALUE)
    fill_disk(store)
    check_unavailable(store.get(KEY))
    assert store.stop() == 0
    store.start()
    assert store.get(KEY).json["value"] == VALUE
    entries = store.verified_export()
    opened = [entry["stream"] for entry in entries if entry["action"] == "OPEN"]
    closed = [entry["stream"] for entry in entries if entry["action"] == "CLOSE"]
    assert closed == opened[:-1], "the stream that could not be closed is closed by the next start"
