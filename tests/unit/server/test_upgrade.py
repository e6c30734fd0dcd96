"""An upgrade loses nothing, can be cut off anywhere, and leaves the release before able to go on.

The evidence is what a release left behind in ``tests/vectors`` (see ``generate_release.py`` there):
a store that it made, and every statement that it sends.

Run as a program, this file is the process whose children `test_an_upgrade_can_be_cut_off_anywhere`
kills: each opens one store, and counts in shared memory how far it came.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import random
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event

from dox_core_store.errors import ConfigurationError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.sql import migrate, tables
from dox_core_store.server.adapters.sql.reader import SqlReader
from dox_core_store.server.adapters.sql.records import shape_of
from dox_core_store.server.bootstrap import LocalStore
from dox_core_store.server.domain.access import GrantRecord, ServiceRecord
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.key import ImportRecord, KeyRecord, VersionRecord, refusal
from dox_core_store.server.settings import Settings

VECTORS = Path(__file__).parents[2] / "vectors"
RELEASES = sorted(path.stem.removeprefix("store_") for path in VECTORS.glob("store_*.json"))
NEWEST = tables.SCHEMAS[-1]
OLDER = [schema for schema in RELEASES if schema != NEWEST]
OLDEST_AT_WORK = tables.READABLE_BY.partition(":")[2]
AT_WORK = [schema for schema in RELEASES if schema >= OLDEST_AT_WORK]
"""The releases of which the newest schema says that they may work on it."""

IMPLIED = {
    # An epoch's feed in the words of one index. What an older release writes to it is in the stream
    # `changes`, where ix_ledger_block_changes asks the same of `last_seq` alone.
    "unique (stream, last_seq) of ledger_block where stream >= 'changes' AND stream < 'changes.'",
}
"""New uniqueness on an old table that refuses nothing which an older release may write."""

MADE_ANEW = ("ledger_posting", "ledger_cursor")
"""The search index, which is written again at the next start."""


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A vector with a member that no test here looks at does not load."""


class ToldVersion(Strict):
    version: int
    version_id: str
    state: str
    value: str | None
    expires_at: str | None
    rolled_back_from: int | None
    created_at: str
    created_by: str


class Reading(Strict, omit_defaults=True):
    """What a read without a number was answered: a version, or the refusal's code."""

    version: int | None = None
    code: str | None = None


class ToldKey(Strict):
    key_path: str
    environment: str
    read: Reading
    versions: list[ToldVersion]


class End(Strict):
    seq: int
    hash: str


class ToldLedger(Strict):
    entries: int
    heads: dict[str, End]


class Told(Strict):
    """``store_NNNN.json``: what the release said of its store."""

    about: str
    schema: str
    key_file: str
    store_id: str
    rows: dict[str, int]
    records: dict[str, list[str]]
    imports: dict[str, str]
    ledger: ToldLedger
    keys: list[ToldKey]
    services: list[dict[str, Any]]
    grants: list[dict[str, Any]]


class Statement(Strict):
    """A line of ``statements_NNNN.jsonl``."""

    statement: str
    parameters: list[Any]

    @property
    def sent(self) -> list[Any]:
        return [bytes.fromhex(p["hex"]) if isinstance(p, dict) else p for p in self.parameters]

    @property
    def inserts_into(self) -> str | None:
        match = re.match(r'INSERT (?:OR REPLACE )?INTO "?(\w+)', self.statement)
        return match and match[1]


class Release(NamedTuple):
    """What a release left behind, and its store as a database file."""

    told: Told
    statements: list[Statement]
    database: Path

    def lay(self, folder: Path) -> Settings:
        """A store of that release in ``folder``, as its killed server left it."""
        data, key_file = folder / "data", folder / "root.key"
        data.mkdir(0o700, parents=True)
        shutil.copyfile(self.database, data / "store.db")
        (data / "store.db").chmod(0o600)
        key_file.write_text(self.told.key_file)
        key_file.chmod(0o600)
        return Settings(data=str(data), key_file=str(key_file))


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Release:
    schema = request.param
    database = tmp_path_factory.mktemp(schema) / "store.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript((VECTORS / f"store_{schema}.sql").read_text(encoding="utf-8"))
    lines = (VECTORS / f"statements_{schema}.jsonl").read_bytes().splitlines()
    return Release(
        msgspec.json.decode((VECTORS / f"store_{schema}.json").read_bytes(), type=Told),
        [msgspec.json.decode(line, type=Statement) for line in lines],
        database,
    )


