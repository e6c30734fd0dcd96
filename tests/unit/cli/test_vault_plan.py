"""Which keys the entries of a vault would be."""

from __future__ import annotations

import pytest

from dox_core_store import wire
from dox_core_store.cli.vault_plan import Names, Unnamed, collisions, matches, parse_names
from dox_core_store.errors import InvalidRequestError

DECLARED = ("production", "staging")


def names(*renames: str, environment: str | None = None) -> Names:
    return Names(environments=DECLARED, environment=environment, renames=parse_names(renames))


def named(found: Names, path: str, *fields: str | None) -> list[tuple[str, str | None, bool] | str]:
    entry = wire.VaultEntry(path=path, fields=list(fields or ("value",)))
    return [
        each.why if isinstance(each, Unnamed) else (each.key_path, each.environment, each.shared)
        for each in found.of(entry)
    ]


def test_a_path_is_a_key_and_its_first_segment_may_be_an_environment() -> None:
    assert named(names(), "team/db") == [("team.db", None, False)]
    assert named(names(), "production/team/db") == [("team.db", "production", False)]
    assert named(names(), "production") != [("production", None, False)]
    assert named(names(environment="staging"), "team/db") == [("team.db", "staging", False)]
    assert named(names(environment="staging"), "production/db") == [("db", "production", False)]
    assert named(names(), "team/db/staging") == [("team.db.staging", None, False)]


def test_several_fields_are_several_keys() -> None:
    assert named(names(), "team/db", "user", "password") == [
        ("team.db.user", None, True),
        ("team.db.password", None, True),
    ]
    assert named(names(), "team/db", "token") == [("team.db", None, False)]
    assert named(names(), "team/db", None) == [("team.db", None, False)]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("team/db.old", "'db.old' has a dot"),
        ("team/so many", "is not a key path"),
        ("team/ä", "is not a key path"),
        ("/".join("abcdefghi"), "is not a key path"),
        ("production/db/staging", "its path says production, and its name ends in staging"),
        ("team/Production", "reserved"),
    ],
)
def test_what_is_no_name_says_why(path: str, why: str) -> None:
    (told,) = named(names(), path)
    assert why in str(told)


def test_names_may_be_given() -> None:
    found = names("old/db=new.db", "old/db.pass word=new.secret", "a=b=c", "no/such=x")
    assert named(found, "old/db", "user", "pass word") == [
        ("new.db.user", None, True),
        ("new.secret", None, True),
    ]
    assert named(found, "a=b") == [("c", None, False)]
    (told,) = named(found, "old/db.x")
    assert str(told).startswith("'db.x' has a dot")
    assert found.unused == ["no/such"]


@pytest.mark.parametrize("given", [["a"], ["=b"], ["a="], ["a=b", "a=c"]])
def test_a_map_has_one_form(given: list[str]) -> None:
    with pytest.raises(InvalidRequestError):
        parse_names(given)


def adopted(key_path: str, environment: str = "production") -> wire.AdoptedEntry:
    return wire.AdoptedEntry(
        path="p", field=None, key_path=key_path, environment=environment, outcome="adopted"
    )


def test_what_collides_in_a_plan_is_refused() -> None:
    planned = [
        adopted("a.b"),
        adopted("A.c"),
        adopted("a.B", "staging"),
        adopted("a.b"),
        adopted("a.b", "staging"),
    ]
    assert [each.code for each in collisions(planned)] == [
        None, "case_collision", "case_collision", "already_exists", None
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "is_named"),
    [
        ("team.db", True),
        ("team.*", True),
        ("team.**", True),
        ("**", True),
        ("*", False),
        ("team.db.**", False),
        ("team.db.production", True),
        ("team.*.staging", False),
        ("other.*", False),
    ],
)
def test_patterns_are_those_of_grants(pattern: str, *, is_named: bool) -> None:
    assert matches(pattern, DECLARED, "team.db", "production") is is_named
