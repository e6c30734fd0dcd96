"""`Key`: usable, and not shown by accident."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from datetime import UTC, datetime

import msgspec
import pytest

from dox_core_store import Key
from dox_core_store.sensitive import Sensitive
from dox_core_store.wire import KeyValue

CANARY = "canary-7f3b"


class Held:
    """Stands for the client that handed the key out."""

    @staticmethod
    def elapsed() -> float:
        return 107.5


def _key() -> Key:
    answer = KeyValue(
        key_path="a.b",
        environment="production",
        version=4,
        version_id="f" * 32,
        state="current",
        value=Sensitive(CANARY),
        expires_at=datetime(2026, 1, 1, tzinfo=UTC),
        cache_ttl_ceiling_seconds=3600,
        outage_grace_seconds=3600,
    )
    return Key(answer, source="service", fetched_at=100.0, owner=Held())


def test_a_key_says_what_it_is() -> None:
    key = _key()
    assert key.value == CANARY
    assert (key.key_path, key.environment, key.version, key.version_id, key.state) == (
        "a.b",
        "production",
        4,
        "f" * 32,
        "current",
    )
    assert key.expires_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert (key.source, key.age_seconds) == ("service", 7.5)


def test_no_text_of_a_key_shows_its_value() -> None:
    key = _key()
    for text in (repr(key), str(key), f"{key}", f"{[key]}", "%s" % key):  # noqa: UP031
        assert CANARY not in text
        assert "a.b" in text


def test_a_key_cannot_be_changed() -> None:
    key = _key()
    with pytest.raises(AttributeError):
        key.value = "another"
    with pytest.raises(AttributeError):
        del key.value
    with pytest.raises(AttributeError):
        key.note = "new"


def test_a_key_is_not_taken_apart() -> None:
    key = _key()
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy, vars, json.dumps, msgspec.json.encode):
        with pytest.raises(TypeError):
            attempt(key)
    assert not dataclasses.is_dataclass(key)
