from __future__ import annotations

import base64
import json
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dox_core_store.cli.run_mask import Forms, Mask

VALUE = 'sk/live+ä "quoted" 0123456789'


def masked(text: bytes, *values: str, pieces: int = 0) -> bytes:
    mask = Mask(Forms(values))
    size = pieces or max(1, len(text))
    parts = [mask.feed(text[at : at + size]) for at in range(0, len(text), size)]
    return b"".join([*parts, mask.end()])


@pytest.mark.parametrize("pieces", [0, 1, 2, 3, 7])
@pytest.mark.parametrize(
    "form",
    [
        VALUE,
        base64.b64encode(VALUE.encode()).decode(),
        base64.urlsafe_b64encode(VALUE.encode()).decode(),
        base64.urlsafe_b64encode(VALUE.encode()).decode().rstrip("="),
        urllib.parse.quote(VALUE, safe=""),
        urllib.parse.quote(VALUE),
        urllib.parse.quote_plus(VALUE),
        json.dumps(VALUE)[1:-1],
        json.dumps(VALUE, ensure_ascii=False)[1:-1],
    ],
)
def test_every_form_of_a_value_is_hidden_however_it_is_cut(form: str, pieces: int) -> None:
    text = f"before {form} after\n".encode()
    assert masked(text, VALUE, pieces=pieces) == b"before *** after\n"


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
@pytest.mark.parametrize("after", ["", "\n", "xy"])
def test_a_value_within_base64_is_hidden(before: str, after: str) -> None:
    value = "0123456789abcdefghij"
    encoded = base64.b64encode(f"{before}{value}{after}".encode())
    out = masked(b"Authorization: Basic " + encoded + b"\n", value)
    assert b"***" in out
    assert len(out) < len(b"Authorization: Basic ***\n") + 16


def test_each_longer_line_of_a_value_is_hidden() -> None:
    value = "-----BEGIN KEY-----\nMIGHAgEAMBMGByqGSM49AgEG\nshort\n-----END KEY-----\n"
    text = b"".join(b"log: " + line + b"\n" for line in value.encode().splitlines())
    assert masked(text, value) == b"log: ***\nlog: ***\nlog: short\nlog: ***\n"
    assert masked(value.encode() + b"x", value) == b"***x"


def test_what_is_too_short_is_not_looked_for() -> None:
    assert masked(b"abc and so on", "abc", "") == b"abc and so on"


def test_ordinary_output_passes_at_once() -> None:
    mask = Mask(Forms([VALUE]))
    assert mask.feed(b"no newline yet") == b"no newline yet"
    assert not mask.is_waiting


def test_a_prompt_that_ends_as_a_value_begins_is_shown_after_a_moment() -> None:
    mask = Mask(Forms(["secret-value"]))
    assert mask.feed(b"Password: se") == b"Password: "
    assert mask.is_waiting
    assert mask.pause() == b"se"
    assert not mask.is_waiting
    assert mask.feed(b"t by you\n") == b"t by you\n"


def test_the_rest_of_a_value_is_hidden_even_where_its_beginning_was_shown() -> None:
    mask = Mask(Forms(["secret-value"]))
    shown = mask.feed(b"a se") + mask.pause() + mask.feed(b"cret-val")
    assert shown == b"a se"
    assert mask.pause() == b""
    assert mask.feed(b"ue b") == b"*** b"


def test_a_value_that_was_cut_off_is_not_shown() -> None:
    assert masked(b"x secret-va", "secret-value") == b"x ***"
    assert masked(b"x sec", "secret-value") == b"x sec"


def test_a_value_within_a_longer_one_does_not_uncover_that() -> None:
    for pieces in (0, 1, 3):
        assert masked(b"<abcdefgh>", "abcd", "abcdefgh", pieces=pieces) == b"<***>"
        assert masked(b"<abcdef>", "abcd", "cdef", pieces=pieces) == b"<***>"


def test_values_that_come_later_are_hidden_too() -> None:
    forms = Forms(["old-value"])
    mask = Mask(forms)
    forms.add(["new-value"])
    assert mask.feed(b"old-value new-value\n") == b"*** ***\n"


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.text("ab-", min_size=4, max_size=9), min_size=1, max_size=3),
    text=st.lists(st.text("ab-\n ", max_size=12), max_size=6),
    data=st.data(),
)
def test_no_value_ever_comes_through(
    values: list[str], text: list[str], data: st.DataObject
) -> None:
    mask, out = Mask(Forms(values)), b""
    whole = [*text, data.draw(st.sampled_from(values)), *text]
    for piece in whole:
        out += mask.feed(piece.encode())
        if data.draw(st.booleans()):
            out += mask.pause()
    out += mask.end()
    # Up to three bytes may have been shown before they were known to begin a value.
    assert not any(value.encode() in out for value in values)
