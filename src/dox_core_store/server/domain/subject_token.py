"""What an issuer's token must look like and say, before anybody is believed to be whom it names.

Not ours, so less is fixed than in `domain.token`: other claims, nesting, other algorithms. What is
fixed is what attacks live on (RFC 8725). In this order:

1. `split_subject_token`: form. Size, base64url, JSON without repeated members, shallow; a header
   that names a signature algorithm with a public key, a ``kid``, and no key of its own.
2. whose it is: `issuer_of` compares ``iss`` and ``aud`` with the issuers that are known. Only then
   is anything fetched, and only from addresses that an admin entered.
3. the signature, by ``kid`` (an adapter's work, not done here).
4. `check_subject_claims`: times and a bounded subject. Expiry has its own code here, for only who
   holds a token that the issuer signed gets this far.

Everything before 4 is refused alike: `AuthenticationError` ``subject_token_invalid``, with the
reason in a note for tracebacks. No message quotes the token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from dox_core_store.errors import AuthenticationError
from dox_core_store.server.domain.issuer import IssuerRecord
from dox_core_store.server.domain.token import LEEWAY_SECONDS
from dox_core_store.server.domain.token_text import distinct, part_bytes, refuse_number

__all__ = [
    "ALGORITHMS",
    "MAX_SUBJECT_TOKEN_BYTES",
    "SubjectClaims",
    "SubjectToken",
    "check_subject_claims",
    "invalid_subject_token",
    "issuer_of",
    "load_object",
    "split_subject_token",
]

ALGORITHMS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
    "EdDSA": "Ed25519",
    "Ed25519": "Ed25519",
}
"""Each with the one kind of key (or curve) that it may be used with: no shared secrets, no
``none``, and no algorithm on another one's key."""

MAX_SUBJECT_TOKEN_BYTES: Final = 16 * 1024
"""Tokens of people in many groups have been seen at 12 KiB."""

MAX_AGE_SECONDS: Final = 24 * 3_600
"""A platform that vouches once and for a year is not asked again: such tokens are passwords."""

MAX_SIGN_IN_AGE_SECONDS: Final = 300
"""How old a person's token may be: it says that they signed in now."""

_MAX_DEPTH = 8
_MAX_MEMBERS = 1_000
_MAX_KID = 256
_MAX_SUBJECT = 512
_SHOWN_SUBJECT = 200
_PARTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_REFUSED = frozenset({"crit", "b64", "jwk", "jku", "x5c", "x5u", "cty", "zip", "enc", "epk"})
"""Header members that bring a key along, nest a token, or ask for what is not understood."""

_TYPES = frozenset({"jwt", "at+jwt", "jose"})
"""Absent is fine too. Others (logout tokens, proofs, security events) say something else."""


class SubjectToken(NamedTuple):
    """A token in proper form. Nothing in it is believed before its signature was verified."""

    raw: str
    kid: str
    algorithm: str
    payload: dict[str, Any]

    def __repr__(self) -> str:
        return "SubjectToken(...)"


class SubjectClaims(NamedTuple):
    """What a verified token says. ``expires_at`` is in seconds since 1970."""

    subject: str
    expires_at: int
    claims: Mapping[str, Any]

    @property
    def shown(self) -> str:
        """The subject as the ledger names it: short, and nothing in it that is not printable."""
        return ascii(self.subject[:_SHOWN_SUBJECT])[1:-1]


def split_subject_token(raw: str) -> SubjectToken:
    """``raw`` in its parts. Raises `AuthenticationError`, and nothing else whatever ``raw`` is."""
    if len(raw) > MAX_SUBJECT_TOKEN_BYTES:
        raise invalid_subject_token("over the size limit")
    match = _PARTS.fullmatch(raw)
    if match is None:
        raise invalid_subject_token("not three base64url parts")
    header, payload = (_object(_decoded(part)) for part in match.group(1, 2))
    _decoded(match[3])
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise invalid_subject_token("another algorithm")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID:
        raise invalid_subject_token("malformed kid")
    if header.keys() & _REFUSED:
        raise invalid_subject_token("a header member that is refused")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise invalid_subject_token("another typ")
    return SubjectToken(raw, kid, algorithm, payload)


