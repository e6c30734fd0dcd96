"""The rules of tokens that need no key: form, claims, lifetimes."""

from __future__ import annotations

import base64
import json
import re
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dox_core_store.errors import AuthenticationError, InvalidRequestError
from dox_core_store.server.domain.duration import MAX_LIFETIME_SECONDS, parse_duration
from dox_core_store.server.domain.token import (
    FORMS,
    LEEWAY_SECONDS,
    MAX_TOKEN_BYTES,
    Claims,
    Kind,
    check_claims,
    check_operator_name,
    new_token_id,
    split_token,
    to_header,
    to_payload,
)

NOW = 1_900_000_000
DAY = 86_400
STORE = "store_7h3k"
JTI = "tok_ABCDEFGHIJKLMNOPQRST_-"
HEADER = {"alg": "RS256", "kid": "key-1", "typ": "dox-service+jwt"}
SERVICE = Claims(
    kind=Kind.SERVICE,
    name="jules-mcp",
    token_id=JTI,
    environment="production",
    generation=3,
    issued_at=NOW,
    not_before=NOW,
    expires_at=NOW + 90 * DAY,
)
OPERATOR = Claims(
    kind=Kind.OPERATOR,
    name="ada.lovelace",
    token_id=JTI,
    environment=None,
    generation=0,
    issued_at=NOW,
    not_before=NOW,
    expires_at=NOW + DAY,
)


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(header: Any = HEADER, payload: Any = None, signature: bytes = b"s" * 256) -> str:
    """A token of these parts: bytes as they are, everything else as JSON."""
    parts = (header, to_payload(SERVICE, STORE) if payload is None else payload)
    texts = [part(x if isinstance(x, bytes) else json.dumps(x).encode()) for x in parts]
    return ".".join([*texts, part(signature)])


def claims(base: Claims = SERVICE, **changes: Any) -> dict[str, Any]:
    """The payload of ``base`` with ``changes``; a claim set to ``...`` is left out."""
    payload = {**to_payload(base, STORE), **changes}
    return {name: value for name, value in payload.items() if value is not ...}


def check(payload: dict[str, Any], kind: Kind = Kind.SERVICE, now: int = NOW) -> Claims:
    return check_claims(payload, typ=FORMS[kind].typ, store_id=STORE, now=now)


def test_a_token_in_form_is_taken_apart() -> None:
    token = split_token(compact())
    assert (token.kid, token.typ) == ("key-1", "dox-service+jwt")
    assert token.payload == to_payload(SERVICE, STORE)
    assert "jules" not in repr(token)


@pytest.mark.parametrize(
    "good",
    [
        SERVICE,
        OPERATOR,
        replace(SERVICE, key_thumbprint="k" * 43),
        replace(OPERATOR, signed_in=True),
    ],
)
def test_claims_read_back_as_they_were_written(good: Claims) -> None:
    assert check(dict(to_payload(good, STORE)), good.kind) == good
    assert to_header(good, "key-1")["typ"] == FORMS[good.kind].typ


