"""Proofs that whoever sends a token holds the key that it was made for (DPoP, RFC 9449).

A bound token names a key by its RFC 7638 thumbprint (``cnf.jkt``). Each request carries a proof
beside it: a JWT that this key signed over the method, the address, the token's digest, a nonce of
ours and, where the request has a body, the body's digest (RFC 9530's form, in the claim
``content_digest``). A token that leaked through a log, a proxy or a header is useless alone, and a
proof that leaked with it answers one request once.

Here is what a proof says and whether it fits a request. Which nonces count and which proofs were
seen before is `usecases.proof`. Every refusal is one code with one detail; the reason is a note on
the exception and quotes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Final, Literal, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from dox_core_store.errors import AuthenticationError

__all__ = [
    "LEEWAY_SECONDS",
    "MAX_PROOF_BYTES",
    "HolderKey",
    "Proven",
    "Said",
    "check_said",
    "content_digest",
    "invalid_proof",
    "is_thumbprint",
    "read_said",
    "split_proof",
    "token_digest",
]

MAX_PROOF_BYTES: Final = 2048
LEEWAY_SECONDS: Final = 60
"""How far a holder's clock may be from ours. The nonce bounds a proof's life more tightly."""

_PARTS = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_ADDRESS = re.compile(r"https?://([^/?#]+)(/[^?#]*)?(?:[?#].*)?", re.ASCII)
_JTI = re.compile(r"[\x21-\x7e]{8,128}", re.ASCII)
_COORDINATE_BYTES = 32
_VERIFIED_WITH = ECDSA(SHA256())


class _PublicKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kty: Literal["EC"]
    crv: Literal["P-256"]
    x: str
    y: str


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    typ: Literal["dpop+jwt"]
    alg: Literal["ES256"]
    jwk: _PublicKey


class Said(msgspec.Struct, frozen=True):
    """What a proof says; claims that RFC 9449 does not name are ignored, as it asks."""

    jti: str
    htm: str
    htu: str
    iat: int
    ath: str
    nonce: str | None = None
    content_digest: str | None = None


class Proven(NamedTuple):
    """What a request has to have been proven for. ``host`` is None where it cannot be known: behind
    a proxy that tells another, and may take a prefix off the path. ``body_digest`` is None where
    there is no body."""

    method: str
    host: str | None
    path: str
    body_digest: str | None


class HolderKey:
    """The public key of whoever holds a token, from the header of a proof."""

    __slots__ = ("_key", "thumbprint")

    def __init__(self, header: bytes) -> None:
        """From the base64url ``header``. Raises ``proof_invalid`` unless it is ES256 with a key on
        P-256 (RFC 7518), and nothing else is in it: no ``kid``, ``jku``, ``x5c``, ``crit``."""
        try:
            jwk = _read_header(_bytes(header)).jwk
            x, y = (_bytes(each.encode()) for each in (jwk.x, jwk.y))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise invalid_proof("another header") from None
        if len(x) != _COORDINATE_BYTES or len(y) != _COORDINATE_BYTES:
            raise invalid_proof("a key of another size")
        numbers = EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), SECP256R1())
        try:
            self._key = numbers.public_key()
        except ValueError:
            raise invalid_proof("a key that is not on its curve") from None
        self.thumbprint = _thumbprint(x, y)

    def verify(self, signed: bytes, signature: bytes) -> None:
        """Raises ``proof_invalid`` unless this key signed ``signed``."""
        if len(signature) != 2 * _COORDINATE_BYTES:
            raise invalid_proof("a signature of another size")
        r, s = signature[:_COORDINATE_BYTES], signature[_COORDINATE_BYTES:]
        encoded = encode_dss_signature(int.from_bytes(r), int.from_bytes(s))
        try:
            self._key.verify(encoded, signed, _VERIFIED_WITH)
        except InvalidSignature:
            raise invalid_proof("the signature is not that of its key") from None


def split_proof(raw: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Header as it stands, what was signed, payload and signature. Raises ``proof_invalid``."""
    if len(raw) > MAX_PROOF_BYTES:
        raise invalid_proof("over the size limit")
    match = _PARTS.fullmatch(raw)
    if match is None:
        raise invalid_proof("not three base64url parts")
    header, payload, signature = match.groups()
    try:
        return header, raw[: match.end(2)], _bytes(payload), _bytes(signature)
    except ValueError:
        raise invalid_proof("not base64url") from None


def read_said(payload: bytes) -> Said:
    """What a proof says, once its signature holds. Raises ``proof_invalid``."""
    try:
        said: Said = _read_said(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise invalid_proof("claims are missing or of another type") from None
    if _JTI.fullmatch(said.jti) is None:
        raise invalid_proof("a malformed jti")
    return said


def check_said(said: Said, asked: Proven, *, token_digest: str, now: float) -> None:
    """Raises ``proof_invalid`` unless ``said`` was said of this request, with this token, now.

    Path and method are compared as bytes: an address has one spelling here. The query is no part
    of a proof (RFC 9449, 4.2).
    """
    address = _ADDRESS.fullmatch(said.htu)
    if address is None or said.htm != asked.method:
        raise invalid_proof("made for another request")
    host, path = address[1].lower(), address[2] or "/"
    if path != asked.path and (asked.host is not None or not path.endswith(asked.path)):
        raise invalid_proof("made for another request")
    if asked.host is not None and host != asked.host.lower():
        raise invalid_proof("made for another host")
    if not hmac.compare_digest(said.ath.encode(), token_digest.encode()):
        raise invalid_proof("made for another token")
    if abs(now - said.iat) > LEEWAY_SECONDS:
        raise invalid_proof("made at another time")
    if said.content_digest != asked.body_digest:
        raise invalid_proof("made for another body")


def token_digest(token: bytes) -> str:
    """``ath``: SHA-256 of the token as it is sent, base64url."""
    return _text(hashlib.sha256(token).digest())


def content_digest(body: bytes) -> str | None:
    """SHA-256 of a body as RFC 9530 writes it; None for none."""
    if not body:
        return None
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def is_thumbprint(text: str) -> bool:
    """Whether ``text`` may be a SHA-256 thumbprint (RFC 7638)."""
    return _THUMBPRINT.fullmatch(text) is not None


def invalid_proof(why: str) -> AuthenticationError:
    """The one refusal. ``why`` goes into a note for the log and never quotes the proof."""
    error = AuthenticationError("proof_invalid", "The proof is not valid for this request.")
    error.add_note(f"proof refused: {why}")
    return error


_read_header = msgspec.json.Decoder(_Header).decode
_read_said = msgspec.json.Decoder(Said).decode


def _thumbprint(x: bytes, y: bytes) -> str:
    """RFC 7638: the members that make the key, in their order, and nothing between them."""
    members = f'{{"crv":"P-256","kty":"EC","x":"{_text(x)}","y":"{_text(y)}"}}'
    return _text(hashlib.sha256(members.encode()).digest())


def _bytes(part: bytes) -> bytes:
    return base64.b64decode(part + b"=" * (-len(part) % 4), b"-_", validate=True)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
