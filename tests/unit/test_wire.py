"""The bodies of the API: requests are strict, answers may grow, secrets are never shown."""

from __future__ import annotations

import contextlib
import inspect
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dox_core_store import wire
from dox_core_store.sensitive import HIDDEN, Sensitive

REQUESTS = [
    kind for _, kind in inspect.getmembers(wire, inspect.isclass) if issubclass(kind, wire.Request)
]
ANSWERS = [
    kind for _, kind in inspect.getmembers(wire, inspect.isclass) if issubclass(kind, wire.Answer)
]
texts = st.text(st.characters(exclude_categories=["Cs"]))


def test_there_are_bodies_to_test() -> None:
    assert {wire.PutKeyRequest, wire.TokenRequest, wire.GrantRequest} <= set(REQUESTS)
    assert {wire.KeyValue, wire.Problem, wire.LedgerRecord} <= set(ANSWERS)


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_a_request_refuses_a_field_it_does_not_know(kind: type) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `typo`"):
        wire.decode(kind, b'{"typo": 1}')


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"1"])
def test_a_request_is_an_object(kind: type, body: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        wire.decode(kind, body)


def test_an_answer_may_grow() -> None:
    page = wire.decode(
        wire.Page[wire.Environment],
        b'{"items": [{"name": "a", "is_default": true, "new": 1}], "x": 2}',
    )
    assert page.items == [wire.Environment(name="a", is_default=True)]


@pytest.mark.parametrize("kind", [*REQUESTS, *ANSWERS], ids=lambda kind: kind.__name__)
def test_no_field_that_holds_a_value_or_a_token_is_a_plain_text(kind: type) -> None:
    secret = {"value", "token"}
    for field in msgspec.structs.fields(kind):
        if field.name in secret:
            assert field.type is Sensitive, field.name


@given(texts)
def test_a_value_survives_the_wire_and_stays_hidden(text: str) -> None:
    body = wire.encode(wire.PutKeyRequest(value=Sensitive(text)))
    back = wire.decode(wire.PutKeyRequest, body)
    assert back.value.reveal() == text
    assert f"value={HIDDEN}" in repr(back)


@pytest.mark.parametrize("value", [b"1", b"null", b"true", b"[]", b"{}", b'["x"]'])
def test_a_value_is_text_and_nothing_else(value: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        wire.decode(wire.PutKeyRequest, b'{"value": ' + value + b"}")


def test_times_are_rfc_3339_in_utc() -> None:
    body = wire.encode(wire.ExtendRequest(expires_at=datetime(2999, 1, 1, tzinfo=UTC)))
    assert b'"expires_at":"2999-01-01T00:00:00Z"' in body


def test_a_problem_leaves_out_what_it_does_not_say() -> None:
    problem = wire.Problem(
        type="t", title="t", status=400, detail="d", code="c", store_id="s", request_id="r"
    )
    assert set(msgspec.json.decode(wire.encode(problem))) == {
        "type",
        "title",
        "status",
        "detail",
        "code",
        "store_id",
        "request_id",
    }


def test_a_ledger_record_begins_with_the_eight_documented_fields() -> None:
    assert wire.LedgerRecord.__struct_fields__[:8] == (
        "timestamp",
        "service_name",
        "key_path",
        "action",
        "status",
        "request_id",
        "ip_address",
        "user_agent",
    )


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no form on the wire"):
        wire.encode({"x": object()})


@given(
    st.recursive(
        st.none() | st.booleans() | texts, lambda inner: st.dictionaries(texts, inner), max_leaves=5
    )
)
def test_no_body_brings_more_than_a_refusal(content: Any) -> None:
    raw = msgspec.json.encode(content)
    for kind in REQUESTS:
        with contextlib.suppress(msgspec.ValidationError):
            assert isinstance(wire.decode(kind, raw), kind)