@pytest.fixture
def laid(release: Release, tmp_path: Path) -> Settings:
    return release.lay(tmp_path)


@pytest.fixture
def upgraded(laid: Settings) -> LocalStore:
    return LocalStore(laid)


def database(settings: Settings) -> closing[sqlite3.Connection]:
    """The file, as everybody sees it. Transactions are written out."""
    return closing(sqlite3.connect(Path(settings.data) / "store.db", isolation_level=None))


def revision_of(settings: Settings) -> str:
    with database(settings) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def count_rows(connection: sqlite3.Connection, table: str) -> int:
    query = f'SELECT count(*) FROM "{table}"'  # noqa: S608 - a name from the vectors
    return int(connection.execute(query).fetchone()[0])


def check_values(store: LocalStore, told: Told) -> None:
    """Every version is there in the state that was written, every value opens, and a read without a
    number is answered as before."""
    clock = SystemClock()
    written = store._store.write(lambda tx: tx.find(VersionRecord), clock)
    with store._store.engine.connect() as connection:
        reader = SqlReader(connection=connection, records=store._store.records)
        for key in told.keys:
            address = KeyAddress(key.key_path, key.environment)
            found = reader.version(address, None)
            assert found is not None, address
            of_key = (each for each in written if each.key_id == found.key.key_id)
            stored = sorted(of_key, key=lambda version: version.number)
            assert [
                (each.number, each.version_id, each.state, each.rolled_back_from, each.created_by)
                for each in stored
            ] == [
                (each.version, each.version_id, each.state, each.rolled_back_from, each.created_by)
                for each in key.versions
            ]
            for version, said in zip(stored, key.versions, strict=True):
                assert opened_value(store, address, version) == said.value, address
            refused = refusal(found.version.state, found.version.expires_at, clock.now(), "service")
            if refused is None:
                assert found.version.number == key.read.version, address
            else:
                assert refused.code == key.read.code, address
    assert store.alarms == []


def opened_value(store: LocalStore, address: KeyAddress, version: VersionRecord) -> str | None:
    if version.sealed is None:
        return None
    binding = Binding(store.store_id, *address, version.version_id)
    return store._store.sealer.open(binding, version.sealed).decode()


# --- an older store in this release --------------------------------------------------------------


def test_an_older_store_is_upgraded_and_every_value_opens(laid: Settings, release: Release) -> None:
    assert revision_of(laid) == release.told.schema
    store = LocalStore(laid)
    assert revision_of(laid) == NEWEST
    assert store.store_id == release.told.store_id
    check_values(store, release.told)


def test_every_row_is_there_and_its_mac_holds(
    laid: Settings, upgraded: LocalStore, release: Release
) -> None:
    with database(laid) as connection:
        for table, count in release.told.rows.items():
            if table not in MADE_ANEW:
                assert count_rows(connection, table) == count, table
    assert sum(upgraded.inspection.check_records()) == upgraded.inspection.count_records()
    assert upgraded.alarms == []


def test_an_import_that_was_not_tidied_up_is_visible_and_one_that_is_open_is_not(
    upgraded: LocalStore, release: Release
) -> None:
    clock = SystemClock()
    found = upgraded._store.write(lambda tx: tx.find(ImportRecord), clock)
    assert {each.import_id: each.status for each in found} == release.told.imports
    staged = [
        key for key in upgraded._store.write(lambda tx: tx.find(KeyRecord), clock)
        if key.staged_import is not None
    ]  # fmt: skip
    by_status = {"open": 0, "committed": 0}
    with upgraded._store.engine.connect() as connection:
        reader = SqlReader(connection=connection, records=upgraded._store.records)
        for key in staged:
            status = release.told.imports[key.staged_import]
            by_status[status] += 1
            seen = reader.version(KeyAddress(key.path, key.environment), None)
            if status == "committed":
                assert seen is not None
                assert (seen.version.version_id, seen.version.state) == (key.staged_head, "current")
            else:
                assert (None if seen is None else seen.version.version_id) == key.head
    assert all(by_status.values()), "the vector has neither"


