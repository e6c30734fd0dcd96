"""Attacks on tokens that worked somewhere, one test each, against the real verifier.

The attacker of most tests is the strongest one: whatever parts it wants come under a *good*
signature of our key, so that the rule under test is the only thing left to stop it. Tokens are
put together by hand, byte by byte; no JOSE library helps or hinders.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from dox_core_store.errors import AuthenticationError
from dox_core_store.server.adapters.jose import TokenVerifier, generate_signing_key

NOW = 1_900_000_000
DAY = 86_400
STORE = "store_7h3k"
SERVICE = {
    "iss": STORE,
    "aud": "dox-core-store/service",
    "sub": "jules-mcp",
    "env": "production",
    "gen": 1,
    "jti": "tok_ABCDEFGHIJKLMNOPQRSTUV",
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + DAY,
}
OPERATOR = {
    **{name: value for name, value in SERVICE.items() if name != "env"},
    "aud": "dox-core-store/operator",
    "sub": "ada",
}


class Forge(NamedTuple):
    """Our signing key in an attacker's hands, and the verifier that must refuse all the same."""

    kid: str
    private: rsa.RSAPrivateKey
    jwk: dict[str, str]
    verifier: TokenVerifier

    def header(self, **members: Any) -> dict[str, Any]:
        return {"alg": "RS256", "kid": self.kid, "typ": "dox-service+jwt", **members}

    def token(self, header: Any = None, payload: Any = None) -> str:
        """``header`` and ``payload`` (JSON text as bytes, or a value) under a good signature."""
        signed = self.signed_part(header, payload)
        return f"{signed}.{part(self.sign(signed.encode()))}"

    def signed_part(self, header: Any = None, payload: Any = None) -> str:
        parts = (
            self.header() if header is None else header,
            SERVICE if payload is None else payload,
        )
        return ".".join(part(x if isinstance(x, bytes) else json.dumps(x).encode()) for x in parts)

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())

    def refusal(self, raw: str, now: int = NOW) -> str:
        """The code with which ``raw`` is refused."""
        with pytest.raises(AuthenticationError) as caught:
            self.verifier.verify(raw, now)
        return caught.value.code


@pytest.fixture(scope="module")
def forge() -> Forge:
    kid, pem, jwk = generate_signing_key()
    private = serialization.load_pem_private_key(pem, password=None)
    assert isinstance(private, rsa.RSAPrivateKey)
    return Forge(kid, private, jwk, TokenVerifier(store_id=STORE, keys={kid: jwk}))


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_the_forge_makes_good_tokens_so_that_the_refusals_below_mean_something(
    forge: Forge,
) -> None:
    assert forge.verifier.verify(forge.token(), NOW).name == "jules-mcp"
    operator = forge.token(forge.header(typ="dox-operator+jwt"), OPERATOR)
    assert forge.verifier.verify(operator, NOW).name == "ada"


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None])
@pytest.mark.parametrize("signature", ["", "AA"])
def test_a_token_without_a_signature_is_refused(
    forge: Forge, alg: str | None, signature: str
) -> None:
    """RFC 8725, 2.1; CVE-2022-23540: ``alg`` none."""
    assert forge.refusal(f"{forge.signed_part(forge.header(alg=alg))}.{signature}") == (
        "token_invalid"
    )


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512", "RS256"])
@pytest.mark.parametrize("encoding", ["PEM", "PEM without newline", "DER", "JWK", "n"])
def test_an_hmac_with_the_public_key_as_secret_is_refused(
    forge: Forge, alg: str, encoding: str
) -> None:
    """CVE-2016-10555, CVE-2022-29217: algorithm confusion."""
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public = forge.private.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, spki)
    secret = {
        "PEM": pem,
        "PEM without newline": pem.rstrip(b"\n"),
        "DER": public.public_bytes(serialization.Encoding.DER, spki),
        "JWK": json.dumps(forge.jwk).encode(),
        "n": forge.jwk["n"].encode(),
    }[encoding]
    signed = forge.signed_part(forge.header(alg=alg))
    digest = {"HS384": hashlib.sha384, "HS512": hashlib.sha512}.get(alg, hashlib.sha256)
    forged = f"{signed}.{part(hmac.new(secret, signed.encode(), digest).digest())}"
    assert forge.refusal(forged) == "token_invalid"


