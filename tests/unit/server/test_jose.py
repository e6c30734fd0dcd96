"""Signing and verifying with real keys; the other side is the cryptography package itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from joserfc.errors import SecurityWarning
from joserfc.jwk import RSAKey
from msgspec.structs import replace

from dox_core_store.errors import AuthenticationError, ConfigurationError, DoxStoreError
from dox_core_store.server.adapters.jose import (
    TokenSigner,
    TokenVerifier,
    generate_signing_key,
)
from dox_core_store.server.domain.duration import MAX_LIFETIME_SECONDS
from dox_core_store.server.domain.token import Claims, Kind

NOW = 1_900_000_000
STORE = "store_7h3k"
JTI = "tok_ABCDEFGHIJKLMNOPQRST_-"
CLAIMS = Claims(
    kind=Kind.SERVICE,
    name="jules-mcp",
    token_id=JTI,
    environment="production",
    generation=3,
    issued_at=NOW,
    not_before=NOW,
    expires_at=NOW + 86_400,
)

# RFC 7638, section 3.1: the key and the thumbprint that it must have.
RFC_7638_KID = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
RFC_7638_KEY = {
    "kty": "RSA",
    "n": (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc"
        "_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQ"
        "R0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bF"
        "TWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    ),
    "e": "AQAB",
}

Key = tuple[str, bytes, dict[str, str]]


@pytest.fixture(scope="module")
def key() -> Key:
    return generate_signing_key()


@pytest.fixture(scope="module")
def other() -> Key:
    return generate_signing_key()


@pytest.fixture(scope="module")
def token(key: Key) -> str:
    return TokenSigner(kid=key[0], private_pem=key[1]).sign(CLAIMS, STORE)


@pytest.fixture(scope="module")
def verifier(key: Key) -> TokenVerifier:
    return TokenVerifier(store_id=STORE, keys={key[0]: key[2]})


def unpadded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_a_signed_token_verifies_to_its_claims(
    key: Key, token: str, verifier: TokenVerifier
) -> None:
    assert verifier.verify(token, NOW) == replace(CLAIMS, kid=key[0])


def test_a_token_is_what_the_rfcs_say(token: str, verifier: TokenVerifier) -> None:
    """Checked with the published key and no JOSE library."""
    (published,) = verifier.jwks()["keys"]
    head, body, signature = token.split(".")
    numbers = rsa.RSAPublicNumbers(
        *(int.from_bytes(unpadded(published[member])) for member in ("e", "n"))
    )
    numbers.public_key().verify(
        unpadded(signature), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    assert json.loads(unpadded(head)) == {
        "alg": "RS256",
        "kid": published["kid"],
        "typ": "dox-service+jwt",
    }
    assert json.loads(unpadded(body)) == {
        "iss": STORE,
        "aud": "dox-core-store/service",
        "sub": "jules-mcp",
        "env": "production",
        "gen": 3,
        "jti": JTI,
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 86_400,
    }


def test_a_kid_is_the_thumbprint_of_rfc_7638() -> None:
    verifier = TokenVerifier(store_id=STORE, keys={RFC_7638_KID: RFC_7638_KEY})
    assert verifier.jwks()["keys"] == [
        {**RFC_7638_KEY, "kid": RFC_7638_KID, "use": "sig", "alg": "RS256"}
    ]


def test_a_generated_key_is_rsa_of_2048_bits_in_pkcs8(key: Key) -> None:
    kid, pem, jwk = key
    private = serialization.load_pem_private_key(pem, password=None)
    assert isinstance(private, rsa.RSAPrivateKey)
    assert private.key_size == 2048
    assert jwk.keys() == {"kty", "n", "e", "kid", "use", "alg"}
    assert (jwk["kid"], len(kid)) == (kid, 43)


def test_each_kid_has_its_own_key(key: Key, other: Key, token: str) -> None:
    both = TokenVerifier(store_id=STORE, keys={other[0]: other[2], key[0]: key[2]})
    second = TokenSigner(kid=other[0], private_pem=other[1]).sign(CLAIMS, STORE)
    assert both.verify(token, NOW) == replace(CLAIMS, kid=key[0])
    assert both.verify(second, NOW) == replace(CLAIMS, kid=other[0])
    assert [published["kid"] for published in both.jwks()["keys"]] == [other[0], key[0]]
    after = TokenVerifier(store_id=STORE, keys={other[0]: other[2]})
    with pytest.raises(AuthenticationError) as caught:
        after.verify(token, NOW)
    assert caught.value.code == "token_invalid"


def test_a_verifier_without_keys_refuses_all(token: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        TokenVerifier(store_id=STORE, keys={}).verify(token, NOW)
    assert caught.value.code == "token_invalid"
    assert caught.value.__notes__ == ["token refused: unknown kid"]


def test_private_members_are_never_published(key: Key, token: str) -> None:
    private: dict[str, Any] = dict(RSAKey.import_key(key[1]).as_dict(private=True))
    assert "d" in private
    verifier = TokenVerifier(store_id=STORE, keys={key[0]: {**private, "x-note": "n"}})
    assert verifier.verify(token, NOW) == replace(CLAIMS, kid=key[0])
    assert not verifier._keys[key[0]].is_private
    (published,) = verifier.jwks()["keys"]
    assert published.keys() == {"kty", "n", "e", "kid", "use", "alg"}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Jules"},
        {"environment": None},
        {"kind": Kind.OPERATOR},
        {"generation": -1},
        {"token_id": "tok_short"},
        {"expires_at": NOW},
        {"expires_at": NOW + MAX_LIFETIME_SECONDS + 1},
        {"not_before": NOW + 60},
    ],
)
def test_nothing_is_signed_that_would_not_verify(key: Key, changes: dict[str, Any]) -> None:
    fields = {field: getattr(CLAIMS, field) for field in CLAIMS.__struct_fields__}
    signer = TokenSigner(kid=key[0], private_pem=key[1])
    with pytest.raises(AuthenticationError) as caught:
        signer.sign(Claims(**{**fields, **changes}), STORE)
    assert caught.value.code == "token_invalid"


BAD_KEYS: dict[str, Callable[[dict[str, str]], dict[str, Any]]] = {
    "empty": lambda _: {},
    "no kty": lambda jwk: {"n": jwk["n"], "e": jwk["e"]},
    "another kty": lambda jwk: {**jwk, "kty": "oct"},
    "no modulus": lambda jwk: {"kty": "RSA", "e": jwk["e"]},
    "a number for modulus": lambda jwk: {**jwk, "n": 7},
    "not base64url": lambda jwk: {**jwk, "n": "?"},
    "an even exponent": lambda jwk: {**jwk, "e": "Ag"},
    "exponent one": lambda jwk: {**jwk, "e": "AQ"},
    "exponent three": lambda jwk: {**jwk, "e": "Aw"},
    "another key": lambda _: RFC_7638_KEY,
    "another spelling": lambda jwk: {**jwk, "n": "AA" + jwk["n"]},
}


@pytest.mark.parametrize("spoil", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_a_key_that_is_not_what_its_kid_names_is_refused(
    key: Key, spoil: Callable[[dict[str, str]], dict[str, Any]]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TokenVerifier(store_id=STORE, keys={key[0]: spoil(key[2])})
    assert caught.value.code == "store_damaged"


def test_a_short_key_is_refused() -> None:
    modulus = base64.urlsafe_b64encode(b"\xff" * 128).rstrip(b"=").decode()
    jwk: dict[str, Any] = {"kty": "RSA", "n": modulus, "e": "AQAB"}
    with pytest.warns(SecurityWarning), pytest.raises(ConfigurationError) as caught:
        TokenVerifier(store_id=STORE, keys={RSAKey.import_key(jwk).thumbprint(): jwk})
    assert caught.value.code == "store_damaged"


def test_a_signing_key_that_is_not_what_its_kid_names_is_refused(key: Key, other: Key) -> None:
    public_pem = (
        serialization.load_pem_private_key(key[1], password=None)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for pem in (
        other[1],
        public_pem,
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        key[1][:400],
        pem_of(ec.generate_private_key(ec.SECP256R1())),
        pem_of(rsa_key(key), serialization.BestAvailableEncryption(b"pass")),
    ):
        with pytest.raises(ConfigurationError) as caught:
            TokenSigner(kid=key[0], private_pem=pem)
        assert caught.value.code == "store_damaged"


def test_no_key_shows_in_a_repr(key: Key, verifier: TokenVerifier) -> None:
    signer = TokenSigner(kid=key[0], private_pem=key[1])
    assert key[2]["n"] not in repr(signer) + repr(verifier)
    assert "PRIVATE" not in repr(signer) + repr(vars(signer))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_no_mutation_of_a_token_verifies(
    data: st.DataObject, token: str, verifier: TokenVerifier
) -> None:
    alphabet = st.characters() | st.sampled_from(token)
    at = data.draw(st.integers(0, len(token) - 1))
    text = data.draw(st.text(alphabet, max_size=4))
    until = data.draw(st.integers(at, min(at + 4, len(token))))
    mutated = token[:at] + text + token[until:]
    assume(mutated != token)
    assert refusal(verifier, mutated).code == "token_invalid"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(part=st.integers(0, 2), bit=st.integers(0, 8 * 2048))
def test_no_flipped_bit_verifies(part: int, bit: int, token: str, verifier: TokenVerifier) -> None:
    parts = token.split(".")
    raw = bytearray(unpadded(parts[part]))
    bit %= 8 * len(raw)
    raw[bit // 8] ^= 1 << bit % 8
    parts[part] = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    assert refusal(verifier, ".".join(parts)).code == "token_invalid"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(signature=st.binary(min_size=1, max_size=300) | st.binary(min_size=256, max_size=256))
def test_no_guessed_signature_verifies(
    signature: bytes, token: str, verifier: TokenVerifier
) -> None:
    head, body, _ = token.split(".")
    forged = f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert refusal(verifier, forged).code == "token_invalid"


def refusal(verifier: TokenVerifier, raw: str) -> DoxStoreError:
    with pytest.raises(AuthenticationError) as caught:
        verifier.verify(raw, NOW)
    return caught.value


def rsa_key(key: Key) -> rsa.RSAPrivateKey:
    private = serialization.load_pem_private_key(key[1], password=None)
    assert isinstance(private, rsa.RSAPrivateKey)
    return private


def pem_of(
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    encryption: serialization.KeySerializationEncryption | None = None,
) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    )