def test_services_and_grants_are_as_they_were(upgraded: LocalStore, release: Release) -> None:
    clock = SystemClock()
    services = upgraded._store.write(lambda tx: tx.find(ServiceRecord), clock)
    assert [(each.name, each.generation, each.requested) for each in services] == [
        (each["service_name"], each["generation"], each["requested"])
        for each in release.told.services
    ]
    grants = upgraded._store.write(lambda tx: tx.find(GrantRecord), clock)
    assert [(g.grant_id, g.service, g.effect, g.pattern, g.environment) for g in grants] == [
        (g["grant_id"], g["service_name"], g["effect"], g["pattern"], g["environment"])
        for g in release.told.grants
    ]


def test_the_ledger_is_the_same(upgraded: LocalStore, release: Release) -> None:
    entries = [entry for block in upgraded.ledger() for entry in block]
    assert len(entries) == release.told.ledger.entries
    ends = {entry.stream: End(entry.seq, entry.hash) for entry in entries}
    assert ends == release.told.ledger.heads


def test_doctor_finds_no_failure(laid: Settings, release: Release) -> None:
    """It also verifies the whole ledger, with every checkpoint's signature."""
    doxstore = Path(sys.executable).parent / "doxstore"
    options = ["--data", laid.data, "--key-file", laid.key_file, "--json"]
    done = subprocess.run([doxstore, "doctor", *options], capture_output=True, check=False)
    checks = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
    failures = [each for each in checks.values() if each["status"] == "failure"]
    assert (failures, done.returncode) == ([], 0)
    assert checks["ledger"]["detail"].startswith(f"{release.told.ledger.entries} entries, ")


# --- the release before on this schema -----------------------------------------------------------


def test_the_newest_schema_is_open_to_the_release_before(
    laid: Settings, upgraded: LocalStore
) -> None:
    assert OLDEST_AT_WORK in tables.SCHEMAS[:-1]
    with database(laid) as connection:
        assert connection.execute("SELECT readable_by FROM store").fetchone() == (
            f"{NEWEST}:{OLDEST_AT_WORK}",
        )


@pytest.mark.parametrize("release", AT_WORK, indirect=True)
def test_every_statement_of_the_release_before_runs_on_the_new_schema(
    laid: Settings, upgraded: LocalStore, release: Release
) -> None:
    """For real, each in a transaction that is rolled back. An INSERT finds its table empty, so that
    nothing but the schema can refuse its row; one that may also replace runs on the full one too.
    """
    with database(laid) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        complaints = [
            f"{complaint}: {statement.statement}"
            for statement in release.statements
            for emptied in (False, True)
            if (complaint := refused(connection, statement, emptied=emptied))
        ]
    assert complaints == []
    assert len(release.statements) > 80


def refused(connection: sqlite3.Connection, statement: Statement, *, emptied: bool) -> str | None:
    """Why the database does not take the statement, if it does not."""
    table = statement.inserts_into
    replaces = "ON CONFLICT" in statement.statement or "OR REPLACE" in statement.statement
    if (emptied and table is None) or (not emptied and table is not None and not replaces):
        return None
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("PRAGMA defer_foreign_keys=ON")  # of rows that were removed here
        if emptied:
            connection.execute(f'DELETE FROM "{table}"')  # noqa: S608 - a name from the vectors
        cursor = connection.execute(statement.statement, statement.sent)
        cursor.fetchall()
        if emptied and count_rows(connection, table) == 0:
            return "inserted nothing"
    except sqlite3.Error as error:
        return str(error)
    finally:
        connection.execute("ROLLBACK")
    return None


@pytest.mark.parametrize("release", AT_WORK, indirect=True)
def test_the_release_before_can_check_the_rows_that_this_one_writes(release: Release) -> None:
    """A MAC covers a row's fields in their order: a record that grows is another one to a release
    that does not know the field, and counts as absent there, unless the field is left out of the
    MAC where it says nothing."""
    ours = {table.name: covered(kind) for kind, table in tables.RECORDS.items()}
    theirs = {
        table: [name for name in names if name != "sealed"]
        for table, names in release.told.records.items()
    }
    assert {name: ours[name] for name in theirs} == theirs


