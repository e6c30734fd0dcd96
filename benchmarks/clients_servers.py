"""The servers that clients are measured against, each filled with the same keys.

Each is given as the environment variables by which its client finds it, as a service's environment
would have them: for `KeyClient` our store in a file, for hvac OpenBao with its audit on, and for
the cache of AWS what stands in for AWS Secrets Manager: moto, over HTTP.

The token for OpenBao is one without the policy ``default``: the fastest that we know how to make
it (`openbao`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import boto3
import httpx2

from benchmarks.clients_ways import SERVICE
from benchmarks.doxstore import Store, call, doxstore
from benchmarks.openbao import running_openbao
from benchmarks.process import BenchError, free_port, serving, wait_until
from benchmarks.workload import BenchKey

__all__ = ["bao_site", "clean_environment", "moto_site", "our_site", "registered"]

_LIMIT = "60000000/min"
_MOUNT = "secret"
_POLICY = f'path "{_MOUNT}/data/bench/*" {{ capabilities = ["read"] }}'
_REGION = "eu-central-1"
_START_SECONDS = 60.0


def clean_environment(folder: Path) -> dict[str, str]:
    """What every client's process gets: nothing of ours that leads it elsewhere."""
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("AWS_", "BAO_", "VAULT_")) and not name.lower().endswith("_proxy")
    }
    return {**kept, "HOME": str(folder)}


def registered(http: httpx2.Client, service: str, *, reads: str) -> str:
    """A token of the new ``service``, which may read ``reads`` as fast as it likes."""
    call(http, "POST", "/v1/services", {"service_name": service, "required_keys": [reads]})
    call(http, "PUT", f"/v1/services/{service}/limit", {"limit": _LIMIT})
    issued = call(http, "POST", "/tokens", {"service_name": service, "expires_in": "12h"})
    return str(issued["token"])


@contextlib.contextmanager
def our_site(folder: Path, keys: Sequence[BenchKey]) -> Iterator[tuple[Store, Mapping[str, str]]]:
    """Our store with ``keys`` in it, until the block ends."""
    with (
        doxstore(folder=folder, keys=list(keys), name="the store of the clients") as store,
        httpx2.Client(base_url=store.url, trust_env=False, timeout=30) as http,
    ):
        http.headers["Authorization"] = f"Bearer {store.operator}"
        token = registered(http, SERVICE, reads="bench.**")
        yield store, {"KEY_SERVICE_URL": store.url, "SERVICE_TOKEN": token}


@contextlib.contextmanager
def bao_site(folder: Path, keys: Sequence[BenchKey]) -> Iterator[Mapping[str, str]]:
    """OpenBao with ``keys`` in it, until the block ends."""
    with running_openbao(folder=folder, audited=True) as bao:
        bao.mount(_MOUNT)
        for key in keys:
            path = f"{_MOUNT}/data/{'/'.join(key.segments)}"
            bao.call("POST", path, {"data": {"value": key.value}})
        token = bao.token(_POLICY, lean=True)
        yield {"VAULT_ADDR": f"http://127.0.0.1:{bao.port}", "VAULT_TOKEN": token}
        if not bao.audit_file.stat().st_size:
            raise BenchError("OpenBao's audit file is empty: the comparison would be unfair")


@contextlib.contextmanager
def moto_site(folder: Path, keys: Sequence[BenchKey]) -> Iterator[Mapping[str, str]]:
    """A moto with ``keys`` in it, until the block ends."""
    folder.mkdir(mode=0o700)
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", folder / "moto.log"
    found_by = {
        "AWS_ENDPOINT_URL": url,
        "AWS_DEFAULT_REGION": _REGION,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with serving(command, folder=folder, log=log, environment=clean_environment(folder)) as child:
        wait_until(lambda: _answers(url), child=child, log=log, seconds=_START_SECONDS)
        client = boto3.client(
            "secretsmanager",
            region_name=_REGION,
            endpoint_url=url,
            aws_access_key_id=found_by["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=found_by["AWS_SECRET_ACCESS_KEY"],
        )
        for key in keys:
            client.create_secret(Name="/".join(key.segments), SecretString=key.value)
        client.close()
        yield found_by


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/moto-api/", trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False
