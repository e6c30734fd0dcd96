"""Tokens that must not be believed, over real HTTP, most of them signed with the store's own key.

Each is sent to a read, to a batch and to an operator's route. All are refused alike, with one code,
and are on record under nobody's name. `tests/unit/server/test_token.py` has the rules in detail.
"""

from __future__ import annotations

import base64
import hmac
import itertools
import json
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwe
from joserfc.jwk import RSAKey
from tests.functional.raw_http import ask, code_of, nothing_changes, recorded
from tests.functional.running import RunningStore

from dox_core_store.server.adapters.seals.key_file import KeyFileHolder
from dox_core_store.server.adapters.seals.unlocking import Unlocking
from dox_core_store.server.adapters.sql.store import open_store
from dox_core_store.server.adapters.sqlite.place import SqlitePlace

DAY = 86_400
LONG = secrets.token_hex(2_500)
SOURCES = itertools.cycle([f"127.0.3.{number}" for number in range(1, 11)])
"""Over a hundred refusals of one address within a second would be folded, and each one's own entry
is what is looked for."""
SIGNED = Callable[["Forge"], str]


def part(content: Any) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Forge:
    """Makes tokens with whatever is asked for, from a good one's header and claims."""

    def __init__(self, store: RunningStore) -> None:
        opened = open_store(
            SqlitePlace(store.data),
            unlock=Unlocking([KeyFileHolder(store.key_file)]),
            alarm=lambda *_row: None,
        )
        self.key: rsa.RSAPrivateKey = serialization.load_pem_private_key(  # type: ignore[assignment]
            opened.signing._signer._key.as_pem(private=True), None
        )
        opened.engine.dispose()
        self.good = store.issue("bad-tokens", "bad_tokens.kept")
        self.operator = store.admin_token
        head, claims, _signature = self.good.split(".")
        self.header: dict[str, Any] = json.loads(base64.urlsafe_b64decode(head + "=="))
        self.claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(claims + "=="))
        self.now = int(time.time())

    def signed(self, header: Any, claims: Any, key: rsa.RSAPrivateKey | None = None) -> str:
        message = f"{part(header)}.{part(claims)}"
        return f"{message}.{part(self.sign(message, key))}"

    def sign(self, message: str, key: rsa.RSAPrivateKey | None = None) -> bytes:
        return (key or self.key).sign(message.encode(), padding.PKCS1v15(), SHA256())

    def header_with(self, **changes: Any) -> str:
        return self.signed(changed(self.header, changes), self.claims)

    def claims_with(self, **changes: Any) -> str:
        return self.signed(self.header, changed(self.claims, changes))

    def unsigned(self, algorithm: str, signature: bytes = b"") -> str:
        return f"{part({**self.header, 'alg': algorithm})}.{part(self.claims)}.{part(signature)}"

    def hmac(self, secret: bytes, size: int = 256, **members: Any) -> str:
        message = f"{part({**self.header, 'alg': f'HS{size}', **members})}.{part(self.claims)}"
        return f"{message}.{part(hmac.digest(secret, message.encode(), f'sha{size}'))}"

    def exp(self, text: str) -> str:
        """``text`` in the place of the claim's number, whether JSON knows it or not."""
        return self.signed(
            self.header, json.dumps(self.claims).replace(str(self.claims["exp"]), text).encode()
        )

    def jwk(self, key: rsa.RSAPrivateKey) -> dict[str, str]:
        """The public half, as a token may bring it along."""
        numbers = key.public_key().public_numbers()
        return {"kty": "RSA", "e": "AQAB", "n": part(numbers.n.to_bytes(256, "big"))}

    def encrypted(self, content: str) -> str:
        """A real JWE for the store's own public key (RFC 7516)."""
        header = {"alg": "RSA-OAEP-256", "enc": "A256GCM", "cty": "JWT", "kid": self.header["kid"]}
        key = RSAKey.import_key(self.public("PEM", "SubjectPublicKeyInfo"))
        return jwe.encrypt_compact(header, content, key, algorithms=["RSA-OAEP-256", "A256GCM"])

    def public(self, encoding: str, form: str) -> bytes:
        return self.key.public_key().public_bytes(
            getattr(serialization.Encoding, encoding), getattr(serialization.PublicFormat, form)
        )