def issuer_of(payload: Mapping[str, Any], known: Iterable[IssuerRecord]) -> IssuerRecord:
    """The one issuer whose token this claims to be, and for us. Raises `AuthenticationError`."""
    said, audience = payload.get("iss"), payload.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    found = [
        issuer
        for issuer in known
        if issuer.disabled_at is None and issuer.url == said and issuer.audience in audiences
    ]
    if len(found) != 1:
        raise invalid_subject_token("no issuer and audience that is known, or more than one")
    return found[0]


def check_subject_claims(
    payload: Mapping[str, Any], *, audience: str, now: int, sign_in: bool = False
) -> SubjectClaims:
    """The claims of a token whose signature was verified, at ``now``; ``sign_in`` for a person's.

    Raises `AuthenticationError`: ``subject_token_expired`` if it is too old, else
    ``subject_token_invalid``.
    """
    subject = payload.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT:
        raise invalid_subject_token("malformed sub")
    if "events" in payload:  # a logout or security event token (RFC 8417)
        raise invalid_subject_token("a token of another kind")
    issued_at, expires_at = _whole(payload, "iat"), _whole(payload, "exp")
    not_before = _whole(payload, "nbf") if "nbf" in payload else issued_at
    if max(issued_at, not_before) > now + LEEWAY_SECONDS:
        raise invalid_subject_token("not valid yet")
    oldest = MAX_SIGN_IN_AGE_SECONDS if sign_in else MAX_AGE_SECONDS
    if expires_at + LEEWAY_SECONDS <= now or issued_at + oldest + LEEWAY_SECONDS <= now:
        raise AuthenticationError("subject_token_expired", "The issuer's token is too old.")
    if sign_in:
        audiences = payload.get("aud")
        several = isinstance(audiences, list) and len(audiences) > 1
        if payload.get("azp", None if several else audience) != audience:
            raise invalid_subject_token("made for another client")
        if not isinstance(payload.get("nonce"), str):  # what a browser's sign-in has, and no job
            raise invalid_subject_token("not from signing in")
    return SubjectClaims(subject, expires_at, payload)


def invalid_subject_token(why: str) -> AuthenticationError:
    """The one refusal. ``why`` goes into a note and never quotes the token."""
    error = AuthenticationError("subject_token_invalid", "The issuer's token is not valid here.")
    error.add_note(f"subject token refused: {why}")
    return error


def load_object(data: bytes) -> dict[str, Any]:
    """``data`` as a JSON object: no member twice, no number that is none, not deep.

    Raises ``ValueError``.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=distinct, parse_constant=refuse_number
        )
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - of what was sent, not of a caller here
    _check_size(value)
    return value


def _object(data: bytes) -> dict[str, Any]:
    try:
        return load_object(data)
    except ValueError:  # also of a decoder, which would carry the bytes along
        raise invalid_subject_token("not a plain JSON object") from None


def _check_size(value: dict[str, Any]) -> None:
    level: list[Any] = [value]
    members = 0
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each.values()
            elif isinstance(each, list):
                below += each
        members += len(below)
        if members > _MAX_MEMBERS:
            raise ValueError("too many members")
        if not below:
            return
        level = below
    raise ValueError("too deep")


def _decoded(part: str) -> bytes:
    try:
        return part_bytes(part)
    except ValueError:
        raise invalid_subject_token("not base64url in its only spelling") from None


def _whole(payload: Mapping[str, Any], claim: str) -> int:
    value = payload.get(claim)
    if type(value) is not int:  # a bool is an int, and 1e400 is a float without end
        raise invalid_subject_token(f"{claim} is not a whole number")
    return value