def test_another_rsa_scheme_under_our_name_is_refused(forge: Forge) -> None:
    """RFC 8725, 3.1: PSS and other digests are other algorithms."""
    signed = forge.signed_part()
    pss = forge.private.sign(
        signed.encode(), padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()
    )
    rs512 = forge.private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA512())
    for signature in (pss, rs512):
        assert forge.refusal(f"{signed}.{part(signature)}") == "token_invalid"
    for alg in ("PS256", "RS384", "RS512", "ES256", "EdDSA", ["RS256"]):
        assert forge.refusal(forge.token(forge.header(alg=alg))) == "token_invalid"


def test_a_signature_of_another_key_is_refused(forge: Forge) -> None:
    foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    signed = forge.signed_part()
    signature = foreign.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    assert forge.refusal(f"{signed}.{part(signature)}") == "token_invalid"


@pytest.mark.parametrize("kid", ["A" * 43, "../../dev/null", "' OR 1=1 --", "", 0, None, ["a"]])
def test_an_unknown_kid_is_refused(forge: Forge, kid: Any) -> None:
    """RFC 8725, 3.10: a ``kid`` is looked up in memory and nowhere else."""
    assert forge.refusal(forge.token(forge.header(kid=kid))) == "token_invalid"


def test_a_missing_kid_does_not_fall_back_to_the_only_key(forge: Forge) -> None:
    header = {"alg": "RS256", "typ": "dox-service+jwt"}
    assert forge.refusal(forge.token(header)) == "token_invalid"


@pytest.mark.parametrize("crit", [["unknown"], ["b64"], ["exp"], [], "b64", None])
def test_a_critical_extension_is_refused(forge: Forge, crit: Any) -> None:
    """RFC 7515, 4.1.11; CVE-2025-59420: ``crit`` not understood, yet accepted."""
    assert forge.refusal(forge.token(forge.header(crit=crit))) == "token_invalid"


@pytest.mark.parametrize("b64", [False, True])
def test_an_unencoded_payload_is_refused(forge: Forge, *, b64: bool) -> None:
    """RFC 7797."""
    assert forge.refusal(forge.token(forge.header(b64=b64, crit=["b64"]))) == "token_invalid"


def test_a_key_that_the_token_brings_along_is_refused(forge: Forge) -> None:
    """CVE-2018-0114: the attacker's own key in the header, and a good signature by it."""
    kid, pem, jwk = generate_signing_key()
    private = serialization.load_pem_private_key(pem, password=None)
    assert isinstance(private, rsa.RSAPrivateKey)
    attacker = Forge(kid, private, jwk, forge.verifier)
    for members in (
        {"jwk": jwk},
        {"jwk": jwk, "kid": forge.kid},
        {"jku": "http://127.0.0.1:1/jwks.json"},
        {"x5u": "http://127.0.0.1:1/cert.pem"},
        {"x5c": ["MIIB"]},
        {"x5t": "AAAA"},
    ):
        assert attacker.refusal(attacker.token(attacker.header(**members))) == "token_invalid"
    # Under our own good signature they are refused too: not ignored, so never relied on by others.
    assert forge.refusal(forge.token(forge.header(jwk=forge.jwk))) == "token_invalid"


def test_an_oversized_token_is_refused(forge: Forge) -> None:
    payload = json.dumps(SERVICE).encode()
    fits = forge.token(payload=payload + b" " * 2_000)
    assert forge.verifier.verify(fits, NOW).name == "jules-mcp"
    assert forge.refusal(forge.token(payload=payload + b" " * 4_000)) == "token_invalid"
    assert forge.refusal("A" * 10_000_000) == "token_invalid"
    assert forge.refusal("." * 10_000_000) == "token_invalid"


