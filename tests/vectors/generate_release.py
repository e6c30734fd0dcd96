"""Keeps a release as evidence for upgrades: a store it made, and every statement that it sends.

Run it from the root of the repository, once for each release that changed the schema, with that
release's source tree first on the path and an environment of this repository::

    git archive RELEASE src | tar -x -C /tmp/release
    PYTHONPATH=/tmp/release/src .venv/bin/python -m tests.vectors.generate_release

It writes, named after the release's schema:

- ``store_NNNN.sql``: the database of a store that was made and used by that release through its
  command line and its HTTP API, and whose last server was killed: one import took effect without
  being tidied up, another one is open, one stream of the ledger was not closed.
- ``store_NNNN.json``: what must come out of it, as that release itself answered, and the values as
  they were sent.
- ``statements_NNNN.jsonl``: every distinct statement that reached SQLite's driver meanwhile, with
  the first parameters that it was sent with. Left out is what names no table of ours: transactions,
  PRAGMA, and the DDL with which that release made its schema.

Every process of the release is started through `main` with ``--record``: it then runs on a clock of
its own, so that expiry needs no waiting and nothing here was made in anybody's future, and on a
driver that writes down what it is told. Names and values are made up and protect nothing.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import time_machine
from sqlalchemy import event
from tests.functional.running import DOXSTORE, Answer, RunningStore, clean_environment

import dox_core_store
from dox_core_store.cli import main as doxstore
from dox_core_store.server.adapters.sql.tables import RECORDS, SCHEMAS

__all__ = ["main"]

HERE = Path(__file__).parent
KEY_FILE = f"doxstore-key-file-1 {base64.b64encode(bytes(range(32))).decode()}\n"
BEGINNING = datetime(2025, 11, 4, 13, 30, tzinfo=UTC)
_TAKES_EFFECT = "committed"
"""The parameter of the statement with which the sweeper looks for imports to tidy up."""

_LEFT_OUT = ("PRAGMA", "BEGIN", "COMMIT", "ROLLBACK", "CREATE")
_TRIES = 500


class Recorder:
    """Writes down each distinct statement of this process, once, as it comes. A process that is to
    die does so before a SELECT with the parameter ``die_on``."""

    def __init__(self, path: Path, die_on: str | None) -> None:
        self._path = path
        self._die_on = die_on
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def install(self) -> None:
        """On every connection that SQLAlchemy opens: a statement that a release hands to the
        driver itself passes here too."""
        recorder = self

        class Cursor(sqlite3.Cursor):
            def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
                recorder.note(statement, parameters)
                return super().execute(statement, parameters)

            def executemany(self, statement: str, parameters: Any) -> sqlite3.Cursor:
                parameters = list(parameters)
                recorder.note(statement, parameters[0] if parameters else ())
                return super().executemany(statement, parameters)

        class Connection(sqlite3.Connection):
            def cursor(self, factory: type[sqlite3.Cursor] = Cursor) -> sqlite3.Cursor:
                return super().cursor(factory)

            def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
                return self.cursor().execute(statement, parameters)

        @event.listens_for(sa.Engine, "do_connect")
        def _connect(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
            options["factory"] = Connection

    def note(self, statement: str, parameters: Sequence[Any]) -> None:
        dies = self._die_on is not None and self._die_on in parameters
        if dies and statement.startswith("SELECT"):
            os.kill(os.getpid(), signal.SIGKILL)
        with self._lock:
            if statement in self._seen or statement.lstrip().startswith(_LEFT_OUT):
                return
            self._seen.add(statement)
            sent = [
                {"hex": each.hex()} if isinstance(each, bytes | memoryview) else each
                for each in parameters
            ]
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"statement": statement, "parameters": sent}) + "\n")


class Release(RunningStore):
    """A store of the release: commands and servers, each at a time and recorded."""

    def __init__(self, folder: Path, notes: Path) -> None:
        super().__init__(
            folder, environment={"DOXSTORE_EXPIRY_DAYS": "0", "LOGNAME": "ada", "TZ": "UTC"}
        )
        self.notes = notes
        self.values: dict[tuple[str, str, int], str] = {}

    def at(self, days: float, *, die_on: str | None = None) -> None:
        """What is started from now on finds this day."""
        moment = (BEGINNING + timedelta(days=days)).isoformat()
        dying = [] if die_on is None else ["--die-on", die_on]
        module = [sys.executable, "-m", "tests.vectors.generate_release"]
        self.wrapper = [*module, "--record", str(self.notes), "--at", moment, *dying, "--"]

    def run(self, *arguments: str) -> str:
        """What the command said."""
        store = ["--data", str(self.data), "--key-file", str(self.key_file)]
        command = [*self.wrapper, str(DOXSTORE), *arguments, *store]
        environment = clean_environment(**self.environment)
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def log_in(self) -> None:
        said = self.run("operator", "token", "ada", "--json")
        self.admin_token = json.loads(said)["token"]

    def call(self, method: str, path: str, *expected: int, **sent: Any) -> Answer:
        answer = self.request(method, path, **sent)
        assert answer.status in (expected or (200, 201, 204)), (path, answer.body)
        return answer

    def write(self, path: str, value: str, **fields: Any) -> None:
        said = self.put(path, value, **fields)
        self.values[said["key_path"], said["environment"], said["version"]] = value

    def act(self, path: str, act: str, **fields: Any) -> Any:
        return self.call("POST", f"/v1/keys/{path}/{act}", json=fields).json

    def begin_import(self) -> str:
        name: str = self.call("POST", "/v1/imports", json={}).json["import_id"]
        return name

    def add(self, import_id: str, sequence: int, *entries: tuple[str, str, str]) -> None:
        names = ("key_path", "environment", "value")
        slice_ = [dict(zip(names, each, strict=True)) for each in entries]
        body = {"sequence": sequence, "entries": slice_}
        self.call("POST", f"/v1/imports/{import_id}/entries", json=body)

    def end_import(self, import_id: str, how: str, *expected: int) -> None:
        self.call("POST", f"/v1/imports/{import_id}/{how}", *expected, json={})

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the database file holds, to everybody who looks."""
        with contextlib.closing(sqlite3.connect(self.data / "store.db")) as database:
            return database.execute(query).fetchall()

    def wait_until_swept(self) -> None:
        for _ in range(_TRIES):
            if not self.rows("SELECT 1 FROM key_import WHERE status IN ('committed', 'aborted')"):
                return
            time.sleep(0.02)
        raise AssertionError("the sweeper does not come")


