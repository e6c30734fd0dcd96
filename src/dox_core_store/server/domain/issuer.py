"""Whose tokens are taken in exchange for ours, and for whom: issuers, and what is trusted of them.

An issuer is an OpenID provider (a cluster, a forge, a company's sign-in) with the one audience that
its tokens must be meant for. By itself it is trusted with nothing. A trust says which claims make
a token stand for one service, or for a person with roles; every claim it names must hold. A
workload's token has to fit exactly one trust, so that nobody becomes a service by the order of
rows; a person has the roles of all that fit.

Values are compared whole. The one pattern is a ``*`` at the end of ``sub``, for platforms that
write a run or a pod there: everywhere else a prefix would soon match a stranger's choice of name.
A claim that is a list (groups) matches if it contains the value.

Judging a token's form, signature and times is `domain.subject_token`; nothing here knows of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from dox_core_store.errors import InvalidRequestError, UnauthorizedError
from dox_core_store.key_path import check_service_name
from dox_core_store.server.domain.access import Role

__all__ = [
    "MAX_OPERATOR_SECONDS",
    "MAX_SERVICE_SECONDS",
    "IssuerRecord",
    "PersonRecord",
    "TrustKind",
    "TrustRecord",
    "check_issuer",
    "check_trust",
    "fits",
    "operator_name",
    "person_trusts",
    "service_trust",
]

MAX_SERVICE_SECONDS: Final = 3_600
MAX_OPERATOR_SECONDS: Final = 12 * 3_600
"""A working day: nobody signs in twice, and nobody's laptop stays signed in overnight."""

SUBJECT_LIKE: Final = frozenset(
    {"sub", "azp", "client_id", "oid", "appid", "repository_id", "entity_id"}
)
"""Claims that name one workload or a narrow set of them. A service's trust binds at least one: all
tokens of a forge share the rest."""

_MAX_CLAIMS = 16
_MAX_TEXT = 512
_MIN_SECONDS = 60
_LOOPBACK = r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])"
_HOST = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"
_URL = re.compile(
    rf"(?:https://(?:{_HOST}|\[[0-9A-Fa-f:.]+\])|http://{_LOOPBACK})(?::[0-9]{{1,5}})?"
    r"(?:/[A-Za-z0-9._~%-]+)*/?",
    re.ASCII,
)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_CLAIM = re.compile(r"[\x21-\x7e]{1,64}", re.ASCII)
_PERSON = re.compile(r"[a-z0-9][a-z0-9._+-]{0,63}(?:@[a-z0-9][a-z0-9.-]{0,63})?", re.ASCII)


class TrustKind(StrEnum):
    """Whom a token may stand for."""

    SERVICE = "service"
    OPERATOR = "operator"


class IssuerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``url`` is the ``iss`` of its tokens, byte for byte; ``audience`` what their ``aud`` must
    hold, and for people the id of the (public) client that they sign in by."""

    name: str
    url: str
    audience: str
    created_at: datetime
    created_by: str
    disabled_at: datetime | None


class TrustRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``name`` is the service, or for people the claim that names them. ``environment`` is that of
    the service's token (None: the service's own, else the store's default): a workload never
    chooses it. ``roles`` are what people get."""

    trust_id: str
    issuer: str
    kind: TrustKind
    name: str
    environment: str | None
    roles: list[Role]
    claims: dict[str, str]
    max_seconds: int
    created_at: datetime
    created_by: str


class PersonRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who an operator is that signs in: the issuer's ``sub``, which it never gives to another.
    Names and addresses are given anew when somebody leaves; an operator's name is not."""

    name: str
    issuer: str
    subject: str
    created_at: datetime


def check_issuer(name: str, url: str, audience: str) -> None:
    """Raise `InvalidRequestError` ``invalid_field`` unless these can be an issuer's."""
    if _NAME.fullmatch(name) is None:
        raise _bad(f"{name[:80]!a} is not an issuer's name: a-z, 0-9 and -, at most 63 characters.")
    if _URL.fullmatch(url) is None or len(url) > _MAX_TEXT:
        raise _bad("An issuer's url is https://HOST[:PORT][/PATH] (http:// only to loopback).")
    if not _is_text(audience):
        raise _bad(f"An issuer's audience has 1 to {_MAX_TEXT} printable characters.")


