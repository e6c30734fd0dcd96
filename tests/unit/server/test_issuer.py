"""For whom an issuer's token stands, and what a trust must say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dox_core_store.errors import InvalidRequestError, UnauthorizedError
from dox_core_store.server.domain.access import Permission, Role, require
from dox_core_store.server.domain.issuer import (
    MAX_OPERATOR_SECONDS,
    MAX_SERVICE_SECONDS,
    TrustKind,
    TrustRecord,
    check_issuer,
    check_trust,
    fits,
    operator_name,
    person_trusts,
    service_trust,
)

AT = datetime(2026, 11, 25, tzinfo=UTC)


def trust(
    claims: dict[str, str],
    name: str = "shop",
    kind: TrustKind = TrustKind.SERVICE,
    roles: tuple[Role, ...] = (),
    seconds: int = 600,
) -> TrustRecord:
    return TrustRecord(
        trust_id=f"tru_{name}",
        issuer="forge",
        kind=kind,
        name=name,
        environment=None,
        roles=list(roles),
        claims=claims,
        max_seconds=seconds,
        created_at=AT,
        created_by="operator:lena",
    )


@pytest.mark.parametrize(
    ("wanted", "said", "outcome"),
    [
        ({"sub": "a"}, {"sub": "a"}, True),
        ({"sub": "a"}, {"sub": "ab"}, False),
        ({"sub": "a"}, {"sub": "A"}, False),
        ({"sub": "a"}, {}, False),
        ({"sub": "a", "ref": "main"}, {"sub": "a"}, False),
        ({"sub": "a", "ref": "main"}, {"sub": "a", "ref": "main", "x": "y"}, True),
        ({"sub": "repo:acme/*"}, {"sub": "repo:acme/shop"}, True),
        ({"sub": "repo:acme/*"}, {"sub": "repo:acme-evil/shop"}, False),
        ({"sub": "repo:acme/*"}, {"sub": ["repo:acme/shop"]}, False),
        ({"groups": "keepers"}, {"groups": ["others", "keepers"]}, True),
        ({"groups": "keepers"}, {"groups": ["keepers2"]}, False),
        ({"groups": "keepers"}, {"groups": "keepers"}, True),
        ({"groups": "keepers"}, {"groups": [["keepers"]]}, False),
        ({"groups": "keepers"}, {"groups": {"keepers": True}}, False),
        ({"id": "7"}, {"id": 7}, True),
        ({"id": "1"}, {"id": True}, False),
        ({"id": "1"}, {"id": 1.0}, False),
        ({"email_verified": "true"}, {"email_verified": True}, True),
        ({"x": "None"}, {"x": None}, False),
        ({}, {"sub": "a"}, False),
    ],
)
def test_every_claim_that_is_named_must_hold_whole(
    wanted: dict[str, str], said: dict[str, Any], outcome: bool
) -> None:
    assert fits(trust(wanted), said) is outcome


def test_a_service_takes_exactly_one_trust() -> None:
    one, other = trust({"sub": "a"}), trust({"sub": "a"}, "till")
    people = trust({"sub": "a"}, "email", TrustKind.OPERATOR, (Role.ADMIN,))
    assert service_trust([one, people], {"sub": "a"}, None) is one
    assert service_trust([one, other], {"sub": "a"}, "till") is other
    for trusts, wanted, code in (
        ([one, other], None, "ambiguous_trust"),
        ([one, trust({"sub": "a*"})], "shop", "ambiguous_trust"),
        ([one], "till", "no_trust"),
        ([people], None, "no_trust"),
        ([], None, "no_trust"),
    ):
        with pytest.raises(UnauthorizedError) as refused:
            service_trust(trusts, {"sub": "a"}, wanted)
        assert refused.value.code == code


def test_a_person_has_the_roles_of_all_trusts_that_fit_and_the_shortest_life() -> None:
    def people(group: str, *roles: Role, by: str = "email", seconds: int = 600) -> TrustRecord:
        return trust({"groups": group}, by, TrustKind.OPERATOR, roles, seconds)

    said = {"groups": ["a", "b"], "email": "lena@example.com", "user": "lena"}
    trusts = [
        people("a", Role.AUDITOR, Role.MAINTAINER),
        people("b", Role.AUDITOR, seconds=300),
        people("c", Role.ADMIN),
        trust({"groups": "a"}),
    ]
    found = person_trusts(trusts, said)
    assert found == ("lena@example.com", [Role.AUDITOR, Role.MAINTAINER], 300)
    for other, code in (
        ([people("c", Role.ADMIN)], "no_trust"),
        ([*trusts, people("a", Role.ADMIN, by="user")], "ambiguous_trust"),
        ([people("a", Role.ADMIN, by="missing")], "ambiguous_trust"),
        ([people("a", Role.ADMIN, by="groups")], "ambiguous_trust"),
    ):
        with pytest.raises(UnauthorizedError) as refused:
            person_trusts(other, said)
        assert refused.value.code == code


@pytest.mark.parametrize(
    ("kind", "name", "roles", "claims", "seconds"),
    [
        (TrustKind.SERVICE, "shop", [], {}, 600),
        (TrustKind.SERVICE, "shop", [], {"repository": "acme/shop"}, 600),
        (TrustKind.SERVICE, "shop", [], {"sub": "*"}, 600),
        (TrustKind.SERVICE, "shop", [], {"sub": "a*b"}, 600),
        (TrustKind.SERVICE, "shop", [], {"sub": "a**"}, 600),
        (TrustKind.SERVICE, "shop", [], {"sub": "a", "ref": "refs/*"}, 600),
        (TrustKind.SERVICE, "shop", [], {"sub": "a\n"}, 600),
        (TrustKind.SERVICE, "shop", [], {"sub": ""}, 600),
        (TrustKind.SERVICE, "Shop!", [], {"sub": "a"}, 600),
        (TrustKind.SERVICE, "shop", [Role.ADMIN], {"sub": "a"}, 600),
        (TrustKind.SERVICE, "shop", [], {"sub": "a"}, MAX_SERVICE_SECONDS + 1),
        (TrustKind.SERVICE, "shop", [], {"sub": "a"}, 59),
        (TrustKind.OPERATOR, "email", [], {"groups": "a"}, 600),
        (TrustKind.OPERATOR, "e mail", [Role.ADMIN], {"groups": "a"}, 600),
        (TrustKind.OPERATOR, "email", [Role.ADMIN], {"groups": "a*"}, 600),
        (TrustKind.OPERATOR, "email", [Role.ADMIN], {"groups": "a"}, MAX_OPERATOR_SECONDS + 1),
    ],
)
def test_a_trust_that_says_too_little_is_refused(
    kind: TrustKind, name: str, roles: list[Role], claims: dict[str, str], seconds: int
) -> None:
    with pytest.raises(InvalidRequestError):
        check_trust(kind, name, roles, claims, seconds)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://user@example.com",
        "https://example.com?x",
        "https://example.com/#f",
        "https://example.com/a b",
        "ftp://example.com",
        "https://",
        "http://127.0.0.1.evil.example",
        "https://example.com\n",
    ],
)
def test_an_issuer_is_asked_by_https_and_nothing_else(url: str) -> None:
    with pytest.raises(InvalidRequestError):
        check_issuer("corp", url, "keys")


@pytest.mark.parametrize(
    "url",
    [
        "https://token.actions.githubusercontent.com",
        "https://oidc.eks.eu-central-1.amazonaws.com/id/0123ABCD",
        "https://corp.example/realms/staff/",
        "http://127.0.0.1:8200/v1/identity/oidc",
    ],
)
def test_real_issuers_are_fine(url: str) -> None:
    check_issuer("corp", url, "https://keys.example.com")


@pytest.mark.parametrize("name", ["", "bad name", "Corp", "-", "a" * 64])
def test_a_name_that_is_none_is_called_so(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not an issuer's name"):
        check_issuer(name, "https://example.com", "keys")


def test_who_signs_in_is_called_as_nobody_else_can_be() -> None:
    assert operator_name("Lena", "corp") == "lena@corp"
    assert operator_name("Lena.Meyer@Example.com", "corp") == "lena.meyer@example.com@corp"
    for name in ("", "a b", "a\n", "-a", "a@b@c", "x" * 100, "lé", "a/b", ".."):
        with pytest.raises(UnauthorizedError):
            operator_name(name, "corp")


def test_a_static_token_cannot_approve_whatever_its_roles() -> None:
    lead = [Role.SECURITY_TEAM_LEAD]
    require(lead, Permission.APPROVE, signed_in=True)
    for roles, signed_in, code in (
        (lead, False, "sign_in_required"),
        ([Role.ADMIN], True, "role_required"),
        ([Role.ADMIN], False, "role_required"),
    ):
        with pytest.raises(UnauthorizedError) as refused:
            require(roles, Permission.APPROVE, signed_in=signed_in)
        assert refused.value.code == code
    require(lead, Permission.READ_LEDGER)
