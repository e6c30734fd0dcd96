"""Someone who can write the database, but has no key file, changes what decides.

One store is filled and stopped; its copies are changed with nothing but SQLite. A row that decides
and was changed counts as absent and raises an alarm, a moved value does not open, a changed ledger
is named at its first bad entry. What rows cannot show (that one was deleted, or an older one put
back) is for the ledger and its shipped checkpoints: see ``docs/threat-model.md``.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.functional.raw_http import ask, code_of, recorded
from tests.functional.running import EXIT_REFUSED, RunningStore, run_doxstore

from dox_core_store.cli.ledger_verify import verify_local
from dox_core_store.errors import ConfigurationError
from dox_core_store.server.bootstrap import LocalStore
from dox_core_store.server.domain.ledger import BrokenChainError, Chain, parse_canonical
from dox_core_store.server.settings import Settings

CANARY = "canary-7w3q"
HIDDEN = ("key_not_found", "version_not_found")


class Filled:
    """A store that was filled and stopped, and the tokens that were issued."""

    def __init__(self, store: RunningStore) -> None:
        self.store = store
        self.tokens: dict[str, str] = {}
        store.init()
        store.start()
        for name in (
            "plain",
            "revoked",
            "expiring",
            "moved",
            "other",
            "headless",
            "renamed",
            "secret",
        ):
            store.put(f"t.{name}", f"{CANARY} {name}")
        store.put("t.headless", f"{CANARY} newer")
        assert ask(store, "POST", "/v1/keys/t.revoked/revoke", body={}).status == 200
        self.tokens["reader"] = store.issue(
            "reader",
            *[
                f"t.{name}"
                for name in ("plain", "revoked", "expiring", "moved", "headless", "stolen")
            ],
        )
        self.tokens["granted"] = store.issue("granted", "t.plain")
        self.tokens["ended"] = store.issue("ended", "t.plain")
        assert ask(store, "POST", "/v1/services/ended/revoke-tokens", body={}).status == 200
        local = LocalStore(Settings(data=str(store.data), key_file=str(store.key_file)))
        local.add_operator("low", ["auditor"])
        self.tokens["low"] = local.operator_token("low", "1d")
        for name in ("reader", "granted"):
            assert ask(store, "GET", "/v1/keys/t.plain", token=self.tokens[name]).status == 200
        assert code_of(ask(store, "GET", "/v1/keys/t.plain", token=self.tokens["ended"])) == (
            "token_revoked"
        )
        assert store.stop() == 0

    def copy(self, folder: Path) -> RunningStore:
        """The same store in another folder, not served."""
        store = RunningStore(folder)
        shutil.copytree(self.store.data, store.data)
        shutil.copy(self.store.key_file, store.key_file)
        store.admin_token = self.store.admin_token
        store.store_id = self.store.store_id
        return store


@contextlib.contextmanager
def database(store: RunningStore) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(store.data / "store.db")) as connection, connection:
        yield connection


TAMPERED: list[tuple[str, str, str]] = [
    (
        "version",
        "a revoked version made current",
        """UPDATE version SET state = 'current'
        WHERE version_id = (SELECT head FROM key WHERE path = 't.revoked')""",
    ),
    (
        "version",
        "an expiry moved",
        """UPDATE version SET expires_at = NULL
        WHERE version_id = (SELECT head FROM key WHERE path = 't.expiring')""",
    ),
    (
        "key",
        "a key pointed at an older version",
        """UPDATE key SET head = (SELECT version_id FROM version WHERE number = 1 AND key_id =
        (SELECT key_id FROM key WHERE path = 't.headless')) WHERE path = 't.headless'""",
    ),
    (
        "key",
        "a key moved to where a service may read",
        "UPDATE key SET path = 't.stolen' WHERE path = 't.renamed'",
    ),
    (
        "access_grant",
        "a grant widened",
        "UPDATE access_grant SET pattern = '**' WHERE service = 'granted'",
    ),
    (
        "operator",
        "a role given",
        "UPDATE operator SET roles = json_insert(roles, '$[#]', 'maintainer') WHERE name = 'low'",
    ),
    (
        "service",
        "a generation put back",
        "UPDATE service SET generation = generation - 1 WHERE name = 'ended'",
    ),
]
"""Rows that decide, changed: table, in words, how."""

MOVED = """UPDATE version SET sealed = (SELECT sealed FROM version WHERE version_id =
    (SELECT head FROM key WHERE path = 't.secret'))
    WHERE version_id = (SELECT head FROM key WHERE path = 't.moved')"""
"""A sealed value put in another key's place."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    store = RunningStore(tmp_path_factory.mktemp("filled"))
    yield Filled(store)
    store.dispose()