def changed(original: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``original`` with ``changes``, of which None removes."""
    return {name: value for name, value in {**original, **changes}.items() if value is not None}


def self_signed(key: rsa.RSAPrivateKey) -> str:
    """The one element of an ``x5c`` that vouches for itself."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store")])
    start = datetime(2025, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), 1, start, start.replace(year=2035)
    ).sign(key, SHA256())
    return base64.b64encode(made.public_bytes(serialization.Encoding.DER)).decode()


FOREIGN = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)

INVALID: dict[str, SIGNED] = {
    "no token at all": lambda _: "x",
    "two parts": lambda f: f.good.rpartition(".")[0],
    "four parts": lambda f: f.good + ".x",
    "an encrypted token's five parts": lambda _: "a.b.c.d.e",
    "another signature": lambda f: f.good[:-10] + ("A" * 10),
    "another token's signature": lambda f: ".".join(
        [*f.good.split(".")[:2], f.operator.split(".")[2]]
    ),
    "other claims under a good signature": lambda f: ".".join(
        [f.good.split(".")[0], part({**f.claims, "sub": "x"}), f.good.split(".")[2]]
    ),
    "a padded part": lambda f: f.good + "==",
    "a line break": lambda f: f.good[:50] + "%0A" + f.good[50:],
    "foreign, under our kid": lambda f: f.signed(f.header, f.claims, FOREIGN),
    "foreign, under its own kid": lambda f: f.signed(
        {**f.header, "kid": "theirs"}, f.claims, FOREIGN
    ),
    "none": lambda f: f.unsigned("none"),
    "None": lambda f: f.unsigned("None"),
    "NONE": lambda f: f.unsigned("NONE"),
    "nOnE": lambda f: f.unsigned("nOnE"),
    "none with a space": lambda f: f.unsigned("none "),
    "none with a NUL": lambda f: f.unsigned("none\0"),
    "none in wide letters": lambda f: f.unsigned("\uff4eone"),
    "an empty alg": lambda f: f.unsigned(""),
    "alg as null": lambda f: f.signed(
        json.dumps(f.header).replace('"RS256"', "null").encode(), f.claims
    ),
    "alg as false": lambda f: f.header_with(alg=False),
    "no signature, and no dot": lambda f: f.good.rpartition(".")[0],
    "no signature": lambda f: f.good.rpartition(".")[0] + ".",
    "a signature of nothing": lambda f: f.good.rpartition(".")[0] + "." + part(b"\0"),
    "a signature of zeros": lambda f: f.good.rpartition(".")[0] + "." + part(b"\0" * 256),
    "none, signed": lambda f: f.unsigned("none", b"x"),
    "none, with a good signature": lambda f: ".".join(
        [part({**f.header, "alg": "none"}), *f.good.split(".")[1:]]
    ),
    "HMAC with the public key as PEM": lambda f: f.hmac(f.public("PEM", "SubjectPublicKeyInfo")),
    "HMAC with it, stripped": lambda f: f.hmac(f.public("PEM", "SubjectPublicKeyInfo").strip()),
    "HMAC with the public key as PKCS 1": lambda f: f.hmac(f.public("PEM", "PKCS1")),
    "HMAC with the public key as DER": lambda f: f.hmac(f.public("DER", "SubjectPublicKeyInfo")),
    "HMAC with the public key as JWK": lambda f: f.hmac(json.dumps(f.jwk(f.key)).encode()),
    "HMAC with the public key as JWK, close set": lambda f: f.hmac(
        json.dumps(f.jwk(f.key), separators=(",", ":"), sort_keys=True).encode()
    ),
    "HMAC with the modulus": lambda f: f.hmac(f.jwk(f.key)["n"].encode()),
    "HMAC of 384 bits": lambda f: f.hmac(f.public("PEM", "SubjectPublicKeyInfo"), 384),
    "HMAC of 512 bits": lambda f: f.hmac(f.public("PEM", "SubjectPublicKeyInfo"), 512),
    "HMAC with its own secret": lambda f: f.hmac(
        b"x" * 32, jwk={"kty": "oct", "k": part(b"x" * 32)}
    ),
    "HMAC told as RS256": lambda f: f.hmac(f.public("PEM", "SubjectPublicKeyInfo"), alg="RS256"),
    "HMAC with nothing": lambda f: f.hmac(b""),
    "HMAC with the kid": lambda f: f.hmac(f.header["kid"].encode()),
    "RS384 told": lambda f: f.header_with(alg="RS384"),
    "PS256 told": lambda f: f.header_with(alg="PS256"),
    "rs256 told": lambda f: f.header_with(alg="rs256"),
    "alg as a list": lambda f: f.header_with(alg=["RS256"]),
    "no alg": lambda f: f.header_with(alg=None),
    "an unknown kid": lambda f: f.header_with(kid="unknown"),
    "a kid that is a path": lambda f: f.header_with(kid="../../dev/null"),
    "a kid that is a query": lambda f: f.header_with(kid="x' UNION SELECT 'y"),
    "a kid that is a file": lambda f: f.signed({**f.header, "kid": "/dev/null"}, f.claims, FOREIGN),
    "a kid that is an address": lambda f: f.header_with(kid="http://127.0.0.1:1/key"),
    "a kid that is a command": lambda f: f.header_with(kid="key|/bin/true"),
    "a kid with a NUL": lambda f: f.header_with(kid=f.header["kid"] + "\0"),
    "a kid with a line break": lambda f: f.header_with(kid=f.header["kid"] + "\n"),
    "a kid that is true": lambda f: f.header_with(kid=True),
    "a kid that is a list": lambda f: f.header_with(kid=[f.header["kid"]]),
    "a kid of another case": lambda f: f.header_with(kid=f.header["kid"].swapcase()),
    "a kid without end": lambda f: f.header_with(kid="k" * 20_000),
    "a kid that is a number": lambda f: f.header_with(kid=1),
    "an empty kid": lambda f: f.header_with(kid=""),
    "no kid": lambda f: f.header_with(kid=None),
    "an unknown crit": lambda f: f.header_with(crit=["exp"], exp=1),
    "an empty crit": lambda f: f.header_with(crit=[]),
    "b64 off": lambda f: f.header_with(b64=False, crit=["b64"]),
    "its own key, as jwk": lambda f: f.signed(
        {**f.header, "jwk": f.jwk(FOREIGN)}, f.claims, FOREIGN
    ),
    "its own key, as jwk without a kid": lambda f: f.signed(
        changed(f.header, {"jwk": f.jwk(FOREIGN), "kid": None}), f.claims, FOREIGN
    ),
    "its own key, in its kid": lambda f: f.signed(
        {**f.header, "kid": f.jwk(FOREIGN)}, f.claims, FOREIGN
    ),
    "its own key, as x5c": lambda f: f.signed(
        {**f.header, "x5c": [self_signed(FOREIGN)]}, f.claims, FOREIGN
    ),
    "its own key, by thumbprint": lambda f: f.header_with(**{"x5t#S256": part(b"x" * 32)}),
    "its own key, as jku": lambda f: f.header_with(jku="http://127.0.0.1:1/jwks"),
    "its own key, as x5u": lambda f: f.header_with(x5u="http://127.0.0.1:1/x"),
    "compressed": lambda f: f.header_with(zip="DEF"),
    "typ JWT": lambda f: f.header_with(typ="JWT"),
    "no typ": lambda f: f.header_with(typ=None),
    "an operator's typ": lambda f: f.header_with(typ="dox-operator+jwt"),
    "an operator's typ and audience": lambda f: f.signed(
        {**f.header, "typ": "dox-operator+jwt"},
        changed(f.claims, {"aud": "dox-core-store/operator", "env": None}),
    ),
    "a header that is a list": lambda f: f.signed([f.header], f.claims),
    "a header with a name twice": lambda f: f.signed(
        json.dumps(f.header).replace("{", '{"alg": "none", ', 1).encode(), f.claims
    ),
    "a sub that is a number": lambda f: f.claims_with(sub=1),
    "a sub that is a list": lambda f: f.claims_with(sub=["bad-tokens"]),
    "a sub that is an object": lambda f: f.claims_with(sub={"": ""}),
    "a sub that is true": lambda f: f.claims_with(sub=True),
    "an empty sub": lambda f: f.claims_with(sub=""),
    "no sub": lambda f: f.claims_with(sub=None),
    "a sub in capitals": lambda f: f.claims_with(sub="BAD-TOKENS"),
    "a sub with an operator's prefix": lambda f: f.claims_with(sub="operator:admin"),
    "a sub that nobody registered": lambda f: f.claims_with(sub="nobody"),
    "another issuer": lambda f: f.claims_with(iss="store_" + "0" * 32),
    "no issuer": lambda f: f.claims_with(iss=None),
    "the operators' audience": lambda f: f.claims_with(aud="dox-core-store/operator"),
    "a list of audiences": lambda f: f.claims_with(aud=[f.claims["aud"]]),
    "no audience": lambda f: f.claims_with(aud=None),
    "exp as text": lambda f: f.claims_with(exp=str(f.now + DAY)),
    "exp as a fraction": lambda f: f.claims_with(exp=f.now + DAY + 0.5),
    "exp as 1e400": lambda f: f.exp("1e400"),
    "exp as true": lambda f: f.claims_with(exp=True),
    "exp as NaN": lambda f: f.exp("NaN"),
    "exp as Infinity": lambda f: f.exp("Infinity"),
    "exp as 1e9": lambda f: f.exp("4e9"),
    "exp as minus zero": lambda f: f.exp("-0"),
    "exp as a negative number": lambda f: f.claims_with(exp=-1),
    "exp as null": lambda f: f.exp("null"),
    "exp as a list": lambda f: f.claims_with(exp=[f.claims["exp"]]),
    "exp in the year 9999": lambda f: f.claims_with(exp=253_402_300_799),
    "exp with a leading zero": lambda f: f.exp(f"0{f.claims['exp']}"),
    "exp in ten thousand digits": lambda f: f.exp("9" * 2_000),
    "exp twice": lambda f: f.exp(f'{f.claims["exp"]}, "exp": {f.claims["exp"]}'),
    "exp twice, once escaped": lambda f: f.exp(f'1, "\\u0065xp": {f.claims["exp"]}'),
    "iat far back, for a longer life": lambda f: f.claims_with(iat=0, nbf=0),
    "exp far away": lambda f: f.claims_with(exp=f.now + 500 * DAY),
    "exp beyond all years": lambda f: f.claims_with(exp=10**30),
    "no exp": lambda f: f.claims_with(exp=None),
    "not valid yet": lambda f: f.claims_with(
        iat=f.now + 3_600, nbf=f.now + 3_600, exp=f.now + 7_200
    ),
    "expired before it was issued": lambda f: f.claims_with(iat=f.now - 60, exp=f.now - 120),
    "a jti of another form": lambda f: f.claims_with(jti="1"),
    "no jti": lambda f: f.claims_with(jti=None),
    "a negative generation": lambda f: f.claims_with(gen=-1),
    "a generation as text": lambda f: f.claims_with(gen="1"),
    "no generation": lambda f: f.claims_with(gen=None),
    "no environment": lambda f: f.claims_with(env=None),
    "an environment that is a path": lambda f: f.claims_with(env="../production"),
    "one claim more": lambda f: f.claims_with(roles="admin"),
    "a claim twice": lambda f: f.signed(
        f.header, json.dumps(f.claims).replace("{", '{"sub": "bad-tokens", ', 1).encode()
    ),
    "claims that are not JSON": lambda f: f.signed(f.header, b"{"),
    "claims in UTF-16": lambda f: f.signed(f.header, json.dumps(f.claims).encode("utf-16")),
    "a header that nests deep": lambda f: f.signed(b'{"kid":' * 400, f.claims),
    "a header of brackets": lambda f: f.signed(b"[" * 2_000, f.claims),
    "claims in Latin-1": lambda f: f.signed(
        f.header, json.dumps({**f.claims, "sub": "m\xfcller"}, ensure_ascii=False).encode("latin-1")
    ),
    "a token in a token": lambda f: f.signed({**f.header, "cty": "JWT"}, f.good.encode()),
    "a token as a claim": lambda f: f.claims_with(sub=f.good[:200]),
    "encrypted, with a good one inside": lambda f: f.encrypted(f.good),
    "encrypted, with good claims inside": lambda f: f.encrypted(json.dumps(f.claims)),
    "as JSON": lambda f: json.dumps(
        dict(zip(("protected", "payload", "signature"), f.good.split("."), strict=True))
    ),
    "with a letter of another alphabet": lambda f: (
        f.good.replace("e", "\u0435", 1).encode().decode("latin-1")
    ),
    "with a byte that is no letter": lambda f: "\xff" + f.good[1:],
    "with a space in it": lambda f: f.good.replace(".", ". ", 1),
    "in standard base64": lambda f: f.good.replace("-", "+").replace("_", "/") + "+",
    "claims that nest deep": lambda f: f.signed(f.header, b'{"sub":' * 400),
    "over the size limit by much": lambda f: f.good + "x" * 20_000,
    "over the size limit": lambda f: f.claims_with(sub=LONG[:4_000]),
    "over the size limit, by its kid": lambda f: f.header_with(kid=LONG[:4_000]),
    "expired, and not ours": lambda f: f.signed(
        f.header, {**f.claims, "iat": 1, "nbf": 1, "exp": 2}, FOREIGN
    ),
}

