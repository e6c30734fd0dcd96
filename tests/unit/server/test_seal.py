"""The root key by its slots: which one opens it, and what a stale one does to the others."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.domain.envelope import root_check
from dox_core_store.server.domain.seal import Slot, SlotKind, open_root, wrap_root

STORE = "store_0"
ROOT, OLD_ROOT, KEY, OTHER = bytes(32), b"\1" * 32, b"\2" * 32, b"\3" * 32
CHECK = root_check(ROOT, STORE)


def slot(slot_id: str, root: bytes, key: bytes) -> Slot:
    kind = SlotKind.KEY_FILE
    wrapped = wrap_root(root, key, kind, STORE, slot_id)
    return Slot(
        slot_id=slot_id,
        kind=kind,
        parameters={},
        wrapped_root=wrapped,
        created_at=datetime(2025, 11, 4, tzinfo=UTC),
    )


def offered(*pairs: tuple[Slot, bytes]) -> Iterator[tuple[Slot, bytes]]:
    yield from pairs
    raise ConfigurationError("wrong_key_file", "Nothing more.")


def test_the_first_slot_that_opens_it_gives_the_root_key() -> None:
    first, second = slot("slot_1", ROOT, KEY), slot("slot_2", ROOT, OTHER)
    unlocked = open_root(offered((first, OTHER), (second, OTHER)), STORE, CHECK)
    assert unlocked is not None
    assert (unlocked.root, unlocked.slot, unlocked.slot_key) == (ROOT, second, OTHER)


def test_a_stale_slot_keeps_none_of_the_others_from_opening() -> None:
    stale, good = slot("slot_1", OLD_ROOT, KEY), slot("slot_2", ROOT, KEY)
    unlocked = open_root(offered((stale, KEY), (good, KEY)), STORE, CHECK)
    assert unlocked is not None
    assert unlocked.slot is good


def test_where_only_a_stale_slot_opens_the_store_is_damaged_and_the_slot_named() -> None:
    with pytest.raises(ConfigurationError, match="slot_1") as refused:
        open_root(offered((slot("slot_1", OLD_ROOT, KEY), KEY)), STORE, CHECK)
    assert refused.value.code == "store_damaged"


def test_where_nothing_opens_the_offer_says_why() -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_root(offered((slot("slot_1", ROOT, KEY), OTHER)), STORE, CHECK)
    assert refused.value.code == "wrong_key_file"


def test_a_slot_moved_to_another_name_does_not_open() -> None:
    moved = slot("slot_1", ROOT, KEY)
    moved = Slot(**{**{n: getattr(moved, n) for n in Slot.__struct_fields__}, "slot_id": "slot_2"})
    with pytest.raises(ConfigurationError):
        open_root(offered((moved, KEY)), STORE, CHECK)
