"""The seal: what was sealed for one binding opens for that one only, whole or not at all."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dox_core_store.server.domain.envelope import (
    KEY_BYTES,
    NONCE_BYTES,
    Binding,
    DamagedSealError,
    Ring,
    associated_data,
    derive,
    open_box,
    root_check,
    seal_box,
)

STORE = "store_1"
RING = Ring(STORE, {1: b"\x01" * KEY_BYTES, 2: b"\x02" * KEY_BYTES})
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
bindings = st.builds(Binding, texts, texts, texts, texts)
near = st.text("ab", max_size=2)
MINE = Binding(STORE, "a.b", "production", "v1")


@given(st.binary(max_size=200), bindings)
def test_what_was_sealed_opens_for_its_binding(value: bytes, binding: Binding) -> None:
    assert RING.open(RING.seal(value, binding), binding) == value


@given(bindings, bindings)
def test_a_seal_opens_for_no_other_binding(mine: Binding, other: Binding) -> None:
    sealed = RING.seal(b"value", mine)
    if other != mine:
        with pytest.raises(DamagedSealError):
            RING.open(sealed, other)


@pytest.mark.parametrize("field", Binding._fields)
def test_every_part_of_a_binding_binds(field: str) -> None:
    sealed = RING.seal(b"value", MINE)
    for changed in ("", "x", getattr(MINE, field) + " ", getattr(MINE, field).upper() + "-"):
        with pytest.raises(DamagedSealError):
            RING.open(sealed, MINE._replace(**{field: changed}))


@given(near, near, st.lists(near, max_size=3), st.lists(near, max_size=3))
@example("a", "ab", ["bc"], ["c"])
@example("a", "a", ["", "b"], ["b", ""])
def test_no_two_lists_of_fields_encode_alike(
    purpose: str, other: str, fields: list[str], others: list[str]
) -> None:
    alike = associated_data(purpose, *fields) == associated_data(other, *others)
    assert alike == ((purpose, fields) == (other, others))


@given(st.data())
def test_one_flipped_bit_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(RING.seal(b"value", MINE))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedSealError):
        RING.open(bytes(sealed), MINE)


@given(st.binary(max_size=120))
def test_foreign_bytes_are_damage_and_nothing_worse(sealed: bytes) -> None:
    with pytest.raises(DamagedSealError):
        RING.open(sealed, MINE)
    with pytest.raises(DamagedSealError):
        open_box(b"k" * KEY_BYTES, sealed, b"context")


def test_a_cut_seal_is_damage() -> None:
    sealed = RING.seal(b"value", MINE)
    for length in range(len(sealed)):
        with pytest.raises(DamagedSealError):
            RING.open(sealed[:length], MINE)


def test_a_data_key_seals_one_value_and_a_nonce_is_never_the_same() -> None:
    seals = {RING.seal(b"", MINE) for _ in range(200)}
    assert len(seals) == 200
    assert len({sealed[5 : 5 + NONCE_BYTES] for sealed in seals}) == 200


def test_the_parts_of_two_seals_do_not_mix() -> None:
    one, two = RING.seal(b"one", MINE), RING.seal(b"two", MINE)
    cut = 5 + NONCE_BYTES + KEY_BYTES + 16
    with pytest.raises(DamagedSealError):
        RING.open(one[:cut] + two[cut:], MINE)


def test_the_newest_key_seals_and_older_ones_still_open() -> None:
    old = Ring(STORE, {1: b"\x01" * KEY_BYTES})
    assert RING.newest == 2
    assert RING.open(old.seal(b"value", MINE), MINE) == b"value"
    with pytest.raises(DamagedSealError):
        old.open(RING.seal(b"value", MINE), MINE)
    with pytest.raises(DamagedSealError):
        Ring(STORE, {1: os.urandom(KEY_BYTES)}).open(old.seal(b"value", MINE), MINE)


@given(texts, st.binary(max_size=60), texts, st.binary(max_size=60))
def test_a_rows_mac_holds_for_that_row_of_that_table_only(
    table: str, row: bytes, other_table: str, other_row: bytes
) -> None:
    mac = RING.mac(table, row)
    assert RING.mac_holds(table, row, mac)
    if (table, row) != (other_table, other_row):
        assert not RING.mac_holds(other_table, other_row, mac)


def test_a_mac_is_this_stores_and_this_rings() -> None:
    mac = RING.mac("grant", b"row")
    same_keys = {1: b"\x01" * KEY_BYTES, 2: b"\x02" * KEY_BYTES}
    assert not Ring("store_2", same_keys).mac_holds("grant", b"row", mac)
    assert not Ring(STORE, {2: b"\x03" * KEY_BYTES}).mac_holds("grant", b"row", mac)
    assert not Ring(STORE, {1: b"\x01" * KEY_BYTES}).mac_holds("grant", b"row", mac)
    for changed in (
        b"",
        mac[:-1],
        mac + b"\0",
        b"\0\0\0\x01" + mac[4:],
        mac[:-1] + bytes([mac[-1] ^ 1]),
    ):
        assert not RING.mac_holds("grant", b"row", changed)


def test_a_key_for_one_purpose_is_none_for_another() -> None:
    key = os.urandom(KEY_BYTES)
    derived = {
        derive(key, purpose) for purpose in ("ring", "row-mac", "root-check", "key-file-slot")
    }
    assert len(derived) == 4
    assert key not in derived
    assert root_check(key, STORE) == root_check(key, STORE) != root_check(key, "store_2")


@given(st.binary(max_size=60), st.binary(max_size=20), st.binary(max_size=20))
def test_a_box_opens_in_its_context_only(text: bytes, context: bytes, other: bytes) -> None:
    key = b"k" * KEY_BYTES
    box = seal_box(key, text, context)
    assert open_box(key, box, context) == text
    if other != context:
        with pytest.raises(DamagedSealError):
            open_box(key, box, other)