BAD_HEADERS: dict[str, Any] = {
    "no alg": {"kid": "key-1", "typ": "dox-service+jwt"},
    "no kid": {"alg": "RS256", "typ": "dox-service+jwt"},
    "no typ": {"alg": "RS256", "kid": "key-1"},
    "none": {**HEADER, "alg": "none"},
    "none, otherwise spelled": {**HEADER, "alg": "nOnE"},
    "HS256": {**HEADER, "alg": "HS256"},
    "PS256": {**HEADER, "alg": "PS256"},
    "lower case": {**HEADER, "alg": "rs256"},
    "alg a number": {**HEADER, "alg": 256},
    "alg null": {**HEADER, "alg": None},
    "kid a number": {**HEADER, "kid": 1},
    "kid empty": {**HEADER, "kid": ""},
    "kid a path": {**HEADER, "kid": "../key-1"},
    "kid a line": {**HEADER, "kid": "key-1\n"},
    "kid long": {**HEADER, "kid": "k" * 65},
    "kid a surrogate": {**HEADER, "kid": "\ud800"},
    "kid other digits": {**HEADER, "kid": "key-\u0661"},
    "typ JWT": {**HEADER, "typ": "JWT"},
    "typ in capitals": {**HEADER, "typ": "DOX-SERVICE+JWT"},
    "typ with prefix": {**HEADER, "typ": "application/dox-service+jwt"},
    "typ true": {**HEADER, "typ": True},
    "crit empty": {**HEADER, "crit": []},
    "crit null": {**HEADER, "crit": None},
    "crit": {**HEADER, "crit": ["b64"], "b64": False},
    "b64": {**HEADER, "b64": True},
    "jku": {**HEADER, "jku": "http://127.0.0.1/keys"},
    "x5u": {**HEADER, "x5u": "http://127.0.0.1/cert"},
    "x5c": {**HEADER, "x5c": ["MIIB"]},
    "jwk": {**HEADER, "jwk": {"kty": "RSA"}},
    "cty": {**HEADER, "cty": "JWT"},
    "a surrogate member": {**HEADER, "\ud800": 1},
    "repeated": b'{"alg":"none","kid":"key-1","typ":"dox-service+jwt","alg":"RS256"}',
    "repeated by escape": b'{"\\u0061lg":"none","kid":"k","typ":"dox-service+jwt","alg":"RS256"}',
    "a list": [],
    "a string": "RS256",
    "a string with a brace": "{",
    "null": None,
    "not JSON": b"{alg:RS256}",
    "two objects": json.dumps(HEADER).encode() * 2,
    "UTF-16": json.dumps(HEADER).encode("utf-16"),
    "UTF-8 with a mark": b"\xef\xbb\xbf" + json.dumps(HEADER).encode(),
    "not UTF-8": b'{"alg":"RS256","kid":"\xff","typ":"dox-service+jwt"}',
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_a_header_of_another_form_is_refused(header: Any) -> None:
    refused(compact(header=b"null" if header is None else header))


BAD_PAYLOADS: dict[str, bytes] = {
    "empty": b" ",
    "a list": b"[]",
    "a number": b"1",
    "a string with a brace": b'"{"',
    "NaN": b'{"exp":NaN}',
    "Infinity": b'{"exp":-Infinity}',
    "over a double": b'{"exp":1e400}',
    "a float": b'{"exp":1900000000.0}',
    "an exponent": b'{"exp":19e8}',
    "a number of 3,000 digits as a float": b'{"exp":' + b"9" * 2_990 + b".0}",
    "repeated": b'{"sub":"jules-mcp","sub":"jules-mcp"}',
    "repeated below": b'{"a":{"b":1,"b":2}}',
    "a nested object": b'{"a":{}}',
    "deep lists": b'{"a":' + b"[" * 2_900,
    "deep objects": b'{"a":' * 580,
    "deep and closed": b'{"a":' + b"[" * 1_400 + b"]" * 1_400 + b"}",
    "a raw control character": b'{"sub":"jules\nmcp"}',
    "not UTF-8": b'{"sub":"\xc3\x28"}',
    "an encoded surrogate": b'{"sub":"\xed\xa0\x80"}',
    "a comment": b'{"sub":"a"/**/}',
    "a trailing comma": b'{"sub":"a",}',
}


@pytest.mark.parametrize("payload", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS.keys())
def test_a_payload_of_another_form_is_refused(payload: bytes) -> None:
    refused(compact(payload=payload))


GOOD = compact()
_HEAD, _BODY, _SIGNATURE = GOOD.split(".")


@pytest.mark.parametrize(
    "raw",
    [
        "",
        ".",
        "..",
        "...",
        "a.b",
        f"{_HEAD}.{_BODY}",
        f"{_HEAD}.{_BODY}.",
        f".{_BODY}.{_SIGNATURE}",
        f"{_HEAD}..{_SIGNATURE}",
        f"{GOOD}.",
        f"{GOOD}.{_SIGNATURE}",
        f" {GOOD}",
        f"{GOOD}\n",
        f"{GOOD}=",
        f"{_HEAD}=.{_BODY}.{_SIGNATURE}",
        GOOD.replace("_", "/").replace("-", "+") + "+",
        f"{_HEAD}.{_BODY}.A",  # one character is no whole byte
        f"{_HEAD}.{_BODY}.AB",  # stray bits: AA is the only spelling of that byte
        f"{_HEAD}.{_BODY}.AAB",
        f"{_HEAD}.{_BODY}.{_SIGNATURE[:-1]}é",
        f"{_HEAD}.{_BODY}.\ud800",
        "\u0661" + GOOD,
    ],
)
def test_a_text_that_is_not_three_canonical_parts_is_refused(raw: str) -> None:
    refused(raw)


def test_the_size_limit_is_exact() -> None:
    room = MAX_TOKEN_BYTES - len(f"{_HEAD}.{_BODY}.")
    fitting = f"{_HEAD}.{_BODY}." + "A" * room
    assert len(fitting) == MAX_TOKEN_BYTES
    assert split_token(fitting).kid == "key-1"
    refused(fitting + "AA")


@given(st.text() | st.text("ABCabc019-_.=", max_size=60))
def test_no_text_makes_the_parser_fail_otherwise(raw: str) -> None:
    refused(raw)


@given(st.binary(max_size=80), st.binary(max_size=200))
def test_no_bytes_inside_make_the_parser_fail_otherwise(header: bytes, payload: bytes) -> None:
    refused(compact(header=header, payload=payload))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Kind.SERVICE, {"iss": "store_7h3l"}),
        (Kind.SERVICE, {"iss": "STORE_7H3K"}),
        (Kind.SERVICE, {"iss": [STORE]}),
        (Kind.SERVICE, {"iss": None}),
        (Kind.SERVICE, {"iss": ...}),
        (Kind.SERVICE, {"aud": "dox-core-store/operator"}),
        (Kind.SERVICE, {"aud": ["dox-core-store/service"]}),
        (Kind.SERVICE, {"aud": "dox-core-store/service/"}),
        (Kind.SERVICE, {"aud": ...}),
        (Kind.OPERATOR, {"aud": "dox-core-store/service"}),
        (Kind.SERVICE, {"sub": 7}),
        (Kind.SERVICE, {"sub": True}),
        (Kind.SERVICE, {"sub": None}),
        (Kind.SERVICE, {"sub": ["jules-mcp"]}),
        (Kind.SERVICE, {"sub": ""}),
        (Kind.SERVICE, {"sub": "Jules"}),
        (Kind.SERVICE, {"sub": "jules-mcp\n"}),
        (Kind.SERVICE, {"sub": "jules_mcp"}),
        (Kind.SERVICE, {"sub": "j" * 64}),
        (Kind.SERVICE, {"sub": "\ud800"}),
        (Kind.SERVICE, {"sub": "jul\u0435s-mcp"}),  # a Cyrillic look-alike
        (Kind.SERVICE, {"sub": "operator:ada"}),
        (Kind.SERVICE, {"sub": ...}),
        (Kind.OPERATOR, {"sub": "Ada"}),
        (Kind.OPERATOR, {"sub": ".ada"}),
        (Kind.OPERATOR, {"sub": "local:root"}),
        (Kind.OPERATOR, {"sub": False}),
        (Kind.SERVICE, {"env": None}),
        (Kind.SERVICE, {"env": "Production"}),
        (Kind.SERVICE, {"env": "*"}),
        (Kind.SERVICE, {"env": 1}),
        (Kind.SERVICE, {"env": ...}),
        (Kind.OPERATOR, {"env": "production"}),
        (Kind.OPERATOR, {"env": None}),
        (Kind.SERVICE, {"gen": -1}),
        (Kind.SERVICE, {"gen": True}),
        (Kind.SERVICE, {"gen": "3"}),
        (Kind.SERVICE, {"gen": 3.0}),
        (Kind.SERVICE, {"gen": ...}),
        (Kind.SERVICE, {"jti": "tok_short"}),
        (Kind.SERVICE, {"jti": "tok_ABCDEFGHIJKLMNOPQRSTUV\n"}),
        (Kind.SERVICE, {"jti": "tok_ABCDEFGHIJKLMNOPQRSTU."}),
        (Kind.SERVICE, {"jti": 5}),
        (Kind.SERVICE, {"jti": ...}),
        (Kind.SERVICE, {"exp": True}),
        (Kind.SERVICE, {"exp": "1999999999"}),
        (Kind.SERVICE, {"exp": NOW + 60.0}),
        (Kind.SERVICE, {"exp": float("inf")}),
        (Kind.SERVICE, {"exp": float("nan")}),
        (Kind.SERVICE, {"exp": 10**2_000}),
        (Kind.SERVICE, {"exp": None}),
        (Kind.SERVICE, {"exp": ...}),
        (Kind.SERVICE, {"iat": False}),
        (Kind.SERVICE, {"iat": ...}),
        (Kind.SERVICE, {"nbf": True}),
        (Kind.SERVICE, {"nbf": str(NOW)}),
        (Kind.SERVICE, {"nbf": ...}),
        (Kind.SERVICE, {"exp": NOW}),
        (Kind.SERVICE, {"exp": NOW - 1}),
        (Kind.SERVICE, {"nbf": NOW - 1}),
        (Kind.SERVICE, {"nbf": NOW + 90 * DAY}),
        (Kind.SERVICE, {"exp": NOW + MAX_LIFETIME_SECONDS + 1}),
        (Kind.SERVICE, {"iat": NOW + 31, "nbf": NOW + 31}),
        (Kind.SERVICE, {"roles": "admin"}),
        (Kind.SERVICE, {"scope": "*"}),
        (Kind.SERVICE, {"jkt": ""}),
        (Kind.SERVICE, {"jkt": "k" * 42}),
        (Kind.SERVICE, {"jkt": "k" * 44}),
        (Kind.SERVICE, {"jkt": "k" * 42 + "="}),
        (Kind.SERVICE, {"jkt": 7}),
        (Kind.SERVICE, {"jkt": None}),
        (Kind.SERVICE, {"cnf": {"jkt": "k" * 43}}),
        (Kind.OPERATOR, {"jkt": "k" * 43}),
        (Kind.SERVICE, {"amr": "login"}),
        (Kind.OPERATOR, {"amr": "mfa"}),
        (Kind.OPERATOR, {"amr": True}),
    ],
)
def test_claims_other_than_ours_are_refused(kind: Kind, changes: dict[str, Any]) -> None:
    base = SERVICE if kind is Kind.SERVICE else OPERATOR
    with pytest.raises(AuthenticationError) as caught:
        check(claims(base, **changes), kind)
    assert caught.value.code == "token_invalid"


