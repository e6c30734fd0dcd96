"""People sign in by a real OpenBao: the code flow with PKCE, by `doxstore login` and a browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from tests.functional.issuers import Issuer, serving_issuer
from tests.functional.real_servers import OpenBao
from tests.functional.running import DOXSTORE, RunningStore, clean_environment, run_doxstore
from tests.functional.test_workload_identity import (
    ID_TOKEN,
    add_issuer,
    exchange,
    refusal,
    trusted,
)

PROVIDER = "identity/oidc/provider/staff"
START_SECONDS = 30


class Person(NamedTuple):
    name: str
    client_token: str


class Staff(NamedTuple):
    """OpenBao as a company's sign-in: people in groups, and a public client for ours."""

    bao: OpenBao
    client_id: str
    accessor: str

    @property
    def url(self) -> str:
        return f"{self.bao.url}/v1/{PROVIDER}"

    def person(self, name: str, *groups: str) -> Person:
        """Somebody in ``groups`` who has signed in at OpenBao."""
        user = f"auth/staff/users/{name}"
        self.bao.call("POST", user, {"password": "pw", "token_policies": "staff"})
        entity = self.bao.call("POST", "identity/entity", {"name": name})
        entity_id = (entity or self.bao.call("GET", f"identity/entity/name/{name}"))["data"]["id"]
        self.bao.call("POST", "identity/entity-alias", {
            "name": name, "canonical_id": entity_id, "mount_accessor": self.accessor})  # fmt: skip
        for group in groups:
            found = self.bao.call("GET", f"identity/group/name/{group}")["data"]
            members = [*(found["member_entity_ids"] or []), entity_id]
            self.bao.call("POST", f"identity/group/name/{group}", {"member_entity_ids": members})
        login = self.bao.call("POST", f"auth/staff/login/{name}", {"password": "pw"})
        return Person(name, login["auth"]["client_token"])

    def leave(self, name: str, group: str) -> None:
        entity_id = self.bao.call("GET", f"identity/entity/name/{name}")["data"]["id"]
        found = self.bao.call("GET", f"identity/group/name/{group}")["data"]
        members = [each for each in found["member_entity_ids"] if each != entity_id]
        self.bao.call("POST", f"identity/group/name/{group}", {"member_entity_ids": members})

    def authorize(self, url: str, person: Person) -> str:
        """Where the browser is sent back to, once ``person`` has agreed."""
        query = urlsplit(url).query
        request = urllib.request.Request(
            f"{self.url}/authorize?{query}", headers={"X-Vault-Token": person.client_token}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            said = json.load(answer)
        sent = parse_qs(query)
        back = {"code": said["code"], "state": said["state"]}
        return f"{sent['redirect_uri'][0]}?{urlencode(back)}"


@pytest.fixture(scope="module")
def staff(openbao: OpenBao) -> Staff:
    bao = openbao
    bao.call("POST", "sys/auth/staff", {"type": "userpass"})
    policy = f'path "{PROVIDER}/authorize" {{ capabilities = ["read", "update"] }}'
    bao.call("PUT", "sys/policies/acl/staff", {"policy": policy})
    for group in ("keepers", "auditors", "leads"):
        bao.call("POST", f"identity/group/name/{group}", {"type": "internal"})
    bao.call("POST", "identity/oidc/scope/groups", {
        "template": '{"groups": {{identity.entity.groups.names}}}'})  # fmt: skip
    bao.call("POST", "identity/oidc/scope/profile", {
        "template": '{"preferred_username": {{identity.entity.name}}}'})  # fmt: skip
    bao.call("POST", "identity/oidc/key/staff", {"allowed_client_ids": "*"})
    bao.call("POST", "identity/oidc/client/doxstore", {
        "redirect_uris": "http://127.0.0.1/callback", "assignments": "allow_all",
        "key": "staff", "client_type": "public", "id_token_ttl": "10m"})  # fmt: skip
    client = bao.call("GET", "identity/oidc/client/doxstore")["data"]
    provider = {"allowed_client_ids": client["client_id"], "scopes_supported": "groups,profile"}
    bao.call("POST", PROVIDER, provider)
    mounts = bao.call("GET", "sys/auth")["data"]
    return Staff(bao, client["client_id"], mounts["staff/"]["accessor"])


@pytest.fixture
def company(store: RunningStore, staff: Staff) -> RunningStore:
    """A store whose people sign in by OpenBao: auditors and keepers may."""
    add_issuer(store, "corp", staff.url, staff.client_id)
    for group, role in (("keepers", "maintainer"), ("auditors", "auditor"),
                        ("leads", "security_team_lead")):  # fmt: skip
        trusted(store, "corp", people(group, role))
    return store


def people(group: str, *roles: str) -> dict[str, Any]:
    return {
        "kind": "operator",
        "name": "preferred_username",
        "claims": {"groups": group},
        "roles": list(roles),
    }


class Terminal(NamedTuple):
    """A person's own environment: no ADMIN_TOKEN, a home of their own."""

    store: RunningStore
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"KEY_SERVICE_URL": self.store.url, "XDG_STATE_HOME": str(self.home)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_doxstore(*arguments, **self.environment)

    @contextlib.contextmanager
    def login(self, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """`doxstore login` under way, and the address that it wants opened."""
        process = subprocess.Popen(
            [DOXSTORE, "login", "--no-browser", "--json", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(**self.environment),
        )
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            yield process, next(line.strip() for line in lines if line.startswith("http"))
        finally:
            process.kill()
            process.communicate()

    def signed_in(self, staff: Staff, person: Person) -> dict[str, Any]:
        with self.login() as (process, url):
            open_url(staff.authorize(url, person))
            out, err = process.communicate(timeout=START_SECONDS)
        assert process.returncode == 0, err
        return dict(json.loads(out))

    @property
    def file(self) -> Path:
        (path,) = (self.home / "doxstore").glob("sign-in-*.json")
        return path


@pytest.fixture
def terminal(company: RunningStore, tmp_path: Path) -> Terminal:
    return Terminal(company, tmp_path / "state")


def open_url(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_person_signs_in_works_and_signs_out(terminal: Terminal, staff: Staff) -> None:
    store, lena = terminal.store, staff.person("lena", "keepers", "auditors")
    said = terminal.signed_in(staff, lena)
    assert said["operator"] == "lena@corp"
    assert stat.S_IMODE(terminal.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(terminal.file.parent.stat().st_mode) == 0o700

    put = run_doxstore("key", "put", "a.lena", "--stdin", stdin="x", **terminal.environment)
    assert put.returncode == 0, put.stderr
    assert terminal.run("ledger", "search").returncode == 0  # also an auditor
    assert "error[role_required]" in terminal.run("grant", "add", "shop", "a.b").stderr
    kept = json.loads(terminal.file.read_text())

    out = terminal.run("logout")
    assert out.returncode == 0, out.stderr
    assert not list(terminal.home.glob("doxstore/sign-in-*"))
    answer = store.request("GET", "/v1/keys", token=kept["token"])
    assert refusal(answer) == (401, "token_revoked")
    assert "error[bad_setting]: There is no token" in terminal.run("key", "list").stderr

    entries = store.verified_export()
    by_lena = {(e["action"], e["status"]) for e in entries
               if e["service_name"] == "operator:lena@corp"}  # fmt: skip
    assert {("PUT", "GRANTED"), ("REVOKE_TOKEN", "GRANTED"), ("GRANT", "DENIED")} <= by_lena
    added, issued = (e for e in entries if e["service_name"] == "issuer:corp")
    assert (added["action"], added["reason"]) == ("ADD_OPERATOR", "auditor, maintainer")
    assert issued["reason"].startswith("for operator lena@corp: signed in, sub ")
    token = kept["token"].rsplit(".", 1)[1]
    assert token not in json.dumps(entries) + store.log_text()


def test_a_token_says_that_its_holder_signed_in_and_lives_half_a_day(
    terminal: Terminal, staff: Staff
) -> None:
    terminal.signed_in(staff, staff.person("olga", "keepers"))
    token = json.loads(terminal.file.read_text())["token"]
    claims = claims_of(token)
    assert claims["amr"] == "login"
    assert claims["exp"] - claims["iat"] == 12 * 3600
    assert "amr" not in claims_of(terminal.store.admin_token)


def claims_of(token: str) -> Mapping[str, Any]:
    import base64

    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def test_roles_follow_the_groups_at_each_sign_in(terminal: Terminal, staff: Staff) -> None:
    ivo = staff.person("ivo", "keepers", "auditors")
    terminal.signed_in(staff, ivo)
    first = json.loads(terminal.file.read_text())["token"]
    staff.leave("ivo", "keepers")
    terminal.signed_in(staff, ivo)
    for token in (first, json.loads(terminal.file.read_text())["token"]):
        answer = terminal.store.request("PUT", "/v1/keys/a.b", json={"value": "x"}, token=token)
        assert refusal(answer) == (403, "role_required")  # of the older token too
    staff.leave("ivo", "auditors")
    with terminal.login() as (process, url):
        open_url(staff.authorize(url, ivo))
        _, err = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 77
    assert json.loads(err.splitlines()[-1])["error"]["code"] == "no_trust"


def test_a_disabled_person_stays_out_and_comes_back_by_hand_alone(
    terminal: Terminal, staff: Staff
) -> None:
    store, eva = terminal.store, staff.person("eva", "auditors")
    terminal.signed_in(staff, eva)
    files = ("--data", str(store.data), "--key-file", str(store.key_file))
    done = run_doxstore("operator", "disable", "eva@corp", "--reason", "left", *files)
    assert done.returncode == 0, done.stderr
    with terminal.login() as (process, url):
        open_url(staff.authorize(url, eva))
        _, err = process.communicate(timeout=START_SECONDS)
    assert json.loads(err.splitlines()[-1])["error"]["code"] == "operator_disabled"
    done = run_doxstore("operator", "add", "eva@corp", "--role", "auditor", *files)
    assert done.returncode == 0, done.stderr
    terminal.signed_in(staff, eva)


def test_nobody_takes_over_an_operator_that_was_added_by_hand(
    terminal: Terminal, staff: Staff
) -> None:
    store = terminal.store
    files = ("--data", str(store.data), "--key-file", str(store.key_file))
    refused = run_doxstore("operator", "add", "eva@corp", "--role", "admin", *files)
    assert "error[invalid_field]" in refused.stderr
    terminal.signed_in(staff, staff.person(store.operator, "auditors"))
    assert terminal.run("ledger", "search").returncode == 0
    assert "error[role_required]" in terminal.run("env", "add", "preview").stderr


def test_what_comes_back_to_the_browsers_port_is_only_taken_from_this_attempt(
    terminal: Terminal, staff: Staff
) -> None:
    kim = staff.person("kim", "auditors")
    with terminal.login() as (process, url):
        sent = dict(parse_qsl(urlsplit(url).query))
        assert sent["code_challenge_method"] == "S256"
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/callback", sent["redirect_uri"])
        back = staff.authorize(url, kim)
        assert open_url(f"{sent['redirect_uri']}?code=stolen&state=other") == 404
        assert open_url(back.replace("/callback", "/other")) == 404
        assert process.poll() is None
        with terminal.login() as (_, other):  # somebody else's answer, in this one's place
            theirs = parse_qs(urlsplit(staff.authorize(other, kim)).query)["code"][0]
        mixed = back.replace(parse_qs(urlsplit(back).query)["code"][0], theirs)
        assert open_url(mixed) == 200
        _, err = process.communicate(timeout=START_SECONDS)
    assert json.loads(err.splitlines()[-1])["error"]["code"] == "sign_in_failed"
    assert not list(terminal.home.glob("doxstore/sign-in-*"))


def test_a_file_that_others_can_read_is_not_used(terminal: Terminal, staff: Staff) -> None:
    terminal.signed_in(staff, staff.person("mia", "auditors"))
    os.chmod(terminal.file, 0o644)  # noqa: PTH101
    assert "can be read by others" in terminal.run("key", "list").stderr


def test_a_static_token_is_used_where_it_is_given(terminal: Terminal, staff: Staff) -> None:
    terminal.signed_in(staff, staff.person("noa", "auditors"))
    environment = {**terminal.environment, "ADMIN_TOKEN": terminal.store.admin_token}
    assert run_doxstore("env", "add", "preview", **environment).returncode == 0


# --- an issuer that lies ----------------------------------------------------------------------


@pytest.fixture
def liar(tmp_path: Path, made_store: RunningStore) -> Iterator[tuple[RunningStore, Issuer]]:
    with serving_issuer(tmp_path) as issuer:
        store = RunningStore(
            tmp_path / "store", environment={"DOXSTORE_ISSUER_CA_FILE": str(issuer.ca_file)}
        )
        store.copy_of(made_store)
        store.start()
        add_issuer(store, "corp", issuer.url, issuer.audience)
        trusted(store, "corp", people("keepers", "maintainer"))
        yield store, issuer
        store.dispose()


def test_an_id_token_that_is_no_fresh_sign_in_here_is_refused(
    liar: tuple[RunningStore, Issuer],
) -> None:
    store, issuer = liar
    now = int(time.time())

    def sign_in(**changed: Any) -> tuple[int, str]:
        person = {"sub": "1", "nonce": "n", "preferred_username": "Lena", "groups": ["keepers"]}
        token = issuer.token(issuer.claims(**{**person, **changed}))
        answer = exchange(store, token, subject_token_type=ID_TOKEN)
        if answer.status == 200:
            return 200, answer.json["name"]
        return refusal(answer)

    invalid = (401, "subject_token_invalid")
    assert sign_in() == (200, "lena@corp")
    assert sign_in(nonce=None) == invalid  # a job's token
    assert sign_in(iat=now - 600, nbf=None) == (401, "subject_token_expired")
    assert sign_in(azp="other") == invalid
    assert sign_in(aud=[issuer.audience, "other"]) == invalid
    assert sign_in(aud=[issuer.audience, "other"], azp=issuer.audience) == (200, "lena@corp")
    assert sign_in(sub="2") == (403, "no_trust")  # the name was given to somebody else
    assert sign_in(groups=["others"]) == (403, "no_trust")
    assert sign_in(groups=None) == (403, "no_trust")
    assert sign_in(preferred_username=None) == (403, "ambiguous_trust")
    assert sign_in(preferred_username="a\nb") == (403, "no_trust")
    assert sign_in(preferred_username="x" * 300) == (403, "no_trust")
    # A workload's token is no person's, and a person's is no workload's.
    job = issuer.token(issuer.claims(groups=["keepers"], preferred_username="job"))
    assert refusal(exchange(store, job)) == (403, "no_trust")


def test_people_see_by_whom_they_may_sign_in_and_nothing_else(
    liar: tuple[RunningStore, Issuer],
) -> None:
    store, issuer = liar
    add_issuer(store, "jobs", issuer.url, "another")
    answer = store.request("GET", "/v1/sign-in", token="")
    assert answer.json["items"] == [
        {"issuer": "corp", "url": issuer.url, "client_id": issuer.audience}
    ]
    assert refusal(store.request("GET", "/v1/issuers", token="")) == (401, "token_missing")