def make(store: Release) -> None:
    """The store, and its first server until it is stopped."""
    store.at(0)
    store.folder.mkdir(parents=True)
    store.key_file.write_text(KEY_FILE)
    store.key_file.chmod(0o600)
    store.run("init", "--operator", "ada", "--json")
    store.run("operator", "add", "ben", "--role", "auditor")
    store.run("operator", "add", "cleo", "--role", "maintainer")
    store.run("operator", "disable", "cleo", "--reason", "left")
    store.log_in()
    store.start()
    store.call("POST", "/v1/environments", json={"name": "qa"})
    write_keys(store)
    admit_services(store)
    import_keys(store)
    look_around(store)
    time.sleep(1.2)  # a signed checkpoint, and the write-ahead log copied
    assert store.stop() == 0


def write_keys(store: Release) -> None:
    """A key in each state, and a value of each kind."""
    for number in range(1, 6):
        store.write("service_keys.jules_api", f"jules-{number}", owner="platform", usage="calls")
    store.act("service_keys.jules_api", "revoke", version=1, reason="leaked")
    store.act("service_keys.jules_api", "destroy", version=2)
    store.write("service_keys.jules_api", "jules staging", environment="staging")
    store.write("service_keys.jules_api", "", environment="qa")  # empty is a value
    store.write("database_connections.postgres_main", "postgresql://one", if_version=0)
    store.write("database_connections.postgres_main", "postgresql://two", if_version=1)
    back = store.act("database_connections.postgres_main", "rollback", reason="two is wrong")
    came_back = ("database_connections.postgres_main", "production", back["version"])
    store.values[came_back] = "postgresql://one"
    store.write("external_apis.maps", "revoked with nothing behind it")
    store.write("external_apis.maps", "revoked while current")
    store.act("external_apis.maps", "revoke")
    store.write("external_apis.mail", "destroyed once revoked")
    store.act("external_apis.mail", "revoke")
    store.act("external_apis.mail", "destroy", version=1)
    soon = (BEGINNING + timedelta(hours=1)).isoformat()
    store.write("external_apis.trial", "only for an hour", expires_at=soon)
    store.write("external_apis.longer", "for an hour, then extended", expires_at=soon)
    store.act("external_apis.longer", "extend", expires_at="2125-11-04T00:00:00Z")
    store.write("texts.unicode", 'lines\n"quoted"\tand ünïcode 🔑\n')
    store.write("texts.long", "0123456789abcdef" * 128)
    store.call("PUT", "/v1/keys/TEXTS.long", 409, json={"value": "x"})
    store.call("PUT", "/v1/keys/texts.long", 409, json={"value": "x", "if_version": 7})


