from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dox_core_store.errors import DoxStoreError
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.adapters.seals.passphrase import PassphraseHolder
from dox_core_store.server.domain.seal import Slot, SlotKind

COSTS = {
    "salt": "000102030405060708090a0b0c0d0e0f",
    "iterations": 3,
    "lanes": 4,
    "memory_kib": 65536,
}
VECTOR = "0285f019029a49c3e8f5e0a2a7d68700e3092c2f1e499e582dc792a23bd90c1b"
"""Made with the reference implementation of Argon2 by way of argon2-cffi, which is not ours:
``hash_secret_raw("Grüße an alle".encode(), bytes(range(16)), 3, 65536, 4, 32, Type.ID)``."""


def slot(**changed: Any) -> Slot:
    return Slot(
        slot_id="slot_0011223344556677",
        kind=SlotKind.PASSPHRASE,
        parameters={**COSTS, **changed},
        wrapped_root=b"",
        created_at=datetime.now(UTC),
    )


def holder(text: str) -> PassphraseHolder:
    return PassphraseHolder(ask=lambda: Sensitive(text))


def test_the_key_is_that_of_another_implementation() -> None:
    assert holder("Grüße an alle").open("store_1", slot()).hex() == VECTOR


def test_accents_may_be_composed_or_not() -> None:
    assert holder("Gru\u0308ße an alle").open("store_1", slot()).hex() == VECTOR


def test_a_new_slot_opens_by_what_it_stored() -> None:
    key, parameters = holder("correct horse battery").make("store_1", "slot_1")
    assert parameters.keys() == COSTS.keys()
    assert (parameters["iterations"], parameters["lanes"], parameters["memory_kib"]) == (
        3,
        4,
        65536,
    )
    assert holder("correct horse battery").open("store_1", slot(**parameters)) == key
    assert holder("correct horse batterx").open("store_1", slot(**parameters)) != key


def test_two_slots_of_one_passphrase_have_different_keys() -> None:
    one, other = (holder("correct horse battery").make("store_1", "slot_1") for _ in range(2))
    assert one[0] != other[0]


def test_it_is_asked_for_once() -> None:
    asked: list[int] = []

    def ask() -> Sensitive:
        asked.append(1)
        return Sensitive("correct horse battery")

    once = PassphraseHolder(ask=ask)
    once.open("store_1", slot())
    once.open("store_1", slot(salt="ff" * 16))
    assert asked == [1]


@pytest.mark.parametrize("text", ["", "eleven char"])
def test_a_short_one_makes_no_slot(text: str) -> None:
    with pytest.raises(DoxStoreError) as caught:
        holder(text).make("store_1", "slot_1")
    assert caught.value.code == "invalid_field"


def test_an_empty_one_is_wrong() -> None:
    with pytest.raises(DoxStoreError) as caught:
        holder("").open("store_1", slot())
    assert caught.value.code == "wrong_passphrase"


@pytest.mark.parametrize(
    "changed",
    [
        {"iterations": 1_000_000_000},
        {"iterations": 2},
        {"iterations": "3"},
        {"memory_kib": 64 * 1024 * 1024},
        {"memory_kib": 8},
        {"lanes": 0},
        {"lanes": 1_000},
        {"salt": "00"},
        {"salt": "00" * 16 + "\n"},
        {"salt": None},
        {"more": 1},
    ],
    ids=str,
)
def test_costs_out_of_bounds_are_refused_before_anybody_is_asked(changed: dict[str, Any]) -> None:
    def ask() -> Sensitive:
        raise AssertionError("asked")

    with pytest.raises(DoxStoreError) as caught:
        PassphraseHolder(ask=ask).open("store_1", slot(**changed))
    assert caught.value.code == "store_damaged"