@pytest.mark.parametrize("sub", [7, True, None, 1.5, ["jules-mcp"], {"name": "jules-mcp"}])
def test_a_subject_that_is_no_string_is_refused(forge: Forge, sub: Any) -> None:
    """RFC 7519, 4.1.2. Libraries that hand it on leave the crash, or worse, to the caller."""
    assert forge.refusal(forge.token(payload={**SERVICE, "sub": sub})) == "token_invalid"


@pytest.mark.parametrize(
    "exp",
    [
        *("true", "false", "null", "1e400", "-1e400", "NaN", "Infinity", '"1999999999"'),
        *("1900000060.0", "19000001e2", "[1900000060]", "9" * 2_500, "-1", "0", ""),
    ],
)
def test_an_expiry_that_is_no_whole_number_in_range_is_refused(forge: Forge, exp: str) -> None:
    rest = json.dumps({name: value for name, value in SERVICE.items() if name != "exp"})
    payload = f'{rest[:-1]}, "exp": {exp}}}'.encode()
    assert forge.refusal(forge.token(payload=payload)) == "token_invalid"


def test_a_token_without_an_expiry_is_refused(forge: Forge) -> None:
    eternal = {name: value for name, value in SERVICE.items() if name != "exp"}
    assert forge.refusal(forge.token(payload=eternal)) == "token_invalid"


@pytest.mark.parametrize("spelling", ["sub", "\\u0073ub", "s\\u0075b"])
@pytest.mark.parametrize("name", ["jules-mcp", "dox-gtwy-main"])
def test_a_repeated_claim_is_refused(forge: Forge, spelling: str, name: str) -> None:
    """Two parsers, two readings: RFC 7519, section 4, and RFC 7515, 10.12."""
    rest = json.dumps(SERVICE)
    payload = f'{rest[:-1]}, "{spelling}": "{name}"}}'.encode()
    assert forge.refusal(forge.token(payload=payload)) == "token_invalid"


def test_a_repeated_header_member_is_refused(forge: Forge) -> None:
    header = json.dumps(forge.header())
    for repeated in ('"alg": "none"', '"\\u0061lg": "RS256"', f'"kid": "{forge.kid}"'):
        forged = forge.token(f"{header[:-1]}, {repeated}}}".encode())
        assert forge.refusal(forged) == "token_invalid"


def test_a_token_has_one_spelling(forge: Forge) -> None:
    """Bits that decoders drop would slip a revoked token past a list by hash, and fill caches."""
    good = forge.token()
    assert len(good.rpartition(".")[2]) % 4 == 2  # 256 bytes: four bits of the last character idle
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(good[-1])
    assert last % 16 == 0
    for idle in range(1, 16):
        assert forge.refusal(good[:-1] + alphabet[last + idle]) == "token_invalid"
    for spelled in (good + "=", good + "==", good + "\n", " " + good, good + "."):
        assert forge.refusal(spelled) == "token_invalid"
    standard = "".join({"-": "+", "_": "/"}.get(letter, letter) for letter in good)
    assert standard != good
    assert forge.refusal(standard) == "token_invalid"


def test_a_service_token_does_not_pass_as_an_operators(forge: Forge) -> None:
    """RFC 8725, 3.11 and 3.12: each half of the swap, and both under one kind's claims."""
    operator = forge.header(typ="dox-operator+jwt")
    for header, payload in (
        (operator, SERVICE),
        (operator, {**SERVICE, "aud": "dox-core-store/operator"}),
        (operator, {**OPERATOR, "aud": "dox-core-store/service"}),
        (forge.header(), OPERATOR),
        (forge.header(), {**SERVICE, "aud": "dox-core-store/operator"}),
        (forge.header(), {**OPERATOR, "aud": "dox-core-store/service"}),
        (forge.header(), {**SERVICE, "aud": ["dox-core-store/service", OPERATOR["aud"]]}),
        (forge.header(typ="JWT"), SERVICE),
        (forge.header(typ="at+jwt"), SERVICE),
        ({"alg": "RS256", "kid": forge.kid}, SERVICE),
    ):
        assert forge.refusal(forge.token(header, payload)) == "token_invalid"