def admit_services(store: Release) -> None:
    """Services, grants both ways and tokens, and what they read and are refused."""
    store.register("jules-mcp", "service_keys.jules_api", "external_apis.**")
    store.register("gateway", "database_connections.*")
    store.register("retired-one", "texts.long")
    deny = {"service_name": "jules-mcp", "pattern": "external_apis.mail", "effect": "deny"}
    store.call("POST", "/v1/grants", json=deny)
    extra = {"service_name": "gateway", "pattern": "texts.**", "environment": "qa"}
    given = store.call("POST", "/v1/grants", json=extra).json
    store.call("DELETE", f"/v1/grants/{given['grant_id']}?reason=by+mistake")
    token, gateway = store.issue("jules-mcp"), store.issue("gateway", environment="production")
    revoked = store.call("POST", "/tokens", json={"service_name": "jules-mcp"}).json
    store.call("POST", f"/v1/tokens/{revoked['token_id']}/revoke", json={"reason": "lost"})
    late = store.issue("retired-one")
    store.call("POST", "/v1/services/retired-one/revoke-tokens", json={})
    store.call("POST", "/v1/services/retired-one/decommission", json={"reason": "replaced"})
    store.call("PUT", "/v1/services/gateway/limit", json={"limit": "100/h", "burst": 2})
    store.get("service_keys.jules_api", token)
    store.get("service_keys.jules_api", token, version=4)
    for path, who, expected in (
        ("external_apis.mail", token, 403),
        ("external_apis.unknown", token, 404),
        ("external_apis.maps", token, 410),
        ("service_keys.jules_api", revoked["token"], 401),
        ("texts.long", late, 401),
        ("database_connections.postgres_main", gateway, 200),
        ("database_connections.postgres_main", gateway, 200),
        ("database_connections.postgres_main", gateway, 429),
    ):
        assert store.get(path, who).status == expected, path
    asked = {"key_paths": ["service_keys.jules_api", "external_apis.maps", "texts.long"]}
    store.call("POST", "/v1/keys/batch-get", json=asked, token=token)


def import_keys(store: Release) -> None:
    """One import that takes effect, one that is aborted, one that somebody crosses, one given up
    a day later."""
    done = store.begin_import()
    store.add(done, 0, ("texts.unicode", "production", "replaced"), ("bulk.a", "production", "a"))
    store.add(
        done, 1, ("bulk.b", "qa", "b"), ("texts.long", "production", "0123456789abcdef" * 128)
    )
    store.end_import(done, "commit")
    store.wait_until_swept()
    for path, environment, number, value in (
        ("texts.unicode", "production", 2, "replaced"),
        ("bulk.a", "production", 1, "a"),
        ("bulk.b", "qa", 1, "b"),
    ):
        store.values[path, environment, number] = value
    dropped = store.begin_import()
    store.add(dropped, 0, ("bulk.dropped", "production", "x"), ("bulk.a", "production", "x"))
    store.end_import(dropped, "abort")
    store.wait_until_swept()
    crossed = store.begin_import()
    store.add(crossed, 0, ("bulk.b", "qa", "crossed"))
    store.write("bulk.b", "written meanwhile", environment="qa")
    store.end_import(crossed, "commit", 409)
    store.end_import(crossed, "abort")
    store.add(store.begin_import(), 0, ("bulk.given_up", "staging", "x"))