def covered(kind: type) -> list[str]:
    """The fields that the MAC of a record covers which says nothing in later ones."""
    shape = shape_of(kind)
    return [name for name, _value in json.loads(shape.maced([None] * len(shape.names)))]


class Schema(NamedTuple):
    """Of each table: its columns, and as sentences what else it asks of a row."""

    columns: dict[str, dict[str, tuple[Any, ...]]]
    demands: set[str]


def schema_of(connection: sqlite3.Connection) -> Schema:
    columns: dict[str, dict[str, tuple[Any, ...]]] = {}
    demands = set()
    named = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'")
    for table, sql in named.fetchall():
        columns[table] = {
            name: (kind, not_null, default, key)
            for _, name, kind, not_null, default, key, hidden in connection.execute(
                f'PRAGMA table_xinfo("{table}")'
            )
            if not hidden
        }
        for _, index, unique, origin, _ in connection.execute(f'PRAGMA index_list("{table}")'):
            if not unique or origin == "pk":  # a primary key stands with the columns
                continue
            names = [row[2] for row in connection.execute(f'PRAGMA index_info("{index}")')]
            (text,) = connection.execute(
                "SELECT coalesce(sql, '') FROM sqlite_schema WHERE name = ?", (index,)
            ).fetchone()
            where = "".join(re.findall(r"\s(where .*)", text, re.IGNORECASE | re.DOTALL))
            where = re.sub(r"^where", "where", where, flags=re.IGNORECASE)
            demands.add(f"unique ({', '.join(map(str, names))}) of {table} {where}".rstrip())
        for row in connection.execute(f'PRAGMA foreign_key_list("{table}")'):
            demands.add(f"{table}.{row[3]} refers to {row[2]}.{row[4]}")
        demands |= {
            f"{table}: {check}" for check in re.findall(r"CHECK\s*\(.*", sql, re.IGNORECASE)
        }
    triggers = connection.execute("SELECT tbl_name, name FROM sqlite_schema WHERE type = 'trigger'")
    return Schema(columns, demands | {f"{table}: trigger {name}" for table, name in triggers})


def narrowings(before: Schema, after: Schema) -> list[str]:
    """Where ``after`` refuses or lacks what a release that knows ``before`` says."""
    found = []
    for table, columns in before.columns.items():
        kept = after.columns.get(table, {})
        found += [
            f"{table}.{name} was {column} and is {kept.get(name)}"
            for name, column in columns.items()
            if kept.get(name) != column
        ]
        found += [
            f"{table}.{name} is new and must be given"
            for name, (_kind, not_null, default, _key) in kept.items()
            if name not in columns and not_null and default is None
        ]
    new = after.demands - before.demands - IMPLIED
    found += [
        f"new: {demand}"
        for demand in sorted(new)
        if any(
            re.search(rf"\b{table}\b", demand.partition(" where ")[0]) for table in before.columns
        )
    ]
    # An upsert names the uniqueness that it means.
    found += [f"gone: {demand}" for demand in sorted(before.demands - after.demands)]
    return found


def at(revision: str, path: Path) -> sqlite3.Connection:
    """An empty database at ``revision``."""
    engine = sa.create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    return sqlite3.connect(path, isolation_level=None)


def test_a_migration_only_adds(tmp_path: Path) -> None:
    """To every schema whose release may still be at work."""
    schemas = []
    for revision in tables.SCHEMAS[tables.SCHEMAS.index(OLDEST_AT_WORK) :]:
        with closing(at(revision, tmp_path / f"{revision}.db")) as connection:
            schemas.append(schema_of(connection))
    for before, after in itertools.pairwise(schemas):
        assert narrowings(before, after) == []