@pytest.fixture(scope="module")
def tampered(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStore]:
    """A server on a copy in which all of `TAMPERED` was done."""
    store = filled.copy(tmp_path_factory.mktemp("tampered"))
    with database(store) as connection:
        for _table, what, statement in TAMPERED:
            assert connection.execute(statement).rowcount == 1, what
        assert connection.execute(MOVED).rowcount == 1
    store.start()
    yield store
    store.dispose()


@pytest.mark.parametrize("name", ["revoked", "expiring", "headless", "stolen"])
def test_a_changed_key_or_version_counts_as_absent(
    filled: Filled, tampered: RunningStore, name: str
) -> None:
    for token in (filled.tokens["reader"], None):
        for query in ("", "?version=1"):
            answer = ask(tampered, "GET", f"/v1/keys/t.{name}{query}", token=token)
            if name == "headless" and query:
                continue  # the version itself is whole, and may be asked for by who finds its key
            assert code_of(answer) in HIDDEN
            assert CANARY.encode() not in answer.body
            assert recorded(tampered, answer)[0]["status"] == "NOT_FOUND"


def test_a_widened_grant_grants_nothing_at_all(filled: Filled, tampered: RunningStore) -> None:
    for name in ("plain", "secret"):
        answer = ask(tampered, "GET", f"/v1/keys/t.{name}", token=filled.tokens["granted"])
        assert code_of(answer) == "not_authorized"


def test_an_operator_with_a_role_too_many_is_none(filled: Filled, tampered: RunningStore) -> None:
    for method, target, body in (
        ("GET", "/v1/keys/t.plain", None),
        ("GET", "/v1/ledger", None),
        ("PUT", "/v1/keys/t.plain", {"value": "x"}),
    ):
        answer = ask(tampered, method, target, token=filled.tokens["low"], body=body)
        assert answer.status == 401


def test_a_generation_put_back_revives_no_token(filled: Filled, tampered: RunningStore) -> None:
    answer = ask(tampered, "GET", "/v1/keys/t.plain", token=filled.tokens["ended"])
    assert answer.status == 401


def test_a_moved_value_does_not_open(filled: Filled, tampered: RunningStore) -> None:
    answer = ask(tampered, "GET", "/v1/keys/t.moved", token=filled.tokens["reader"])
    assert (answer.status, code_of(answer)) == (500, "value_damaged")
    body = {"key_paths": ["t.moved", "t.plain"]}
    batch = ask(tampered, "POST", "/v1/keys/batch-get", token=filled.tokens["reader"], body=body)
    bad, good = batch.json["keys"]
    assert bad["problem"]["status"] == 500
    assert good["key"]["value"] == f"{CANARY} plain"
    for text in (answer.body, json.dumps(bad).encode()):
        assert CANARY.encode() not in text
    (entry,) = recorded(tampered, answer)
    assert (entry["status"], entry["key_path"]) == ("FAILED", "t.moved.production")
    granted = ask(tampered, "GET", "/v1/ledger?key_path=t.moved&status=GRANTED&action=GET").json
    assert granted["items"] == []


def test_what_was_left_alone_still_works(filled: Filled, tampered: RunningStore) -> None:
    answer = ask(tampered, "GET", "/v1/keys/t.plain", token=filled.tokens["reader"])
    assert answer.json["value"] == f"{CANARY} plain"
    assert tampered.put("t.plain", "written")["version"] == 2


def test_each_changed_row_raised_an_alarm(filled: Filled, tampered: RunningStore) -> None:
    for name in ("revoked", "expiring", "headless", "stolen"):
        ask(tampered, "GET", f"/v1/keys/t.{name}")
    alarms = [
        event
        for event in map(json.loads, re.findall(r"^{.*}$", tampered.log_text(), re.MULTILINE))
        if event["event"] == "integrity_alarm"
    ]
    assert {alarm["table"] for alarm in alarms} >= {table for table, _what, _statement in TAMPERED}
    assert all(alarm["level"] == "error" and alarm["row"] for alarm in alarms)
    metrics = ask(tampered, "GET", "/metrics", token="").body.decode()
    (counted,) = [
        line for line in metrics.splitlines() if line.startswith("doxstore_integrity_alarms_total")
    ]
    assert float(counted.split()[1]) >= len(TAMPERED)
    assert CANARY not in tampered.log_text() + metrics


