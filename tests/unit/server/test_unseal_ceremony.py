"""The ceremony's decisions: who may enter, what counts as wrong, when all is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from dox_core_store.errors import DoxStoreError, error_for
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.domain.seal import Slot, SlotKind
from dox_core_store.server.usecases.unseal import (
    IDLE_SECONDS,
    MAX_WRONG,
    Offer,
    Progress,
    Submission,
    Unseal,
    retry_seconds,
)
from dox_core_store.testing.clock import FixedClock

RIGHT_PASSPHRASE = "correct horse"


def slot(slot_id: str, kind: SlotKind) -> Slot:
    return Slot(
        slot_id=slot_id,
        kind=kind,
        parameters={},
        wrapped_root=b"",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


class Words:
    """A share set whose shares are its slot's id and a number: ``board-1``, ``board-2``."""

    needed = 2

    def __init__(self, of: Slot) -> None:
        self._slot_id = of.slot_id
        self._seen: set[str] = set()

    @property
    def entered(self) -> int:
        return len(self._seen)

    @property
    def complete(self) -> bool:
        return self.entered >= self.needed

    def enter(self, words: Sensitive) -> None:
        name, dash, number = words.reveal().partition("-")
        if not dash:
            raise error_for("malformed_share", "Not a share.")
        if name != self._slot_id:
            raise error_for("wrong_share", "Another set's.")
        if number in self._seen:
            raise error_for("share_repeated", "Entered already.")
        self._seen.add(number)

    def key(self) -> bytes:
        return f"key of {self._slot_id}".encode()


