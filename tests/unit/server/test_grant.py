"""What is said of a set of grants is what the door's tree decides, by the rule that is named."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dox_core_store.errors import InvalidRequestError
from dox_core_store.server.domain.access import Effect, GrantRecord, GrantTree
from dox_core_store.server.domain.grant import literal_prefix, names, near_misses, ruling
from dox_core_store.server.usecases.grant import where_granted

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DECLARED = {"production", "staging"}
segments = st.sampled_from(["a", "b", "c", "*"])
patterns = st.lists(segments, min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from([".".join(parts), ".".join([*parts[:-1], "**"])])
)
environments = st.sampled_from(sorted(DECLARED))
paths = st.lists(st.sampled_from(["a", "b", "c", "A"]), min_size=1, max_size=5).map(".".join)


def grant(
    pattern: str,
    environment: str = "production",
    effect: Effect = Effect.ALLOW,
    number: int = 0,
) -> GrantRecord:
    return GrantRecord(
        grant_id=f"gra_{number:016x}",
        service="s",
        effect=effect,
        pattern=pattern,
        environment=environment,
        created_at=NOW,
        created_by="t",
    )


grant_sets = st.lists(
    st.tuples(patterns, environments, st.sampled_from(list(Effect))), max_size=8, unique=True
).map(lambda rows: [grant(*row, number) for number, row in enumerate(rows)])


def matches(pattern: list[str], path: list[str]) -> bool:
    """Whether ``pattern`` names ``path``, word for word."""
    if pattern == ["**"]:
        return len(path) >= 1
    if not pattern or not path:
        return pattern == path
    return pattern[0] in ("*", path[0]) and matches(pattern[1:], path[1:])


@given(grant_sets, paths, environments)
def test_a_ruling_is_what_the_door_decides_and_names_every_grant_that_matters(
    grants: list[GrantRecord], path: str, environment: str
) -> None:
    ruled = ruling(grants, path, environment)
    assert ruled.is_allowed == GrantTree(grants).allows(path, environment)
    assert {each.grant_id for each in ruled.matching} == {
        each.grant_id
        for each in grants
        if each.environment == environment and matches(each.pattern.split("."), path.split("."))
    }


@given(grant_sets, paths, environments)
def test_without_the_deciding_grant_the_verdict_changes_or_the_next_named_one_decides(
    grants: list[GrantRecord], path: str, environment: str
) -> None:
    ruled = ruling(grants, path, environment)
    if ruled.deciding is None:
        assert not ruled.is_allowed
        return
    assert (ruled.deciding.effect is Effect.ALLOW) == ruled.is_allowed
    rest = [each for each in grants if each is not ruled.deciding]
    without = ruling(rest, path, environment)
    assert without.matching == ruled.matching[1:]
    if without.is_allowed == ruled.is_allowed:
        # Another one of those named takes over, or a deny was the only one that named the key.
        takes_over = (
            without.deciding is not None and without.deciding.effect is ruled.deciding.effect
        )
        assert takes_over or (ruled.deciding.effect is Effect.DENY and not without.matching)


@given(grant_sets, paths, environments)
def test_what_no_grant_names_changes_nothing(
    grants: list[GrantRecord], path: str, environment: str
) -> None:
    ruled = ruling(grants, path, environment)
    assert ruling(ruled.matching, path, environment) == ruled


def test_a_deny_decides_first_and_then_the_closest_grant() -> None:
    loose, tail, star, exact = (
        grant(pattern, number=number)
        for number, pattern in enumerate(["**", "a.**", "a.*.c", "a.b.c"])
    )
    deny = grant("**", effect=Effect.DENY, number=9)
    ruled = ruling([loose, star, tail, exact], "a.b.c", "production")
    assert ruled.is_allowed
    assert ruled.matching == (exact, star, tail, loose)
    denied = ruling([loose, deny, exact], "a.b.c", "production")
    assert not denied.is_allowed
    assert denied.deciding == deny


@pytest.mark.parametrize(
    ("pattern", "environment", "path", "why"),
    [
        ("a.b", "staging", "a.b", "granted in staging, asked in production"),
        ("a.B", "production", "a.b", "differs only in case"),
        ("a.*", "production", "a.b.c", "* is one segment: a.* has 2 in all, the key 3"),
        ("a.**", "production", "a", "a.** names what is below a, not a itself"),
        ("a.*", "production", "a", "a.* names what is below a, not a itself"),
        ("a", "production", "a.b", "names a alone, not what is below it"),
        ("a.jules-api", "production", "a.jules_api", "says jules-api where the key says jules_api"),
        ("*.jules_ap", "production", "x.jules_api", "says jules_ap where the key says jules_api"),
        (
            "a.staging",
            "production",
            "a.stagin",
            "its last segment is an environment, declared since: it names no key any more",
        ),
    ],
)
def test_a_near_miss_says_the_one_thing_that_is_between(
    pattern: str, environment: str, path: str, why: str
) -> None:
    (missed,) = near_misses([grant(pattern, environment)], path, "production", DECLARED)
    assert missed.why == why


@pytest.mark.parametrize("pattern", ["x.y", "a.b.c.d", "x.*", "b.**"])
def test_what_has_nothing_to_do_with_a_key_is_no_near_miss(pattern: str) -> None:
    assert near_misses([grant(pattern)], "a.b", "production", DECLARED) == []


@given(grant_sets, paths, environments)
def test_a_near_miss_never_names_the_key_and_is_never_a_deny(
    grants: list[GrantRecord], path: str, environment: str
) -> None:
    missed = near_misses(grants, path, environment, DECLARED)
    assert len(missed) <= 5
    for each in missed:
        assert each.grant.effect is Effect.ALLOW
        assert not names(each.grant, path, environment)


@given(grant_sets, paths)
def test_whatever_a_grant_names_lies_under_its_literal_prefix(
    grants: list[GrantRecord], path: str
) -> None:
    for each in grants:
        prefix = literal_prefix(each.pattern)
        if names(each, path, each.environment):
            assert prefix is None or f"{path}.".startswith(f"{prefix}.")
        assert (prefix == each.pattern) == ("*" not in each.pattern)


# --- which patterns there are ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "code"),
    [
        ("a.**.b", "malformed_pattern"),
        ("a.b*", "malformed_pattern"),
        ("***", "malformed_pattern"),
        ("", "malformed_pattern"),
        ("a..b", "malformed_pattern"),
        ("a.*.", "malformed_pattern"),
        ("production", "malformed_pattern"),
        ("a.Production", "malformed_pattern"),
        ("a.production.staging", "malformed_pattern"),
        (".".join("abcdefghi"), "malformed_pattern"),
        ("a." * 8 + "**", "malformed_pattern"),
        ("a" * 65, "malformed_pattern"),
        ("a b", "malformed_pattern"),
        ("_store.services.*", "reserved_path"),
        ("_Store.**", "reserved_path"),
        ("batch-get", "reserved_path"),
    ],
)
def test_a_pattern_that_can_name_no_key_is_refused(pattern: str, code: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        where_granted(pattern, None, declared=DECLARED, default="production")
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("pattern", "environment", "expected"),
    [
        ("**", None, ("**", "production")),
        ("**.staging", None, ("**", "staging")),
        ("*", "staging", ("*", "staging")),
        ("a.*.c.staging", "staging", ("a.*.c", "staging")),
        ("a.production.**", None, ("a.production.**", "production")),
        ("batch-get.x", None, ("batch-get.x", "production")),
        ("a." * 7 + "**", None, ("a." * 7 + "**", "production")),
    ],
)
def test_a_wildcard_is_for_one_environment(
    pattern: str, environment: str | None, expected: tuple[str, str]
) -> None:
    found = where_granted(pattern, environment, declared=DECLARED, default="production")
    assert found == expected


@pytest.mark.parametrize(
    ("pattern", "environment", "code"),
    [
        ("a.staging", "production", "environment_conflict"),
        ("a", "preview", "unknown_environment"),
        ("a", "*", "unknown_environment"),
    ],
)
def test_an_environment_is_declared_and_named_once(
    pattern: str, environment: str, code: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        where_granted(pattern, environment, declared=DECLARED, default="production")
    assert caught.value.code == code


@given(patterns, paths, environments)
def test_a_wildcard_never_reaches_another_environment(
    pattern: str, path: str, environment: str
) -> None:
    other = "staging" if environment == "production" else "production"
    assert not names(grant(pattern, environment), path, other)
    assert not names(replace(grant("**"), environment=environment), path, other)
