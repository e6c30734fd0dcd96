"""Reading a file of keys and planning where each goes."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dox_core_store.cli.import_plan import Plan, parse_renames, plan_import
from dox_core_store.cli.import_tree import MAX_FILE_BYTES, read_leaves
from dox_core_store.errors import InvalidRequestError, PayloadTooLargeError

ENVIRONMENTS = ("production", "staging", "development")

# The block of stored keys on the product page, verbatim.
PRODUCT_PAGE = (Path(__file__).parents[2] / "functional" / "product_page.yaml").read_text()

BREAKS = "\x85\u2028\u2029"
texts = st.text(st.characters(codec="utf-8"), max_size=200)


def plan(
    text: str | bytes, *renames: str, environment: str = "production", is_json: bool = False
) -> Plan:
    raw = text if isinstance(text, bytes) else text.encode()
    return plan_import(
        read_leaves(raw, is_json=is_json),
        environments=ENVIRONMENTS,
        environment=environment,
        renames=parse_renames(renames),
    )


def addresses(made: Plan) -> dict[str, str]:
    return {f"{key.key_path}.{key.environment}": key.value.reveal() for key in made.keys}


def refusal(text: str | bytes, *renames: str) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        plan(text, *renames)
    return caught.value


# --- where leaves go --------------------------------------------------------------------------


def test_the_product_pages_block_gives_the_paths_of_the_pages_code() -> None:
    made = plan(PRODUCT_PAGE)
    assert addresses(made) == {
        "service_keys.jules_api.production": "AQ.Ab8RN6IjejxlqvM0...",
        "service_keys.jules_api.staging": "AQ.StagingKey123...",
        "service_keys.jules_api.development": "AQ.DevKey456...",
        "external_apis.google_services.maps_api.production": "AIzaSy...",
        "external_apis.google_services.oauth_client_id.production": (
            "...-.apps.googleusercontent.com"
        ),
        "external_apis.payment_gateways.stripe_secret_key.production": "sk_live_...",
        "external_apis.payment_gateways.paypal_client_secret.production": "...",
        "database_connections.postgres_main.production": "postgresql://...",
        "database_connections.redis_cache.production": "redis://...",
        "third_party_integrations.aws_access_key.production": "AKIAIOSFODNN7EXAMPLE",
        "third_party_integrations.aws_secret_key.production": (
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
        ),
        "third_party_integrations.slack_bot_token.production": "xoxb-...",
    }


def test_the_plan_says_what_it_lifted_once_a_category() -> None:
    assert [note.text for note in plan(PRODUCT_PAGE).notes] == [
        "service_keys.external_apis becomes external_apis, a declared category",
        "service_keys.database_connections becomes database_connections, a declared category",
        (
            "service_keys.third_party_integrations becomes third_party_integrations,"
            " a declared category"
        ),
    ]


def test_a_category_that_is_not_declared_stays_where_it_is() -> None:
    made = plan("service_keys: {llm_apis: {claude: x}, service_keys: {a: y}}")
    assert list(addresses(made)) == [
        "service_keys.llm_apis.claude.production",
        "service_keys.service_keys.a.production",
    ]
    assert made.notes == []


def test_a_leaf_that_names_no_environment_goes_to_the_one_asked_for() -> None:
    made = plan("a: {b: x, staging: y}", environment="development")
    assert addresses(made) == {"a.b.development": "x", "a.staging": "y"}


def test_an_undeclared_environment_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        plan("a: x", environment="qa")
    assert caught.value.code == "unknown_environment"


def test_names_with_dots_are_paths() -> None:
    assert addresses(plan("a.b.staging: x")) == {"a.b.staging": "x"}


def test_a_map_renames_whole_segments_of_the_longest_prefix() -> None:
    made = plan(
        "a: {b: {c: 1, d: 2}, bc: 3, e: 4}", "a.b=x", "a.b.d=y.z", "a.e=service_keys.e.staging"
    )
    assert addresses(made) == {
        "x.c.production": "1",
        "y.z.production": "2",
        "a.bc.production": "3",
        "service_keys.e.staging": "4",
    }
    assert [note.text for note in made.notes] == [
        "a.b becomes x",
        "a.b.d becomes y.z",
        "a.e becomes service_keys.e.staging",
    ]


def test_a_map_wins_over_lifting_and_takes_names_that_are_no_path() -> None:
    made = plan(
        'service_keys: {external_apis: {x: "1"}}\n"my key": "2"',
        "service_keys.external_apis=kept.here",
        "my key=mine",
    )
    assert addresses(made) == {"kept.here.x.production": "1", "mine.production": "2"}


@pytest.mark.parametrize("option", ["a", "=b", "a=", "a=b c", "a=b..c"])
def test_an_unusable_map_is_refused(option: str) -> None:
    assert refusal("a: 1", option).code in {"invalid_parameter", "malformed_path"}


def test_a_map_that_names_nothing_in_the_file_is_refused() -> None:
    assert refusal("a: 1", "b=c").code == "invalid_parameter"


@pytest.mark.parametrize(
    "text",
    [
        "a: {production: x}\na.production: y",
        "a: x\na.production: y",
        "service_keys: {external_apis: {a: x}}\nexternal_apis: {a: y}",
    ],
)
def test_two_values_for_one_address_are_refused(text: str) -> None:
    error = refusal(text)
    assert error.code == "malformed_import"
    assert "stands in line 1 already" in error.detail
    assert error.detail.startswith("Line 2,")


@pytest.mark.parametrize("text", ["a: {b: x}\nA: {c: y}", "a: {b: x, B: y}", "a.b.c: x\na.B: y"])
def test_names_that_differ_only_in_case_are_refused(text: str) -> None:
    assert "only in case" in refusal(text).detail


def test_what_is_easily_meant_otherwise_is_remarked_on() -> None:
    made = plan("staging: {db: x}\npem: |\n  line\n")
    assert [note.text for note in made.notes] == [
        "line 1: staging is no environment there, only at the end of a path",
        "line 2: the value ends with a line break (|- has none)",
    ]


def test_a_value_over_the_limit_is_refused_with_its_line() -> None:
    with pytest.raises(PayloadTooLargeError) as caught:
        plan(f"a: x\nb: {'é' * (32 * 1024 + 1)}")
    assert caught.value.code == "value_too_large"
    assert caught.value.detail.startswith("Line 2, column 1")
    assert len(plan(f"b: {'é' * 32 * 1024}").keys) == 1


# --- the exact text ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "No", "on", "true", "0123", "0x1F", "1_000", "1e3", ".5", ".inf", "1.10", "-1"),
        *("2025-11-04", "12:30:45", "=", "a:b", "a#b", "nulls"),
    ],
)
def test_a_plain_scalar_is_the_text_that_stands_there(text: str) -> None:
    assert addresses(plan(f"a: {text}")) == {"a.production": text}


def test_names_are_texts_too() -> None:
    assert addresses(plan("007: {no: x}")) == {"007.no.production": "x"}


# What YAML 1.1 takes for ends of lines is refused where it stands unescaped (see below).
@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters=BREAKS), max_size=200),
    style=st.sampled_from([None, "'", '"', "|", ">"]),
    is_unicode=st.booleans(),
)
def test_whatever_yaml_writes_is_read_back_exactly(
    text: str, style: str | None, is_unicode: bool
) -> None:
    written = yaml.safe_dump({"a": text}, default_style=style, allow_unicode=is_unicode)
    assert addresses(plan(written)) == {"a.production": text}


@given(texts)
def test_whatever_json_writes_is_read_back_exactly(text: str) -> None:
    written = json.dumps({"a": {"staging": text}}, indent="\t")
    assert addresses(plan(written, is_json=True)) == {"a.staging": text}


@pytest.mark.parametrize("text", ["a: !!str 5", "a: ! 5", "!!map {a: 5}"])
def test_tags_that_say_what_is_so_anyway_are_read(text: str) -> None:
    assert addresses(plan(text)) == {"a.production": "5"}


def test_numbers_and_flags_of_json_keep_their_text() -> None:
    made = plan('{"a":1.10,"b":true,"c":"\\u00e9\\ud83d\\ude00\\\\ud83d"}', is_json=True)
    assert list(addresses(made).values()) == ["1.10", "true", "é😀\\ud83d"]


def test_an_empty_text_is_a_value_when_it_is_written() -> None:
    assert addresses(plan("a: \"\"\nb: ''")) == {"a.production": "", "b.production": ""}


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: 1\nb:\nc: 2", "Line 2, column 1"),
        ("a: ~", "Line 1, column 1"),
        ("a: null", "Line 1, column 1"),
        ("a:\n  b: 1\n  b: 2", "Line 3, column 3"),
        ("a: [1]", "Line 1, column 4"),
        ("- a", "Line 1, column 1"),
        ("a", "Line 1, column 1"),
        ("a: &x 1", "Line 1, column 4"),
        ("a: *x", "Line 1, column 4"),
        ("a: !!int 1", "Line 1, column 4"),
        ("a: !vault |\n  x", "Line 1, column 4"),
        ("a: !other {b: c}", "Line 1, column 4"),
        ("? {a: b}\n: c", "Line 1, column 3"),
        ("a: 1\n---\nb: 2", "Line 2, column 1"),
        ("a: 'x", "Line 1, column 6"),
        ("a: x: y", "Line 1, column 5"),
        ("a: {b: 1\n", "Line 2, column 1"),
        ("a: b\x01", "Line 1, column 5"),
        ("a: é\x01", "Line 1, column 5"),
        ("a: 1\nb: x\u2028y", "Line 2, column 5"),
        (b"a: 1\nb: \xc3\xa9\xff", "Line 2, column 5"),
        ("x y: 1", "Line 1, column 1"),
        ("a: {Staging: 1}", "Line 1, column 5"),
        ("a: {production: {staging: 1}}", "Line 1, column 18"),
        ("production: 1", "Line 1, column 1"),
        (".".join("abcdefghi") + ": 1", "Line 1, column 1"),
        ("{a: " * 20 + "1" + "}" * 20, "Line 1, column 65"),
        ("a: " + "[" * 100_000, "Line 1, column 4"),
    ],
)
def test_what_has_no_one_meaning_is_refused_with_its_place(text: str | bytes, place: str) -> None:
    error = refusal(text)
    assert error.code == "malformed_import"
    assert error.detail.startswith(f"{place}: ")


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "a: {}"])
def test_a_file_without_keys_is_refused(text: str) -> None:
    assert refusal(text).detail == "The file holds no keys."


def test_a_file_over_the_limit_is_refused() -> None:
    assert "64 MiB" in refusal(b"#" * (MAX_FILE_BYTES + 1)).detail


def test_anchors_cannot_multiply() -> None:
    bomb = "a: &a {x: 1}\n" + "".join(
        f"{b}: &{b} {{p: *{a}, q: *{a}}}\n" for a, b in zip("abcdef", "bcdefg", strict=True)
    )
    assert "anchors" in refusal(bomb).detail


@pytest.mark.parametrize(
    "text",
    [
        "password: {CANARY-value}",
        "password: {CANARY value: x}",
        "password: !CANARY x",
        "password: 'CANARY",
        "password: CANARY: x",
        "password: [CANARY]",
        "password: %CANARY",
        'password: "\\CANARY"',
        "password: CANARY\x01",
        "CANARY",
        "a: *CANARY",
        "a: CANARY\na: CANARY",
        "a: " + "CANARY" * 20_000,
    ],
)
def test_an_error_never_quotes_the_file(text: str) -> None:
    with pytest.raises((InvalidRequestError, PayloadTooLargeError)) as caught:
        plan(text)
    told = "".join(traceback.format_exception(caught.value))
    assert "CANARY" not in told.replace("test_import_plan", "")


def test_a_plan_never_prints_a_value() -> None:
    assert "CANARY" not in repr(plan("a: CANARY"))