EXPIRED: dict[str, SIGNED] = {
    "an hour ago": lambda f: f.claims_with(iat=f.now - 7_200, nbf=f.now - 7_200, exp=f.now - 3_600),
    "beyond the leeway": lambda f: f.claims_with(
        iat=f.now - 7_200, nbf=f.now - 7_200, exp=f.now - 31
    ),
    "in 1970": lambda f: f.claims_with(iat=1, nbf=1, exp=2),
}

REVOKED: dict[str, SIGNED] = {
    "an older generation": lambda f: f.claims_with(gen=f.claims["gen"] - 1),
    "a generation to come": lambda f: f.claims_with(gen=f.claims["gen"] + 1),
}


@pytest.fixture(scope="module")
def forge(shared_store: RunningStore) -> Forge:
    shared_store.put("bad_tokens.kept", "kept")
    return Forge(shared_store)


def refused(store: RunningStore, token: str, code: str) -> None:
    """On every kind of route, with that code, on record, and without a trace of the token."""
    with nothing_changes(store):
        answers = [
            ask(store, method, target, token=token, body=body, source=next(SOURCES))
            for method, target, body in (
                ("GET", "/v1/keys/bad_tokens.kept", None),
                ("POST", "/v1/keys/batch-get", {"key_paths": ["bad_tokens.kept"]}),
                ("PUT", "/v1/keys/bad_tokens.kept", {"value": "never"}),
            )
        ]
        assert [code_of(answer) for answer in answers] == [code] * 3
    entries = recorded(store, *answers)
    assert {(e["service_name"], e["status"], e["reason"]) for e in entries} == {
        ("anonymous", "DENIED", code)
    }
    assert {answer.headers["www-authenticate"] for answer in answers} == {
        'Bearer error="invalid_token"'
    }
    signature = token.rpartition(".")[2][:40]
    if len(signature) == 40:
        assert signature not in json.dumps(entries) + store.log_text()
        assert not any(signature.encode() in answer.body for answer in answers)


