from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime
from typing import Any

import pytest

from dox_core_store.errors import DoxStoreError
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.adapters.seals.shares import ShareSet, SharesHolder
from dox_core_store.server.domain.seal import Slot, SlotKind

STORE_ID = "store_000102030405060708090a0b0c0d0e0f"
SLOT_ID = "slot_0011223344556677"
KEY = "098d0e9f5bdd04578ee0fceb592bd0cfb556c323453870618832453a696da93d"
VECTOR = """
fiber thorn academic acid adjust style recall wolf bishop squeeze license august element fiscal
crucial burning simple early uncover puny season morning facility software segment floral artist
likely perfect worthy evoke deliver vexed

fiber thorn academic agency ambition both easy boring quiet describe dictate bike faint rebound
profile afraid dining fridge believe regular airport knife coastal depend deploy bike tracks
pickup fridge process buyer market warn

fiber thorn academic always alcohol learn elegant ecology trip finance velvet flea grin speak
dish engage chew knife ambition smear elder academic rhyme keyboard paid skin safari short
emerald nervous debut human drove
"""
"""2 of 3 of `KEY`, split by ``shamir_mnemonic`` with identifier and random bytes fixed for it."""

SHARES = [" ".join(text.split()) for text in VECTOR.split("\n\n")]


def commitment(index: int, text: str) -> str:
    """As the specification says, and not as the code does it."""
    made = b"doxstore/envelope/1"
    for field in ("share", STORE_ID, SLOT_ID, str(index), text):
        made += struct.pack(">I", len(field)) + field.encode()
    return hashlib.sha256(made).hexdigest()


PARAMETERS = {
    "threshold": 2,
    "count": 3,
    "identifier": 0x2A5C,
    "extendable": True,
    "checks": {str(index): commitment(index, text) for index, text in enumerate(SHARES)},
}


def slot(slot_id: str = SLOT_ID, **changed: Any) -> Slot:
    return Slot(
        slot_id=slot_id,
        kind=SlotKind.SHARES,
        parameters={**PARAMETERS, **changed},
        wrapped_root=b"",
        created_at=datetime.now(UTC),
        label="board",
    )


def entering(shares: ShareSet, text: str) -> str:
    """The code of the refusal, or ``taken``. No word of a share is in what it says."""
    refusal = None
    try:
        shares.enter(Sensitive(text))
    except DoxStoreError as error:
        refusal = error
    if refusal is None:
        return "taken"
    said = set(refusal.detail.lower().split()) - {"a", "of", "the"}
    assert not said & set(text.lower().split())
    assert refusal.__cause__ is None
    assert refusal.__suppress_context__ or refusal.__context__ is None
    return refusal.code


@pytest.mark.parametrize("two", [(0, 1), (1, 2), (2, 0)])
def test_any_two_of_the_shares_give_the_key(two: tuple[int, int]) -> None:
    shares = ShareSet(STORE_ID, slot())
    for entered, index in enumerate(two):
        assert (shares.entered, shares.needed, shares.complete) == (entered, 2, False)
        assert entering(shares, SHARES[index]) == "taken"
    assert shares.complete
    assert shares.key().hex() == KEY


def test_one_share_gives_nothing() -> None:
    shares = ShareSet(STORE_ID, slot())
    assert entering(shares, SHARES[0]) == "taken"
    with pytest.raises(DoxStoreError):
        shares.key()


def test_what_is_refused_changes_nothing() -> None:
    shares = ShareSet(STORE_ID, slot())
    words = SHARES[0].split()
    assert entering(shares, SHARES[0]) == "taken"
    for text, code in (
        (SHARES[0], "share_repeated"),
        ("", "malformed_share"),
        ("fiber", "malformed_share"),
        (" ".join(words[:-1]), "malformed_share"),
        (" ".join([*words, "vexed"]), "malformed_share"),
        (" ".join([words[1], words[0], *words[2:]]), "malformed_share"),
        (" ".join([*words[:-1], "academic"]), "malformed_share"),
        (" ".join(["swordfish", *words[1:]]), "malformed_share"),
        ("x" * 5_000, "malformed_share"),
        ("ü" * 33, "malformed_share"),
    ):
        assert entering(shares, text) == code
        assert shares.entered == 1
    assert entering(shares, f"\t {SHARES[1].upper().replace(' ', '  ')} \n") == "taken"
    assert shares.key().hex() == KEY


