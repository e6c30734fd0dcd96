"""What people keep in a real OpenBao, and in AWS, becomes keys by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.functional.openbao_site import BaoSite
from tests.functional.real_servers import Moto, OpenBao
from tests.functional.running import RunningStore, run_doxstore

REGION = "eu-central-1"


@pytest.fixture
def site(openbao: OpenBao, tmp_path: Path) -> BaoSite:
    return BaoSite(openbao, tmp_path)


@pytest.fixture
def fronting(idle_store: RunningStore, site: BaoSite) -> RunningStore:
    """A server before a vault in which somebody keeps things."""
    address = f"openbao+{site.bao.url}/{site.mount}/{site.prefix}?{site.approle()}"
    idle_store.environment["DOXSTORE_VAULT"] = address
    put(site, "production/payments/stripe", {"value": "sk-live"})
    put(site, "staging/payments/stripe", {"value": "sk-test"})
    put(site, "team/db", {"user": "u", "password": "p"})
    put(site, "team/one", {"token": "t"})
    put(site, "team/odd.name", {"value": "s3cret-odd"})
    put(site, "team/so many/äöü", {"value": "umlaut"})
    put(site, "team/number", {"port": 5432})
    put(site, "Team/db", {"value": "case"})
    idle_store.start()
    idle_store.put("team.taken", "ours")
    put(site, "team/taken", {"value": "theirs"})
    return idle_store


def put(site: BaoSite, path: str, fields: dict[str, Any]) -> None:
    site.call("POST", quote(site.at("data", path)), {"data": fields})


def doxstore(store: RunningStore, *arguments: str, code: int = 0) -> Any:
    done = run_doxstore(
        *arguments, "--json", KEY_SERVICE_URL=store.url, ADMIN_TOKEN=store.admin_token
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def outcomes(told: Any) -> dict[str, str]:
    return {
        f"{each['path']}:{each['field']}": each["code"] or each["outcome"]
        for each in told["entries"]
    }


PLAN = {
    "Team/db:value": "case_collision",
    "production/payments/stripe:value": "adopted",
    "staging/payments/stripe:value": "adopted",
    "team/db:password": "adopted",
    "team/db:user": "adopted",
    "team/number:port": "adopted",
    "team/odd.name:value": "malformed_path",
    "team/one:token": "adopted",
    "team/so many/äöü:value": "malformed_path",
    "team/taken:value": "already_exists",
}


def test_entries_become_keys_with_the_names_that_they_can_have(
    fronting: RunningStore, site: BaoSite, tmp_path: Path
) -> None:
    store = fronting
    told = doxstore(store, "vault", "adopt")
    assert (told["applied"], outcomes(told)) == (False, PLAN)
    assert store.get("payments.stripe").status == 404
    names = tmp_path / "names"
    names.write_text("# what was spelled otherwise\nTeam/db=team.case\n")
    options = ["--map-file", str(names), "--map", "team/so many/äöü=team.umlaut"]
    options += ["--map", "team/db.password=team.db_secret", "--map", "team/odd.name=team.odd"]
    planned = doxstore(store, "vault", "adopt", *options)
    expected = dict.fromkeys(PLAN, "adopted") | {"team/taken:value": "already_exists"}
    assert outcomes(planned) == expected
    only = doxstore(store, "vault", "adopt", *options, "--only", "team.*", "--apply", code=1)
    assert only["adopted"] == 6, only
    assert store.get("payments.stripe").status == 404
    done = doxstore(store, "vault", "adopt", *options, "--apply", code=1)
    assert (done["adopted"], done["known"], done["refused"]) == (3, 1, 1)
    values = {
        "payments.stripe": "sk-live",
        "payments.stripe.staging": "sk-test",
        "team.db.user": "u",
        "team.db_secret": "p",
        "team.one": "t",
        "team.odd": "s3cret-odd",
        "team.umlaut": "umlaut",
        "team.number": "5432",
        "team.case": "case",
        "team.taken": "ours",
    }
    for path, value in values.items():
        assert store.get(path).json["value"] == value, path
    again = doxstore(store, "vault", "adopt", *options, "--apply", code=1)
    assert (again["adopted"], again["known"]) == (0, 2)
    looked = run_doxstore("doctor", "--data", store.data, "--key-file", store.key_file, "--json")
    checks = {each["check"]: each["status"] for each in json.loads(looked.stdout)["checks"]}
    assert checks["records"] == "ok", looked.stdout
    for value in ("sk-live", "s3cret-odd"):
        assert value not in store.log_text() + json.dumps([told, planned, only, done, again])


def test_a_name_for_what_is_not_there_stops_before_anything_is_taken_over(
    fronting: RunningStore,
) -> None:
    store = fronting
    typo = ["--map", "production/payments/stirpe=payments.card"]
    assert doxstore(store, "vault", "adopt", *typo)["adopted"] > 0
    refused = run_doxstore(
        "vault", "adopt", *typo, "--apply", KEY_SERVICE_URL=store.url, ADMIN_TOKEN=store.admin_token
    )
    assert refused.returncode == 1
    assert "production/payments/stirpe" in refused.stderr
    assert store.get("payments.stripe").status == 404


def test_what_was_adopted_is_written_where_it_lies_and_what_is_shared_is_split(
    fronting: RunningStore, site: BaoSite
) -> None:
    store = fronting
    doxstore(store, "vault", "adopt", "--map", "Team/db=team.case", "--apply", code=1)
    store.put("team.one", "new")
    assert site.data("team/one")["data"] == {"token": "new"}
    store.put("payments.stripe", "sk-new")
    assert site.data("production/payments/stripe")["data"] == {"value": "sk-new"}
    assert store.get("payments.stripe", version=1).json["value"] == "sk-live"
    refused = store.request("PUT", "/v1/keys/team.db.user", json={"value": "x"})
    assert (refused.status, refused.json["code"]) == (409, "entry_shared")
    plan = doxstore(store, "vault", "adopt", "--split", "team.db.*")
    assert len(plan["keys"]) == 2
    done = doxstore(store, "vault", "adopt", "--split", "team.db.*", "--apply")
    assert [each["outcome"] for each in done["keys"]] == ["split", "split"]
    store.put("team.db.user", "mine")
    assert site.data("production/team/db/user")["data"] == {"value": "mine"}
    assert site.data("team/db")["data"] == {"user": "u", "password": "p"}
    assert store.get("team.db.password").json["value"] == "p"
    assert site.waiting() == []


def test_a_vault_is_set_up_by_the_command(
    idle_store: RunningStore, openbao: OpenBao, tmp_path: Path
) -> None:
    """And a store works with exactly that policy."""
    address = f"openbao+{openbao.url}/kv-by-command/some/prefix"
    command = ("vault", "setup", "openbao", address, "--policy", "by-command")
    done = [
        run_doxstore(*command, "--apply", BAO_TOKEN=openbao.root_token).stdout.splitlines()
        for _ in range(2)
    ]
    assert done[0] == [
        "A KV engine, version 2, was enabled at kv-by-command.",
        "The policy by-command was written.",
    ]
    assert done[1][0] == "A KV engine, version 2, is at kv-by-command already."
    printed = run_doxstore(*command).stdout
    assert f'vault = "{address}"' in printed
    other = run_doxstore("vault", "setup", "aws", address)
    assert "an address of openbao, not of aws" in other.stderr
    body = {"policies": ["by-command"], "no_default_policy": True, "period": "1h"}
    token = openbao.call("POST", "auth/token/create", body)["auth"]["client_token"]
    file = tmp_path / "token"
    file.write_text(token)
    idle_store.environment["DOXSTORE_VAULT"] = f"{address}?login=token&token_file={file}"
    idle_store.start()
    idle_store.put("a.b", "one")
    (first, here) = doxstore(idle_store, "vault", "check")
    assert (first["status"], first["versions"], first["takes_new"]) == ("ok", 1, True)
    assert (here["vault"], here["versions"]) == ("here", 0)
    bad = run_doxstore(*command, "--apply", BAO_TOKEN="hvs.none")
    assert bad.returncode == 75
    assert "vault_refused" in bad.stderr


def test_a_move_of_no_key_says_so(fronting: RunningStore, site: BaoSite) -> None:
    move = ("vault", "move", "--to", f"openbao+{site.bao.url}/{site.mount}/{site.prefix}")
    asked = {"KEY_SERVICE_URL": fronting.url, "ADMIN_TOKEN": fronting.admin_token}
    assert "No key is called none" in run_doxstore(*move, "--prefix", "none", **asked).stderr
    there = run_doxstore(*move, "--prefix", "team", **asked)
    assert (there.returncode, "No key" in there.stderr) == (0, False)


def test_what_a_vault_says_no_to_is_told(fronting: RunningStore, site: BaoSite) -> None:
    site.call("PUT", f"sys/policies/acl/{site.policy}", {"policy": "# nothing"})
    (first, _) = doxstore(fronting, "vault", "check", code=1)
    assert first["status"] == "vault_refused"
    failed = run_doxstore(
        "vault",
        "adopt",
        KEY_SERVICE_URL=fronting.url,
        ADMIN_TOKEN=fronting.admin_token,
    )
    assert failed.returncode == 75
    assert "vault_refused" in failed.stderr


def test_secrets_in_aws_become_keys(idle_store: RunningStore, moto: Moto) -> None:
    store = idle_store
    client = moto.client("secretsmanager", REGION)
    client.create_secret(Name="adopt/production/plain", SecretString="not json")
    client.create_secret(Name="adopt/db", SecretString='{"user": "u", "password": "p"}')
    store.environment |= moto.environment
    store.environment["DOXSTORE_VAULT_ALSO"] = f"aws://{REGION}/adopt?endpoint={moto.url}"
    store.start()
    told = doxstore(store, "vault", "adopt", "--apply")
    assert told["adopted"] == 3
    assert store.get("plain").json["value"] == "not json"
    assert store.get("db.password").json["value"] == "p"
    store.put("fresh.key", "here")  # new values go beside the catalog
    done = doxstore(store, "vault", "adopt", "--split", "db.password", "--apply")
    assert [each["outcome"] for each in done["keys"]] == ["split"]
    store.put("db.password", "new")
    rows = {e["vault"]: e for e in doxstore(store, "vault", "check")}
    assert rows[f"aws://{REGION}/adopt"]["versions"] == 3
    assert rows["here"]["versions"] == 3
    found = client.get_secret_value(SecretId="adopt/db", VersionStage="AWSCURRENT")
    assert json.loads(found["SecretString"]) == {"user": "u", "password": "p"}