def test_the_token_that_all_others_are_made_from_is_good(
    shared_store: RunningStore, forge: Forge
) -> None:
    for token in (forge.good, forge.signed(forge.header, forge.claims)):
        answer = ask(shared_store, "GET", "/v1/keys/bad_tokens.kept", token=token)
        assert (answer.status, answer.json["value"]) == (200, "kept")


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_token_is_refused(shared_store: RunningStore, forge: Forge, name: str) -> None:
    refused(shared_store, INVALID[name](forge), "token_invalid")


@pytest.mark.parametrize("name", EXPIRED)
def test_an_expired_token_is_told_so(shared_store: RunningStore, forge: Forge, name: str) -> None:
    refused(shared_store, EXPIRED[name](forge), "token_expired")


@pytest.mark.parametrize("name", REVOKED)
def test_a_token_of_another_generation_is_a_revoked_one(
    shared_store: RunningStore, forge: Forge, name: str
) -> None:
    refused(shared_store, REVOKED[name](forge), "token_revoked")


def test_a_token_just_expired_is_within_the_leeway(
    shared_store: RunningStore, forge: Forge
) -> None:
    now = int(time.time())
    token = forge.claims_with(iat=now - 600, nbf=now - 600, exp=now - 5)
    assert ask(shared_store, "GET", "/v1/keys/bad_tokens.kept", token=token).status == 200


