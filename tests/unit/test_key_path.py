"""The grammar of key paths, against a second reading of it that shares no code with the first."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dox_core_store.errors import InvalidRequestError
from dox_core_store.key_path import (
    KeyAddress,
    check_environment_name,
    check_service_name,
    fold,
    parse_address,
    parse_pattern,
    prefixes,
    split_environment,
)

ENVIRONMENTS = ["production", "staging", "qa_2"]
LETTERS = frozenset(string.ascii_letters + string.digits + "_-")

segments = st.one_of(
    st.sampled_from([*ENVIRONMENTS, "Production", "STAGING", "prod", "_store", "a", "s" * 64, ""]),
    st.text("aZ0_-", min_size=1, max_size=66),
    st.text(max_size=3),
)
paths = st.lists(segments, max_size=10).map(".".join)
patterns = st.lists(st.one_of(segments, st.sampled_from(["*", "**", "a*"])), max_size=10).map(
    ".".join
)


def oracle(text: str) -> tuple[str, str | None] | None:
    """Path and environment as the grammar's sentences say it, one by one; None is malformed."""
    parts = text.split(".")
    for part in parts:
        if not 1 <= len(part) <= 64 or not set(part) <= LETTERS:
            return None
    environment = None
    if parts[-1] in ENVIRONMENTS:
        environment = parts.pop()
    if not parts or len(parts) > 8 or len(".".join(parts)) > 256:
        return None
    # A path of only an environment, ending in two, or ending in one in another case: malformed.
    if parts[-1].lower() in ENVIRONMENTS:
        return None
    return ".".join(parts), environment


def code(call, *arguments, **named) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        call(*arguments, **named)
    return str(caught.value.code)


@given(paths)
@example("a\n")
@example("a.b.c.d.e.f.g.h.production")
@example("a.b.c.d.e.f.g.h.i")
@example(".".join(["p" * 64] * 3) + "." + "p" * 61 + ".production")
@example(".".join(["p" * 64] * 3) + "." + "p" * 62 + ".production")
@example("\N{LATIN SMALL LETTER DOTLESS I}")
@example("\N{KELVIN SIGN}")
@example("\N{ARABIC-INDIC DIGIT ONE}")
def test_a_path_is_what_the_grammar_says(text: str) -> None:
    expected = oracle(text)
    if expected is None:
        assert code(split_environment, text, ENVIRONMENTS) == "malformed_path"
    else:
        assert split_environment(text, ENVIRONMENTS) == expected


@given(
    paths, st.sampled_from(ENVIRONMENTS), st.none() | st.sampled_from([*ENVIRONMENTS, "nope", ""])
)
def test_an_environment_is_named_once(text: str, default: str, explicit: str | None) -> None:
    expected = oracle(text)

    def parse() -> KeyAddress:
        return parse_address(text, ENVIRONMENTS, default=default, explicit=explicit)

    if expected is None:
        assert code(parse) == "malformed_path"
    elif explicit is not None and explicit not in ENVIRONMENTS:
        assert code(parse) == "unknown_environment"
    elif explicit is not None and expected[1] not in (None, explicit):
        assert code(parse) == "environment_conflict"
    else:
        assert parse() == (expected[0], expected[1] or explicit or default)


@given(paths, st.sampled_from(ENVIRONMENTS))
def test_a_parsed_path_is_its_own_canonical_form(text: str, default: str) -> None:
    if oracle(text) is not None:
        address = parse_address(text, ENVIRONMENTS, default=default)
        assert parse_address(address.path, ENVIRONMENTS, default=address.environment) == address
        assert parse_address(str(address), ENVIRONMENTS, default="nope") == address
        assert len(str(address)) <= 256 + 33


def pattern_oracle(text: str) -> tuple[str, str | None] | str:
    """As `oracle`, for patterns; a refusal is its code."""
    parts = text.split(".")
    environment = parts.pop() if len(parts) > 1 and parts[-1] in ENVIRONMENTS else None
    for place, part in enumerate(parts):
        is_name = 1 <= len(part) <= 64 and set(part) <= LETTERS
        if not (is_name or part == "*" or (part == "**" and place == len(parts) - 1)):
            return "malformed_pattern"
    if len(parts) > 8 or parts[-1].lower() in ENVIRONMENTS:
        return "malformed_pattern"
    if parts[0].lower() == "_store":
        return "reserved_path"
    return ".".join(parts), environment


@given(patterns.filter(lambda text: len(text) <= 256))
@example("**")
@example("*")
@example("production")
@example("**.production")
@example("a.**.b")
@example("_store.**")
@example("_STORE")
def test_a_pattern_is_what_the_grammar_says(text: str) -> None:
    expected = pattern_oracle(text)
    if isinstance(expected, str):
        assert code(parse_pattern, text, ENVIRONMENTS) == expected
    else:
        assert parse_pattern(text, ENVIRONMENTS) == expected


def test_a_pattern_longer_than_any_path_is_malformed() -> None:
    assert code(parse_pattern, ".".join(["p" * 64] * 5), ENVIRONMENTS) == "malformed_pattern"


@given(st.text())
def test_refusals_show_foreign_text_escaped_and_cut(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        split_environment(text + "\0", ENVIRONMENTS)
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 1_000


@given(st.text("aB_-09", min_size=1, max_size=5), st.text("aB_-09", min_size=1, max_size=5))
def test_two_names_collide_exactly_if_they_differ_in_case(one: str, other: str) -> None:
    alike = len(one) == len(other) and all(
        a == b or {a, b} in ({"a", "A"}, {"b", "B"}) for a, b in zip(one, other, strict=True)
    )
    assert (fold(one) == fold(other)) == alike


def test_the_prefixes_of_a_path_end_with_itself() -> None:
    assert prefixes("a.b.c") == ["a", "a.b", "a.b.c"]
    assert prefixes("a") == ["a"]


@pytest.mark.parametrize("name", ["a", "0", "a-", "jules-mcp", "9" * 63])
def test_a_service_name(name: str) -> None:
    assert check_service_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a.b", "a\n", "a" * 64, "\N{KELVIN SIGN}"])
def test_no_service_name(name: str) -> None:
    assert code(check_service_name, name) == "invalid_field"


@pytest.mark.parametrize("name", ["a", "qa-2", "pre_prod", "e" * 32])
def test_an_environment_name(name: str) -> None:
    assert check_environment_name(name) == name


@pytest.mark.parametrize("name", ["", "_store", "-a", "Prod", "a.b", "a\n", "e" * 33])
def test_no_environment_name(name: str) -> None:
    assert code(check_environment_name, name) == "invalid_field"