def test_a_life_over_the_limit_is_refused(forge: Forge) -> None:
    longest = {**SERVICE, "exp": NOW + 400 * DAY}
    assert forge.verifier.verify(forge.token(payload=longest), NOW).expires_at == longest["exp"]
    for exp in (NOW + 400 * DAY + 1, 2**63, 253_402_300_800):
        assert forge.refusal(forge.token(payload={**SERVICE, "exp": exp})) == "token_invalid"


def test_a_token_is_dead_thirty_seconds_after_its_expiry(forge: Forge) -> None:
    token = forge.token()
    assert forge.verifier.verify(token, NOW + DAY + 29).name == "jules-mcp"
    assert forge.refusal(token, NOW + DAY + 30) == "token_expired"
    assert forge.refusal(token, 2**40) == "token_expired"


def test_expiry_is_told_only_after_a_good_signature(forge: Forge) -> None:
    signed = forge.signed_part()
    long_after = NOW + 1_000 * DAY
    assert forge.refusal(f"{signed}.{part(b's' * 256)}", long_after) == "token_invalid"
    foreign = forge.token(payload={**SERVICE, "iss": "store_other"})
    assert forge.refusal(foreign, long_after) == "token_invalid"


def test_a_token_of_the_future_is_refused(forge: Forge) -> None:
    for times in ({"nbf": NOW + 31}, {"iat": NOW + 31, "nbf": NOW + 31}, {"iat": NOW + DAY - 1}):
        assert forge.refusal(forge.token(payload={**SERVICE, **times})) == "token_invalid"
    soon = forge.token(payload={**SERVICE, "iat": NOW + 30, "nbf": NOW + 30})
    assert forge.verifier.verify(soon, NOW).not_before == NOW + 30


@pytest.mark.parametrize("depth", [1, 20, 500, 1_400])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("closed", [True, False])
def test_deep_nesting_is_refused_and_does_not_exhaust_the_stack(
    forge: Forge, depth: int, opening: str, closing: str, *, closed: bool
) -> None:
    depth = min(depth, 2_600 // len(opening + closing))
    deep = opening * depth + ("1" + closing * depth if closed else "")
    payload = f'{json.dumps(SERVICE)[:-1]}, "x": {deep}}}'.encode()
    assert forge.refusal(forge.token(payload=payload)) == "token_invalid"
    header = f'{json.dumps(forge.header())[:-1]}, "x": {deep}}}'.encode()
    assert forge.refusal(forge.token(header)) == "token_invalid"
    assert forge.refusal(forge.token(payload=deep.encode())) == "token_invalid"


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "env", "jti"])
@pytest.mark.parametrize("text", ["\ud800", "jules\udfff", "production\u0000", "\u202e"])
def test_lone_surrogates_and_their_like_are_refused(forge: Forge, claim: str, text: str) -> None:
    assert forge.refusal(forge.token(payload={**SERVICE, claim: text})) == "token_invalid"
    raw = f'{json.dumps(SERVICE)[:-1]}, "{claim}2": "'.encode() + b'\xed\xa0\x80"}'
    assert forge.refusal(forge.token(payload=raw)) == "token_invalid"


@pytest.mark.parametrize(
    "iss",
    [
        "store_other",
        "store_7h",
        "",
        "https://store_7h3k",
        "store_7h3k/",
        "STORE_7H3K",
        None,
        [STORE],
        1,
    ],
)
def test_a_token_of_another_store_is_refused(forge: Forge, iss: Any) -> None:
    """RFC 8725, 3.8; CVE-2024-53861: a part of the issuer passed for the issuer."""
    assert forge.refusal(forge.token(payload={**SERVICE, "iss": iss})) == "token_invalid"