class Ceremonies:
    """An `Unseal` whose store opens with the right keys, and all that came of it."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.announced: list[tuple[str, str]] = []
        self.offers: list[Offer] = []
        self.opening: Callable[[], Awaitable[None]] | None = None
        self.opens_nothing = False
        self.damaged: set[str] = set()
        self.unseal = Unseal(
            slots=[
                slot("file", SlotKind.KEY_FILE),
                slot("board", SlotKind.SHARES),
                slot("ops", SlotKind.SHARES),
                slot("words", SlotKind.PASSPHRASE),
                slot("spare", SlotKind.PASSPHRASE),
            ],
            share_set=Words,
            passphrase_key=self._derive,
            open_store=self._open,
            announce=lambda ceremony, why: self.announced.append((ceremony, why)),
            clock=self.clock,
        )
        self.unseal.begin()

    @property
    def ceremony(self) -> str:
        return self.announced[-1][0]

    @property
    def entered(self) -> dict[str, int]:
        return {each.slot.slot_id: each.entered for each in self.unseal.progress()}

    async def enter(
        self,
        secret: str,
        *,
        ceremony: str | None = None,
        is_passphrase: bool = False,
        slot_id: str | None = None,
        address: str = "10.0.0.1",
    ) -> Progress:
        return await self.unseal.enter(
            Submission(
                ceremony=self.ceremony if ceremony is None else ceremony,
                secret=Sensitive(secret),
                is_passphrase=is_passphrase,
                slot_id=slot_id,
                address=address,
            )
        )

    def refused(self, secret: str, **more: object) -> DoxStoreError:
        with pytest.raises(DoxStoreError) as caught:
            asyncio.run(self.enter(secret, **more))  # type: ignore[arg-type]
        assert secret not in str(caught.value) or not secret
        return caught.value

    async def _derive(self, of: Slot, passphrase: Sensitive) -> bytes:
        if of.slot_id in self.damaged:
            raise error_for("store_damaged", "The slot cannot be understood.")
        right = passphrase.reveal() == RIGHT_PASSPHRASE
        return f"key of {of.slot_id}".encode() if right else b"another key"

    async def _open(self, offer: Offer) -> None:
        self.offers.append(offer)
        if self.opening is not None:
            await self.opening()
        right = any(key == f"key of {of.slot_id}".encode() for of, key in offer.keys)
        if not right or self.opens_nothing:
            raise offer.otherwise


@pytest.fixture
def ceremonies() -> Ceremonies:
    return Ceremonies()


def test_an_id_is_announced_that_nobody_guesses(ceremonies: Ceremonies) -> None:
    (ceremony, why) = ceremonies.announced[0]
    assert why == "start"
    prefix, _, digits = ceremony.partition("-")
    assert prefix == "unseal"
    assert len(bytes.fromhex(digits)) == 16
    assert Ceremonies().ceremony != ceremony


def test_shares_of_different_people_open_the_store(ceremonies: Ceremonies) -> None:
    first = asyncio.run(ceremonies.enter("board-1"))
    assert (first.entered, first.needed, first.opened) == (1, 2, False)
    second = asyncio.run(ceremonies.enter("board-2", address="10.0.0.2"))
    assert (second.entered, second.needed, second.opened) == (2, 2, True)
    (offer,) = ceremonies.offers
    assert [(each.slot_id, key) for each, key in offer.keys] == [("board", b"key of board")]
    assert offer.how == "2 shares from 10.0.0.1, 10.0.0.2"


def test_a_share_goes_to_the_slot_that_it_fits(ceremonies: Ceremonies) -> None:
    asyncio.run(ceremonies.enter("ops-1"))
    asyncio.run(ceremonies.enter("board-1"))
    assert ceremonies.entered == {"board": 1, "ops": 1, "words": 0, "spare": 0}
    assert ceremonies.unseal.wrong_entries == 0


def test_a_share_for_a_named_slot_is_tried_at_no_other(ceremonies: Ceremonies) -> None:
    assert ceremonies.refused("ops-1", slot_id="board").code == "wrong_share"
    assert ceremonies.entered["ops"] == 0


def test_a_passphrase_opens_the_store(ceremonies: Ceremonies) -> None:
    assert asyncio.run(ceremonies.enter(RIGHT_PASSPHRASE, is_passphrase=True)).opened
    assert ceremonies.offers[0].how == "a passphrase from 10.0.0.1"


@pytest.mark.parametrize("wrong", ["", "unseal-", "unseal-" + "0" * 32, "\ud800", "ä"])
def test_another_id_counts_nothing_and_tells_nothing(ceremonies: Ceremonies, wrong: str) -> None:
    for secret in ("board-1", "not a share", RIGHT_PASSPHRASE):
        for _ in range(MAX_WRONG + 1):
            assert ceremonies.refused(secret, ceremony=wrong).code == "ceremony_not_found"
    assert ceremonies.unseal.wrong_entries == 0
    assert len(ceremonies.announced) == 1
    assert ceremonies.entered["board"] == 0


@pytest.mark.parametrize(
    ("secret", "is_passphrase", "code"),
    [
        ("mistyped", False, "malformed_share"),
        ("others-1", False, "wrong_share"),
        ("wrong horse", True, "wrong_passphrase"),
    ],
)
def test_three_wrong_entries_close_the_ceremony(
    ceremonies: Ceremonies, secret: str, is_passphrase: bool, code: str
) -> None:
    asyncio.run(ceremonies.enter("board-1"))
    old = ceremonies.ceremony
    for count in range(1, MAX_WRONG):
        refused = ceremonies.refused(secret, is_passphrase=is_passphrase)
        assert refused.code == code
        assert f"{count} of {MAX_WRONG} wrong entries" in refused.detail
        assert ceremonies.entered["board"] == 1
    closing = ceremonies.refused(secret, is_passphrase=is_passphrase)
    assert closing.code == code
    assert "closed" in closing.detail
    assert [why for _, why in ceremonies.announced] == ["start", "wrong"]
    assert ceremonies.entered == {"board": 0, "ops": 0, "words": 0, "spare": 0}
    assert ceremonies.unseal.wrong_entries == 0
    assert ceremonies.refused("board-2", ceremony=old).code == "ceremony_not_found"
    assert ceremonies.ceremony not in closing.detail
    asyncio.run(ceremonies.enter("board-1"))
    assert asyncio.run(ceremonies.enter("board-2")).opened


def test_wrong_entries_of_different_kinds_count_together(ceremonies: Ceremonies) -> None:
    ceremonies.refused("mistyped")
    ceremonies.refused("others-1")
    ceremonies.refused("wrong horse", is_passphrase=True)
    assert len(ceremonies.announced) == 2


def test_what_opened_it_says_how_many_were_wrong_before(ceremonies: Ceremonies) -> None:
    ceremonies.refused("mistyped")
    asyncio.run(ceremonies.enter(RIGHT_PASSPHRASE, is_passphrase=True))
    assert ceremonies.offers[-1].how.endswith("; wrong entries before: 1")


def test_a_share_entered_twice_is_not_wrong(ceremonies: Ceremonies) -> None:
    asyncio.run(ceremonies.enter("board-1"))
    for _ in range(MAX_WRONG + 1):
        assert ceremonies.refused("board-1").code == "share_repeated"
    assert ceremonies.unseal.wrong_entries == 0
    assert ceremonies.entered["board"] == 1


@pytest.mark.parametrize("slot_id", ["words", "file", "nowhere"])
def test_a_slot_that_takes_no_shares_is_not_found(ceremonies: Ceremonies, slot_id: str) -> None:
    assert ceremonies.refused("board-1", slot_id=slot_id).code == "slot_not_found"
    assert ceremonies.unseal.wrong_entries == 0


def test_shares_that_do_not_open_it_are_forgotten(ceremonies: Ceremonies) -> None:
    ceremonies.opens_nothing = True
    asyncio.run(ceremonies.enter("board-1"))
    assert ceremonies.refused("board-2").code == "wrong_share"
    assert ceremonies.entered["board"] == 0
    assert ceremonies.unseal.wrong_entries == 1


def test_a_ceremony_that_was_left_is_closed(ceremonies: Ceremonies) -> None:
    asyncio.run(ceremonies.enter("board-1"))
    old = ceremonies.ceremony
    ceremonies.clock.advance(IDLE_SECONDS - 1)
    ceremonies.unseal.tick()
    assert ceremonies.entered["board"] == 1
    ceremonies.clock.advance(1)
    assert ceremonies.refused("board-2", ceremony=old).code == "ceremony_not_found"
    assert [why for _, why in ceremonies.announced] == ["start", "idle"]
    assert ceremonies.entered["board"] == 0


def test_each_entry_keeps_the_ceremony_open(ceremonies: Ceremonies) -> None:
    asyncio.run(ceremonies.enter("board-1"))
    ceremonies.clock.advance(IDLE_SECONDS - 1)
    ceremonies.refused("board-1")
    ceremonies.clock.advance(IDLE_SECONDS - 1)
    assert asyncio.run(ceremonies.enter("board-2")).opened


def test_an_id_that_nobody_used_stays(ceremonies: Ceremonies) -> None:
    ceremonies.clock.advance(100 * IDLE_SECONDS)
    ceremonies.unseal.tick()
    asyncio.run(ceremonies.enter("board-1"))
    assert len(ceremonies.announced) == 1


def test_nothing_is_entered_once_the_store_is_open(ceremonies: Ceremonies) -> None:
    asyncio.run(ceremonies.enter("board-1"))
    ceremonies.unseal.end()
    assert ceremonies.entered["board"] == 0
    assert ceremonies.refused("board-2").code == "ceremony_not_found"
    ceremonies.clock.advance(2 * IDLE_SECONDS)
    ceremonies.unseal.tick()
    assert len(ceremonies.announced) == 1


def test_an_entry_waits_its_turn_and_is_looked_at_again(ceremonies: Ceremonies) -> None:
    """What waits behind the third wrong entry belongs to a ceremony that has ended."""
    going_on = asyncio.Event()

    async def opening() -> None:
        await going_on.wait()

    ceremonies.opening = opening
    ceremonies.refused("mistyped")
    ceremonies.refused("mistyped")

    async def both() -> tuple[Progress | BaseException, Progress | BaseException]:
        wrong = asyncio.create_task(ceremonies.enter("wrong horse", is_passphrase=True))
        right = asyncio.create_task(ceremonies.enter("board-1"))
        asyncio.get_running_loop().call_soon(going_on.set)  # when both have begun
        return await asyncio.gather(wrong, right, return_exceptions=True)

    first, second = asyncio.run(both())
    assert isinstance(first, DoxStoreError)
    assert isinstance(second, DoxStoreError)
    assert [first.code, second.code] == ["wrong_passphrase", "ceremony_not_found"]
    assert ceremonies.entered["board"] == 0


def test_a_fault_of_the_store_is_not_a_wrong_entry(ceremonies: Ceremonies) -> None:
    async def opening() -> None:
        raise error_for("store_damaged", "The store is damaged.")

    ceremonies.opening = opening
    for _ in range(MAX_WRONG):
        refused = ceremonies.refused(RIGHT_PASSPHRASE, is_passphrase=True)
        assert refused.code == "store_damaged"
    assert ceremonies.unseal.wrong_entries == 0


def test_a_damaged_slot_bars_no_other(ceremonies: Ceremonies) -> None:
    ceremonies.damaged = {"words"}
    assert asyncio.run(ceremonies.enter(RIGHT_PASSPHRASE, is_passphrase=True)).opened
    ceremonies.damaged = {"words", "spare"}
    refused = ceremonies.refused(RIGHT_PASSPHRASE, is_passphrase=True)
    assert refused.code == "store_damaged"
    assert ceremonies.unseal.wrong_entries == 0


def test_retries_double_to_half_a_minute_and_are_spread() -> None:
    assert [retry_seconds(attempt, 1.0) for attempt in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert retry_seconds(1_000_000, 1.0) == 30
    assert retry_seconds(0, 0.0) == 0.75