@pytest.mark.parametrize(
    ("ddl", "complaint"),
    [
        ("DROP TABLE key_read", "key_read.path was"),
        ('ALTER TABLE "key" DROP COLUMN usage', "key.usage was"),
        ("ALTER TABLE token RENAME COLUMN name TO holder", "token.name was"),
        ('ALTER TABLE "key" ADD COLUMN n TEXT NOT NULL CHECK (n > 0) DEFAULT 1', "new: key: CHECK"),
        ("CREATE UNIQUE INDEX u ON service (description)", "new: unique (description) of service"),
        ("CREATE UNIQUE INDEX u ON operator (name) WHERE generation > 1",
         "new: unique (name) of operator where generation > 1"),
        ("ALTER TABLE version ADD COLUMN e BIGINT REFERENCES store (epoch)",
         "new: version.e refers to store.epoch"),
        ("CREATE TABLE n (k INTEGER REFERENCES key (key_id))", "new: n.k refers to key.key_id"),
        ("CREATE TRIGGER t BEFORE DELETE ON version BEGIN SELECT raise(ABORT, ''); END",
         "new: version: trigger t"),
        ("DROP INDEX ix_ledger_block_changes", "gone: unique (last_seq) of ledger_block"),
    ],
)  # fmt: skip
def test_a_migration_that_narrows_would_be_noticed(
    tmp_path: Path, ddl: str, complaint: str
) -> None:
    with closing(at("0001", tmp_path / "store.db")) as connection:
        before = schema_of(connection)
        connection.execute(ddl)
        (first, *_) = narrowings(before, schema_of(connection))
    assert first.startswith(complaint)


def test_a_column_that_must_be_given_would_be_noticed(tmp_path: Path) -> None:
    """SQLite adds none to a table; a migration that builds the table anew could."""
    with closing(at("0001", tmp_path / "store.db")) as connection:
        before = schema_of(connection)
        connection.execute("DROP TABLE environment")
        connection.execute(
            "CREATE TABLE environment (name TEXT NOT NULL, created_at BIGINT NOT NULL,"
            " rank BIGINT NOT NULL, CONSTRAINT pk_environment PRIMARY KEY (name))"
        )
        assert narrowings(before, schema_of(connection)) == [
            "environment.rank is new and must be given"
        ]


# --- an older release in front of a newer store --------------------------------------------------