def test_the_doctor_names_every_changed_row(filled: Filled, tmp_path: Path) -> None:
    store = filled.copy(tmp_path)
    with database(store) as connection:
        for _table, what, statement in TAMPERED:
            assert connection.execute(statement).rowcount == 1, what
        # One more, that no read would come upon.
        token = connection.execute("UPDATE token SET expires_at = expires_at + 1 WHERE rowid = 1")
        assert token.rowcount == 1
    report = doctor(store)
    (records,) = [check for check in report["checks"] if check["check"] == "records"]
    assert (report["status"], records["status"]) == ("failure", "failure")
    assert "8 " in records["detail"]
    assert CANARY not in json.dumps(report)


def test_the_doctor_finds_nothing_wrong_with_what_nobody_changed(
    filled: Filled, tmp_path: Path
) -> None:
    report = doctor(filled.copy(tmp_path))
    wrong = [check for check in report["checks"] if check["status"] == "failure"]
    assert wrong == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE signing_key SET public_jwk = replace(public_jwk, 'AQAB', 'AQAC')",
        "UPDATE signing_key SET created_at = created_at + 1",
        "UPDATE store SET store_id = 'store_0'",
        "UPDATE store SET root_check = zeroblob(32)",
        "UPDATE seal_ring SET wrapped = zeroblob(length(wrapped))",
        "UPDATE seal_slot SET wrapped_root = zeroblob(length(wrapped_root))",
        """UPDATE version SET sealed = zeroblob(length(sealed)) WHERE key_id IN
        (SELECT key_id FROM key WHERE path = '_store.checkpoint_key')""",
        "DELETE FROM signing_key",
        "DELETE FROM seal_slot",
        "DELETE FROM store",
    ],
)
def test_a_store_whose_own_secrets_were_changed_does_not_start(
    filled: Filled, tmp_path: Path, statement: str
) -> None:
    store = filled.copy(tmp_path)
    with database(store) as connection:
        assert connection.execute(statement).rowcount >= 1
    settings = Settings(data=str(store.data), key_file=str(store.key_file))
    with pytest.raises(ConfigurationError) as caught:
        LocalStore(settings)
    assert caught.value.code in {"store_damaged", "wrong_key_file"}


def test_refusing_to_start_is_told_in_one_line(filled: Filled, tmp_path: Path) -> None:
    store = filled.copy(tmp_path)
    with database(store) as connection:
        connection.execute("DELETE FROM signing_key")
    done = run_doxstore(*store.command()[1:])
    assert done.returncode == EXIT_REFUSED
    assert "signing key" in done.stderr
    assert "Traceback" not in done.stderr


# --- the ledger -----------------------------------------------------------------------------------


def blocks(store: RunningStore) -> list[tuple[int, str, int, bytes]]:
    with database(store) as connection:
        return connection.execute(
            "SELECT block_id, stream, first_seq, body FROM ledger_block ORDER BY block_id"
        ).fetchall()


def verify(store: RunningStore) -> str:
    """What ``ledger verify`` says of the first bad entry; nothing if there is none."""
    try:
        verify_local(LocalStore(Settings(data=str(store.data), key_file=str(store.key_file))))
    except BrokenChainError as broken:
        return str(broken)
    return ""


def test_an_untouched_ledger_verifies(filled: Filled, tmp_path: Path) -> None:
    assert verify(filled.copy(tmp_path)) == ""


