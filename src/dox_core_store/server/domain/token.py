"""What a token says, and the rules by which one is believed (RFC 7519, RFC 8725).

A token is judged in this order, and each step sees only what the one before let through:

1. `split_token`: form. Size, base64url, JSON, the three header members. No cryptography yet, so a
   lenient parser never meets foreign text, and the key is chosen by us and not by the token.
2. the signature, by ``kid`` (an adapter's work, not done here).
3. `check_claims`: issuer, audience, names and times. Expiry comes last and has its own code: only
   who holds a token that we signed learns that it was once good.

Every other refusal is one `AuthenticationError` ``token_invalid`` with one detail, so a caller
learns nothing from trying. The reason is a note on the exception (``__notes__``): tracebacks show
it, problem documents do not, and it never quotes the token.

Roles, grants and revocation are not in a token: they are looked up at each request by name,
``generation`` and ``token_id``.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Never

import msgspec

from dox_core_store.errors import AuthenticationError, InvalidRequestError
from dox_core_store.key_path import check_environment_name, check_service_name

__all__ = [
    "ALGORITHM",
    "DEFAULT_SERVICE_LIFETIME_SECONDS",
    "FORMS",
    "LEEWAY_SECONDS",
    "MAX_LIFETIME_SECONDS",
    "MAX_TOKEN_BYTES",
    "Claims",
    "Form",
    "Kind",
    "SigningKeyRecord",
    "UnverifiedToken",
    "check_claims",
    "check_operator_name",
    "invalid_token",
    "new_token_id",
    "parse_duration",
    "split_token",
    "to_header",
    "to_payload",
]

ALGORITHM: Final = "RS256"
"""The only one: a choice of algorithms is what algorithm confusion lives on (RFC 8725, 3.1)."""

MAX_TOKEN_BYTES: Final = 4096
LEEWAY_SECONDS: Final = 30
"""How far the clocks of two nodes may be apart."""

MAX_LIFETIME_SECONDS: Final = 400 * 86_400
"""400 days: ``1y`` and a month in which to replace it."""

DEFAULT_SERVICE_LIFETIME_SECONDS: Final = 90 * 86_400

_UNIT_SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "y": 365 * 86_400}
_DURATION = re.compile(r"([1-9][0-9]{0,8})([mhdy])", re.ASCII)
_PARTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_KID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_TOKEN_ID = re.compile(r"tok_[A-Za-z0-9_-]{22}", re.ASCII)
_OPERATOR = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_CLAIMS = frozenset({"iss", "aud", "sub", "gen", "jti", "iat", "nbf", "exp"})


class Kind(StrEnum):
    """Whose token it is."""

    SERVICE = "service"
    OPERATOR = "operator"


class Form(NamedTuple):
    """What tells one kind's tokens from the other's, in the header and in the claims alike, so
    that neither passes for the other (RFC 8725, 3.11 and 3.12).
    """

    typ: str
    audience: str
    claims: frozenset[str]


FORMS: Final[Mapping[Kind, Form]] = MappingProxyType(
    {
        Kind.SERVICE: Form("dox-service+jwt", "dox-core-store/service", _CLAIMS | {"env"}),
        Kind.OPERATOR: Form("dox-operator+jwt", "dox-core-store/operator", _CLAIMS),
    }
)
_KINDS = {form.typ: kind for kind, form in FORMS.items()}


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified token says. Times are whole seconds since 1970 UTC; ``environment`` is the
    service's, and None for an operator.
    """

    kind: Kind
    name: str
    token_id: str
    environment: str | None
    generation: int
    issued_at: int
    not_before: int
    expires_at: int


class SigningKeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The public half of a signing key, by its RFC 7638 thumbprint. A retired key verifies until
    its last token has expired; a compromised one verifies nothing.
    """

    kid: str
    public_jwk: str
    created_at: datetime
    retired_at: datetime | None
    compromised_at: datetime | None


class UnverifiedToken(NamedTuple):
    """A token in proper form. Nothing in it is believed before its signature was verified."""

    kid: str
    typ: str
    payload: dict[str, Any]

    def __repr__(self) -> str:
        return "UnverifiedToken(...)"


def parse_duration(text: str) -> int:
    """Seconds of ``30m``, ``12h``, ``90d`` or ``1y`` (365 days): one number, one unit.

    Raises `InvalidRequestError` ``invalid_field``, also for more than `MAX_LIFETIME_SECONDS`.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidRequestError(
            "invalid_field", "A lifetime (expires_in) is written like 30m, 12h, 90d or 1y."
        )
    seconds = int(match[1]) * _UNIT_SECONDS[match[2]]
    if seconds > MAX_LIFETIME_SECONDS:
        raise InvalidRequestError(
            "invalid_field",
            f"A token lives (expires_in) {MAX_LIFETIME_SECONDS // 86_400} days at most.",
        )
    return seconds


def check_operator_name(name: str) -> str:
    """``name``, if it is ``[a-z0-9][a-z0-9._-]{0,62}``; else ``invalid_field``."""
    if _OPERATOR.fullmatch(name) is None:
        raise InvalidRequestError(
            "invalid_field",
            "An operator's name is a-z, 0-9 and . _ - after the first, at most 63 characters.",
        )
    return name


def new_token_id() -> str:
    """A random ``jti`` of 128 bits."""
    return f"tok_{secrets.token_urlsafe(16)}"


def to_header(claims: Claims, kid: str) -> dict[str, str]:
    """The header under which ``claims`` are signed with key ``kid``."""
    return {"alg": ALGORITHM, "kid": kid, "typ": FORMS[claims.kind].typ}


