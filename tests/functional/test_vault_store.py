"""A server process whose values lie in a real OpenBao, with no rights but those that are printed.

What the vault's own tools say is asked by the ``bao`` command, as whoever keeps the vault would.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.functional.openbao_site import BaoSite
from tests.functional.real_servers import Moto, OpenBao
from tests.functional.running import RunningStore

KEY = "service_keys.jules_api"
PATH = "production/service_keys/jules_api"
PATIENCE_SECONDS = 20


@pytest.fixture
def site(openbao: OpenBao, tmp_path: Path) -> BaoSite:
    return BaoSite(openbao, tmp_path)


@pytest.fixture
def fronting(idle_store: RunningStore, site: BaoSite) -> RunningStore:
    """A server in front of it."""
    address = f"openbao+{site.bao.url}/{site.mount}/{site.prefix}?{site.approle()}"
    idle_store.environment["DOXSTORE_VAULT"] = address
    idle_store.start()
    return idle_store


def kv_get(site: BaoSite, path: str = PATH) -> str | None:
    """What ``bao kv get`` shows; None if there is nothing."""
    bao = str(Path(sys.executable).with_name("bao"))
    done = subprocess.run(
        [bao, "kv", "get", "-format=json", f"-mount={site.mount}", f"{site.prefix}/{path}"],
        env={**os.environ, "BAO_ADDR": site.bao.url, "BAO_TOKEN": site.bao.root_token},
        capture_output=True,
        check=False,
    )
    fields = json.loads(done.stdout)["data"]["data"] if done.stdout else None
    return None if fields is None else str(fields["value"])


def act(store: RunningStore, what: str, **body: Any) -> Any:
    answer = store.request("POST", f"/v1/keys/{KEY}/{what}", json=body)
    assert answer.status == 200, answer.body
    return answer.json


def value(store: RunningStore, path: str = KEY, version: int | None = None) -> str:
    answer = store.get(path, version=version)
    return str(answer.json["value"] if answer.status == 200 else answer.json["code"])


def until(what: str, expected: Any, *asked: Any) -> None:
    """Wait until ``asked`` (a function and its arguments) answers as expected."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := asked[0](*asked[1:])) != expected:
        assert time.monotonic() < deadline, f"{what}: {found!r}, not {expected!r}"
        time.sleep(0.05)


def test_a_key_lives_in_the_vault_and_bao_shows_its_current_value(
    fronting: RunningStore, site: BaoSite
) -> None:
    store = fronting
    store.put(KEY, "one", owner="payments")
    assert (value(store), kv_get(site)) == ("one", "one")
    store.put(KEY, "two")
    assert (value(store), kv_get(site)) == ("two", "two")
    assert act(store, "rollback")["rolled_back_from"] == 1
    assert (value(store), kv_get(site)) == ("one", "one")
    act(store, "propose", value="four")
    assert kv_get(site) == "one"
    act(store, "promote")
    assert (value(store), kv_get(site)) == ("four", "four")
    act(store, "revoke")
    assert value(store) == "version_revoked"
    until("bao shows what was revoked", None, kv_get, site)
    assert value(store, version=2) == "two"
    act(store, "destroy", version=2)
    assert value(store, version=2) == "version_destroyed"
    until("it is not erased", 1, _ended, store, "erased in openbao+")
    store.put(KEY, "s3cret-five")
    assert (value(store), kv_get(site)) == ("s3cret-five", "s3cret-five")
    assert value(store, version=1) == "one"
    assert site.waiting() == []
    for file in store.folder.rglob("*"):
        assert not file.is_file() or b"s3cret" not in file.read_bytes()


def _ended(store: RunningStore, how: str) -> int:
    """How many entries say that a value ended so."""
    answer = store.request("GET", "/v1/ledger?action=DESTROY&limit=50")
    return sum(how in (entry["reason"] or "") for entry in answer.json["items"])


def test_an_import_goes_there_and_is_current_at_once(fronting: RunningStore, site: BaoSite) -> None:
    store = fronting
    store.put(KEY, "same")
    entries = [
        {"key_path": f"many.k{n}", "environment": "production", "value": f"v{n}"} for n in range(60)
    ]
    entries.append({"key_path": KEY, "environment": "production", "value": "same"})
    import_id = store.request("POST", "/v1/imports").json["import_id"]
    at = f"/v1/imports/{import_id}"
    body = {"sequence": 0, "entries": entries}
    told = store.request("POST", f"{at}/entries", json=body).json
    assert (told["created"], told["replaced"], told["unchanged"]) == (60, 0, 1)
    assert value(store, "many.k7") == "key_not_found"
    assert store.request("POST", f"{at}/commit", json={}).status == 200
    assert value(store, "many.k7") == "v7"
    until("promoted", "v59", kv_get, site, "production/many/k59")
    until("still waiting", [], site.waiting)
    assert value(store, "many.k59") == "v59"


