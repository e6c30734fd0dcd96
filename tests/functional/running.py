"""A real store for functional tests: the installed ``doxstore``, a real port, a folder of its own.

`RunningStore` makes the store (`init`), serves it (`start`), ends it (`stop` as an operator would,
`kill` as a power cut would) and talks to it over HTTP with nothing of our own in between. What the
tests think of the answers is theirs.
"""

from __future__ import annotations

import contextlib
import http.client
import json as json_module
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dox_core_store.server.domain.ledger import ChainVerifier, Entry, canonical

__all__ = ["DOXSTORE", "EXIT_REFUSED", "Answer", "RunningStore", "free_port", "run_doxstore"]

DOXSTORE = Path(sys.executable).parent / "doxstore"
EXIT_REFUSED = 78
"""EX_CONFIG of sysexits.h: what this process was given is unusable."""

START_SECONDS = 30
STOP_SECONDS = 30
_OURS = ("DOXSTORE_", "KEY_SERVICE_", "SERVICE_", "ADMIN_TOKEN")


class Answer(NamedTuple):
    """One HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json_module.loads(self.body)

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]


_given: deque[int] = deque(maxlen=500)


def free_port() -> int:
    """A port that nobody listens on, outside the range from which clients get theirs. The workers
    of a run have ranges of their own, and a port is not given out again soon."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
    first = 20_000 + 3_000 * worker
    while True:
        port = random.SystemRandom().randrange(first, first + 3_000)
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.append(port)
            return port


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without anything that speaks of a store."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(_OURS)}
    return {**kept, **more}


def run_doxstore(
    *arguments: str | Path, stdin: str = "", timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """One ``doxstore`` command, run to its end."""
    return subprocess.run(
        [DOXSTORE, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=clean_environment(**environment),
    )


class RunningStore:
    """See the module. ``wrapper`` is put before the command line, ``environment`` around it.
    ``database``: the store lies there, and this is one of its nodes."""

    def __init__(
        self,
        folder: Path,
        *,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        ca_file: Path | None = None,
        database: str = "",
    ) -> None:
        self.database = database
        self.folder = folder
        self.data = folder / "data"
        self.key_file = folder / "root.key"
        self.log = folder / "server.log"
        self.host = "127.0.0.1"
        self.port = free_port()
        self.wrapper = list(wrapper)
        self.environment = {"DOXSTORE_BALLAST_MIB": "1", **(environment or {})}
        if database:
            self.environment["DOXSTORE_DATABASE"] = database
        self.ca_file = ca_file
        self.operator = ""
        self.admin_token = ""
        self.store_id = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._services: set[str] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self.ca_file else 'http'}://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # --- life ---------------------------------------------------------------------------------

    def init(self) -> None:
        """Make the store; `admin_token` is what ``init`` printed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        made = run_doxstore(
            "init", "--data", self.data, "--key-file", self.key_file, "--json", **self.environment
        )
        assert made.returncode == 0, made.stderr
        said = json_module.loads(made.stdout)
        self.operator, self.admin_token = said["operator"], said["operator_token"]

    def copy_of(self, other: RunningStore) -> None:
        """Begin as a copy of ``other``, which must not be running: cheaper than `init`."""
        shutil.copytree(other.folder, self.folder, dirs_exist_ok=True)
        self.operator, self.admin_token = other.operator, other.admin_token

    def command(self) -> list[str]:
        """The command line that serves this store."""
        store = ["--data", str(self.data), "--key-file", str(self.key_file)]
        address = ["--host", self.host, "--port", str(self.port)]
        return [*self.wrapper, str(DOXSTORE), "serve", *store, *address]

    def start(self) -> None:
        """Serve, and return once it is ready."""
        assert not self.is_running, "the server runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(**self.environment),
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                ready = self.request("GET", "/v1/ready", token="")
                if ready.status == 200:
                    self.store_id = ready.json["store_id"]
                    return
            assert self.is_running, f"the server ended:\n{self.log_text()}"
            assert time.monotonic() < deadline, f"the server is not ready:\n{self.log_text()}"
            time.sleep(0.02)

    def kill(self) -> None:
        """End it without warning, as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    def terminate(self) -> None:
        """Ask it to end, and return at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        return self._process.wait(STOP_SECONDS)

    def stop(self) -> int:
        """End it as an operator would; returns the exit code."""
        self.terminate()
        return self.wait()

    def dispose(self) -> None:
        """After a test, in whatever state it left the server."""
        if self.is_running:
            self.kill()

    def has_noted_all(self) -> bool:
        """Whether what it remembers of its store (``seen.json``) is at the end of the feed."""
        seen = json_module.loads((self.data / "seen.json").read_bytes())
        head = self.request("GET", "/v1/ready", token="").json["checks"]["feed"]
        return bool(head == f"applied {seen['changes_seq']}")

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    # --- requests -----------------------------------------------------------------------------

    def connection(self, timeout: float = 30) -> http.client.HTTPConnection:
        if self.ca_file is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        trust = ssl.create_default_context(cafile=self.ca_file)
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=trust)

    def request(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Answer:
        """One request on a connection of its own. ``token``: None is the operator's, "" is none."""
        sent = dict(headers or {})
        if token != "":
            sent["Authorization"] = f"Bearer {token or self.admin_token}"
        if json is not None:
            body = json_module.dumps(json).encode()
        connection = self.connection(timeout)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            names = {name.lower(): text for name, text in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def get(self, key_path: str, token: str | None = None, version: int | None = None) -> Answer:
        query = "" if version is None else f"?version={version}"
        return self.request("GET", f"/v1/keys/{key_path}{query}", token=token)

    def put(self, key_path: str, value: str, **fields: Any) -> Any:
        """Store a version; returns what the API said of it."""
        answer = self.request("PUT", f"/v1/keys/{key_path}", json={"value": value, **fields})
        assert answer.status in (200, 201), answer.body
        return answer.json

    def register(self, service: str, *required_keys: str, limit: str = "1000000/s") -> None:
        """Register ``service`` with grants on ``required_keys``, and a limit out of the way."""
        body = {"service_name": service, "required_keys": list(required_keys)}
        answer = self.request("POST", "/v1/services", json=body)
        assert answer.status in (200, 201), answer.body
        answer = self.request("PUT", f"/v1/services/{service}/limit", json={"limit": limit})
        assert answer.status == 200, answer.body
        self._services.add(service)

    def issue(self, service: str, *required_keys: str, **fields: Any) -> str:
        """A token for ``service``, which is registered with ``required_keys`` if it was not yet."""
        if service not in self._services:
            self.register(service, *required_keys)
        answer = self.request("POST", "/tokens", json={"service_name": service, **fields})
        assert answer.status == 201, answer.body
        token: str = answer.json["token"]
        return token

    # --- the ledger ---------------------------------------------------------------------------

    def export(self) -> list[dict[str, Any]]:
        """Every ledger entry in stored order."""
        answer = self.request("GET", "/v1/ledger/export", timeout=60)
        assert answer.status == 200, answer.body
        return [json_module.loads(line) for line in answer.body.splitlines()]

    def verified_export(self) -> list[dict[str, Any]]:
        """`export`, once every hash was computed again and every chain was found whole."""
        entries = self.export()
        verifier = ChainVerifier(self.store_id)
        for each in entries:
            entry = Entry(**{name: each[name] for name in Entry._fields})
            line = canonical(entry, each["seq"], each["stream"])
            head = verifier.check(
                each["stream"], bytes.fromhex(each["prev"]), line, each["seq"], each["stream"]
            )
            assert head.hex() == each["hash"], each
        assert not verifier.partial
        return entries