def check_trust(
    kind: TrustKind, name: str, roles: Sequence[Role], claims: Mapping[str, str], seconds: int
) -> None:
    """Raise `InvalidRequestError` ``invalid_field`` for a trust that would say too little."""
    _check_bound(claims)
    most = MAX_SERVICE_SECONDS if kind is TrustKind.SERVICE else MAX_OPERATOR_SECONDS
    if not _MIN_SECONDS <= seconds <= most:
        raise _bad(f"Tokens of {kind}s made in exchange live 1m to {most // 3600}h.")
    if kind is TrustKind.SERVICE:
        check_service_name(name)
        if roles:
            raise _bad("A service has grants, not roles.")
        if not claims.keys() & SUBJECT_LIKE:
            raise _bad(f"A service's trust names one of {', '.join(sorted(SUBJECT_LIKE))}.")
    elif _CLAIM.fullmatch(name) is None:
        raise _bad("The claim that names a person is printable.")
    elif not roles:
        raise _bad("A trust in operators names at least one role.")


def fits(trust: TrustRecord, claims: Mapping[str, Any]) -> bool:
    """Whether every claim that ``trust`` names is in ``claims`` with its value."""
    return bool(trust.claims) and all(
        _holds(wanted, claims.get(claim)) for claim, wanted in trust.claims.items()
    )


def service_trust(
    trusts: Iterable[TrustRecord], claims: Mapping[str, Any], service: str | None
) -> TrustRecord:
    """The one trust by which ``claims`` stand for a service: for ``service``, if one is named.

    Raises `UnauthorizedError` ``no_trust``, or ``ambiguous_trust`` where several fit.
    """
    found = [
        trust
        for trust in trusts
        if trust.kind is TrustKind.SERVICE
        and (service is None or trust.name == service)
        and fits(trust, claims)
    ]
    if not found:
        raise _untrusted()
    if len(found) > 1:
        raise UnauthorizedError(
            "ambiguous_trust", "More than one trust fits this token: one has to."
        )
    return found[0]


def person_trusts(
    trusts: Iterable[TrustRecord], claims: Mapping[str, Any]
) -> tuple[str, list[Role], int]:
    """Who signs in by ``claims``: the value that names them, the roles of all trusts that fit, and
    for how many seconds: the shortest of these.

    Raises `UnauthorizedError` ``no_trust``; ``ambiguous_trust`` where they name them differently.
    """
    found = [t for t in trusts if t.kind is TrustKind.OPERATOR and fits(t, claims)]
    if not found:
        raise _untrusted()
    named = {claims.get(trust.name) for trust in found if isinstance(claims.get(trust.name), str)}
    if len(named) != 1 or any(not isinstance(claims.get(trust.name), str) for trust in found):
        raise UnauthorizedError(
            "ambiguous_trust", "The trusts that fit this token do not agree on who it is."
        )
    roles = sorted({role for trust in found for role in trust.roles})
    return named.pop() or "", roles, min(trust.max_seconds for trust in found)


def operator_name(value: str, issuer: str) -> str:
    """``<value>@<issuer>``: how a person who signs in is called. No other operator's name holds an
    ``@``, so none that was added by hand can be taken over by a claim.

    Raises `UnauthorizedError` ``no_trust`` for what cannot be a name on the ledger.
    """
    folded = value.lower()
    if _PERSON.fullmatch(folded) is None:
        raise UnauthorizedError("no_trust", "The claim that names you cannot be a name here.")
    return f"{folded}@{issuer}"


def _check_bound(claims: Mapping[str, str]) -> None:
    if not 1 <= len(claims) <= _MAX_CLAIMS:
        raise _bad(f"A trust names 1 to {_MAX_CLAIMS} claims.")
    for claim, value in claims.items():
        if _CLAIM.fullmatch(claim) is None or not _is_text(value):
            raise _bad("A claim is NAME=VALUE, both printable.")
        if "*" in value and (claim != "sub" or value.index("*") != len(value) - 1 or value == "*"):
            raise _bad("A `*` stands only at the end of `sub`, behind something.")


def _holds(wanted: str, said: Any) -> bool:
    if isinstance(said, list):
        return any(_equals(wanted, each) for each in said) if not wanted.endswith("*") else False
    if wanted.endswith("*"):
        return isinstance(said, str) and said.startswith(wanted[:-1])
    return _equals(wanted, said)


def _equals(wanted: str, said: Any) -> bool:
    if isinstance(said, bool):
        return wanted == ("true" if said else "false")
    if isinstance(said, int):
        return wanted == str(said)
    return isinstance(said, str) and said == wanted


def _is_text(text: str) -> bool:
    return 0 < len(text) <= _MAX_TEXT and text.isprintable()


def _untrusted() -> UnauthorizedError:
    return UnauthorizedError("no_trust", "The store does not trust this token with anything.")


def _bad(why: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_field", why)