def test_what_somebody_changes_there_is_taken_over(fronting: RunningStore, site: BaoSite) -> None:
    store = fronting
    store.put(KEY, "ours")
    site.call("POST", site.at("data", PATH), {"data": {"value": "theirs"}})
    until("not taken over", "theirs", value, store)
    assert value(store, version=1) == "ours"
    (_, version) = store.request("GET", f"/v1/keys/{KEY}/versions").json["items"]
    assert (version["origin"], version["created_by"]) == ("external", "external")
    assert '"event": "vault_changed"' in store.log_text()
    site.call("DELETE", site.at("data", PATH))
    assert value(store, version=2) == "vault_value_missing"
    assert "theirs" not in store.log_text()


def test_a_sealed_vault_stops_nothing_but_what_needs_it(
    fronting: RunningStore, site: BaoSite
) -> None:
    store = fronting
    token = store.issue("jules", "service_keys.**")
    for path in (KEY, "service_keys.cold", "service_keys.ended"):
        store.put(path, "one")
    assert store.get(KEY, token).json["value"] == "one"
    site.bao.seal()
    try:
        assert store.get(KEY, token).json["value"] == "one", "it is at hand"
        refused = store.get("service_keys.cold", token)
        assert (refused.status, refused.json["code"]) == (503, "vault_unavailable")
        write = store.request("PUT", f"/v1/keys/{KEY}", json={"value": "two"})
        assert (write.status, write.json["code"]) == (503, "vault_unavailable")
        ended = store.request("POST", "/v1/keys/service_keys.ended/revoke", json={})
        assert ended.status == 200
        assert store.get("service_keys.ended", token).json["code"] == "version_revoked"
    finally:
        site.bao.unseal()
    until("no recovery", "one", value, store, "service_keys.cold")
    until("it is still shown", None, kv_get, site, "production/service_keys/ended")
    store.put(KEY, "two")
    assert (value(store), kv_get(site)) == ("two", "two")


def test_a_node_that_is_killed_while_it_writes_loses_no_answered_write(
    fronting: RunningStore, site: BaoSite
) -> None:
    store = fronting
    answered: list[int] = []

    def write() -> None:
        with contextlib.suppress(OSError, AssertionError, ValueError):
            answered.extend(store.put(KEY, f"v{n}")["version"] for n in range(1_000))

    writing = threading.Thread(target=write)
    writing.start()
    until("no write", True, lambda: len(answered) > 5)
    store.kill()
    writing.join()
    store.start()
    last = answered[-1]
    current = store.get(KEY).json
    assert current["version"] in (last, last + 1)
    for number in answered:
        assert value(store, version=number) in (f"v{number - 1}", "version_unavailable")
    until("bao shows another", current["value"], kv_get, site)


def test_a_key_lives_in_secrets_manager_and_aws_shows_its_current_value(
    idle_store: RunningStore, moto: Moto
) -> None:
    store, prefix = idle_store, f"dox{secrets.token_hex(4)}"
    store.environment |= {
        "DOXSTORE_VAULT": f"aws://eu-central-1/{prefix}?endpoint={moto.url}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    store.start()
    client = moto.client("secretsmanager")

    def shown() -> set[str]:
        """Every current value below the prefix."""
        listed = client.list_secrets(Filters=[{"Key": "name", "Values": [prefix]}])
        values = set()
        for each in listed["SecretList"]:
            with contextlib.suppress(client.exceptions.ResourceNotFoundException):
                # By its label: without one, moto looks elsewhere.
                found = client.get_secret_value(SecretId=each["Name"], VersionStage="AWSCURRENT")
                values.add(found["SecretString"])
        return values

    store.put(KEY, "one")
    store.put(KEY, "two")
    assert value(store) == "two"
    assert "two" in shown()
    assert act(store, "rollback")["rolled_back_from"] == 1
    assert value(store) == "one"
    act(store, "revoke")
    assert value(store) == "version_revoked"
    act(store, "destroy", version=2)
    until("it is not unlinked", 1, _ended, store, "unlinked in aws:")
    store.put(KEY, "five")
    assert (value(store), value(store, version=1)) == ("five", "one")
    until("aws shows another", True, lambda: "five" in shown())
