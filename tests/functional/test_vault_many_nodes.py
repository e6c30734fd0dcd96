"""Several nodes before one vault: one that is slow, and one whose writer is killed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.functional.cluster import Cluster, running_cluster, until
from tests.functional.openbao_site import BaoSite
from tests.functional.postgres import Postgres
from tests.functional.real_servers import OpenBao
from tests.functional.wire_proxy import WireProxy

KEY = "service_keys.jules_api"
PATH = "production/service_keys/jules_api"
PROMOTED, REVOKED = "production/owed/promoted", "production/owed/revoked"

SOONER = """
import datetime
from dox_core_store.server.usecases import vault_task

vault_task.LOST = datetime.timedelta(seconds=20)
"""
"""A sweeper that gives up a value that no version names after seconds instead of minutes."""


class Fronting(NamedTuple):
    """Two nodes and what is behind them; ``wire`` is on the way there, and leads to ``ports``."""

    cluster: Cluster
    site: BaoSite
    wire: WireProxy
    ports: list[int]

    @contextlib.contextmanager
    def unreachable(self) -> Iterator[None]:
        """Nothing comes to the vault meanwhile."""
        port = self.ports.pop()
        self.wire.swallow()
        try:
            yield
        finally:
            self.ports.append(port)


@pytest.fixture
def fronting(tmp_path: Path, database: str, openbao: OpenBao) -> Iterator[Fronting]:
    site = BaoSite(openbao, tmp_path)
    ports = [int(openbao.url.rpartition(":")[2])]
    (tmp_path / "sooner").mkdir()
    (tmp_path / "sooner" / "sitecustomize.py").write_text(SOONER)
    with WireProxy(lambda: ports[-1] if ports else None) as wire:
        address = f"http://127.0.0.1:{wire.port}/{site.mount}/{site.prefix}?{site.approle()}"
        environment = {
            "DOXSTORE_VAULT": f"openbao+{address}",
            "PYTHONPATH": str(tmp_path / "sooner"),
        }
        with running_cluster(tmp_path, database, 2, **environment) as cluster:
            yield Fronting(cluster, site, wire, ports)


def shown(site: BaoSite, path: str = PATH) -> str | None:
    """What the vault has as current."""
    found = site.data(path)
    return None if found is None else str(found["data"]["value"])


def test_of_two_nodes_that_write_one_key_before_a_slow_vault_one_wins(
    fronting: Fronting, postgres: Postgres
) -> None:
    cluster, site, wire, _ = fronting
    cluster[0].put(KEY, "one")
    cluster[1].put("another.key", "one")  # it has logged in
    told: dict[str, int] = {}

    def write(number: int, value: str) -> None:
        body = {"value": value, "if_version": 1}
        told[value] = cluster[number].request("PUT", f"/v1/keys/{KEY}", json=body).status

    threads = [threading.Thread(target=write, args=(number, f"of-{number}")) for number in range(2)]
    with wire.holding():
        for thread in threads:
            thread.start()
        begun = "SELECT count(*) FROM vault_task WHERE act = 'store'"
        until(lambda: postgres.run(cluster.database, begun) == [(2,)], "both are on their way")
        assert shown(site) == "one"
        assert not told
    for thread in threads:
        thread.join(30)
    assert sorted(told.values()) == [200, 409]
    (winner,) = (value for value, status in told.items() if status == 200)
    assert [node.get(KEY).json["value"] for node in cluster.nodes] == [winner] * 2
    assert [node.get(KEY, version=1).json["value"] for node in cluster.nodes] == ["one"] * 2
    until(lambda: shown(site) == winner, "the vault agrees")
    until(lambda: site.waiting() == [], "nothing is left of the other one")
    versions = cluster[0].request("GET", f"/v1/keys/{KEY}/versions").json["items"]
    assert [each["version"] for each in versions] == [1, 2]


def held_amid_a_write(
    fronting: Fronting, postgres: Postgres, database: str
) -> contextlib.ExitStack:
    """The vault's answers are kept back, from a moment on at which a value has come there and no
    version names it yet."""
    begun = "SELECT version_id FROM vault_task WHERE act = 'store'"
    for _ in range(500):
        held = contextlib.ExitStack()
        held.enter_context(fronting.wire.holding())
        time.sleep(0.05)
        if {each for (each,) in postgres.run(database, begun)} & set(fronting.site.waiting()):
            return held
        held.close()
        time.sleep(0.02)
    pytest.fail("no value came there that no version names")


def test_what_a_killed_node_owed_the_vault_is_done_by_another(
    fronting: Fronting, postgres: Postgres, database: str
) -> None:
    """It is cut off from the vault and killed in the middle of writes: one value has come there and
    no version names it, one version was promoted and another one revoked."""
    cluster, site, _, _ = fronting
    dying, other = cluster.nodes
    dying.put("owed.promoted", "before")
    dying.request("POST", "/v1/keys/owed.promoted/propose", json={"value": "after"})
    dying.put("owed.revoked", "leaked")
    written: dict[str, str] = {}

    def write() -> None:
        with contextlib.suppress(OSError, AssertionError, ValueError):
            for number in range(1_000):
                dying.put(f"many.n{number}", f"v{number}")
                written[f"many.n{number}"] = f"v{number}"

    def ask(method: str, target: str, **body: str) -> None:
        with contextlib.suppress(OSError):
            dying.request(method, f"/v1/keys/{target}", json=body)

    acts = "SELECT DISTINCT act FROM vault_task"
    writing = threading.Thread(target=write)
    writing.start()
    until(lambda: len(written) > 20, "it writes")
    with held_amid_a_write(fronting, postgres, database):
        asking = [threading.Thread(target=ask, args=("PUT", "cut.off"), kwargs={"value": "lost"})]
        asking[0].start()
        with fronting.unreachable():
            for target in ("owed.promoted/promote", "owed.revoked/revoke"):
                asking.append(threading.Thread(target=ask, args=("POST", target)))
                asking[-1].start()
            until(
                lambda: (
                    {act for (act,) in postgres.run(database, acts)}
                    >= {"store", "promote", "withdraw"}
                ),
                "it owes all of that",
            )
            dying.kill()
            assert (shown(site, PROMOTED), shown(site, REVOKED)) == ("before", "leaked")
    for thread in (writing, *asking):
        thread.join(30)
    assert other.get("owed.promoted").json["value"] == "after"
    assert other.get("owed.revoked").json["code"] == "version_revoked"
    # What is to be erased and did not come there is looked for some minutes longer.
    until(lambda: {*postgres.run(database, acts)} <= {("erase",)}, "it is done", 60)
    until(lambda: site.waiting() == [], "what nobody names is gone", 60)
    assert (shown(site, PROMOTED), shown(site, REVOKED)) == ("after", None)
    holders = postgres.run(database, "SELECT holder FROM lease WHERE name = 'vault-tasks'")
    assert holders == postgres.run(database, "SELECT stream FROM node WHERE name = 'n1'")
    rows = other.request("GET", "/v1/keys?prefix=many&limit=500").json["items"]
    assert {row["key_path"] for row in rows} >= written.keys()
    for row in rows:
        value = other.get(row["key_path"]).json["value"]
        assert written.get(row["key_path"], value) == value
        assert shown(site, f"production/{row['key_path'].replace('.', '/')}") == value
    assert other.get("cut.off").json["code"] == "key_not_found"
    other.put(KEY, "goes on")
    assert shown(site) == "goes on"
    other.verified_export()
