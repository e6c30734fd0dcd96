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
``generation`` and ``token_id``. From where it may be used is in the token (``addr``): it binds
wherever the token is judged, and nobody can widen it by a row of the database.

``docs/spec/token.md`` has every member and claim, with vectors.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from dox_core_store.errors import AuthenticationError, InvalidRequestError
from dox_core_store.key_path import check_environment_name, check_service_name
from dox_core_store.server.domain.address import Networks, parse_networks
from dox_core_store.server.domain.duration import MAX_LIFETIME_SECONDS
from dox_core_store.server.domain.proof import is_thumbprint
from dox_core_store.server.domain.token_text import (
    MAX_TOKEN_BYTES,
    flat_object,
    invalid_token,
    unpadded,
)

__all__ = [
    "ALGORITHM",
    "DEFAULT_SERVICE_LIFETIME_SECONDS",
    "FORMS",
    "LEEWAY_SECONDS",
    "MAX_ADDRESSES",
    "MAX_TOKEN_BYTES",
    "Claims",
    "Form",
    "Kind",
    "UnverifiedToken",
    "bound_to",
    "check_claims",
    "check_operator_name",
    "invalid_token",
    "new_token_id",
    "split_token",
    "to_header",
    "to_payload",
]

ALGORITHM: Final = "RS256"
"""The only one: a choice of algorithms is what algorithm confusion lives on (RFC 8725, 3.1)."""

LEEWAY_SECONDS: Final = 30
"""How far the clocks of two nodes may be apart."""

DEFAULT_SERVICE_LIFETIME_SECONDS: Final = 90 * 86_400

MAX_ADDRESSES: Final = 16
"""Networks that a token may be bound to: the token travels in a header, and is checked at each
request."""

_PARTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_KID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_TOKEN_ID = re.compile(r"tok_[A-Za-z0-9_-]{22}", re.ASCII)
_OPERATOR = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_PERSON = re.compile(r"[a-z0-9][a-z0-9._+@-]{0,190}@[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_CLAIMS = frozenset({"iss", "aud", "sub", "gen", "jti", "iat", "nbf", "exp"})
_ADDRESSES = "addr"
_METHOD = "amr"
_LOGIN = "login"
_HOLDER = "jkt"
_BINDING = frozenset({_ADDRESSES, _METHOD, _HOLDER})
"""Claims that a token may have or not have. A token without one is not bound by it."""


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
    service's, and None for an operator; ``addresses`` is from where it may be used, None: from
    anywhere; ``signed_in`` says that it was made for a person who signed in. ``kid`` is the key
    that it was verified with, and empty before it is signed.
    """

    kind: Kind
    name: str
    token_id: str
    environment: str | None
    generation: int
    issued_at: int
    not_before: int
    expires_at: int
    addresses: Networks | None = None
    key_thumbprint: str | None = None
    signed_in: bool = False
    kid: str = ""


class UnverifiedToken(NamedTuple):
    """A token in proper form. Nothing in it is believed before its signature was verified."""

    kid: str
    typ: str
    payload: dict[str, Any]

    def __repr__(self) -> str:
        return "UnverifiedToken(...)"


def check_operator_name(name: str) -> str:
    """``name``, if it is ``[a-z0-9][a-z0-9._-]{0,62}``; else ``invalid_field``."""
    if _OPERATOR.fullmatch(name) is None:
        raise InvalidRequestError(
            "invalid_field",
            "An operator's name is a-z, 0-9 and . _ - after the first, at most 63 characters.",
        )
    return name


def bound_to(texts: Sequence[str]) -> Networks | None:
    """The networks that a new token is to be bound to; None for none.

    Raises `InvalidRequestError` ``invalid_field`` for what is no network, for one named twice, and
    for more than `MAX_ADDRESSES`.
    """
    if not texts:
        return None
    networks = parse_networks(texts[: MAX_ADDRESSES + 1])
    if len(texts) > MAX_ADDRESSES:
        raise InvalidRequestError(
            "invalid_field", f"A token is bound to {MAX_ADDRESSES} addresses at most."
        )
    if len(set(networks.texts)) != len(texts):
        raise InvalidRequestError("invalid_field", "One of the addresses is named twice.")
    return networks


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
    if claims.addresses is not None:
        payload[_ADDRESSES] = " ".join(claims.addresses.texts)
    if claims.key_thumbprint is not None:
        payload[_HOLDER] = claims.key_thumbprint
    if claims.signed_in:
        payload[_METHOD] = _LOGIN
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
    header = flat_object(unpadded(match[1]), "header")
    payload = flat_object(unpadded(match[2]), "payload")
    unpadded(match[3])
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
    if kind is None or payload.keys() - _BINDING != FORMS[kind].claims:
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
    addresses, signed_in = _addresses(payload), _signed_in(payload, kind)
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
        addresses=addresses,
        key_thumbprint=_holder(payload, kind),
        signed_in=signed_in,
    )


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
            if _PERSON.fullmatch(name) is None:
                check_operator_name(name)
            return name, None
        return check_service_name(name), check_environment_name(_text(payload, "env"))
    except InvalidRequestError:
        raise invalid_token("malformed sub or env") from None


def _signed_in(payload: Mapping[str, Any], kind: Kind) -> bool:
    """``amr``, which only says one thing, and only of operators."""
    if _METHOD not in payload:
        return False
    if kind is not Kind.OPERATOR or payload[_METHOD] != _LOGIN:
        raise invalid_token("malformed amr")
    return True


def _holder(payload: Mapping[str, Any], kind: Kind) -> str | None:
    """``jkt``, which only services' tokens have: the ``cnf`` of RFC 9449, 6.1, but flat."""
    if _HOLDER not in payload:
        return None
    thumbprint = _text(payload, _HOLDER)
    if kind is not Kind.SERVICE or not is_thumbprint(thumbprint):
        raise invalid_token("malformed jkt")
    return thumbprint


def _addresses(payload: Mapping[str, Any]) -> Networks | None:
    """``addr``, if there is one, in the one spelling that we write. One that is there and binds to
    nothing is refused, and never means "from anywhere"."""
    if _ADDRESSES not in payload:
        return None
    text = _text(payload, _ADDRESSES)
    try:
        networks = bound_to(text.split(" "))
    except InvalidRequestError:
        networks = None
    if networks is None or " ".join(networks.texts) != text:
        raise invalid_token("malformed addr")
    return networks
