"""The real command against a real server: who was handed a key, and the ledger as OCSF."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.functional.running import RunningStore, run_doxstore

KEY = "cli.since.key"


def cli(store: RunningStore, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_doxstore(*arguments, KEY_SERVICE_URL=store.url, ADMIN_TOKEN=store.admin_token)


def handed(store: RunningStore) -> str:
    """Have a service read the key; its token's id."""
    store.put(KEY, "canary-value")
    token = store.issue("cli-since", KEY)
    answer = store.get(KEY, token)
    assert answer.status == 200
    told = cli(store, "ledger", "since", KEY, "--from", "1h", "--json")
    (reader,) = json.loads(told.stdout)["items"]
    return str(reader["token_id"])


def read_ledger(store: RunningStore) -> int:
    found = cli(store, "ledger", "search", "--action", "read_ledger", "--all", "--json")
    return len(json.loads(found.stdout))


def test_who_was_handed_a_key_is_told_so_that_one_can_act(store: RunningStore) -> None:
    token_id = handed(store)
    before = read_ledger(store)
    told = cli(store, "ledger", "since", KEY, "--from", "1h")
    assert told.returncode == 0, told.stderr
    header, line = told.stdout.splitlines()
    assert header.split()[:4] == ["MAY", "SERVE", "UNTIL", "NOW"]
    for word in ("STILL", "cli-since", token_id, "LIVE", "127.0.0.1", "production", "call:1"):
        assert word in line.split()
    assert "1 handed it; 1 may still serve it from a cache; 1 of their tokens are live." in (
        told.stderr
    )
    assert read_ledger(store) == before + 2  # the question, and the search before
    assert cli(store, "token", "revoke", "--id", token_id).returncode == 0
    assert "dead" in cli(store, "ledger", "since", KEY, "--from", "1h").stdout.split()
    nobody = cli(store, "ledger", "since", "cli.nobody", "--from", "2020-01-01")
    assert (nobody.returncode, nobody.stdout.count("\n")) == (0, 1)
    assert "Nobody was handed it" in nobody.stderr


def test_an_export_as_ocsf_has_every_entry_and_is_on_record(
    store: RunningStore, tmp_path: Path
) -> None:
    handed(store)
    plain, events = tmp_path / "ledger.jsonl", tmp_path / "events.jsonl"
    assert cli(store, "ledger", "export", "--output", plain).returncode == 0
    before = read_ledger(store)
    exported = cli(store, "ledger", "export", "--format", "ocsf", "--output", events)
    assert exported.returncode == 0, exported.stderr
    assert read_ledger(store) == before + 2
    entries, found = _lines(plain), _lines(events)
    hashes = {each["unmapped"]["hash"]: each for each in found}
    assert {each["hash"] for each in entries} <= hashes.keys()
    read = next(each for each in entries if (each["action"], each["status"]) == ("GET", "GRANTED"))
    event = hashes[read["hash"]]
    assert (event["class_uid"], event["type_name"]) == (6003, "API Activity: Read")
    assert event["actor"]["user"]["name"] == "cli-since"
    assert "canary-value" not in events.read_text(encoding="utf-8")


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
