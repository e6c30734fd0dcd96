"""Three real OpenBao servers that are one: a Raft cluster, of which a test may kill members.

The audit file's path has to be the same on all of them, or a standby never takes over: it is
relative, and each server has a working folder of its own. Autopilot is set to make voters of new
members at once, and elections are as quick as OpenBao lets them be.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.functional.running import free_port

__all__ = ["BaoCluster", "serving_raft"]

_SIZE = 3
_START_SECONDS = 90
_STOP_SECONDS = 15
_CONFIGURATION = """
ui           = false
log_level    = "warn"
api_addr     = "http://127.0.0.1:{port}"
cluster_addr = "http://127.0.0.1:{cluster_port}"
storage "raft" {{
  path                   = "raft"
  node_id                = "bao{number}"
  performance_multiplier = 1
  {join}
}}
listener "tcp" {{
  address         = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_disable     = true
}}
audit "file" "tests" {{
  options = {{
    file_path = "audit.log"
  }}
}}
"""
_JOIN = 'retry_join {{ leader_api_addr = "http://127.0.0.1:{port}" }}'
_ACTIVE, _SEALED, _NOT_INITIALISED = 200, 503, 501


class BaoCluster:
    """Members are known by their ports."""

    def __init__(self) -> None:
        self.ports = [free_port() for _ in range(_SIZE)]
        self.root_token = self.unseal_key = ""
        self._members: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, folder: Path) -> None:
        """Return once there is a leader, and all members vote."""
        for number, port in enumerate(self.ports):
            self._start(folder / f"bao{number}", number, port)
        first = self.ports[0]
        self._wait(lambda: _health(first) == _NOT_INITIALISED, "the first does not start")
        made = self.call(first, "PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self.root_token, self.unseal_key = made["root_token"], made["keys"][0]
        self._unseal(first)
        self._wait(lambda: _health(first) == _ACTIVE, "there is no leader")
        setting = {"server_stabilization_time": "1s"}
        self.call(first, "POST", "sys/storage/raft/autopilot/configuration", setting)
        for port in self.ports[1:]:
            self._wait(lambda port=port: _health(port) == _SEALED, "one does not join")  # type: ignore[misc]
            self._unseal(port)
        self._wait(lambda: self._voters() == _SIZE, "not all of them vote")

    def leader(self) -> int | None:
        """The port of the member that leads now; None while none does."""
        return next((port for port in self.ports if _health(port) == _ACTIVE), None)

    def kill(self, port: int) -> None:
        """SIGKILL."""
        member = self._members.pop(port)
        member.kill()
        member.wait(_STOP_SECONDS)

    def dispose(self) -> None:
        for port in list(self._members):
            self.kill(port)

    def call(self, port: int, method: str, path: str, body: Any = None) -> Any:
        """What one member answers to root."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": self.root_token} if self.root_token else {},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            raw = answer.read()
        return json.loads(raw) if raw else None

    def _start(self, folder: Path, number: int, port: int) -> None:
        (folder / "raft").mkdir(parents=True)
        join = _JOIN.format(port=self.ports[0]) if number else ""
        (folder / "server.hcl").write_text(
            _CONFIGURATION.format(port=port, cluster_port=free_port(), number=number, join=join),
            encoding="ascii",
        )
        with (folder / "server.log").open("ab") as log:
            self._members[port] = subprocess.Popen(
                [str(Path(sys.executable).with_name("bao")), "server", "-config=server.hcl"],
                cwd=folder,
                env={**os.environ, "HOME": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _unseal(self, port: int) -> None:
        self.call(port, "PUT", "sys/unseal", {"key": self.unseal_key})

    def _voters(self) -> int:
        """How many vote and are up."""
        if any(_health(port) in (None, _SEALED, _NOT_INITIALISED) for port in self.ports):
            return 0
        path = "sys/storage/raft/configuration"
        found = self.call(self.ports[0], "GET", path)["data"]["config"]["servers"]
        return sum(each["voter"] for each in found)

    def _wait(self, holds: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not holds():
            assert all(each.poll() is None for each in self._members.values()), "a member ended"
            assert time.monotonic() < deadline, otherwise
            time.sleep(0.1)


@contextlib.contextmanager
def serving_raft(folder: Path) -> Iterator[BaoCluster]:
    """A cluster with a leader, all members of which vote."""
    cluster = BaoCluster()
    try:
        cluster.start(folder)
        yield cluster
    finally:
        cluster.dispose()


def _health(port: int) -> int | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/sys/health", timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return None