def look_around(store: Release) -> None:
    """Everything that only reads."""
    keys = "/v1/keys?limit=3"
    page = store.call("GET", keys).json
    store.call("GET", f"{keys}&cursor={page['next_cursor']}")
    for query in ("prefix=service_keys", "environment=qa", "prefix=bulk&environment=qa"):
        page = store.call("GET", f"{keys}&{query}").json
    store.call("GET", "/v1/keys?limit=1&prefix=texts")
    store.call("GET", "/v1/keys/service_keys.jules_api/versions")
    for path in ("services", "grants", "grants?service_name=jules-mcp", "environments"):
        store.call("GET", f"/v1/{path}")
    page = store.call("GET", "/v1/services?limit=1").json
    store.call("GET", f"/v1/services?limit=1&cursor={page['next_cursor']}")
    page = store.call("GET", "/v1/grants?limit=1").json
    store.call("GET", f"/v1/grants?limit=1&cursor={page['next_cursor']}")
    store.call("GET", f"/v1/grants?service_name=jules-mcp&limit=1&cursor={page['next_cursor']}")
    for query in (
        "limit=2",
        "service_name=jules-mcp&action=PUT",
        "key_path=service_keys.jules_api&status=DENIED",
        "prefix=external_apis&since=2025-11-01T00:00:00Z&until=2125-01-01T00:00:00Z",
        "ip_address=127.0.0.1&environment=production&token_id=tok_x&request_id=req_x",
    ):
        store.call("GET", f"/v1/ledger?{query}")
    for path in ("/v1/health", "/metrics", "/openapi.json", "/.well-known/jwks.json"):
        store.call("GET", path)
    store.verified_export()
    store.run("doctor")
    store.run("ledger", "verify")
    store.run("operator", "list")


def go_on(store: Release) -> None:
    """A day later: what has expired, and the search index. This server is killed."""
    store.at(1)
    store.log_in()
    store.start()
    assert store.get("external_apis.trial").status == 410
    assert store.get("external_apis.longer").status == 200
    look_around(store)
    given_up = store.begin_import()
    store.end_import(given_up, "abort")  # the sweeper comes by, and finds the other one
    store.wait_until_swept()
    time.sleep(1.2)
    store.kill()


def end(store: Release) -> None:
    """Another day later: closes the killed one's stream, and dies between an import's taking effect
    and its being tidied up, with another one open."""
    store.at(2, die_on=_TAKES_EFFECT)
    store.log_in()
    store.start()
    open_one = store.begin_import()
    replacing = ("external_apis.longer", "production", "unseen")
    store.add(open_one, 0, ("staged.new", "production", "x"), replacing)
    store.values[replacing[0], "production", 2] = replacing[2]
    taken = store.begin_import()
    replaced = ("database_connections.postgres_main", "production", "postgresql://imported")
    store.add(taken, 0, replaced, ("staged.taken", "production", "t"))
    store.values[replaced[0], "production", 4] = replaced[2]
    store.values["staged.taken", "production", 1] = "t"
    with contextlib.suppress(OSError, http.client.HTTPException):  # it may die before it answers
        store.end_import(taken, "commit")
    assert store.wait() == -signal.SIGKILL
    found = store.rows("SELECT status, count(*) FROM key_import GROUP BY status ORDER BY status")
    assert found == [("cleared", 4), ("committed", 1), ("open", 1), ("settled", 1)], found
    assert store.rows("SELECT count(*) FROM ledger_stream WHERE closed_at IS NULL") == [(2,)]