def test_a_claim_that_we_do_not_write_is_refused(forge: Forge) -> None:
    for extra in ({"roles": "admin"}, {"scope": "*"}, {"cnf": "x"}, {"": ""}, {"SUB": "x"}):
        assert forge.refusal(forge.token(payload={**SERVICE, **extra})) == "token_invalid"


def test_a_part_of_one_good_token_does_not_fit_another(forge: Forge) -> None:
    one = forge.token().split(".")
    two = forge.token(payload={**SERVICE, "sub": "dox-gtwy-main"}).split(".")
    for mixed in ([one[0], two[1], one[2]], [one[0], one[1], two[2]]):
        assert forge.refusal(".".join(mixed)) == "token_invalid"


def test_encryption_and_json_forms_are_refused(forge: Forge) -> None:
    """CVE-2023-51774: a JWE, or the JSON form, where a signed token was expected."""
    protected, payload, signature = forge.token().split(".")
    flattened = json.dumps({"protected": protected, "payload": payload, "signature": signature})
    assert forge.refusal(flattened) == "token_invalid"
    assert forge.refusal(f"{protected}.{payload}.{signature}.{payload}.{signature}") == (
        "token_invalid"
    )


@pytest.mark.parametrize(
    "addr",
    [
        *('""', '" "', "null", "true", "0", "1e400", '"nowhere"', '"10.0.0.0/8,10.1.0.0/16"'),
        *('["10.0.0.0/8"]', "[]", '{"net": "10.0.0.0/8"}', '"10.0.0.0/8 "', '" 10.0.0.0/8"'),
        *('"10.0.0.0/8  192.0.2.0/24"', '"10.0.0.0/8 10.0.0.0/8"', '"10.0.0.1/8"', '"10.0.0.0"'),
        *('"10.0.0.0/8\\t192.0.2.0/24"', '"10.0.0.0/8\\u0000"', '"10.0.0.0/255.0.0.0"', '"*"'),
        *('"::ffff:10.0.0.0/104"', '"2001:DB8::/32"', '"2001:0db8::/32"', '"fe80::1%eth0/128"'),
        *('"\\ud800"', '"١٠.0.0.0/8"', f'"{"10.0.0.0/8 " * 200}"', f'"{"9" * 2_500}"'),
        '"' + " ".join(f"10.0.{n}.0/24" for n in range(17)) + '"',
    ],
)
def test_a_binding_to_addresses_that_we_would_not_write_is_refused(forge: Forge, addr: str) -> None:
    """Above all an empty one must not mean "from anywhere"."""
    for claims, header in (
        (SERVICE, forge.header()),
        (OPERATOR, forge.header(typ="dox-operator+jwt")),
    ):
        payload = f'{json.dumps(claims)[:-1]}, "addr": {addr}}}'.encode()
        assert forge.refusal(forge.token(header, payload)) == "token_invalid"


@pytest.mark.parametrize("spelling", ["addr", "\\u0061ddr", "ADDR", "addr "])
def test_a_second_binding_does_not_widen_the_first(forge: Forge, spelling: str) -> None:
    good = {**SERVICE, "addr": "10.0.0.0/8"}
    assert str(forge.verifier.verify(forge.token(payload=good), NOW).addresses) == (
        "Networks(10.0.0.0/8)"
    )
    payload = f'{json.dumps(good)[:-1]}, "{spelling}": "0.0.0.0/0"}}'.encode()
    assert forge.refusal(forge.token(payload=payload)) == "token_invalid"


def test_a_binding_cannot_be_taken_off_or_put_on(forge: Forge) -> None:
    bound = forge.token(payload={**SERVICE, "addr": "10.0.0.0/8"}).split(".")
    free = forge.token().split(".")
    for mixed in ([bound[0], free[1], bound[2]], [free[0], bound[1], free[2]]):
        assert forge.refusal(".".join(mixed)) == "token_invalid"
    # In the header it means nothing, and so it may not be there.
    assert forge.refusal(forge.token(forge.header(addr="10.0.0.0/8"))) == "token_invalid"