def to_payload(claims: Claims, store_id: str) -> dict[str, str | int]:
    """``claims`` as `check_claims` reads them back."""
    payload: dict[str, str | int] = {
        "iss": store_id,
        "aud": FORMS[claims.kind].audience,
        "sub": claims.name,
        "gen": claims.generation,
        "jti": claims.token_id,
        "iat": claims.issued_at,
        "nbf": claims.not_before,
        "exp": claims.expires_at,
    }
    if claims.environment is not None:
        payload["env"] = claims.environment
    return payload


def split_token(raw: str) -> UnverifiedToken:
    """``raw`` in its parts, if every byte of it has the form that we write.

    Raises `AuthenticationError` ``token_invalid``, and nothing else whatever ``raw`` is.
    """
    if len(raw) > MAX_TOKEN_BYTES:
        raise invalid_token("over the size limit")
    match = _PARTS.fullmatch(raw)
    if match is None:
        raise invalid_token("not three base64url parts")
    header = _object(_unpadded(match[1]), "header")
    payload = _object(_unpadded(match[2]), "payload")
    _unpadded(match[3])
    # An exact set: `crit`, `b64`, `jwk`, `jku`, `x5c`, `x5u` and whatever comes next are refused
    # as unknown, not one by one.
    if header.keys() != {"alg", "kid", "typ"}:
        raise invalid_token("header members other than alg, kid and typ")
    kid, typ = header["kid"], header["typ"]
    if header["alg"] != ALGORITHM:
        raise invalid_token("another algorithm")
    if not isinstance(kid, str) or _KID.fullmatch(kid) is None:
        raise invalid_token("malformed kid")
    if not isinstance(typ, str) or typ not in _KINDS:
        raise invalid_token("another typ")
    return UnverifiedToken(kid, typ, payload)


def check_claims(payload: Mapping[str, Any], *, typ: str, store_id: str, now: int) -> Claims:
    """The claims of a token whose signature was verified, at ``now`` (seconds since 1970).

    Raises `AuthenticationError`: ``token_expired`` if only that is wrong, else ``token_invalid``.
    """
    kind = _KINDS.get(typ)
    if kind is None or payload.keys() != FORMS[kind].claims:
        raise invalid_token("claims are missing or unknown")
    if payload["iss"] != store_id:
        raise invalid_token("another issuer")
    if payload["aud"] != FORMS[kind].audience:
        raise invalid_token("another audience")
    token_id = _text(payload, "jti")
    if _TOKEN_ID.fullmatch(token_id) is None:
        raise invalid_token("malformed jti")
    generation = _whole(payload, "gen")
    if generation < 0:
        raise invalid_token("negative gen")
    name, environment = _names(payload, kind)
    issued_at, not_before, expires_at = (_whole(payload, time) for time in ("iat", "nbf", "exp"))
    if not issued_at <= not_before < expires_at:
        raise invalid_token("times out of order")
    if expires_at - issued_at > MAX_LIFETIME_SECONDS:
        raise invalid_token("over the lifetime limit")
    if not_before > now + LEEWAY_SECONDS:
        raise invalid_token("not valid yet")
    if expires_at + LEEWAY_SECONDS <= now:
        raise AuthenticationError("token_expired", "The token has expired.")
    return Claims(
        kind=kind,
        name=name,
        token_id=token_id,
        environment=environment,
        generation=generation,
        issued_at=issued_at,
        not_before=not_before,
        expires_at=expires_at,
    )


def invalid_token(why: str) -> AuthenticationError:
    """The one refusal. ``why`` goes into a note for the log and never quotes the token."""
    error = AuthenticationError("token_invalid", "The token is not valid here.")
    error.add_note(f"token refused: {why}")
    return error


def _unpadded(part: str) -> bytes:
    """The bytes of ``part``, if it is their only spelling: trailing bits that decoders drop would
    give one token many texts, and the cache of tokens as many entries.
    """
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), b"-_", validate=True)
    except ValueError:
        raise invalid_token("not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part.encode("ascii"):
        raise invalid_token("base64url with stray bits")
    return data


def _object(data: bytes, place: str) -> dict[str, Any]:
    """``data`` as a flat JSON object of strings and whole numbers.

    Nothing of ours nests, so a second bracket is refused before the parser can recurse (even one
    inside a string: no name of ours has it). Bytes are decoded here because ``json`` would guess
    UTF-16 and UTF-32 too.
    """
    if data.count(b"{") != 1 or b"[" in data:
        raise invalid_token(f"{place} is not one flat object")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_distinct,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except ValueError:
        raise invalid_token(f"{place} is not JSON, or has a float or a repeated member") from None
    if not isinstance(value, dict):
        raise invalid_token(f"{place} is not an object")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is repeated")
    return members


def _refuse_number(_: str) -> Never:
    raise ValueError("not a whole number")


def _text(payload: Mapping[str, Any], claim: str) -> str:
    value = payload[claim]
    if not isinstance(value, str):
        raise invalid_token(f"{claim} is not a string")
    return value


def _whole(payload: Mapping[str, Any], claim: str) -> int:
    value = payload[claim]
    if type(value) is not int:  # a bool is an int, and `true` would be the year 1970
        raise invalid_token(f"{claim} is not a whole number")
    return value


def _names(payload: Mapping[str, Any], kind: Kind) -> tuple[str, str | None]:
    """``sub`` and, for a service, ``env``."""
    name = _text(payload, "sub")
    try:
        if kind is Kind.OPERATOR:
            return check_operator_name(name), None
        return check_service_name(name), check_environment_name(_text(payload, "env"))
    except InvalidRequestError:
        raise invalid_token("malformed sub or env") from None