def make_newer(settings: Settings, readable_by: str | None) -> None:
    """As if a release after this one had upgraded the store. It says by which older one it may be
    worked on, and of which schema it says so."""
    with database(settings) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("UPDATE store SET readable_by = ?", (readable_by,))
        connection.execute("CREATE TABLE of_the_future (x)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def files(settings: Settings) -> dict[str, bytes]:
    """What lies in the folder, but for what SQLite's readers share and an empty log."""
    folder = Path(settings.data)
    kept = {each.name: each.read_bytes() for each in folder.iterdir() if each.suffix != ".db-shm"}
    return {name: content for name, content in kept.items() if content}


@pytest.mark.parametrize("readable_by", [None, "", f"{NEWEST}:{NEWEST}", "9999:9998", NEWEST])
def test_a_newer_schema_is_refused_and_nothing_is_written(
    laid: Settings, upgraded: LocalStore, readable_by: str | None
) -> None:
    make_newer(laid, readable_by)
    before = files(laid)
    with pytest.raises(ConfigurationError, match="9999") as error:
        LocalStore(laid)
    assert error.value.code == "store_newer"
    assert files(laid) == before


@pytest.mark.parametrize("readable_by", tables.SCHEMAS)
def test_a_newer_schema_that_says_so_is_worked_on_as_it_is(
    laid: Settings, upgraded: LocalStore, release: Release, readable_by: str
) -> None:
    make_newer(laid, f"9999:{readable_by}")
    with database(laid) as connection:
        before = schema_of(connection)
    check_values(LocalStore(laid), release.told)
    with database(laid) as connection:
        assert schema_of(connection) == before
    assert revision_of(laid) == "9999"


# --- a power cut ---------------------------------------------------------------------------------

RANDOM_KILLS = 20
SEED = 20251104
_WRITES = ("ALTER", "CREATE", "DROP", "UPDATE", "INSERT", "DELETE", "BEGIN", "COMMIT")
_CHANGES = ("ALTER", "CREATE", "DROP")


class Outcome(Strict):
    """What became of a child: ``statements`` that write were begun, in ``seconds`` since the first
    one; ``changing`` tells that the schema was being changed, ``opened`` that the store was open.
    """

    exit: int
    statements: int
    changing: bool
    opened: bool
    seconds: float


class Nursery:
    """The process whose children open a store each: see the module."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def open(
        self, settings: Settings, *, at_statement: int | None = None, after: float | None = None
    ) -> Outcome:
        """Have a child open the store; it is killed before statement ``at_statement``, or ``after``
        seconds in which it writes."""
        asked = (settings.data, settings.key_file, at_statement, after)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Outcome)

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.mark.parametrize("release", OLDER, indirect=True)
def test_an_upgrade_can_be_cut_off_anywhere(
    release: Release, nursery: Nursery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before each statement in turn, then at random moments: the store is then at one schema or the
    other, whole, and opens with every value."""
    whole = [nursery.open(release.lay(tmp_path / f"whole-{n}")) for n in range(3)]
    assert {each.exit for each in whole} == {0}
    with database(Settings(data=str(tmp_path / "whole-0" / "data"))) as connection:
        upgraded = schema_of(connection)
    with closing(sqlite3.connect(release.database)) as connection:
        shapes = {release.told.schema: schema_of(connection), NEWEST: upgraded}
    longest = max(each.seconds for each in whole)
    draw = random.Random(SEED)  # noqa: S311 - moments, not secrets
    cuts: list[Callable[[Settings], Outcome]] = [
        *(_cut(nursery, at_statement=n) for n in range(whole[0].statements)),
        *(_cut(nursery, after=draw.uniform(0, longest)) for _ in range(RANDOM_KILLS)),
    ]
    killed = {"before it": 0, "in the middle": 0, "after its commit": 0}
    for number, cut in enumerate(cuts):
        settings = release.lay(tmp_path / f"cut-{number}")
        outcome = cut(settings)
        with database(settings) as connection:
            shape = schema_of(connection)
        revision = revision_of(settings)
        assert shape == shapes[revision], f"cut {number} left half of an upgrade: {outcome}"
        if outcome.exit == -signal.SIGKILL and not outcome.opened:
            if revision == NEWEST:
                killed["after its commit"] += 1
            else:
                killed["in the middle" if outcome.changing else "before it"] += 1
        store = LocalStore(settings)
        assert revision_of(settings) == NEWEST
        check_values(store, release.told)
    told = ", ".join(f"{count} {when}" for when, count in killed.items())
    with capsys.disabled():
        print(f"\n{sum(killed.values())} kills of an upgrade from {release.told.schema}: {told}")
    assert sum(killed.values()) >= whole[0].statements
    assert killed["in the middle"] > 0


def _cut(nursery: Nursery, **where: Any) -> Callable[[Settings], Outcome]:
    return lambda settings: nursery.open(settings, **where)


def _nurse() -> None:
    """What runs when this file is a program: a line in, a child, a line out."""
    for line in sys.stdin:
        data, key_file, at_statement, after = json.loads(line)
        progress = mmap.mmap(-1, 3)
        begun, begins = os.pipe()
        child = os.fork()
        if child == 0:
            _open_watched(Settings(data=data, key_file=key_file), progress, begins, at_statement)
        os.close(begins)
        os.read(begun, 1)
        started = time.monotonic()
        if after is not None:
            select.select([], [], [], after)
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(begun)
        statements, changing, opened = progress[:]
        seconds = time.monotonic() - started
        outcome = Outcome(code, statements, bool(changing), bool(opened), seconds)
        sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")
        sys.stdout.flush()


def _open_watched(
    settings: Settings, progress: mmap.mmap, begins: int, at_statement: int | None
) -> None:
    """In the child: open the store, telling how far that is. Ends the process."""

    @event.listens_for(sa.Engine, "before_cursor_execute")
    def _watch(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        verb = statement.lstrip().partition(" ")[0].upper()
        if verb not in _WRITES:
            return
        if progress[0] == at_statement:
            os.kill(os.getpid(), signal.SIGKILL)
        if progress[0] == 0:
            os.write(begins, b".")
        progress[0] += 1
        progress[1] |= verb in _CHANGES

    try:
        LocalStore(settings)
    except BaseException:  # noqa: BLE001 - told by the exit code
        os._exit(1)
    progress[2] = 1
    os._exit(0)


if __name__ == "__main__":
    _nurse()
