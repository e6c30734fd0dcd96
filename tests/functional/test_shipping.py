"""Checkpoints and changes leave the machine: to a file, syslog, a webhook and a bucket.

Real destinations, which hang, fail, are deleted and come back; the node is killed meanwhile.
Nothing is lost, what comes twice is the same, and nobody but who reads from a store with a required
destination notices.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.functional.raw_http import code_of
from tests.functional.real_servers import Moto
from tests.functional.running import EXIT_REFUSED, RunningStore, free_port, run_doxstore
from tests.functional.sink_servers import serving_syslog, serving_webhook

from dox_core_store.server.domain.ledger import ChainVerifier, Entry, canonical

VALUE = "canary-shipped"
ON_THE_WIRE_SECONDS = 10.0
WAIT_SECONDS = 60.0
QUICK_SECONDS = 5.0


def until(holds: Callable[[], Any], seconds: float = WAIT_SECONDS) -> float:
    """Wait for ``holds``; how long it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, "it did not come about"
        time.sleep(0.05)
    return time.monotonic() - began


def lines_of(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return []


def place(entry: dict[str, Any]) -> tuple[str, int, str]:
    return entry["stream"], entry["seq"], entry["hash"]


def is_shipped(entry: dict[str, Any]) -> bool:
    return entry["stream"].startswith("changes") or entry["action"] == "CHECKPOINT"


def once(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what came again, which has to be what came before."""
    seen: dict[tuple[str, int], dict[str, Any]] = {}
    for entry in entries:
        assert seen.setdefault((entry["stream"], entry["seq"]), entry) == entry
    return list(seen.values())


def verify_changes(store_id: str, entries: Sequence[dict[str, Any]]) -> int:
    """Every hash of the `changes` streams, from their beginning; how many entries they have."""
    verifier = ChainVerifier(store_id)
    for each in once(entries):
        if each["stream"].startswith("changes"):
            line = canonical(
                Entry(**{name: each[name] for name in Entry._fields}), each["seq"], each["stream"]
            )
            prev = bytes.fromhex(each["prev"])
            head = verifier.check(each["stream"], prev, line, each["seq"], each["stream"])
            assert head.hex() == each["hash"]
    assert not verifier.partial
    return verifier.entries


def events(store: RunningStore) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.log_text().splitlines() if line[:1] == "{"]


def named(store: RunningStore, event: str) -> list[dict[str, Any]]:
    return [each for each in events(store) if each["event"] == event]


def sink_metrics(store: RunningStore, name: str) -> dict[str, float]:
    """By the sink's kind."""
    text = store.request("GET", "/metrics", token="").body.decode()
    found = {}
    for line in text.splitlines():
        if line.startswith(f"doxstore_sink_{name}{{"):
            labels, _, value = line.rpartition(" ")
            found[labels.partition('sink="')[2].partition('"')[0]] = float(value)
    return found


def same_as_exported(store: RunningStore, taken: Callable[[], Sequence[dict[str, Any]]]) -> None:
    """Everything that is to be shipped, in stored order, as the export has it."""
    exported = [each for each in store.verified_export() if is_shipped(each)]
    places = {place(each) for each in exported}
    until(lambda: places <= {place(each) for each in taken()})
    assert once(taken())[: len(exported)] == exported


# --- each kind --------------------------------------------------------------------------------


def test_a_file_has_every_checkpoint_and_change_within_seconds(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    store, file = idle_store, tmp_path / "shipped.jsonl"
    store.environment["DOXSTORE_SHIP_TO"] = f"file://{file}"
    store.start()
    store.put("a.b", VALUE)
    token = store.issue("reader", "a.b")
    read = store.get("a.b", token)
    assert until(
        lambda: any(
            each["action"] == "CHECKPOINT" and each["timestamp"] > lines_of(file)[-2]["timestamp"]
            for each in lines_of(file)[-1:]
        ),
        ON_THE_WIRE_SECONDS,
    )
    signed = json.loads(lines_of(file)[-1]["reason"])["heads"]
    stream = next(each for each in store.export() if each["request_id"] == read.request_id)
    assert signed[stream["stream"]][0] >= stream["seq"], "the read is under a shipped checkpoint"
    assert not any(each["action"] == "GET" for each in lines_of(file))
    assert file.stat().st_mode & 0o777 == 0o600
    same_as_exported(store, lambda: lines_of(file))
    assert VALUE.encode() not in file.read_bytes()
    assert verify_changes(store.store_id, lines_of(file)) >= 4
    assert store.stop() == 0
    assert lines_of(file)[-1]["action"] == "CHECKPOINT", "also the one at the stream's end"


def test_the_doctor_and_readiness_tell_how_far_each_destination_is(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    store, file = idle_store, tmp_path / "shipped.jsonl"
    gone = f"syslog://127.0.0.1:{free_port()}"
    settings = {
        "DOXSTORE_SHIP_TO": f"{gone},file://{file}",
        "DOXSTORE_SHIP_LAG_SECONDS": "1",
    }
    store.environment |= settings
    store.start()
    until(lambda: "behind: syslog 1" in _checks(store)["sinks"])
    store.put("a.b", VALUE)
    until(lambda: any(each["action"] == "PUT" for each in lines_of(file)))
    assert store.get("a.b").status == 200, "nobody waits for what is not required"
    until(lambda: sink_metrics(store, "failures_total")["syslog"] >= 2)
    assert sink_metrics(store, "behind_seconds")["syslog"] > 1
    assert sink_metrics(store, "shipped_total")["file"] > 0
    assert store.stop() == 0
    told = run_doxstore(
        *("doctor", "--data", store.data, "--key-file", store.key_file, "--json"), **settings
    )
    found = [each for each in json.loads(told.stdout)["checks"] if each["check"] == "shipping"]
    assert {each["status"] for each in found} == {"ok", "warning"}
    lacking, whole = sorted(found, key=lambda each: each["status"], reverse=True)
    assert gone in lacking["detail"]
    assert "nothing was shipped" in lacking["detail"]
    assert f"file://{file}: has everything" in whole["detail"]
    (failed,) = named(store, "ship_failed")
    assert (failed["to"], failed["number"]) == (gone, 1)


def _checks(store: RunningStore) -> dict[str, str]:
    checks: dict[str, str] = store.request("GET", "/v1/ready", token="").json["checks"]
    return checks


def test_syslog_over_tcp_gets_one_message_for_each_entry(idle_store: RunningStore) -> None:
    with serving_syslog() as syslog:
        idle_store.environment["DOXSTORE_SHIP_REQUIRED"] = f"syslog://127.0.0.1:{syslog.port}"
        idle_store.start()
        forged = "two\n1 <110>1 lines\x1b[2J \u2028 \u00e4"
        idle_store.put("a.b", VALUE, usage=forged, reason=forged)
        until(lambda: any(each["action"] == "PUT" for each in syslog.entries), ON_THE_WIRE_SECONDS)
        (change,) = [each for each in syslog.entries if each["action"] == "PUT"]
        assert change["reason"] == forged
        assert all(each.isprintable() and each.isascii() for each in syslog.taken)
        same_as_exported(idle_store, lambda: syslog.entries)


def test_syslog_over_tls_is_believed_by_its_certificate_alone(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    other.cert_pem.write_to_path(str(trusted))
    with serving_syslog(context) as syslog:
        address = f"syslog+tls://127.0.0.1:{syslog.port}"
        idle_store.environment["DOXSTORE_SHIP_TO"] = address
        idle_store.environment["DOXSTORE_SHIP_CA_FILE"] = str(trusted)
        idle_store.start()
        until(lambda: named(idle_store, "ship_failed"))
        assert "certificate" in named(idle_store, "ship_failed")[0]["reason"]
        assert syslog.taken == []
        assert idle_store.stop() == 0
        authority.cert_pem.write_to_path(str(trusted))
        idle_store.start()
        until(lambda: any(each["action"] == "INIT" for each in syslog.entries), QUICK_SECONDS)
        idle_store.put("a.b", VALUE)
        until(lambda: any(each["action"] == "PUT" for each in syslog.entries))
        same_as_exported(idle_store, lambda: syslog.entries)


def test_syslog_over_udp_sends_a_datagram_for_each_entry(idle_store: RunningStore) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        datagrams.settimeout(ON_THE_WIRE_SECONDS)
        port = datagrams.getsockname()[1]
        idle_store.environment["DOXSTORE_SHIP_TO"] = f"syslog+udp://127.0.0.1:{port}"
        idle_store.start()
        first = datagrams.recv(65536).decode("ascii")
        assert first.startswith("<110>1 20")
        assert json.loads(first[first.index("] {") + 2 :])["action"] == "INIT"


def test_a_webhook_fails_hangs_and_recovers_and_lacks_nothing(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    secret = tmp_path / "webhook.token"
    secret.write_text("first-canary-token\n")
    with serving_webhook() as webhook:
        path = "/services/canary-path"
        store = idle_store
        store.environment["DOXSTORE_SHIP_TO"] = f"http://127.0.0.1:{webhook.port}{path}"
        store.environment["DOXSTORE_SHIP_TOKEN_FILE"] = str(secret)
        webhook.status = 500
        store.start()
        until(lambda: len(webhook.requests) >= 2)
        webhook.status = 307
        until(lambda: len(webhook.requests) >= 3)
        assert {each["path"] for each in webhook.requests} == {path}, "no redirect is followed"
        assert webhook.lines == []
        store.put("a.b", VALUE)
        webhook.status = 204
        until(lambda: any(each["action"] == "PUT" for each in webhook.entries))
        until(lambda: named(store, "ship_recovered"))
        (failed,) = named(store, "ship_failed")
        assert failed["reason"] == "it answered 500"
        taken = webhook.requests[-1]
        assert taken["Authorization"] == "Bearer first-canary-token"
        assert taken["Content-Type"] == "application/x-ndjson"
        assert taken["X-Doxstore-Store"] == store.store_id
        secret.write_text("second-canary-token\n")
        store.put("a.c", VALUE)
        until(lambda: webhook.requests[-1]["Authorization"] == "Bearer second-canary-token")
        same_as_exported(store, lambda: webhook.entries)
        secret.unlink()
        store.put("a.d", VALUE)
        until(lambda: len(named(store, "ship_failed")) == 2)
        assert "ship_token_file cannot be read" in named(store, "ship_failed")[1]["reason"]
        assert "canary" not in store.log_text()


@pytest.fixture
def bucket(moto: Moto) -> Iterator[str]:
    client, name = moto.client("s3"), "shipped"
    client.create_bucket(
        Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    yield name
    for each in client.list_objects_v2(Bucket=name).get("Contents", ()):
        client.delete_object(Bucket=name, Key=each["Key"])
    client.delete_bucket(Bucket=name)


def test_a_bucket_has_objects_whose_names_sort_as_their_entries_were_made(
    idle_store: RunningStore, moto: Moto, bucket: str
) -> None:
    client, store = moto.client("s3"), idle_store
    store.environment |= moto.environment
    store.environment["DOXSTORE_SHIP_TO"] = f"s3://{bucket}/ledgers/main"

    def entries() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for each in client.list_objects_v2(Bucket=bucket).get("Contents", ()):  # in order of name
            assert each["Key"].startswith(f"ledgers/main/{store.store_id}/20")
            body = client.get_object(Bucket=bucket, Key=each["Key"])["Body"].read()
            found += [json.loads(line) for line in body.splitlines()]
        return found

    store.start()
    for number in range(3):
        store.put(f"a.b{number}", VALUE)
        until(lambda n=number: sum(each["action"] == "PUT" for each in entries()) > n)
    store.kill()
    store.start()
    store.put("a.b4", VALUE)
    until(lambda: sum(each["action"] == "PUT" for each in once(entries())) == 4)
    same_as_exported(store, entries)


# --- faults -----------------------------------------------------------------------------------


def test_a_kill_at_any_moment_loses_nothing_and_keeps_the_order(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    store, file = idle_store, tmp_path / "shipped.jsonl"
    store.environment["DOXSTORE_SHIP_REQUIRED"] = f"file://{file}"
    with serving_syslog() as syslog:
        store.environment["DOXSTORE_SHIP_TO"] = f"syslog://127.0.0.1:{syslog.port}"
        for round_ in range(4):
            store.start()
            for number in range(5):
                store.put(f"kill.r{round_}n{number}", VALUE)
                time.sleep(0.11 * round_)
            store.kill()
        store.start()
        expected = {f"kill.r{r}n{n}.production" for r in range(4) for n in range(5)}
        for taken in (lambda: lines_of(file), lambda: syslog.entries):
            until(lambda t=taken: expected <= {each["key_path"] for each in t()})
        for taken in (lambda: lines_of(file), lambda: syslog.entries):
            same_as_exported(store, taken)
            assert verify_changes(store.store_id, taken()) >= 20


def test_a_line_that_a_crash_cut_off_is_written_anew(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    store, file = idle_store, tmp_path / "shipped.jsonl"
    store.environment["DOXSTORE_SHIP_TO"] = f"file://{file}"
    store.start()
    until(lambda: lines_of(file))
    store.kill()
    whole = len(lines_of(file))
    with file.open("ab") as torn:
        torn.write(b'{"timestamp":"2026-')
    store.start()
    store.put("a.b", VALUE)
    until(lambda: file.read_bytes().count(b"\n") > whole)
    same_as_exported(store, lambda: lines_of(file))


def test_a_file_that_is_deleted_or_rotated_away_is_made_anew(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    store, file = idle_store, tmp_path / "shipped.jsonl"
    rotated = tmp_path / "shipped.1"
    store.environment["DOXSTORE_SHIP_TO"] = f"file://{file}"
    store.start()
    store.put("a.one", VALUE)
    until(lambda: any(each["key_path"] == "a.one.production" for each in lines_of(file)))
    file.rename(rotated)
    store.put("a.two", VALUE)
    until(lambda: any(each["key_path"] == "a.two.production" for each in lines_of(file)))
    same_as_exported(store, lambda: lines_of(rotated) + lines_of(file))
    file.unlink()
    store.put("a.three", VALUE)
    until(lambda: any(each["key_path"] == "a.three.production" for each in lines_of(file)))
    assert named(store, "ship_failed") == []
    for stands in (lambda: file.symlink_to(rotated), file.mkdir, lambda: os.mkfifo(file)):
        with contextlib.suppress(IsADirectoryError):
            file.unlink()
        if file.is_dir():
            file.rmdir()
        failed = len(named(store, "ship_failed"))
        stands()
        store.put("a.four", VALUE)
        until(lambda n=failed: len(named(store, "ship_failed")) > n)
        file.unlink() if not file.is_dir() else file.rmdir()
        until(lambda n=failed: len(named(store, "ship_recovered")) > n)
    assert {each["action"] for each in lines_of(rotated)[-1:]} <= {"PUT", "CHECKPOINT"}
    assert not any(each["key_path"] == "a.four.production" for each in lines_of(rotated))


def test_a_destination_that_hangs_slows_neither_reads_nor_others_nor_the_end(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    store, file = idle_store, tmp_path / "shipped.jsonl"
    with serving_syslog() as syslog, serving_webhook() as webhook:
        syslog.hangs.set()
        webhook.hangs.set()
        store.environment["DOXSTORE_SHIP_TO"] = ",".join(
            [
                f"syslog://127.0.0.1:{syslog.port}",
                f"http://127.0.0.1:{webhook.port}/",
                f"file://{file}",
            ]
        )
        store.start()
        store.put("a.b", VALUE)
        token = store.issue("reader", "a.b")
        until(lambda: webhook.requests)
        for _ in range(50):
            began = time.monotonic()
            assert store.get("a.b", token).status == 200
            assert time.monotonic() - began < 1.0
        until(lambda: any(each["action"] == "PUT" for each in lines_of(file)), ON_THE_WIRE_SECONDS)
        began = time.monotonic()
        assert store.stop() == 0
        assert time.monotonic() - began < QUICK_SECONDS
        assert "Traceback" not in store.log_text()
        syslog.hangs.clear()
        webhook.hangs.clear()
        store.start()
        for taken in (lambda: syslog.entries, lambda: webhook.entries):
            until(lambda t=taken: any(each["action"] == "PUT" for each in t()))
        for taken in (lambda: syslog.entries, lambda: webhook.entries, lambda: lines_of(file)):
            same_as_exported(store, taken)


def test_reads_wait_for_a_required_destination_and_revoking_does_not(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    store, port = idle_store, free_port()
    address = f"syslog://127.0.0.1:{port}"
    store.environment["DOXSTORE_SHIP_REQUIRED"] = address
    store.environment["DOXSTORE_SHIP_LAG_SECONDS"] = "2"
    with serving_syslog(port=port):
        store.start()
        store.put("held.one", VALUE)
        store.put("held.two", VALUE)
        token = store.issue("reader", "held.*")
        assert store.get("held.one", token).status == 200
    revealed = 1
    while (answer := store.get("held.one", token)).status == 200:
        revealed += 1
        time.sleep(0.1)
        assert revealed < 600, "reads go on without the destination"
    assert (answer.status, code_of(answer)) == (503, "sink_behind")
    assert address in answer.json["detail"]
    assert VALUE.encode() not in answer.body
    ready = store.request("GET", "/v1/ready", token="")
    assert (ready.status, ready.json["checks"]["sinks"]) == (200, "behind: syslog 1")
    assert store.get("held.one").status == 503, "an operator's read as well"
    revoked = store.request("POST", "/v1/keys/held.two/revoke", json={"reason": "leaked"})
    assert revoked.status == 200
    assert store.put("held.three", VALUE)["version"] == 1
    assert len(named(store, "sink_behind")) == 1
    with serving_syslog(port=port) as syslog:
        until(lambda: store.get("held.one", token).status == 200)
        revealed += 1
        assert code_of(store.get("held.two", token)) == "version_revoked"
        until(lambda: any(each["action"] == "REVOKE" for each in syslog.entries))
        assert len(named(store, "sink_caught_up")) == 1
        reads = [each for each in store.verified_export() if each["action"] == "GET"]
        granted = [each for each in reads if each["status"] == "GRANTED"]
        assert len({each["request_id"] for each in granted}) == len(granted) == revealed
        assert not any(each["status"] == "ABORTED" for each in reads)


# --- settings ---------------------------------------------------------------------------------


def test_an_address_that_is_none_is_refused_at_start_and_not_quoted(
    idle_store: RunningStore,
) -> None:
    store = idle_store
    before = (store.data / "store.db").read_bytes()
    started = run_doxstore(
        *("serve", "--data", store.data, "--key-file", store.key_file, "--port", str(store.port)),
        DOXSTORE_SHIP_TO="file:///a.jsonl, https://operator:canary-password@hooks.example/ledger",
    )
    assert started.returncode == EXIT_REFUSED
    assert "bad_setting" in started.stderr
    assert "canary-password" not in started.stderr
    assert (store.data / "store.db").read_bytes() == before


# --- going on ---------------------------------------------------------------------------------


def test_a_store_is_restored_with_what_was_shipped(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    store, file = idle_store, tmp_path / "shipped.jsonl"
    store.environment["DOXSTORE_SHIP_TO"] = f"file://{file}"
    store.start()
    store.put("service_keys.one", VALUE)
    token = store.issue("reader", "service_keys.*")
    backup = tmp_path / "made.backup"
    opens = ("--key-file", store.key_file)
    made = run_doxstore("backup", "create", backup, "--data", store.data, *opens)
    assert made.returncode == 0, made.stderr
    store.get("service_keys.one", token)
    revoked = store.request("POST", "/v1/keys/service_keys.one/revoke", json={"reason": "leaked"})
    assert revoked.status == 200
    until(lambda: [each["action"] for each in lines_of(file)[-2:]] == ["REVOKE", "CHECKPOINT"])
    store.kill()
    with file.open("ab") as torn:
        torn.write(lines_of(file)[-1]["hash"].encode())  # a line that was cut off

    new = RunningStore(tmp_path / "new")
    new.key_file, new.admin_token = store.key_file, store.admin_token
    new.environment |= store.environment
    restored = run_doxstore(
        *("backup", "restore", backup, "--data", new.data, *opens),
        *("--checkpoints", file, "--json"),
    )
    assert restored.returncode == 0, restored.stderr
    said = json.loads(restored.stdout)
    assert (said["applied"], said["not_applied"]) == (1, [])
    new.start()
    try:
        answer = new.get("service_keys.one", token)
        assert (answer.status, code_of(answer)) == (410, "version_revoked")
        # Nothing is known here of what was shipped, so all of it is shipped again, then the rest.
        until(lambda: any(each["stream"] == "changes-2" for each in lines_of(file)))
        new.put("service_keys.two", VALUE)
        until(lambda: lines_of(file)[-1]["action"] == "CHECKPOINT")
        assert verify_changes(store.store_id, lines_of(file)) > 5
    finally:
        new.dispose()
    again = tmp_path / "again"
    restored = run_doxstore(
        *("backup", "restore", backup, "--data", again, *opens, "--checkpoints", file, "--json")
    )
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["not_applied"] == []


def test_after_lost_history_the_new_epoch_is_shipped_from_its_beginning(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    import shutil
    import sqlite3

    store, file = idle_store, tmp_path / "shipped.jsonl"
    store.environment["DOXSTORE_SHIP_TO"] = f"file://{file}"
    store.start()
    for number in range(5):
        store.put(f"a.b{number}", VALUE)
    until(lambda: sum(each["action"] == "PUT" for each in lines_of(file)) == 5)
    assert store.stop() == 0
    before = lines_of(file)
    shutil.copy(store.data / "store.db", tmp_path / "kept.db")
    with contextlib.closing(sqlite3.connect(store.data / "store.db")) as database, database:
        (top,) = database.execute("SELECT max(block_id) FROM ledger_block").fetchone()
        database.execute("DELETE FROM ledger_block WHERE block_id > ?", (top - 6,))
    store.start()
    store.put("a.after", VALUE)
    until(lambda: any(each["key_path"] == "a.after.production" for each in lines_of(file)))
    fresh = [each for each in once(lines_of(file)) if each["stream"] == "changes-2"]
    assert [each["seq"] for each in fresh] == list(range(1, len(fresh) + 1))
    assert fresh[0]["action"] == "HISTORY_LOST"
    assert {place(each) for each in before} <= {place(each) for each in lines_of(file)}
    assert len(named(store, "ship_restarted")) == 1