def test_whether_a_token_was_revoked_is_told_only_to_who_holds_it(
    shared_store: RunningStore, forge: Forge
) -> None:
    token = shared_store.issue("bad-tokens")
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    done = ask(shared_store, "POST", f"/v1/tokens/{claims['jti']}/revoke", body={})
    assert done.status == 204
    refused(shared_store, token, "token_revoked")
    refused(shared_store, forge.signed(forge.header, claims, FOREIGN), "token_invalid")


def test_another_stores_token_is_nothing_here(shared_store: RunningStore, forge: Forge) -> None:
    # The same key, copied: only the issuer tells the two apart.
    refused(shared_store, forge.claims_with(iss="store_" + "f" * 32), "token_invalid")


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_a_header_too_large_for_http_reveals_nothing(
    shared_store: RunningStore, forge: Forge, size: int
) -> None:
    padded = forge.header_with(kid="k" * size)
    for token in ("x" * size, padded, forge.good + "." * size):
        answer = ask(shared_store, "GET", "/v1/keys/bad_tokens.kept", token=token)
        assert (answer.status, answer.body) in {(431, b""), (400, b"")}


@pytest.mark.parametrize("name", ["access_token", "token", "bearer", "Authorization"])
def test_a_token_in_an_address_is_refused_and_written_down_nowhere(
    shared_store: RunningStore, forge: Forge, name: str
) -> None:
    store = shared_store
    with nothing_changes(store):
        answers = [
            ask(store, method, f"{target}?{name}={forge.good}", token="", body=body)
            for method, target, body in (
                ("GET", "/v1/keys/bad_tokens.kept", None),
                ("POST", "/v1/keys/batch-get", {"key_paths": ["bad_tokens.kept"]}),
                ("GET", "/v1/keys", None),
            )
        ]
        assert [code_of(answer) for answer in answers] == ["token_missing"] * 3
    entries = recorded(store, *answers)
    assert {entry["service_name"] for entry in entries} == {"anonymous"}
    signature = forge.good.rpartition(".")[2][:40]
    assert signature not in json.dumps(entries) + store.log_text()
    assert not any(signature.encode() in answer.body for answer in answers)
