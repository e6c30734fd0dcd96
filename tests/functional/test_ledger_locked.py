"""Another process that keeps SQLite's write lock: nothing leaves that cannot be put on record."""

from __future__ import annotations

import sqlite3
import time

from tests.functional.cluster import until
from tests.functional.running import RunningStore

KEY = "service_keys.jules_api"


def test_a_write_lock_that_is_held_refuses_reads_and_writes(store: RunningStore) -> None:
    store.put(KEY, "as-it-was")
    token = store.issue("jules", f"{KEY}.production")
    assert store.get(KEY, token).status == 200
    other = sqlite3.connect(store.data / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        began = time.monotonic()
        read = store.get(KEY, token)
        assert time.monotonic() - began < 4
        write = store.request("PUT", f"/v1/keys/{KEY}", json={"value": "new"})
    finally:
        other.close()
    refused = (503, "ledger_unavailable")
    assert [(each.status, each.json["code"]) for each in (read, write)] == [refused, refused]
    until(lambda: store.get(KEY, token).status == 200, "reads are answered again")
    assert store.get(KEY, token).json["version"] == 1
    assert store.put(KEY, "stored")["version"] == 2
    store.verified_export()