def test_a_further_share_than_needed_is_checked_and_not_used() -> None:
    shares = ShareSet(STORE_ID, slot())
    assert [entering(shares, text) for text in SHARES] == ["taken"] * 3
    assert (shares.entered, shares.key().hex()) == (2, KEY)


def test_a_share_counts_only_for_its_own_store_and_slot() -> None:
    assert entering(ShareSet(STORE_ID, slot(slot_id="slot_other")), SHARES[0]) == "wrong_share"
    assert entering(ShareSet("store_other", slot()), SHARES[0]) == "wrong_share"


def test_a_share_of_another_set_is_found_when_it_is_entered() -> None:
    maker = SharesHolder(ask=nobody, refused=given_up)
    maker.make(STORE_ID, SLOT_ID)
    shares = ShareSet(STORE_ID, slot())
    for words in maker.made:
        assert entering(shares, words.reveal()) == "wrong_share"


def test_commitments_that_were_exchanged_do_not_let_a_foreign_set_in() -> None:
    maker = SharesHolder(ask=nobody, refused=given_up)
    _, other = maker.make(STORE_ID, SLOT_ID)
    mixed = {**PARAMETERS["checks"], "2": other["checks"]["2"]}  # type: ignore[dict-item]
    shares = ShareSet(STORE_ID, slot(checks=mixed))
    assert entering(shares, SHARES[0]) == "taken"
    assert entering(shares, maker.made[2].reveal()) == "taken"
    with pytest.raises(DoxStoreError) as caught:
        shares.key()
    assert caught.value.code == "store_damaged"
    assert not set(SHARES[0].split()[:3]) & set(caught.value.detail.split())


@pytest.mark.parametrize(
    "changed",
    [
        {"threshold": 1},
        {"threshold": 17},
        {"threshold": True},
        {"count": 0},
        {"identifier": -1},
        {"extendable": 1},
        {"checks": {}},
        {"checks": {str(each): "" for each in range(17)}},
        {"more": 1},
    ],
    ids=str,
)
def test_parameters_out_of_bounds_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(DoxStoreError) as caught:
        ShareSet(STORE_ID, slot(**changed))
    assert caught.value.code == "store_damaged"


@pytest.mark.parametrize(("threshold", "count"), [(2, 2), (3, 5), (16, 16)])
def test_a_new_slot_opens_by_as_many_as_it_was_made_for(threshold: int, count: int) -> None:
    maker = SharesHolder(ask=nobody, refused=given_up, threshold=threshold, count=count)
    key, parameters = maker.make(STORE_ID, SLOT_ID)
    assert len(maker.made) == count
    made = slot(**parameters)
    answers = list(reversed(maker.made))

    def ask(label: str, entered: int, needed: int) -> Sensitive:
        assert (label, entered, needed) == ("board", count - len(answers), threshold)
        return answers.pop()

    assert SharesHolder(ask=ask, refused=given_up).open(STORE_ID, made) == key
    assert len(answers) == count - threshold


@pytest.mark.parametrize(("threshold", "count"), [(1, 1), (1, 3), (3, 2), (2, 17), (0, 0)])
def test_other_numbers_of_shares_are_refused(threshold: int, count: int) -> None:
    maker = SharesHolder(ask=nobody, refused=given_up, threshold=threshold, count=count)
    with pytest.raises(DoxStoreError) as caught:
        maker.make(STORE_ID, SLOT_ID)
    assert caught.value.code == "invalid_field"


def test_it_asks_until_there_are_enough_and_tells_what_is_wrong() -> None:
    answers = [SHARES[0], "fiber", SHARES[0], SHARES[2]]
    told: list[str] = []
    holder = SharesHolder(
        ask=lambda _label, _entered, _needed: Sensitive(answers.pop(0)),
        refused=lambda error: told.append(error.code),
    )
    assert holder.open(STORE_ID, slot()).hex() == KEY
    assert told == ["malformed_share", "share_repeated"]


def test_shares_that_were_typed_for_another_slot_count_for_theirs() -> None:
    answers = [SHARES[0], SHARES[1]]
    holder = SharesHolder(
        ask=lambda _label, _entered, _needed: Sensitive(answers.pop(0)), refused=given_up
    )
    with pytest.raises(DoxStoreError):
        holder.open(STORE_ID, slot(slot_id="slot_other"))
    assert holder.open(STORE_ID, slot()).hex() == KEY


def nobody(_label: str, _entered: int, _needed: int) -> Sensitive:
    raise AssertionError("asked")


def given_up(error: DoxStoreError) -> None:
    raise error
