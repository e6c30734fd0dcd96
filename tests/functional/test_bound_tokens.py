"""Tokens that are bound to a key (RFC 9449), on a real server: what a thief can do with one."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.functional.raw_http import ask, code_of, recorded
from tests.functional.running import Answer, RunningStore, run_doxstore

from dox_core_store import KeyClient
from dox_core_store.client.proof import ServiceKey, service_key_from
from dox_core_store.errors import ConfigurationError

KEY, OTHER = "held.key", "held.other"
BATCH = "/v1/keys/batch-get"


class Held(NamedTuple):
    """A bound token, and the key that it is bound to."""

    store: RunningStore
    token: str
    token_id: str
    key: ServiceKey
    key_file: Path

    def url(self, target: str) -> str:
        return self.store.url + target

    def proof(self, method: str, target: str, nonce: str | None, **changed: Any) -> str:
        given: dict[str, Any] = {
            "method": method,
            "url": self.url(target),
            "token": self.token,
            "nonce": nonce,
            "body": None,
            "now": _now(),
        }
        return self.key.proof(**(given | changed))

    def send(self, method: str, target: str, proof: str | None, **more: Any) -> Answer:
        headers = [("Authorization", f"DPoP {self.token}")]
        if proof is not None:
            headers.append(("DPoP", proof))
        return ask(self.store, method, target, token="", headers=headers, **more)

    def nonce(self) -> str:
        refused = self.send("GET", f"/v1/keys/{KEY}", self.proof("GET", f"/v1/keys/{KEY}", None))
        assert (refused.status, code_of(refused)) == (401, "nonce_needed")
        assert refused.headers["www-authenticate"].startswith("DPoP ")
        assert 'error="use_dpop_nonce"' in refused.headers["www-authenticate"]
        return refused.headers["dpop-nonce"]


def _now() -> int:
    return int(time.time())


@pytest.fixture(scope="module")
def held(shared_store: RunningStore, tmp_path_factory: pytest.TempPathFactory) -> Held:
    shared_store.put(KEY, "held value")
    shared_store.put(OTHER, "other value")
    shared_store.register("holder", KEY, OTHER)
    return bound(shared_store, tmp_path_factory.mktemp("key") / "service.key")


def bound(store: RunningStore, key_file: Path) -> Held:
    """As an operator does it: the store never sees more than the thumbprint."""
    done = run_doxstore(
        *("token", "issue", "holder", "--bind", "--json"),
        KEY_SERVICE_URL=store.url,
        ADMIN_TOKEN=store.admin_token,
        SERVICE_KEY_FILE=str(key_file),
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    key = service_key_from({"SERVICE_KEY_FILE": str(key_file)})
    assert key is not None
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert made["key_thumbprint"] == key.thumbprint
    assert made["token_type"] == "DPoP"
    return Held(store, made["token"], made["token_id"], key, key_file)


@pytest.fixture
def environment(held: Held, monkeypatch: pytest.MonkeyPatch) -> Held:
    for name in [name for name in os.environ if name.startswith(("SERVICE_", "KEY_SERVICE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KEY_SERVICE_URL", held.store.url)
    monkeypatch.setenv("SERVICE_TOKEN", held.token)
    monkeypatch.setenv("SERVICE_KEY_FILE", str(held.key_file))
    return held


def test_the_client_reads_without_a_line_of_service_code(environment: Held) -> None:
    async def read() -> tuple[str, list[str]]:
        client = KeyClient(service_name="holder")
        one = await client.get_key(KEY, cache_ttl=0)
        both = await client.get_keys([KEY, OTHER], cache_ttl=0)
        again = [await client.get_key(KEY, cache_ttl=0) for _ in range(20)]
        assert {key.value for key in again} == {"held value"}
        return one.value, [key.value for key in both.values()]

    assert asyncio.run(read()) == ("held value", ["held value", "other value"])


def test_many_tasks_share_one_nonce(environment: Held) -> None:
    async def read() -> list[str]:
        client = KeyClient(service_name="holder")
        paths = [KEY, OTHER] * 20
        keys = await asyncio.gather(*(client.get_key(path, cache_ttl=0) for path in paths))
        return [key.value for key in keys]

    assert asyncio.run(read()) == ["held value", "other value"] * 20


def test_the_key_may_stand_in_the_environment(
    environment: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVICE_KEY_FILE")
    monkeypatch.setenv("SERVICE_KEY", environment.key_file.read_text())

    async def read() -> str:
        return (await KeyClient(service_name="holder").get_key(KEY)).value

    assert asyncio.run(read()) == "held value"


def test_the_client_refuses_to_start_without_the_key(
    environment: Held, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SERVICE_KEY_FILE")
    with pytest.raises(ConfigurationError, match="SERVICE_KEY_FILE"):
        KeyClient(service_name="holder")
    monkeypatch.setenv("SERVICE_KEY_FILE", str(tmp_path / "other.key"))
    service_key_from({"SERVICE_KEY_FILE": str(tmp_path / "other.key")}, make=True)
    with pytest.raises(ConfigurationError, match="another key"):
        KeyClient(service_name="holder")


def test_a_proven_read_is_answered_and_brings_the_next_nonce(held: Held) -> None:
    target = f"/v1/keys/{KEY}"
    answer = held.send("GET", target, held.proof("GET", target, held.nonce()))
    assert answer.status == 200
    assert answer.json["value"] == "held value"
    assert answer.headers["dpop-nonce"]
    assert recorded(held.store, answer)[0]["token_id"] == held.token_id


def test_as_a_plain_bearer_it_is_refused_named_and_alarmed(held: Held) -> None:
    for method, target, body in (
        ("GET", f"/v1/keys/{KEY}", None),
        ("POST", BATCH, {"key_paths": [KEY]}),
        ("GET", "/v1/keys", None),
        ("PUT", f"/v1/keys/{KEY}", {"value": "x"}),
    ):
        answer = ask(held.store, method, target, token=held.token, body=body)
        assert (answer.status, code_of(answer)) == (401, "proof_needed"), target
        assert answer.headers["www-authenticate"].startswith("DPoP ")
    [entry] = recorded(held.store, answer)
    assert (entry["service_name"], entry["token_id"]) == ("holder", held.token_id)
    assert (entry["status"], entry["reason"]) == ("DENIED", "proof_needed")
    alarms = [
        json.loads(line)
        for line in held.store.log_text().splitlines()
        if '"token_without_proof"' in line
    ]
    assert [alarm["token_id"] for alarm in alarms].count(held.token_id) == 1
    assert held.token not in held.store.log_text()


def test_without_its_proof_the_scheme_helps_nothing(held: Held) -> None:
    answer = held.send("GET", f"/v1/keys/{KEY}", None)
    assert (answer.status, code_of(answer)) == (401, "proof_needed")


def refused(held: Held, method: str, target: str, proof: str, **more: Any) -> None:
    answer = held.send(method, target, proof, **more)
    assert (answer.status, code_of(answer)) == (401, "proof_invalid")
    [entry] = recorded(held.store, answer)
    assert (entry["service_name"], entry["reason"]) == ("holder", "proof_invalid")


def test_a_proof_is_good_once(held: Held) -> None:
    target = f"/v1/keys/{KEY}"
    proof = held.proof("GET", target, held.nonce())
    assert held.send("GET", target, proof).status == 200
    refused(held, "GET", target, proof)


def test_a_proof_is_good_for_its_request_alone(held: Held) -> None:
    target, nonce = f"/v1/keys/{KEY}", held.nonce()
    refused(held, "GET", f"/v1/keys/{OTHER}", held.proof("GET", target, nonce))
    refused(held, "GET", target, held.proof("POST", target, nonce))
    elsewhere = held.proof("GET", target, nonce, url=f"https://elsewhere.example{target}")
    refused(held, "GET", target, elsewhere)
    refused(held, "GET", target, held.proof("GET", target, nonce, token="another.to.ken"))


@pytest.mark.parametrize("seconds", [-86_400, -120, 120, 86_400])
def test_a_proof_of_another_time_is_refused(held: Held, seconds: int) -> None:
    target = f"/v1/keys/{KEY}"
    proof = held.proof("GET", target, held.nonce(), now=_now() + seconds)
    refused(held, "GET", target, proof)


def test_a_body_cannot_be_swapped(held: Held) -> None:
    asked = json.dumps({"key_paths": [KEY]}).encode()
    swapped = json.dumps({"key_paths": [OTHER]}).encode()
    nonce = held.nonce()
    assert held.send("POST", BATCH, held.proof("POST", BATCH, nonce, body=asked), body=asked).json
    for proof in (
        held.proof("POST", BATCH, nonce, body=asked),
        held.proof("POST", BATCH, nonce, body=None),
    ):
        refused(held, "POST", BATCH, proof, body=swapped)


def test_a_thiefs_own_key_proves_nothing(held: Held, tmp_path: Path) -> None:
    thief = service_key_from({"SERVICE_KEY_FILE": str(tmp_path / "thief.key")}, make=True)
    assert thief is not None
    target = f"/v1/keys/{KEY}"
    refused(held, "GET", target, held._replace(key=thief).proof("GET", target, held.nonce()))


def test_two_proofs_are_ambiguous(held: Held) -> None:
    target, nonce = f"/v1/keys/{KEY}", held.nonce()
    headers = [
        ("Authorization", f"DPoP {held.token}"),
        ("DPoP", held.proof("GET", target, nonce)),
        ("DPoP", held.proof("GET", target, nonce)),
    ]
    answer = ask(held.store, "GET", target, token="", headers=headers)
    assert (answer.status, code_of(answer)) == (401, "token_invalid")


def test_a_token_that_is_bound_to_no_key_takes_no_proof(held: Held) -> None:
    plain = held._replace(token=held.store.issue("holder", KEY))
    target = f"/v1/keys/{KEY}"
    answer = plain.send("GET", target, plain.proof("GET", target, held.nonce()))
    assert (answer.status, code_of(answer)) == (401, "proof_invalid")


def test_guessing_proofs_is_limited_and_does_not_shut_the_service_out(
    held: Held, tmp_path: Path
) -> None:
    """A thief of one token, at another address, runs into a limit of their own."""
    guessed = bound(held.store, tmp_path / "guessed.key")
    target = f"/v1/keys/{KEY}"
    codes = []
    while "rate_limited" not in codes[-1:]:
        codes.append(code_of(guessed.send("GET", target, "a.b.c", source="127.0.0.9")))
        assert len(codes) < 5_000, "nothing limits it"
    assert codes[:600] == ["proof_invalid"] * 600
    nonce = guessed.nonce()
    assert guessed.send("GET", target, guessed.proof("GET", target, nonce)).status == 200
    other = held.send("GET", target, held.proof("GET", target, nonce), source="127.0.0.9")
    assert other.status == 200


def test_revoking_kills_it_like_any_other(held: Held, tmp_path: Path) -> None:
    doomed = bound(held.store, tmp_path / "doomed.key")
    target = f"/v1/keys/{KEY}"
    nonce = doomed.nonce()
    assert doomed.send("GET", target, doomed.proof("GET", target, nonce)).status == 200
    revoked = ask(held.store, "POST", f"/v1/tokens/{doomed.token_id}/revoke", body={})
    assert revoked.status in (200, 204)
    answer = doomed.send("GET", target, doomed.proof("GET", target, nonce))
    assert (answer.status, code_of(answer)) == (401, "token_revoked")


@pytest.mark.parametrize("thumbprint", ["", "short", "a" * 44, "x" * 42 + "=", 7])
def test_what_is_no_thumbprint_is_refused(held: Held, thumbprint: Any) -> None:
    body = {"service_name": "holder", "key_thumbprint": thumbprint}
    answer = ask(held.store, "POST", "/tokens", body=body)
    assert (answer.status, code_of(answer)) == (400, "invalid_field")


def test_binding_needs_a_key_to_bind_to(held: Held) -> None:
    done = run_doxstore(
        *("token", "issue", "holder", "--bind"),
        KEY_SERVICE_URL=held.store.url,
        ADMIN_TOKEN=held.store.admin_token,
    )
    assert done.returncode != 0
    assert "SERVICE_KEY_FILE" in done.stderr
    assert done.stdout == ""


def test_lists_show_what_a_token_is_bound_to(held: Held) -> None:
    shown = ask(held.store, "GET", f"/v1/tokens/{held.token_id}").json
    assert shown["key_thumbprint"] == held.key.thumbprint
