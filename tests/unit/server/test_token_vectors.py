"""The published tokens, read by the store's own verifier and by the cryptography package alone."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from dox_core_store.server.adapters.jose import TokenVerifier
from dox_core_store.server.domain.token import to_payload

VECTORS = Path(__file__).parents[2] / "vectors" / "token.json"


class Vector(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    claims: dict[str, Any]
    token: str


class Vectors(msgspec.Struct, forbid_unknown_fields=True):
    store_id: str
    now: int
    jwk: dict[str, str]
    tokens: list[Vector]


LOADED = msgspec.json.decode(VECTORS.read_bytes(), type=Vectors)


def raw(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@pytest.mark.parametrize("vector", LOADED.tokens, ids=lambda vector: vector.name)
def test_a_published_token_says_what_is_published(vector: Vector) -> None:
    jwk = LOADED.jwk
    verifier = TokenVerifier(store_id=LOADED.store_id, keys={jwk["kid"]: jwk})
    claims = verifier.verify(vector.token, LOADED.now)
    assert to_payload(claims, LOADED.store_id) == vector.claims
    bound = vector.claims.get("addr")
    assert (claims.addresses is None) == (bound is None)


@pytest.mark.parametrize("vector", LOADED.tokens, ids=lambda vector: vector.name)
def test_a_published_token_is_read_without_any_code_of_ours(vector: Vector) -> None:
    head, payload, signature = vector.token.split(".")
    numbers = [int.from_bytes(raw(LOADED.jwk[member])) for member in ("e", "n")]
    rsa.RSAPublicNumbers(*numbers).public_key().verify(
        raw(signature), f"{head}.{payload}".encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    assert json.loads(raw(payload)) == vector.claims
    kind = "operator" if vector.claims["aud"].endswith("operator") else "service"
    header = {"alg": "RS256", "kid": LOADED.jwk["kid"], "typ": f"dox-{kind}+jwt"}
    assert json.loads(raw(head)) == header
