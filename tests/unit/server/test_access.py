"""Roles of operators, and grants of services against a matcher that tries every grant."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dox_core_store.errors import UnauthorizedError
from dox_core_store.server.domain.access import (
    PERMISSIONS,
    Effect,
    GrantRecord,
    GrantTree,
    Permission,
    Role,
    permitted,
    require,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
names = st.sampled_from(["a", "b", "c", "A", "*", "**"])
patterns = st.lists(st.sampled_from(["a", "b", "c", "*"]), min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from([".".join(parts), ".".join([*parts[:-1], "**"])])
)
environments = st.sampled_from(["production", "staging"])
grants = st.lists(st.tuples(patterns, environments, st.sampled_from(list(Effect))), max_size=8)
paths = st.lists(st.sampled_from(["a", "b", "c", "d", "A"]), min_size=1, max_size=5).map(".".join)


def grant(
    pattern: str, environment: str = "production", effect: Effect = Effect.ALLOW
) -> GrantRecord:
    return GrantRecord(
        grant_id="g",
        service="s",
        effect=effect,
        pattern=pattern,
        environment=environment,
        created_at=NOW,
        created_by="t",
    )


def matches(pattern: list[str], path: list[str]) -> bool:
    """Whether ``pattern`` names ``path``, word for word."""
    if pattern == ["**"]:
        return len(path) >= 1
    if not pattern or not path:
        return pattern == path
    return pattern[0] in ("*", path[0]) and matches(pattern[1:], path[1:])


@given(grants, paths, environments)
def test_a_tree_decides_as_trying_every_grant_does(
    given_: list[tuple[str, str, Effect]], path: str, environment: str
) -> None:
    effects = {
        effect
        for pattern, where, effect in given_
        if where == environment and matches(pattern.split("."), path.split("."))
    }
    tree = GrantTree([grant(*each) for each in given_])
    assert tree.allows(path, environment) == (effects == {Effect.ALLOW})


@given(grants, paths, environments, st.randoms())
def test_the_order_of_grants_means_nothing(
    given_: list[tuple[str, str, Effect]], path: str, environment: str, random
) -> None:
    shuffled = [*given_, *given_]
    random.shuffle(shuffled)
    one = GrantTree([grant(*each) for each in given_]).allows(path, environment)
    assert one == GrantTree([grant(*each) for each in shuffled]).allows(path, environment)


def test_nothing_is_granted_by_nothing() -> None:
    assert not GrantTree([]).allows("a", "production")
    assert not GrantTree([grant("a.b")]).allows("a", "production")
    assert not GrantTree([grant("a")]).allows("a.b", "production")
    assert not GrantTree([grant("a")]).allows("A", "production")


def test_a_star_is_one_segment_and_two_are_one_or_more() -> None:
    star, tail = GrantTree([grant("a.*")]), GrantTree([grant("a.**")])
    assert [star.allows(path, "production") for path in ("a", "a.b", "a.b.c")] == [
        False,
        True,
        False,
    ]
    assert [tail.allows(path, "production") for path in ("a", "a.b", "a.b.c")] == [
        False,
        True,
        True,
    ]


def test_a_wildcard_never_matches_an_environment() -> None:
    tree = GrantTree([grant("**", "staging")])
    assert tree.allows("a.b", "staging")
    assert not tree.allows("a.b", "production")


@pytest.mark.parametrize("permission", Permission)
def test_a_permission_takes_one_of_the_roles_that_give_it(permission: Permission) -> None:
    giving = {role for role in Role if permission in PERMISSIONS[role]}
    assert giving, f"nobody may {permission}"
    for role in Role:
        assert permitted([role], permission) == (role in giving)
    others = [role for role in Role if role not in giving]
    with pytest.raises(UnauthorizedError) as caught:
        require(others, permission)
    assert caught.value.code == "role_required"
    assert all(role in caught.value.detail for role in giving)
    require([*others, *giving], permission, signed_in=True)


def test_no_role_alone_reads_both_values_and_ledger() -> None:
    for role in Role:
        assert not {Permission.READ_VALUES, Permission.READ_LEDGER} <= PERMISSIONS[role]
    assert Permission.READ_VALUES not in PERMISSIONS[Role.ADMIN] | PERMISSIONS[Role.AUDITOR]


def test_without_a_role_nothing_is_permitted() -> None:
    assert not any(permitted([], permission) for permission in Permission)
