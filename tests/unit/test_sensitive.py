"""A secret can be used, and cannot be seen by accident."""

from __future__ import annotations

import copy
import json
import pickle
import traceback

import msgspec
import pytest

from dox_core_store.sensitive import HIDDEN, Sensitive

CANARY = "canary-f93k"


@pytest.fixture
def secret() -> Sensitive:
    return Sensitive(CANARY)


def test_it_is_shown_only_to_who_asks(secret: Sensitive) -> None:
    assert secret.reveal() == CANARY
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>99}", f"{secret!r}", f"{secret}"]
    assert shown == [HIDDEN] * 6


def test_it_hides_inside_other_things(secret: Sensitive) -> None:
    for holder in ([secret], {"k": secret}, (secret,), ValueError(secret)):
        assert CANARY not in repr(holder)
        assert CANARY not in str(holder)


def test_it_does_not_show_in_a_traceback(secret: Sensitive) -> None:
    with pytest.raises(ValueError, match=r"\[hidden\]") as caught:
        raise ValueError(secret)
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    text = "".join(told.format())
    assert HIDDEN in text
    assert CANARY not in text


@pytest.mark.parametrize(
    "copier", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, msgspec.json.encode]
)
def test_it_leaves_no_copy(secret: Sensitive, copier) -> None:
    with pytest.raises(TypeError):
        copier(secret)


def test_it_is_no_key_and_has_no_truth(secret: Sensitive) -> None:
    with pytest.raises(TypeError):
        hash(secret)
    with pytest.raises(TypeError):
        bool(secret)
    with pytest.raises(TypeError):
        bool(Sensitive(""))
    assert not hasattr(secret, "__dict__")


def test_two_of_the_same_text_are_equal(secret: Sensitive) -> None:
    assert secret == Sensitive(CANARY)
    assert secret != Sensitive(CANARY + "x")
    assert secret != CANARY
    assert Sensitive("\N{GRINNING FACE}") == Sensitive("\N{GRINNING FACE}")
