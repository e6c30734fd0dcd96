"""Workloads get a token by exchange: of a real OpenBao, and of an issuer that does its worst."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from joserfc.jwk import RSAKey
from tests.functional.issuers import DISCOVERY, KEYS, Document, Issuer, b64, serving_issuer
from tests.functional.real_servers import OpenBao
from tests.functional.running import Answer, RunningStore, run_doxstore

from dox_core_store import KeyClient
from dox_core_store.errors import (
    AuthenticationError,
    StoreUnavailableError,
    UnauthorizedError,
)
from dox_core_store.server.adapters.oidc import OidcKeys
from dox_core_store.server.domain.subject_token import split_subject_token

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
KEY = "service_keys.jules_api"
SUBJECT = "repo:acme/shop:ref:refs/heads/main"


@pytest.fixture(scope="module")
def good_issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with serving_issuer(tmp_path_factory.mktemp("issuer")) as issuer:
        yield issuer


@pytest.fixture
def issuer(good_issuer: Issuer) -> Issuer:
    good_issuer.reset()
    return good_issuer


@pytest.fixture
def store(tmp_path: Path, made_store: RunningStore, issuer: Issuer) -> Iterator[RunningStore]:
    """A store that knows the issuer, trusts it with one service, and has never asked it."""
    store = ready(tmp_path / "store", made_store, issuer)
    yield store
    store.dispose()


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, made_store: RunningStore, good_issuer: Issuer
) -> Iterator[RunningStore]:
    store = ready(tmp_path_factory.mktemp("known") / "store", made_store, good_issuer)
    yield store
    store.dispose()


@pytest.fixture
def known(served: RunningStore, issuer: Issuer) -> RunningStore:
    """The same for tests that leave it as they found it, but for what they add."""
    assert issuer
    return served


def ready(folder: Path, made: RunningStore, issuer: Issuer) -> RunningStore:
    store = RunningStore(folder, environment={"DOXSTORE_ISSUER_CA_FILE": str(issuer.ca_file)})
    store.copy_of(made)
    store.start()
    store.put(KEY, "sk-live-1")
    store.register("shop", KEY)
    add_issuer(store, "forge", issuer.url, issuer.audience)
    trust(store, "forge", "shop", sub=SUBJECT)
    return store


def add_issuer(store: RunningStore, name: str, url: str, audience: str) -> None:
    body = {"name": name, "url": url, "audience": audience, "reason": "for tests"}
    answer = store.request("POST", "/v1/issuers", json=body)
    assert answer.status == 201, answer.body


def trust(store: RunningStore, issuer: str, service: str, **claims: str) -> str:
    return trusted(store, issuer, {"kind": "service", "name": service, "claims": claims})


def trusted(store: RunningStore, issuer: str, body: dict[str, Any]) -> str:
    answer = store.request("POST", f"/v1/issuers/{issuer}/trusts", json=body)
    assert answer.status == 201, answer.body
    return str(answer.json["trust_id"])


def exchange(store: RunningStore, token: str, **fields: str) -> Answer:
    form = {"grant_type": GRANT, "subject_token": token, "subject_token_type": JWT, **fields}
    body = urlencode({name: text for name, text in form.items() if text}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return store.request("POST", "/v1/token/exchange", token="", body=body, headers=headers)


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["code"]


INVALID = (401, "subject_token_invalid")


# --- what it is for ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kid", "alg"), [
    ("rsa", "RS256"), ("rsa", "RS512"), ("rsa", "PS256"), ("ec", "ES256"), ("ed", "EdDSA"),
])  # fmt: skip
def test_a_platforms_token_becomes_a_services_token(
    known: RunningStore, issuer: Issuer, kid: str, alg: str
) -> None:
    answer = exchange(known, issuer.token(kid=kid, alg=alg))
    assert answer.status == 200, answer.body
    assert answer.headers["cache-control"] == "no-store"
    said = answer.json
    assert said["issued_token_type"] == ACCESS_TOKEN
    assert said["token_type"] == "Bearer"
    assert said["name"] == "shop"
    assert 540 <= said["expires_in"] <= 600  # no longer than what it was exchanged for
    assert known.get(KEY, said["access_token"]).json["value"] == "sk-live-1"


def test_an_exchange_is_on_record_with_issuer_and_subject_and_without_any_token(
    known: RunningStore, issuer: Issuer
) -> None:
    token = issuer.token()
    said = exchange(known, token).json
    stranger = issuer.token(issuer.claims(sub="repo:evil/fork\nforged"))
    assert refusal(exchange(known, stranger)) == (403, "no_trust")
    entries = known.verified_export()
    (made,) = (e for e in entries if said["token_id"] in e["key_path"])
    (refused,) = (e for e in entries if "repo:evil" in (e["reason"] or ""))
    assert {made["service_name"], refused["service_name"]} == {"issuer:forge"}
    assert (made["action"], made["status"]) == ("ISSUE_TOKEN", "GRANTED")
    assert made["key_path"] == f"_store.tokens.{said['token_id']}"
    assert f"sub {SUBJECT}" in made["reason"]
    assert (refused["action"], refused["status"]) == ("ISSUE_TOKEN", "DENIED")
    assert refused["reason"] == "no_trust: sub repo:evil/fork\\nforged"
    text = json.dumps(entries) + known.log_text()
    for secret in (token, stranger, said["access_token"]):
        assert secret.rsplit(".", 1)[1] not in text


def test_the_environment_and_the_lifetime_are_the_trusts(
    known: RunningStore, issuer: Issuer
) -> None:
    claims = {"sub": "repo:acme/shop:environment:stage"}
    body = {"kind": "service", "name": "shop", "claims": claims, "max_lifetime": "5m"}
    trusted(known, "forge", {**body, "environment": "staging"})
    said = exchange(known, issuer.token(issuer.claims(**claims))).json
    assert said["environment"] == "staging"
    assert said["expires_in"] == 300
    assert known.get(KEY, said["access_token"]).status == 403


def test_who_fits_two_services_has_to_say_which(store: RunningStore, issuer: Issuer) -> None:
    store.register("till")
    trust(store, "forge", "till", sub="repo:acme/*")
    token = issuer.token()
    assert refusal(exchange(store, token)) == (403, "ambiguous_trust")
    assert exchange(store, token, service_name="till").json["name"] == "till"
    assert exchange(store, token, service_name="shop").json["name"] == "shop"
    assert refusal(exchange(store, token, service_name="other")) == (403, "no_trust")


def test_a_trust_that_is_taken_back_and_an_issuer_that_is_disabled_end_it(
    store: RunningStore, issuer: Issuer
) -> None:
    made = exchange(store, issuer.token()).json
    (known,) = store.request("GET", "/v1/issuers").json["items"]
    trust_id = known["trusts"][0]["trust_id"]
    assert store.request("DELETE", f"/v1/trusts/{trust_id}?reason=gone").status == 204
    assert refusal(exchange(store, issuer.token())) == (403, "no_trust")
    assert store.get(KEY, made["access_token"]).status == 200
    answer = store.request("POST", "/v1/issuers/forge/disable", json={"reason": "compromised"})
    assert answer.json == {"issuer": "forge", "tokens_ended": 1}
    assert refusal(store.get(KEY, made["access_token"])) == (401, "token_revoked")
    assert refusal(exchange(store, issuer.token())) == INVALID
    # It comes back as what it was, and as nothing else: its trusts were meant for that.
    body = {"name": "forge", "url": issuer.url, "audience": "other"}
    assert refusal(store.request("POST", "/v1/issuers", json=body)) == (409, "already_exists")
    add_issuer(store, "forge", issuer.url, issuer.audience)
    assert refusal(exchange(store, issuer.token())) == (403, "no_trust")
    actions = [e["action"] for e in store.verified_export()]
    assert actions.count("DISABLE_ISSUER") == actions.count("UNTRUST") == 1


def test_the_trusts_come_back_from_the_command_line(known: RunningStore, issuer: Issuer) -> None:
    environment = {"KEY_SERVICE_URL": known.url, "ADMIN_TOKEN": known.admin_token}
    words = ("--claim", "sub=pod:*", "--claim", "namespace=shop", "--max", "15m", "--json")
    made = run_doxstore("issuer", "trust", "forge", "--service", "shop", *words, **environment)
    assert made.returncode == 0, made.stderr
    listed = run_doxstore("issuer", "list", **environment)
    assert "namespace=shop, sub=pod:*" in listed.stdout
    refused = run_doxstore("issuer", "trust", "forge", "--service", "shop", "--claim",
                           "repository=acme/shop", **environment)  # fmt: skip
    assert "error[invalid_field]: A service's trust names one of" in refused.stderr
    gone = run_doxstore("issuer", "untrust", json.loads(made.stdout)["trust_id"], **environment)
    assert gone.returncode == 0, gone.stderr


def test_only_an_admin_says_whom_to_trust(known: RunningStore) -> None:
    service = known.issue("shop")
    body = {"kind": "service", "name": "shop", "claims": {"sub": "x"}}
    answer = known.request("POST", "/v1/issuers/forge/trusts", json=body, token=service)
    assert refusal(answer) == (403, "role_required")


# --- what it must withstand -------------------------------------------------------------------


def test_what_an_issuer_did_not_sign_for_us_now_is_refused(
    known: RunningStore, issuer: Issuer
) -> None:
    now = int(time.time())
    public = issuer.keys["rsa"].as_pem(private=False)
    stranger = RSAKey.generate_key(2048)
    payload = b64(json.dumps(issuer.claims()).encode())
    none = b64(json.dumps({"alg": "none", "kid": "rsa"}).encode()) + f".{payload}."
    head, body, _ = issuer.token().split(".")
    attacks = {
        "none": none,
        "none, with a signature": none + "AAAA",
        "no signature": f"{head}.{body}.",
        "HS256 with the public key": by_hand(issuer, public),
        "another key": issuer.token(signed_with=stranger),
        "another key that it brings": issuer.token(
            signed_with=stranger, header={"jwk": stranger.as_dict(private=False)}
        ),
        "a key from elsewhere": issuer.token(header={"jku": "https://evil.example/keys"}),
        "a certificate from elsewhere": issuer.token(header={"x5u": "https://evil.example/x"}),
        "crit": issuer.token(header={"crit": ["exp"]}),
        "nested": issuer.token(header={"cty": "JWT"}),
        "a logout token": issuer.token(header={"typ": "logout+jwt"}),
        "an event": issuer.token(issuer.claims(events={"x": {}})),
        "an RSA key for ES256": head_of(issuer, alg="ES256", kid="rsa"),
        "an EC key for RS256": head_of(issuer, alg="RS256", kid="ec"),
        "another audience": issuer.token(issuer.claims(aud="https://other.example")),
        "no audience": issuer.token(issuer.claims(aud=None)),
        "another issuer": issuer.token(issuer.claims(iss="https://evil.example")),
        "an issuer with a slash": issuer.token(issuer.claims(iss=issuer.url + "/")),
        "not valid yet": issuer.token(issuer.claims(nbf=now + 3600)),
        "issued tomorrow": issuer.token(issuer.claims(iat=now + 86_400, nbf=None)),
        "no iat": issuer.token(issuer.claims(iat=None)),
        "exp as a text": issuer.token(issuer.claims(exp=str(now + 600))),
        "exp as true": issuer.token(issuer.claims(exp=True)),
        "exp without end": issuer.token(json.dumps(issuer.claims(exp=0)).replace(
            '"exp": 0', '"exp": 1e400').encode()),
        "sub twice": issuer.token(json.dumps(issuer.claims()).replace(
            '"sub"', '"sub": "evil", "sub"').encode()),
        "deep": issuer.token(issuer.claims(deep=nested(50))),
        "very deep": issuer.token(b'{"a":' * 2_000 + b"1" + b"}" * 2_000),
        "no JSON": issuer.token(b"\xff\xfe"),
        "a list": issuer.token(b"[]"),
        "encrypted": "e30.e30.e30.e30.e30",
        "large": issuer.token(issuer.claims(pad="x" * 20_000)),
        "empty": "..",
    }  # fmt: skip
    said = {name: refusal(exchange(known, token)) for name, token in attacks.items()}
    assert said == dict.fromkeys(attacks, INVALID)
    assert exchange(known, issuer.token()).status == 200
    assert issuer.asked[KEYS] <= 1


def by_hand(issuer: Issuer, secret: bytes) -> str:
    signed = ".".join(b64(json.dumps(each).encode()) for each in (
        {"alg": "HS256", "kid": "rsa", "typ": "JWT"}, issuer.claims()))  # fmt: skip
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def head_of(issuer: Issuer, *, alg: str, kid: str) -> str:
    head = b64(json.dumps({"alg": alg, "kid": kid}).encode())
    return f"{head}.{issuer.token().split('.', 1)[1]}"


def nested(depth: int) -> Any:
    return {"a": nested(depth - 1)} if depth else 1


def test_only_who_holds_a_signed_token_learns_that_it_is_too_old(
    known: RunningStore, issuer: Issuer
) -> None:
    now = int(time.time())
    old = issuer.claims(iat=now - 900, nbf=now - 900, exp=now - 300)
    assert refusal(exchange(known, issuer.token(old))) == (401, "subject_token_expired")
    for_a_year = issuer.claims(iat=now - 2 * 86_400, nbf=None, exp=now + 86_400 * 365)
    assert refusal(exchange(known, issuer.token(for_a_year))) == (401, "subject_token_expired")
    forged = issuer.token(old, signed_with=RSAKey.generate_key(2048))
    assert refusal(exchange(known, forged)) == INVALID


def test_several_audiences_are_fine_if_ours_is_one(known: RunningStore, issuer: Issuer) -> None:
    both = issuer.claims(aud=["https://other.example", issuer.audience])
    assert exchange(known, issuer.token(both)).status == 200


def test_a_flood_of_unknown_kids_makes_one_fetch_and_known_keys_go_on(
    store: RunningStore, issuer: Issuer
) -> None:
    with ThreadPoolExecutor(16) as pool:
        tokens = [issuer.token(header={"kid": f"k{n}"}) for n in range(500)]
        said = list(pool.map(lambda token: refusal(exchange(store, token)), tokens))
        good = list(pool.map(lambda _: exchange(store, issuer.token()).status, range(16)))
    assert set(said) == {INVALID}
    assert set(good) == {200}
    assert issuer.asked == {DISCOVERY: 1, KEYS: 1}


def test_a_client_that_only_sends_bad_tokens_is_refused_unread(
    store: RunningStore, issuer: Issuer
) -> None:
    token = issuer.token(header={"kid": "nobody"})
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: exchange(store, token), range(700)))
    assert set(map(refusal, answers)) == {INVALID, (429, "rate_limited")}
    limited = [answer for answer in answers if answer.status == 429]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in limited)
    assert store.get(KEY, store.issue("shop")).status == 200


@pytest.mark.parametrize("what", [
    "another issuer", "no issuer", "a redirect", "a key set elsewhere in the clear",
    "a key set on loopback in the clear", "not found",
    "a redirect to the keys", "no JSON", "too large", "too many keys", "compressed", "a list",
])  # fmt: skip
def test_an_issuer_that_does_not_show_its_keys_as_it_should_is_unreachable(
    known: RunningStore, issuer: Issuer, what: str
) -> None:
    bad = issuer.elsewhere()
    discovery, keys = bad.path + DISCOVERY, bad.path + KEYS
    good, key_set = issuer.documents[discovery].body, issuer.documents[keys].body
    moved = Document(status=302, headers={"Location": f"{bad.url}/moved"})
    changed = {
        "another issuer": (discovery, Document({**good, "issuer": bad.url + "/"})),
        "no issuer": (discovery, Document({"jwks_uri": good["jwks_uri"]})),
        "a redirect": (discovery, moved),
        "a key set elsewhere in the clear": (
            discovery, Document({**good, "jwks_uri": "http://192.0.2.1/keys"})),
        "a key set on loopback in the clear": (
            discovery, Document({**good, "jwks_uri": "http://127.0.0.1:9/keys"})),
        "not found": (discovery, Document(status=404)),
        "a redirect to the keys": (keys, moved),
        "no JSON": (keys, Document(b"<html>")),
        "too large": (keys, Document(b'{"keys": [' + b" " * 300_000 + b"]}")),
        "too many keys": (keys, Document({"keys": [{"kty": "x"}] * 200})),
        "compressed": (keys, Document(key_set, headers={"Content-Encoding": "gzip"})),
        "a list": (keys, Document([])),
    }  # fmt: skip
    where, document = changed[what]
    issuer.documents[f"{bad.path}/moved"] = issuer.documents[where]
    issuer.documents[where] = document
    add_issuer(known, bad.path.strip("/"), bad.url, bad.audience)
    answer = exchange(known, bad.token())
    assert refusal(answer) == (503, "issuer_unreachable")
    assert answer.headers["retry-after"]
    assert issuer.asked[f"{bad.path}/moved"] == 0


def test_keys_that_could_be_mistaken_are_not_used(known: RunningStore, issuer: Issuer) -> None:
    rsa = issuer.public("rsa")
    secret = {"kty": "oct", "k": b64(b"s" * 32), "kid": "oct", "use": "sig", "alg": "HS256"}
    other = {**RSAKey.generate_key(2048).as_dict(private=False), "kid": "rsa", "use": "sig"}
    weak = {"kty": "RSA", "n": b64(b"\xc1" * 128), "e": "AQAB", "kid": "weak"}
    for keys, kid in (
        ([rsa, other], "rsa"),  # one name, two keys
        ([{**rsa, "use": "enc"}], "rsa"),
        ([{**rsa, "key_ops": ["encrypt"]}], "rsa"),
        ([{**rsa, "alg": "ES256"}], "rsa"),
        ([{**rsa, "kty": "EC", "crv": "P-256"}], "rsa"),
        ([weak], "weak"),
        ([secret], "oct"),
    ):
        assert offered(known, issuer, keys, kid) == INVALID, keys
    # Twice the same is one.
    assert offered(known, issuer, [secret, rsa, rsa], "rsa") == (403, "no_trust")


def offered(
    known: RunningStore, issuer: Issuer, keys: list[dict[str, Any]], kid: str
) -> tuple[int, str]:
    """What becomes of a good token of an issuer that shows these keys."""
    other = issuer.elsewhere()
    issuer.documents[other.path + KEYS] = Document({"keys": keys})
    add_issuer(known, other.path.strip("/"), other.url, other.audience)
    signer = issuer.keys["rsa"]
    return refusal(exchange(known, other.token(header={"kid": kid}, signed_with=signer)))


def test_a_slow_issuer_costs_only_its_own_callers(store: RunningStore, issuer: Issuer) -> None:
    token = store.issue("shop")
    issuer.documents[DISCOVERY] = issuer.documents[DISCOVERY]._replace(slow_seconds=30)
    with ThreadPoolExecutor(20) as pool:
        began = time.monotonic()
        waiting = [pool.submit(exchange, store, issuer.token()) for _ in range(20)]
        reads = 0
        while not all(each.done() for each in waiting):
            asked = time.monotonic()
            assert store.get(KEY, token).status == 200
            assert time.monotonic() - asked < 1
            reads += 1
        took = time.monotonic() - began
    assert {refusal(each.result()) for each in waiting} == {(503, "issuer_unreachable")}
    assert took < 8
    assert reads > 20
    assert issuer.asked[DISCOVERY] == 1


@pytest.mark.parametrize("fields", [
    {"grant_type": "client_credentials"},
    {"subject_token_type": ACCESS_TOKEN},
    {"requested_token_type": "urn:ietf:params:oauth:token-type:saml2"},
    {"scope": "everything"},
    {"actor_token": "x"},
    {"subject_token": ""},
])  # fmt: skip
def test_a_request_that_asks_for_something_else_is_refused(
    known: RunningStore, issuer: Issuer, fields: dict[str, str]
) -> None:
    answer = exchange(known, issuer.token() if "subject_token" not in fields else "", **fields)
    assert refusal(answer) == (400, "invalid_field")
    wanted = "unsupported_grant_type" if "grant_type" in fields else "invalid_request"
    assert answer.json["error"] == wanted


def test_a_form_is_read_strictly(known: RunningStore, issuer: Issuer) -> None:
    good = urlencode({"grant_type": GRANT, "subject_token": issuer.token(),
                      "subject_token_type": JWT}).encode()  # fmt: skip
    for body, refused in (
        (good + b"&service_name=shop&service_name=till", (400, "invalid_field")),
        (b"", (400, "invalid_field")),
        (b"{}", (400, "invalid_field")),
        (b"a=%ff", (400, "invalid_field")),
        (b"x=" + b"y" * 40_000, (413, "body_too_large")),
    ):
        answer = known.request("POST", "/v1/token/exchange", token="", body=body)
        assert refusal(answer) == refused
    assert known.request("POST", "/v1/token/exchange", token="", body=good).status == 200


# --- the client -------------------------------------------------------------------------------


def test_the_client_exchanges_its_platforms_token_and_gets_another_in_time(
    store: RunningStore, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text(issuer.token())
    monkeypatch.setenv("SERVICE_IDENTITY_TOKEN_FILE", str(path))
    monkeypatch.setenv("KEY_SERVICE_URL", store.url)
    for name in ("SERVICE_TOKEN", "SERVICE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)

    async def use() -> None:
        async with KeyClient(service_name="shop") as client:
            assert (await client.health_check()).is_healthy
            values = await asyncio.gather(*(client.get_key(KEY, cache_ttl=0) for _ in range(20)))
            assert {key.value for key in values} == {"sk-live-1"}
            assert tokens_made(store) == 1
            # Revoked: the platform's word is taken again, and the call goes on.
            reason = {"reason": "rotate"}
            assert (
                store.request("POST", "/v1/services/shop/revoke-tokens", json=reason).status == 200
            )
            assert (await client.get_key(KEY, cache_ttl=0)).value == "sk-live-1"
            assert tokens_made(store) == 2
        async with KeyClient(service_name="till") as client:
            with pytest.raises(UnauthorizedError) as refused:
                await client.get_key(KEY)
            assert refused.value.code == "no_trust"

    asyncio.run(use())


def tokens_made(store: RunningStore) -> int:
    made = [e for e in store.export() if e["service_name"] == "issuer:forge"]
    return len([e for e in made if e["status"] == "GRANTED"])


def test_the_client_asks_github_actions_for_its_audience(
    store: RunningStore, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, str | None]] = []

    class Actions(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append((self.path, self.headers["Authorization"]))
            body = json.dumps({"count": 1, "value": issuer.token()}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Actions) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/token?api-version=2.0"
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", url)
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runner")
        monkeypatch.setenv("SERVICE_IDENTITY_AUDIENCE", issuer.audience)
        monkeypatch.setenv("KEY_SERVICE_URL", store.url)
        monkeypatch.delenv("SERVICE_TOKEN", raising=False)
        monkeypatch.delenv("SERVICE_TOKEN_FILE", raising=False)

        async def use() -> str:
            async with KeyClient(service_name="shop") as client:
                return (await client.get_key(KEY)).value

        try:
            assert asyncio.run(use()) == "sk-live-1"
        finally:
            server.shutdown()
    assert heard == [
        ("/token?api-version=2.0&audience=https%3A%2F%2Fkeys.example.com", "Bearer runner")
    ]


# --- OpenBao ----------------------------------------------------------------------------------


def test_a_workload_of_openbao_gets_its_services_token(
    store: RunningStore, openbao: OpenBao
) -> None:
    openbao.call("POST", "sys/auth/jobs", {"type": "userpass"})
    openbao.call("PUT", "sys/policies/acl/job", {
        "policy": 'path "identity/oidc/token/shop" { capabilities = ["read"] }'})  # fmt: skip
    openbao.call("POST", "auth/jobs/users/job", {"password": "pw", "token_policies": "job"})
    openbao.call("POST", "identity/oidc/key/shop", {"allowed_client_ids": "*"})
    openbao.call("POST", "identity/oidc/role/shop", {"key": "shop", "ttl": "10m"})
    client_id = openbao.call("GET", "identity/oidc/role/shop")["data"]["client_id"]
    token = openbao.call("POST", "auth/jobs/login/job", {"password": "pw"})["auth"]
    request = urllib.request.Request(
        f"{openbao.url}/v1/identity/oidc/token/shop",
        headers={"X-Vault-Token": token["client_token"]},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        subject_token = json.load(answer)["data"]["token"]

    add_issuer(store, "bao", f"{openbao.url}/v1/identity/oidc", client_id)
    trust(store, "bao", "shop", sub=token["entity_id"])
    answer = exchange(store, subject_token)
    assert answer.status == 200, answer.body
    assert 540 <= answer.json["expires_in"] <= 600
    assert store.get(KEY, answer.json["access_token"]).json["value"] == "sk-live-1"
    # Rotated there: the new key is found, once the cooldown allows it, or at once if it was known.
    head, body, signature = subject_token.split(".")
    other = ("B" if signature[0] == "A" else "A") + signature[1:]
    assert refusal(exchange(store, f"{head}.{body}.{other}")) == INVALID


# --- keys over time ---------------------------------------------------------------------------


def test_keys_at_hand_serve_for_an_hour_without_their_issuer(issuer: Issuer) -> None:
    bad = issuer.elsewhere()
    discovery, keys = bad.path + DISCOVERY, bad.path + KEYS
    token = split_subject_token(bad.token())
    stranger = split_subject_token(bad.token(header={"kid": "new"}))
    now = [0.0]

    async def use() -> None:
        known = OidcKeys(ca_file=str(issuer.ca_file), monotonic=lambda: now[0])
        await known.verify(token, bad.url)
        served, bad.documents[discovery] = bad.documents[discovery], Document(status=500)
        for now[0] in (10.0, 299.0, 301.0, 1_800.0, 3_599.0):
            await known.verify(token, bad.url)  # refreshed in vain, and nobody waits for it
        await asyncio.sleep(0.3)
        now[0] = 3_601.0
        with pytest.raises(StoreUnavailableError):
            await known.verify(token, bad.url)
        bad.documents[discovery] = served
        now[0] += 6
        await known.verify(token, bad.url)

        # A new key is found by who comes first after the cooldown; the old one goes on meanwhile.
        asked = issuer.asked[keys]
        now[0] += 61
        with pytest.raises(AuthenticationError):
            await known.verify(stranger, bad.url)
        bad.keys["new"] = bad.keys["rsa"]
        bad.documents[keys] = Document({"keys": [bad.public("new"), bad.public("rsa")]})
        now[0] += 59
        with pytest.raises(AuthenticationError):
            await known.verify(stranger, bad.url)
        await known.verify(token, bad.url)
        assert issuer.asked[keys] == asked + 1
        now[0] += 2
        await asyncio.gather(*(known.verify(stranger, bad.url) for _ in range(20)))
        assert issuer.asked[keys] == asked + 2

    asyncio.run(use())
