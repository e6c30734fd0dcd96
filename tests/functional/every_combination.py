"""Each place for the catalog with each place for values, as real servers: six stores, and one more
that is two nodes."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from tests.functional.cluster import Cluster
from tests.functional.openbao_site import BaoSite
from tests.functional.postgres import Postgres
from tests.functional.real_servers import Moto, OpenBao
from tests.functional.running import RunningStore

from dox_core_store.testing.store_case import AskedStore

__all__ = ["COMBINATIONS", "Combination", "Shown", "running_combinations"]

COMBINATIONS = (
    "sqlite-embedded", "sqlite-openbao", "sqlite-aws",
    "postgresql-embedded", "postgresql-openbao", "postgresql-aws",
    "two-nodes-openbao",
)  # fmt: skip

_COPY = 'CREATE DATABASE "{}" TEMPLATE "{}"'


class Shown(Protocol):
    """What a vault's own tools show as current."""

    def __call__(self, path: str, environment: str) -> str | None:
        """None where there is nothing, or what says that there is nothing."""


class Combination:
    """A store that runs. ``shown`` is None where values lie beside the catalog."""

    def __init__(self, name: str, nodes: list[RunningStore], shown: Shown | None) -> None:
        self.name = name
        self.nodes = nodes
        self.shown = shown
        self.asked = AskedStore(urls=[node.url for node in nodes], token=nodes[0].admin_token)


class BaoShown:
    """By ``bao kv get``, as whoever keeps the vault would."""

    def __init__(self, site: BaoSite) -> None:
        self._site = site

    def __call__(self, path: str, environment: str) -> str | None:
        site = self._site
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("bao")), "kv", "get", "-format=json",
                f"-mount={site.mount}", f"{site.prefix}/{environment}/{path.replace('.', '/')}",
            ],
            env={**os.environ, "BAO_ADDR": site.bao.url, "BAO_TOKEN": site.bao.root_token},
            capture_output=True,
            check=False,
        )  # fmt: skip
        fields = json.loads(done.stdout)["data"]["data"] if done.stdout else None
        return None if fields is None else str(fields["value"])


class AwsShown:
    """By the secret's ``AWSCURRENT``."""

    def __init__(self, moto: Moto, prefix: str) -> None:
        self._client = moto.client("secretsmanager")
        self._prefix = prefix

    def __call__(self, path: str, environment: str) -> str | None:
        name = f"{self._prefix}/{environment}/{path.replace('.', '/')}"
        missing = (
            self._client.exceptions.ResourceNotFoundException,
            self._client.exceptions.InvalidRequestException,  # it is scheduled for deletion
        )
        try:
            found = self._client.get_secret_value(SecretId=name, VersionStage="AWSCURRENT")
        except missing:
            return None
        if "SecretString" not in found:
            return ""  # AWS takes no empty string: bytes that say so stand for it
        text = str(found["SecretString"])
        return None if text.startswith('{"doxstore:withdrawn"') else text


@contextlib.contextmanager
def running_combinations(
    folder: Path, made: RunningStore, *, postgres: Postgres, openbao: OpenBao, moto: Moto
) -> Iterator[Mapping[str, Combination]]:
    """All of `COMBINATIONS`. ``made`` is what ``init`` made of an embedded store; on PostgreSQL
    they are copies of one too."""
    first = Cluster(folder / "first", postgres.create_database(), 1)
    nodes: dict[str, list[RunningStore]] = {}
    shown: dict[str, Shown | None] = {}
    databases: list[str] = []

    def start(name: str) -> None:
        catalog, _, vault = name.rpartition("-")
        home = folder / name
        home.mkdir()
        environment: dict[str, str] = {}
        shown[name] = None
        if vault == "openbao":
            site = BaoSite(openbao, home)
            address = f"openbao+{openbao.url}/{site.mount}/{site.prefix}?{site.approle()}"
            environment["DOXSTORE_VAULT"] = address
            shown[name] = BaoShown(site)
        elif vault == "aws":
            prefix = f"dox{secrets.token_hex(4)}"
            address = f"aws://eu-central-1/{prefix}?endpoint={moto.url}"
            environment |= {**moto.environment, "DOXSTORE_VAULT": address}
            shown[name] = AwsShown(moto, prefix)
        if catalog == "sqlite":
            store = RunningStore(home / "store", environment=environment)
            nodes[name] = [store]
            store.copy_of(made)
        else:
            database = f"{first.database}_{name.replace('-', '_')}"
            names = (each.rpartition("/")[2] for each in (database, first.database))
            postgres.run("postgres", _COPY.format(*names))
            size = 2 if catalog == "two-nodes" else 1
            nodes[name] = [
                RunningStore(home / f"n{number}", database=database, environment=environment)
                for number in range(size)
            ]
            for node in nodes[name]:
                first.join(node)
            databases.append(database)
        for node in nodes[name]:
            node.start()

    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(start, COMBINATIONS))
        yield {name: Combination(name, nodes[name], shown[name]) for name in COMBINATIONS}
    finally:
        for each in nodes.values():
            for node in each:
                node.dispose()
        for database in [*databases, first.database]:
            postgres.drop_database(database)