def expected(store: Release) -> dict[str, Any]:
    """What the release itself says of ``store``, asked on a copy. Values that it hands out must be
    those that were sent."""
    store.start()
    keys = []
    listed = store.call("GET", "/v1/keys?limit=500").json["items"]
    for place in ((each["key_path"], each["environment"]) for each in listed):
        path = ".".join(place)
        read = store.get(path).json
        if "value" in read:
            assert read["value"] == store.values[*place, read["version"]], path
        versions = store.call("GET", f"/v1/keys/{path}/versions").json["items"]
        for version in versions:
            value = store.values.pop((*place, version["version"]))
            version["value"] = None if version["state"] == "destroyed" else value
            shown = store.get(path, version=version["version"]).json
            assert shown.get("value") in (None, value), path
        head = {"version": read["version"]} if "value" in read else {"code": read["code"]}
        keys.append({"key_path": place[0], "environment": place[1], "read": head,
                     "versions": versions})  # fmt: skip
    assert not store.values, f"not listed: {list(store.values)}"
    services = store.call("GET", "/v1/services").json["items"]
    grants = store.call("GET", "/v1/grants").json["items"]
    store.kill()
    return {"keys": keys, "services": services, "grants": grants}


def ledger(store: Release) -> dict[str, Any]:
    """How many entries the ledger has, and where each stream ends."""
    heads: dict[str, dict[str, Any]] = {}
    query = "SELECT stream, last_seq, head FROM ledger_block ORDER BY block_id"
    for stream, seq, head in store.rows(query):
        heads[stream] = {"seq": seq, "hash": head.hex()}
    return {"entries": sum(each["seq"] for each in heads.values()), "heads": heads}


def generate(folder: Path) -> dict[str, str]:
    """The three files, by name."""
    store = Release(folder / "store", folder / "statements.jsonl")
    make(store)
    go_on(store)
    end(store)
    copy = Release(folder / "copy", folder / "statements.jsonl")
    copy.copy_of(store)
    copy.values = store.values
    copy.at(2.01)
    with contextlib.closing(sqlite3.connect(store.data / "store.db")) as database:
        names = [name for (name,) in database.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]  # fmt: skip
        dump = "\n".join(database.iterdump())
    rows = {name: store.rows(f'SELECT count(*) FROM "{name}"')[0][0] for name in names}  # noqa: S608
    about = {
        "about": "Made by generate_release.py in this folder; what must come out of the .sql.",
        "schema": SCHEMAS[-1],
        "key_file": KEY_FILE,
        "store_id": store.rows("SELECT store_id FROM store")[0][0],
        "rows": rows,
        "records": {table.name: list(kind.__struct_fields__) for kind, table in RECORDS.items()},
        "imports": dict(store.rows("SELECT import_id, status FROM key_import")),
        "ledger": ledger(store),
        **expected(copy),
    }
    lines = (folder / "statements.jsonl").read_text().splitlines()
    return {
        f"store_{SCHEMAS[-1]}.sql": dump + "\n",
        f"store_{SCHEMAS[-1]}.json": json.dumps(about, indent=1, ensure_ascii=False) + "\n",
        f"statements_{SCHEMAS[-1]}.jsonl": "\n".join(_first_of_each(lines)) + "\n",
    }


def _first_of_each(lines: Iterable[str]) -> Iterator[str]:
    """Each statement once: every process noted its own."""
    seen = set()
    for line in lines:
        statement = json.loads(line)["statement"]
        if statement not in seen:
            seen.add(statement)
            yield line


def main() -> int:
    parser = argparse.ArgumentParser(description="Keep a release as evidence for upgrades.")
    parser.add_argument("--record", type=Path, help="run a command of the release, noting there")
    parser.add_argument("--at", type=datetime.fromisoformat)
    parser.add_argument("--die-on")
    parser.add_argument("command", nargs="*")
    given = parser.parse_args()
    if given.record is not None:
        Recorder(given.record, given.die_on).install()
        sys.argv = ["doxstore", *given.command[1:]]
        with time_machine.travel(given.at, tick=True):
            return doxstore()
    print(f"release: schema {SCHEMAS[-1]}, from {Path(dox_core_store.__file__).parent}")
    folder = Path(tempfile.mkdtemp(prefix="release-"))
    try:
        for name, text in generate(folder).items():
            (HERE / name).write_text(text, encoding="utf-8")
            print(f"{name}: {len(text.encode())} bytes")
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
