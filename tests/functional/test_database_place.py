"""A store made in PostgreSQL: once, whole or not at all, and only where it is safe to be.

Real servers: one that all share, and one each where its settings or its TLS are on trial.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme
from tests.functional.postgres import Postgres, serving_postgres
from tests.functional.running import DOXSTORE, clean_environment, run_doxstore

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.postgresql import engine as engine_module
from dox_core_store.server.adapters.postgresql.engine import DatabaseAddress, open_engine
from dox_core_store.server.adapters.sql.transacting import MUTATING
from dox_core_store.server.bootstrap.local import LocalStore, init_store
from dox_core_store.server.settings import Settings

CONFIGURATION = 78
PASSWORD = "canary-of-databases-7d1e"
DEBIAN = max(Path("/usr/lib/postgresql").glob("*/bin"))
"""The wheel's server is built without TLS."""


def settings_for(folder: Path, database: str, **more: Any) -> Settings:
    return Settings(
        data=str(folder / "data"), key_file=str(folder / "root.key"), database=database, **more
    )


def init(folder: Path, database: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_doxstore(
        "init", "--database", database, "--data", folder / "data", "--key-file",
        folder / "root.key", "--json", **environment,
    )  # fmt: skip


def refused(code: str, ended: subprocess.CompletedProcess[str]) -> str:
    error = json.loads(ended.stderr)["error"]
    assert (error["code"], ended.returncode) == (code, CONFIGURATION), error
    assert ended.stdout == ""
    assert PASSWORD not in ended.stderr
    assert error["remedy"]
    return str(error["detail"])


def tables_in(postgres: Postgres, database: str) -> list[tuple[Any, ...]]:
    return postgres.run(
        database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    )


# --- making one -----------------------------------------------------------------------------------


def test_a_store_is_made_once(database: str, tmp_path: Path) -> None:
    made = init(tmp_path, database)
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert told["database"] == database
    assert "holds a store already" in refused("store_exists", init(tmp_path, database))
    local = LocalStore(settings_for(tmp_path, database))
    assert local.store_id == told["store_id"]
    assert [each.name for each in local.operators()] == [told["operator"]]


def test_of_two_at_once_one_makes_it(postgres: Postgres, database: str, tmp_path: Path) -> None:
    children = []
    with holding(database):
        for name in ("a", "b"):
            folder = tmp_path / name
            folder.mkdir()
            children.append(start_init(folder, database))
        wait_for_waiting(postgres, database, 2)
    ended = [child.communicate(timeout=60) for child in children]
    codes = sorted(child.returncode for child in children)
    assert codes == [0, CONFIGURATION], ended
    (lost,) = [err for (_out, err), child in zip(ended, children, strict=True) if child.returncode]
    assert json.loads(lost)["error"]["code"] == "store_exists"
    won = next(name for name, child in zip("ab", children, strict=True) if child.returncode == 0)
    assert LocalStore(settings_for(tmp_path / won, database)).operators()


def test_one_that_was_killed_leaves_nothing(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    with holding(database):
        child = start_init(tmp_path, database)
        wait_for_waiting(postgres, database, 1)
        child.kill()
        child.communicate(timeout=60)
    assert tables_in(postgres, database) == []
    again = init(tmp_path, database)
    assert again.returncode == 0, again.stderr


def test_others_tables_are_in_the_way(postgres: Postgres, database: str, tmp_path: Path) -> None:
    postgres.run(database, "CREATE TABLE invoices (n int)")
    assert "other tables (invoices)" in refused("bad_setting", init(tmp_path, database))
    assert tables_in(postgres, database) == [("invoices",)]
    assert not (tmp_path / "root.key").exists()


def test_a_user_without_the_right_is_told_so(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    postgres.run(database, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    postgres.run(database, "DROP ROLE IF EXISTS guest")
    postgres.run(database, "CREATE ROLE guest LOGIN")
    guest = database.replace("doxstore@", "guest@")
    assert "permission denied" in refused("store_read_only", init(tmp_path, guest))


# --- what a database must be ----------------------------------------------------------------------


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    database = "postgresql://doxstore@127.0.0.1:1/store"
    detail = refused("database_unreachable", init(tmp_path, database, PGPASSWORD=PASSWORD))
    assert detail.startswith("the database store at 127.0.0.1 does not answer: ")
    assert not (tmp_path / "root.key").exists()


def test_a_password_in_the_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    for database in (
        f"postgresql://doxstore:{PASSWORD}@127.0.0.1/store",
        f"postgresql://127.0.0.1/store?password={PASSWORD}",
        f"postgresql://doxstore:{PASSWORD}@[127.0.0.1/store",
        f"postgresql://doxstore:{PASSWORD}@127.0.0.1/store?sslmode=%zz",
        f"mysql://doxstore:{PASSWORD}@127.0.0.1/store",
    ):
        refused("bad_setting", init(tmp_path, database))


def test_a_database_that_does_not_sync_is_refused(tmp_path: Path) -> None:
    with serving_postgres(tmp_path / "server", settings={"fsync": "off"}) as server:
        detail = refused("store_read_only", init(tmp_path, server.create_database()))
        assert "fsync off" in detail


def test_a_standby_is_refused(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "server")
    server.init()
    server.start()
    try:
        empty, full = server.create_database(), server.create_database()
        assert init(tmp_path, full).returncode == 0
        server.stop()
        server.give(server.data / "standby.signal", "")
        server.start()
        refused("store_read_only", init(tmp_path, empty))
        listed = run_doxstore(
            "operator", "list", "--database", full, "--key-file", tmp_path / "root.key", "--json"
        )
        assert "standby" in refused("store_read_only", listed)
    finally:
        server.stop()


def test_another_encoding_is_refused(postgres: Postgres, tmp_path: Path) -> None:
    postgres.run(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    )
    try:
        assert "UTF8" in refused("bad_setting", init(tmp_path, postgres.url("latin")))
    finally:
        postgres.drop_database(postgres.url("latin"))


def test_a_server_that_is_too_old_is_refused(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the real server says of itself: it is the limit that is moved here."""
    monkeypatch.setattr(engine_module, "_OLDEST_SERVER", 990_000)
    with pytest.raises(ConfigurationError, match="newer") as refusal:
        init_store(settings_for(tmp_path, database), operator="lena", roles=["admin"])
    assert refusal.value.code == "bad_setting"


# --- who the server is ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_server(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Postgres]:
    """Debian's server, with a certificate for 127.0.0.1, that takes nobody without TLS."""
    folder = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("127.0.0.1")
    files = {"ssl_cert_file": "server.pem", "ssl_key_file": "server.key"}
    server = Postgres(folder, programs=DEBIAN, settings={"ssl": "on", **files})
    server.init()
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    server.give(server.data / "server.pem", chain)
    server.give(server.data / "server.key", certificate.private_key_pem.bytes())
    server.start()
    server.let_in("hostssl all all 127.0.0.1/32 trust")
    yield server
    server.stop()


def verifying(database: str, ca_file: Path) -> str:
    return f"{database}?sslmode=verify-full&sslrootcert={ca_file}"


def kept(authority: trustme.CA, path: Path) -> Path:
    authority.cert_pem.write_to_path(path)
    return path


def test_a_server_that_proves_who_it_is_is_used(
    tls_server: Postgres, authority: trustme.CA, tmp_path: Path
) -> None:
    database = verifying(tls_server.create_database(), kept(authority, tmp_path / "ca.pem"))
    made = init(tmp_path, database)
    assert made.returncode == 0, made.stderr
    local = LocalStore(settings_for(tmp_path, database))
    with local._store.engine.connect() as connection:
        query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert connection.exec_driver_sql(query).scalar_one() is True


def test_another_authority_is_not_believed(tls_server: Postgres, tmp_path: Path) -> None:
    database = verifying(tls_server.create_database(), kept(trustme.CA(), tmp_path / "ca.pem"))
    detail = refused("database_unreachable", init(tmp_path, database))
    assert "certificate verify failed" in detail


def test_a_certificate_for_another_name_is_not_believed(
    tls_server: Postgres, authority: trustme.CA, tmp_path: Path
) -> None:
    database = tls_server.create_database().replace("127.0.0.1", "localhost")
    ca_file = kept(authority, tmp_path / "ca.pem")
    detail = refused("database_unreachable", init(tmp_path, verifying(database, ca_file)))
    assert "does not match host name" in detail


def test_a_server_without_tls_is_refused(
    postgres: Postgres, database: str, authority: trustme.CA, tmp_path: Path
) -> None:
    ca_file = kept(authority, tmp_path / "ca.pem")
    detail = refused("database_unreachable", init(tmp_path, verifying(database, ca_file)))
    assert "SSL" in detail
    assert tables_in(postgres, database) == []


@pytest.mark.parametrize(
    ("address", "environment"),
    [
        ("postgresql://db.example.com/store?sslmode=require", {}),
        ("postgresql://db.example.com/store?sslmode=disable", {}),
        ("postgresql://127.0.0.1,db.example.com/store?sslmode=prefer", {}),
        ("postgresql://localhost/store?hostaddr=192.0.2.7&sslmode=verify-ca", {}),
        ("postgresql:///store?sslmode=prefer", {"PGHOST": "db.example.com"}),
        ("postgresql://localhost/store?sslmode=prefer", {"PGHOSTADDR": "192.0.2.7"}),
    ],
)
def test_beyond_this_machine_nothing_weaker_is_taken(
    address: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(ConfigurationError, match="sslmode=verify-full") as refusal:
        DatabaseAddress(address)
    assert refusal.value.code == "bad_setting"


def test_beyond_this_machine_a_server_has_to_prove_itself_unasked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGSSLMODE", "disable")
    for address, name in (
        ("postgresql://db.example.com/store", ""),
        ("postgresql:///store", "db.example.com"),
    ):
        monkeypatch.setenv("PGHOST", name)
        assert DatabaseAddress(address)._arguments["sslmode"] == "verify-full"
    assert DatabaseAddress("postgresql://127.0.0.1/store")._arguments["sslmode"] == "prefer"


# --- passwords ------------------------------------------------------------------------------------


def test_a_password_is_read_at_each_connection(tmp_path: Path) -> None:
    """It is changed while an engine lives: what is open stays, what is new uses the new one."""
    file = tmp_path / "password"
    with serving_postgres(tmp_path / "server") as server:
        name = server.create_database().rpartition("/")[2]
        server.run("postgres", f"CREATE ROLE keeper LOGIN PASSWORD '{PASSWORD}-1'")
        server.run("postgres", f'ALTER DATABASE "{name}" OWNER TO keeper')
        server.let_in(
            "host all keeper 127.0.0.1/32 scram-sha-256", "host all doxstore 127.0.0.1/32 trust"
        )
        database = server.url(name).replace("doxstore@", "keeper@")
        file.write_text(f"{PASSWORD}-1\n")
        made = init(tmp_path, database, DOXSTORE_DATABASE_PASSWORD_FILE=str(file))
        assert made.returncode == 0, made.stderr
        address = DatabaseAddress(database, password_file=str(file))
        engine = open_engine(address, connections=2)
        with engine.connect() as before:
            server.run("postgres", f"ALTER ROLE keeper PASSWORD '{PASSWORD}-2'")
            with pytest.raises(Exception, match="password authentication failed"):
                engine.connect()
            file.write_text(f"{PASSWORD}-2\n")
            with engine.connect() as after:
                for connection in (before, after):
                    query = "SELECT current_user"
                    assert connection.exec_driver_sql(query).scalar_one() == "keeper"
        engine.dispose()
        file.write_text("wrong")
        environment = {"DOXSTORE_DATABASE_PASSWORD_FILE": str(file)}
        detail = refused("database_unreachable", init(tmp_path, database, **environment))
        assert "password authentication failed" in detail
        file.write_text("\n")
        assert "is empty" in refused("bad_setting", init(tmp_path, database, **environment))
        file.unlink()
        assert "cannot be read" in refused("bad_setting", init(tmp_path, database, **environment))


def test_a_pool_lends_no_connection_that_the_server_has_closed(
    postgres: Postgres, database: str
) -> None:
    """Restarted, or another took over: what lay in the pool is found out without a question."""
    engine = open_engine(DatabaseAddress(database), connections=3)

    def pids() -> set[int]:
        with contextlib.ExitStack() as stack:
            lent = [stack.enter_context(engine.connect()) for _ in range(3)]
            asked = "SELECT pg_backend_pid()"
            return {each.exec_driver_sql(asked).scalar_one() for each in lent}

    before = pids()
    assert pids() == before
    for pid in before:
        postgres.run("postgres", f"SELECT pg_terminate_backend({pid}, 5000)")
    assert pids().isdisjoint(before)
    engine.dispose()


# --- what the tests above need --------------------------------------------------------------------


@contextlib.contextmanager
def holding(database: str) -> Iterator[None]:
    """Be who changes the store: whoever else would, waits."""
    with psycopg.connect(database) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (MUTATING,))
        yield


def start_init(folder: Path, database: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [DOXSTORE, "init", "--database", database, "--data", folder / "data", "--key-file",
         folder / "root.key", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )  # fmt: skip


def wait_for_waiting(postgres: Postgres, database: str, count: int) -> None:
    """Until so many sessions wait for their turn."""
    deadline = time.monotonic() + 30
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
        " AND datname = current_database()"
    )
    while postgres.run(database, query) != [(count,)]:
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.02)
