"""Proofs of possession: what is taken, and each way of being refused."""

from __future__ import annotations

import asyncio
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

from dox_core_store.errors import AuthenticationError, DoxStoreError, StoreUnavailableError
from dox_core_store.server.domain.proof import (
    LEEWAY_SECONDS,
    MAX_PROOF_BYTES,
    HolderKey,
    Proven,
    content_digest,
    token_digest,
)
from dox_core_store.server.usecases.nonce import WINDOW_SECONDS, StoreWindows
from dox_core_store.server.usecases.proof import Proofs

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
    node.proofs._windows._newest.seen.update(number.to_bytes(16) for number in range(MAX_SEEN))
    assert node.proofs.nonce() != first
    node.check(holder, holder.proof(nonce=first))
    node.refused(holder, holder.proof(nonce=first), "used before")


SECRET = b"known to all nodes of a store alone"


class MemoryUses:
    """What the nodes of a store have in common."""

    def __init__(self) -> None:
        self.until: dict[str, float] = {}
        self.is_down = False

    async def first(self, proof: str, until: float) -> bool:
        if self.is_down:
            raise StoreUnavailableError("ledger_unavailable", "down")
        is_first = proof not in self.until
        self.until.setdefault(proof, until)
        return is_first


class OneOfMany(Node):
    """A node among others. ``ahead`` is how far its clock is ahead of the others'."""

    def __init__(self, uses: MemoryUses, *, ahead: float = 0.0, secret: bytes = SECRET) -> None:
        self.wall, self.monotonic = NOW + ahead, 0.0
        self.uses = uses
        self.proofs = Proofs(
            seconds=lambda: self.wall, monotonic=lambda: self.monotonic, secret=secret, uses=uses
        )

    def pass_on(self, seconds: float) -> None:
        self.wall += seconds

    def take(self, holder: Holder, raw: bytes) -> str:
        """``ok``, or the code of what refuses the proof."""
        try:
            use = self.proofs.check(
                raw, READ, thumbprint=holder.thumbprint, token_digest=token_digest(TOKEN)
            )
            assert use is not None
            asyncio.run(self.proofs.claim(use))
        except DoxStoreError as error:
            return error.code
        return "ok"


def test_a_node_that_is_alone_claims_nothing(node: Node, holder: Holder) -> None:
    raw = holder.proof(nonce=node.proofs.nonce())
    digest = token_digest(TOKEN)
    assert node.proofs.check(raw, READ, thumbprint=holder.thumbprint, token_digest=digest) is None


def test_each_node_takes_the_nonces_of_the_others(holder: Holder) -> None:
    one, other = (OneOfMany(uses) for uses in [MemoryUses()] for _ in "12")
    assert one.proofs.nonce() == other.proofs.nonce()
    assert other.take(holder, holder.proof(nonce=one.proofs.nonce())) == "ok"


def test_a_proof_is_good_at_one_node_alone(holder: Holder) -> None:
    one, other = (OneOfMany(uses) for uses in [MemoryUses()] for _ in "12")
    raw = holder.proof(nonce=one.proofs.nonce())
    assert [each.take(holder, raw) for each in (one, other, one)] == ["ok"] + ["proof_invalid"] * 2


def test_a_nonce_of_the_store_counts_in_its_window_and_the_next_one(holder: Holder) -> None:
    node = OneOfMany(MemoryUses())
    node.wall -= node.wall % WINDOW_SECONDS
    first = node.proofs.nonce()
    told = []
    for at in range(4):
        told.append(node.take(holder, holder.proof(nonce=first, jti=f"jti-number-{at}")))
        node.pass_on(WINDOW_SECONDS)
    assert len({node.proofs.nonce(), first}) == 2
    assert told == ["ok"] * 2 + ["nonce_needed"] * 2


@pytest.mark.parametrize("ahead", [-15.0, -3.0, -0.25, 0.25, 3.0, 15.0])
def test_clocks_of_nodes_may_differ_by_a_window(holder: Holder, ahead: float) -> None:
    """Whoever gave the nonce out: it is good at the other, now and a little later."""
    uses = MemoryUses()
    for step in range(15):
        one, other = OneOfMany(uses), OneOfMany(uses, ahead=ahead)
        one.pass_on(step)
        other.pass_on(step)
        proof = holder.proof(nonce=one.proofs.nonce(), jti=f"there-{step}-{ahead}")
        assert other.take(holder, proof) == "ok"
        proof = holder.proof(nonce=other.proofs.nonce(), jti=f"back--{step}-{ahead}")
        assert one.take(holder, proof) == "ok"


@pytest.mark.parametrize("ahead", [-LEEWAY_SECONDS, -20.0, 0.0, 20.0])
def test_a_use_is_on_record_for_as_long_as_any_node_takes_its_nonce(
    holder: Holder, ahead: float
) -> None:
    uses = MemoryUses()
    node, other = OneOfMany(uses), OneOfMany(uses, ahead=ahead)
    nonce = node.proofs.nonce()
    assert node.take(holder, holder.proof(nonce=nonce)) == "ok"
    (until,) = uses.until.values()
    taken_at = [0]
    for second in range(200):
        if other.proofs._windows.find(nonce) is not None:
            taken_at.append(second)
        other.pass_on(1)
    assert len(taken_at) > 5
    assert until >= NOW + taken_at[-1]


def test_a_store_that_does_not_answer_takes_no_proof(holder: Holder) -> None:
    node = OneOfMany(uses := MemoryUses())
    uses.is_down = True
    raw = holder.proof(nonce=node.proofs.nonce())
    assert node.take(holder, raw) == "ledger_unavailable"
    uses.is_down = False
    assert node.take(holder, raw) == "proof_invalid", "it may have been on record"
    assert node.take(holder, holder.proof(nonce=node.proofs.nonce(), jti="made-anew")) == "ok"


def test_the_nonce_is_the_one_of_the_specification() -> None:
    """Computed with `openssl dgst -mac HMAC` from docs/spec/token.md: window 120000000."""
    assert StoreWindows(seconds=lambda: NOW, secret=SECRET).newest() == "MUuQlQf6FS1KLcXKhhyQYQ"


def test_another_store_has_other_nonces() -> None:
    one, other = (StoreWindows(seconds=lambda: NOW, secret=secret) for secret in (b"one", b"other"))
    assert one.newest() != other.newest()
    assert one.find(other.newest()) is None
    assert [one.find(each) for each in (None, "", "nonce\xe9")] == [None] * 3


def test_nodes_do_not_start_without_a_secret() -> None:
    with pytest.raises(ValueError, match="secret"):
        OneOfMany(MemoryUses(), secret=b"")


def test_what_a_node_among_many_remembers_is_bounded_and_the_store_decides(holder: Holder) -> None:
    node = OneOfMany(MemoryUses())
    window = node.proofs._windows.find(nonce := node.proofs.nonce())
    assert window is not None
    window.seen.update(number.to_bytes(16) for number in range(MAX_SEEN))
    assert [node.take(holder, raw) for raw in [holder.proof(nonce=nonce)] * 2] == [
        "ok",
        "proof_invalid",
    ]
    assert node.proofs.nonce() == nonce
    assert len(window.seen) == MAX_SEEN