def in_the_middle(store: RunningStore) -> tuple[int, str, int, bytes]:
    """A block of the changes stream with others before and behind it."""
    changes = [block for block in blocks(store) if block[1] == "changes"]
    return changes[len(changes) // 2]


def test_a_changed_entry_is_named(filled: Filled, tmp_path: Path) -> None:
    store = filled.copy(tmp_path)
    block_id, stream, seq, body = in_the_middle(store)
    assert b"local:" in body or b"operator:" in body
    forged = body.replace(b"local:", b"other:").replace(b"operator:", b"operetta:")
    with database(store) as connection:
        connection.execute(
            "UPDATE ledger_block SET body = ? WHERE block_id = ?", (forged, block_id)
        )
    found = re.match(r"(\w+) #(\d+)", verify(store))
    assert found is not None
    # A block keeps the hash of its last entry, so a change inside is certain by then.
    assert found[1] == stream
    assert seq <= int(found[2]) < seq + len(body.split(b"\n"))
    done = run_doxstore("ledger", "verify", "--data", store.data, "--key-file", store.key_file)
    assert done.returncode == 1
    assert f"{found[0]} " in done.stdout + done.stderr


def test_a_deleted_block_is_named(filled: Filled, tmp_path: Path) -> None:
    store = filled.copy(tmp_path)
    block_id, stream, seq, body = in_the_middle(store)
    with database(store) as connection:
        connection.execute("DELETE FROM ledger_block WHERE block_id = ?", (block_id,))
    said = verify(store)
    after = seq + len(body.split(b"\n"))
    assert said.startswith(f"{stream} #{seq}: is missing")
    assert f"is followed by #{after}" in said


@pytest.mark.parametrize(
    "body", [b"", b"[", b"[" * 5_000, b"\xff", b"{}"], ids=lambda b: ascii(b[:4])
)
def test_what_is_no_entry_is_found(filled: Filled, tmp_path: Path, body: bytes) -> None:
    store = filled.copy(tmp_path)
    block_id = in_the_middle(store)[0]
    with database(store) as connection:
        connection.execute("UPDATE ledger_block SET body = ? WHERE block_id = ?", (body, block_id))
    assert "unreadable" in verify(store)


def test_a_rewritten_history_contradicts_its_checkpoints(filled: Filled, tmp_path: Path) -> None:
    """Someone who knows the format changes who it was, and computes every hash behind it anew."""
    store = filled.copy(tmp_path)
    changes = [block for block in blocks(store) if block[1] == "changes"]
    with database(store) as connection:
        (prev,) = connection.execute(
            "SELECT prev FROM ledger_block WHERE block_id = ?", (changes[0][0],)
        ).fetchone()
        chain = Chain("changes", prev)
        for block_id, _stream, _seq, body in changes:
            entries = [parse_canonical(line)[0] for line in body.split(b"\n")]
            forged = [entry._replace(service_name="operator:nobody") for entry in entries]
            rewritten, after = chain.extend(forged)
            connection.execute(
                "UPDATE ledger_block SET body = ?, prev = ?, head = ? WHERE block_id = ?",
                (rewritten, chain.head, after.head, block_id),
            )
            chain = after
        connection.execute(
            "UPDATE ledger_stream SET head = ? WHERE stream = 'changes'", (chain.head,)
        )
    assert "signs changes #" in verify(store)


def doctor(store: RunningStore) -> dict[str, Any]:
    done = run_doxstore("doctor", "--data", store.data, "--key-file", store.key_file, "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_what_is_deleted_from_the_database_revives_nothing(store: RunningStore) -> None:
    store.put("t.a", CANARY)
    denied, stolen = store.issue("denied", "t.**"), store.issue("stolen", "t.a")
    deny = {"service_name": "denied", "pattern": "t.a", "effect": "deny"}
    assert ask(store, "POST", "/v1/grants", body=deny).status == 201
    (token_id,) = [
        entry["key_path"].removeprefix("_store.tokens.")
        for entry in ask(store, "GET", "/v1/ledger?action=ISSUE_TOKEN").json["items"]
        if entry["reason"] == "for service stolen"
    ]
    assert ask(store, "POST", f"/v1/tokens/{token_id}/revoke", body={}).status == 204
    assert store.stop() == 0
    with database(store) as connection:
        connection.execute("DELETE FROM access_grant WHERE effect = 'deny'")
        connection.execute("DELETE FROM token WHERE token_id = ?", (token_id,))
    store.start()
    assert code_of(ask(store, "GET", "/v1/keys/t.a", token=denied)) == "not_authorized"
    assert code_of(ask(store, "GET", "/v1/keys/t.a", token=stolen)) == "token_revoked"
    assert '"integrity_alarm"' in store.log_text()
