"""Proofs of possession: what is taken, and each way of being refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from dox_core_store.errors import AuthenticationError
from dox_core_store.server.domain.proof import (
    MAX_PROOF_BYTES,
    HolderKey,
    Proven,
    content_digest,
    token_digest,
)
from dox_core_store.server.usecases.proof import WINDOW_SECONDS, Proofs

TOKEN = b"head.body.signature"
NOW = 1_800_000_000.0
READ = Proven("GET", "keys.example:8420", "/v1/keys/service_keys.jules_api", None)
MAX_SEEN = 200_000


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Holder:
    """Makes proofs as RFC 9449 says, or as a test bends it."""

    def __init__(self, key: EllipticCurvePrivateKey | None = None) -> None:
        self.key = key or generate_private_key(SECP256R1())
        numbers = self.key.public_key().public_numbers()
        x, y = (text(each.to_bytes(32)) for each in (numbers.x, numbers.y))
        self.jwk: dict[str, Any] = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
        self.header: dict[str, Any] = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk}

    @property
    def thumbprint(self) -> str:
        return HolderKey(text(json.dumps(self.header).encode()).encode()).thumbprint

    def said(self, **changed: Any) -> dict[str, Any]:
        said = {
            "jti": "a-fresh-jti",
            "htm": "GET",
            "htu": "https://keys.example:8420/v1/keys/service_keys.jules_api",
            "iat": int(NOW),
            "ath": token_digest(TOKEN),
        }
        said |= changed
        return {name: value for name, value in said.items() if value is not None}

    def proof(self, header: dict[str, Any] | None = None, **changed: Any) -> bytes:
        return self.signed(header or self.header, json.dumps(self.said(**changed)))

    def signed(self, header: dict[str, Any], payload: str) -> bytes:
        signed = f"{text(json.dumps(header).encode())}.{text(payload.encode())}"
        r, s = decode_dss_signature(self.key.sign(signed.encode(), ECDSA(SHA256())))
        return f"{signed}.{text(r.to_bytes(32) + s.to_bytes(32))}".encode()


class Node:
    """A node's `Proofs`, with clocks that a test sets."""

    def __init__(self) -> None:
        self.wall, self.monotonic = NOW, 0.0
        self.proofs = Proofs(seconds=lambda: self.wall, monotonic=lambda: self.monotonic)

    def check(self, holder: Holder, raw: bytes, asked: Proven = READ) -> None:
        self.proofs.check(
            raw, asked, thumbprint=holder.thumbprint, token_digest=token_digest(TOKEN)
        )

    def refused(self, holder: Holder, raw: bytes, why: str, asked: Proven = READ) -> None:
        with pytest.raises(AuthenticationError) as caught:
            self.check(holder, raw, asked)
        assert caught.value.code == "proof_invalid"
        assert why in caught.value.__notes__[0]
        assert len({caught.value.detail, "The proof is not valid for this request."}) == 1


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def holder() -> Holder:
    return Holder()


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    # The key of RFC 9449, 4.1 and the thumbprint of it in 6.1.
    jwk = {
        "kty": "EC",
        "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
        "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
        "crv": "P-256",
    }
    header = text(json.dumps({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}).encode())
    key = HolderKey(header.encode())
    assert key.thumbprint == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def test_a_proof_for_this_request_is_taken_once(node: Node, holder: Holder) -> None:
    proof = holder.proof(nonce=node.proofs.nonce())
    node.check(holder, proof)
    node.refused(holder, proof, "used before")
    node.check(holder, holder.proof(nonce=node.proofs.nonce(), jti="another-jti"))


def test_a_proof_without_a_nonce_of_ours_is_asked_for_one(node: Node, holder: Holder) -> None:
    for nonce in (None, "", "made-up", node.proofs.nonce()[:-1]):
        with pytest.raises(AuthenticationError) as caught:
            node.check(holder, holder.proof(nonce=nonce))
        assert caught.value.code == "nonce_needed"


def test_a_nonce_counts_in_its_window_and_the_next_one(node: Node, holder: Holder) -> None:
    first = node.proofs.nonce()
    node.monotonic += WINDOW_SECONDS
    second = node.proofs.nonce()
    assert first != second
    node.check(holder, holder.proof(nonce=first, jti="in-the-next-window"))
    node.refused(holder, holder.proof(nonce=first, jti="in-the-next-window"), "used before")
    node.monotonic += WINDOW_SECONDS
    with pytest.raises(AuthenticationError, match="nonce"):
        node.check(holder, holder.proof(nonce=first, jti="two-windows-later"))
    node.check(holder, holder.proof(nonce=second, jti="of-the-second"))


def test_after_a_pause_no_nonce_from_before_it_counts(node: Node, holder: Holder) -> None:
    nonce = node.proofs.nonce()
    node.monotonic += 10 * WINDOW_SECONDS
    with pytest.raises(AuthenticationError, match="nonce"):
        node.check(holder, holder.proof(nonce=nonce))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"htm": "POST"}, "another request"),
        ({"htm": "get"}, "another request"),
        ({"htu": "https://keys.example:8420/v1/keys/service_keys.other"}, "another request"),
        ({"htu": "/v1/keys/service_keys.jules_api"}, "another request"),
        ({"htu": "ftp://keys.example:8420/v1/keys/service_keys.jules_api"}, "another request"),
        ({"htu": "https://other.example/v1/keys/service_keys.jules_api"}, "another host"),
        ({"ath": token_digest(b"another.to.ken")}, "another token"),
        ({"ath": ""}, "another token"),
        ({"iat": int(NOW) - 3600}, "another time"),
        ({"iat": int(NOW) + 3600}, "another time"),
        ({"content_digest": content_digest(b"{}")}, "another body"),
        ({"jti": "short"}, "jti"),
        ({"jti": "with space in it"}, "jti"),
        ({"jti": None}, "missing"),
        ({"iat": "1800000000"}, "another type"),
        ({"iat": True}, "another type"),
        ({"iat": 1e9}, "another"),
        ({"ath": None}, "missing"),
    ],
)
def test_what_a_proof_says_has_to_fit(
    node: Node, holder: Holder, changed: dict[str, Any], why: str
) -> None:
    node.refused(holder, holder.proof(nonce=node.proofs.nonce(), **changed), why)