@pytest.mark.parametrize("typ", ["", "JWT", "dox-admin+jwt"])
def test_claims_under_another_typ_are_refused(typ: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        check_claims(claims(), typ=typ, store_id=STORE, now=NOW)
    assert caught.value.code == "token_invalid"


def test_the_clock_is_given_thirty_seconds_both_ways() -> None:
    early = NOW - LEEWAY_SECONDS
    assert check(claims(), now=early) == SERVICE
    with pytest.raises(AuthenticationError) as caught:
        check(claims(), now=early - 1)
    assert caught.value.code == "token_invalid"
    late = SERVICE.expires_at + LEEWAY_SECONDS
    assert check(claims(), now=late - 1) == SERVICE
    with pytest.raises(AuthenticationError) as caught:
        check(claims(), now=late)
    assert caught.value.code == "token_expired"


def test_expiry_is_told_only_where_nothing_else_is_wrong() -> None:
    with pytest.raises(AuthenticationError) as caught:
        check(claims(iss="another"), now=SERVICE.expires_at + DAY)
    assert caught.value.code == "token_invalid"


def test_the_longest_life_is_accepted() -> None:
    assert check(claims(exp=NOW + MAX_LIFETIME_SECONDS)).expires_at == NOW + MAX_LIFETIME_SECONDS


JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


@given(st.dictionaries(st.sampled_from([*claims(), "other"]), JSON | st.lists(JSON, max_size=2)))
def test_no_claims_make_the_check_fail_otherwise(changes: dict[str, Any]) -> None:
    try:
        found = check({**claims(), **changes})
    except AuthenticationError:
        return
    # A change that passes is one of a name, a number or a time that we could have signed.
    assert to_payload(found, STORE) == {**claims(), **changes}


def test_all_refusals_look_alike_outside_and_say_why_inside() -> None:
    refusals = [refused(""), refused(compact(header={})), refused(compact(payload=b"[]"))]
    assert {(error.detail, str(error), len(error.extra)) for error in refusals} == {
        ("The token is not valid here.", "The token is not valid here.", 0)
    }
    assert len({tuple(error.__notes__) for error in refusals}) == len(refusals)


def test_a_refusal_carries_nothing_of_the_token() -> None:
    canary = "CANARY7"
    for raw in (
        canary,
        compact(header={**HEADER, "kid": f"{canary}."}),
        compact(header={**HEADER, canary: 1}),
        compact(payload=f'{{"{canary}":1,"{canary}":2}}'.encode()),
        compact(payload=f'{{"sub":"{canary}"'.encode()),
    ):
        error = refused(raw)
        shown = "".join(traceback.format_exception(error)) + repr(error.__notes__)
        assert canary not in shown
        assert part(canary.encode())[:8] not in shown
    with pytest.raises(AuthenticationError) as caught:
        check(claims(sub=canary))
    assert canary not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1m", 60),
        ("30m", 1_800),
        ("12h", 43_200),
        ("90d", 7_776_000),
        ("1y", 31_536_000),
        ("400d", MAX_LIFETIME_SECONDS),
        ("576000m", MAX_LIFETIME_SECONDS),
    ],
)
def test_a_lifetime_is_one_number_and_one_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "y",
        "0d",
        "-1d",
        "+1d",
        "1.5h",
        "1d12h",
        " 1d",
        "1d\n",
        "1D",
        "1w",
        "01d",
        "\u0661d",
    ],
)
def test_a_lifetime_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="expires_in") as caught:
        parse_duration(text)
    assert caught.value.code == "invalid_field"


@pytest.mark.parametrize("text", ["2y", "401d", "9601h", "999999999y", "9999999999d"])
def test_a_lifetime_over_the_limit_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_duration(text)
    assert caught.value.code == "invalid_field"


def test_the_limit_is_named_to_whoever_exceeds_it() -> None:
    with pytest.raises(InvalidRequestError, match="400 days"):
        parse_duration("2y")


def test_operators_names_are_checked() -> None:
    assert check_operator_name("ci.deploy_1-a") == "ci.deploy_1-a"
    for name in ("", "A", "_a", "a b", "a" * 64, "a\n"):
        with pytest.raises(InvalidRequestError) as caught:
            check_operator_name(name)
        assert caught.value.code == "invalid_field"


def test_token_ids_are_in_form_and_distinct() -> None:
    ids = {new_token_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(re.fullmatch(r"tok_[A-Za-z0-9_-]{22}", token_id) for token_id in ids)


def refused(raw: str) -> AuthenticationError:
    with pytest.raises(AuthenticationError) as caught:
        split_token(raw)
    assert caught.value.code == "token_invalid"
    return caught.value