def test_a_body_is_part_of_its_proof(node: Node, holder: Holder) -> None:
    body = b'{"key_paths":["service_keys.jules_api"]}'
    batch = Proven("POST", None, "/v1/keys/batch-get", content_digest(body))
    said = {"htm": "POST", "htu": "http://any.example/v1/keys/batch-get"}
    nonce = node.proofs.nonce()
    node.refused(holder, holder.proof(nonce=nonce, **said), "another body", batch)
    swapped = content_digest(body.replace(b"jules", b"other"))
    wrong = holder.proof(nonce=nonce, content_digest=swapped, **said)
    node.refused(holder, wrong, "another body", batch)
    node.check(
        holder, holder.proof(nonce=nonce, content_digest=content_digest(body), **said), batch
    )


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"alg": "none"}, "another header"),
        ({"alg": "HS256"}, "another header"),
        ({"alg": "ES384"}, "another header"),
        ({"typ": "JWT"}, "another header"),
        ({"kid": "1"}, "another header"),
        ({"jku": "https://attacker.example/keys"}, "another header"),
        ({"crit": ["exp"]}, "another header"),
        ({"jwk": None}, "another header"),
        ({"jwk": {"kty": "oct", "k": "AAAA"}}, "another header"),
    ],
)
def test_another_header_is_refused(
    node: Node, holder: Holder, header: dict[str, Any], why: str
) -> None:
    proof = holder.proof(holder.header | header, nonce=node.proofs.nonce())
    node.refused(holder, proof, why)


def test_a_private_key_in_a_proof_is_refused(node: Node, holder: Holder) -> None:
    number = holder.key.private_numbers().private_value
    jwk = holder.jwk | {"d": text(number.to_bytes(32))}
    proof = holder.proof(holder.header | {"jwk": jwk}, nonce=node.proofs.nonce())
    node.refused(holder, proof, "another header")


def test_a_point_off_the_curve_is_refused(node: Node, holder: Holder) -> None:
    jwk = holder.jwk | {"y": holder.jwk["x"]}
    proof = holder.proof(holder.header | {"jwk": jwk}, nonce=node.proofs.nonce())
    node.refused(holder, proof, "curve")


def test_a_key_of_another_size_is_refused(node: Node, holder: Holder) -> None:
    numbers = generate_private_key(SECP384R1()).public_key().public_numbers()
    jwk = holder.jwk | {"x": text(numbers.x.to_bytes(48)), "y": text(numbers.y.to_bytes(48))}
    proof = holder.proof(holder.header | {"jwk": jwk}, nonce=node.proofs.nonce())
    node.refused(holder, proof, "size")


def test_somebody_elses_key_proves_nothing(node: Node, holder: Holder) -> None:
    thief = Holder()
    node.refused(holder, thief.proof(nonce=node.proofs.nonce()), "another key")
    # With the holder's public key in the header, and the thief's signature.
    forged = thief.proof(holder.header, nonce=node.proofs.nonce())
    node.refused(holder, forged, "signature")


def test_a_changed_or_stripped_signature_is_refused(node: Node, holder: Holder) -> None:
    proof = holder.proof(nonce=node.proofs.nonce())
    signed, _, signature = proof.rpartition(b".")
    raw = bytearray(base64.urlsafe_b64decode(signature + b"=="))
    raw[5] ^= 1
    node.refused(holder, signed + b"." + text(bytes(raw)).encode(), "signature")
    node.refused(holder, signed + b".", "three")
    node.refused(holder, signed + b".AAAA", "size")
    zeros = text(bytes(64)).encode()
    node.refused(holder, signed + b"." + zeros, "signature")
    node.check(holder, proof)  # and the whole one still counts: nothing of it was used up


@pytest.mark.parametrize(
    "raw",
    [b"", b".", b"..", b"a.b", b"a.b.c.d", b"\xff.\xff.\xff", b"a b.c.d", b"=.=.="],
)
def test_what_is_no_proof_is_refused(node: Node, holder: Holder, raw: bytes) -> None:
    node.refused(holder, raw, "proof refused")


def test_size_and_depth_are_bounded(node: Node, holder: Holder) -> None:
    node.refused(holder, b"a" * (MAX_PROOF_BYTES + 1), "size limit")
    deep = "[" * 500 + "]" * 500
    node.refused(holder, holder.signed(holder.header, deep), "another type")


def test_replays_are_remembered_in_bounded_memory(node: Node, holder: Holder) -> None:
    """A window ends early when as many proofs were seen as a node remembers."""
    first = node.proofs.nonce()
    node.proofs._newest.seen.update(number.to_bytes(16) for number in range(MAX_SEEN))
    assert node.proofs.nonce() != first
    node.check(holder, holder.proof(nonce=first))
    node.refused(holder, holder.proof(nonce=first), "used before")
