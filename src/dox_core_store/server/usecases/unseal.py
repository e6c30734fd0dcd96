"""Unsealing by people: one ceremony at a time, in which each enters what they have.

A ceremony has an id that only the node prints: whoever knows it has access to the node's console,
or was told by somebody who has. Its holder may enter shares and passphrases, from wherever. Each
entry is checked when it is made. Three wrong ones in all close the ceremony, and so do 15 minutes
without an entry after the first: all that was entered is then forgotten, and a new id announced.

What counts as wrong: whatever is not right, a mistyped share included. What does not: a share that
was entered already (it is right), a slot that there is not, and any entry under another id, which
therefore can neither close a ceremony nor tell whether it would have been right.

Sealing is no one's memory: nothing here is stored, and a restart begins anew. What shares and
passphrases are, and how a store is opened, is given.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from dox_core_store.errors import DoxStoreError, NotFoundError, error_for
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.domain.seal import Slot, SlotKind, of_kind
from dox_core_store.server.ports import Clock

__all__ = [
    "BY_PEOPLE",
    "IDLE_SECONDS",
    "MAX_WRONG",
    "Offer",
    "Progress",
    "ShareSet",
    "Submission",
    "Unseal",
    "retry_seconds",
]

BY_PEOPLE = frozenset({SlotKind.PASSPHRASE, SlotKind.SHARES})
"""The kinds of slots that a ceremony opens."""

MAX_WRONG = 3
IDLE_SECONDS = 15 * 60.0

_WRONG = frozenset({"malformed_share", "wrong_share", "wrong_passphrase"})
_ID_BYTES = 16  # 128 bits: nobody guesses one
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 1.0, 30.0


class ShareSet(Protocol):
    """The shares of one slot, as they come in."""

    @property
    def entered(self) -> int:
        """How many different right ones there are."""

    @property
    def needed(self) -> int:
        """How many it takes."""

    @property
    def complete(self) -> bool:
        """Whether `key` may be called."""

    def enter(self, words: Sensitive) -> None:
        """Take one. Raises ``malformed_share``, ``wrong_share``, ``share_repeated``, and has then
        changed nothing."""

    def key(self) -> bytes:
        """The slot's key."""


class Submission(NamedTuple):
    """One entry: a share, or a passphrase. Without ``slot_id`` it is for whichever slot it fits."""

    ceremony: str
    secret: Sensitive
    is_passphrase: bool
    slot_id: str | None
    address: str


class Offer(NamedTuple):
    """Keys that may open the store, what to say where none does, and how they came about."""

    keys: Sequence[tuple[Slot, bytes]]
    otherwise: DoxStoreError
    how: str


class Progress(NamedTuple):
    """How far one slot is; ``opened`` once the store serves."""

    slot: Slot
    entered: int
    needed: int
    opened: bool


class Unseal:
    """The ceremonies of one sealed start. Lives on the event loop.

    ``open_store`` is given an `Offer` and returns once the store serves; it raises the offer's
    ``otherwise`` if none of the keys fits. ``announce`` is told each ceremony's id, and why there
    is a new one: ``start``, ``wrong`` or ``idle``.
    """

    def __init__(
        self,
        *,
        slots: Sequence[Slot],
        share_set: Callable[[Slot], ShareSet],
        passphrase_key: Callable[[Slot, Sensitive], Awaitable[bytes]],
        open_store: Callable[[Offer], Awaitable[None]],
        announce: Callable[[str, str], None],
        clock: Clock,
    ) -> None:
        self._slots = [slot for slot in slots if slot.kind in BY_PEOPLE]
        self._share_set = share_set
        self._passphrase_key = passphrase_key
        self._open_store = open_store
        self._announce = announce
        self._clock = clock
        self._turn = asyncio.Lock()
        self._last_entry: float | None = None
        self._ended = False
        self._start()

    def begin(self) -> None:
        """Announce the first ceremony."""
        self._announce(self._ceremony, "start")

    @property
    def wrong_entries(self) -> int:
        """How many wrong ones this ceremony has had."""
        return self._wrong

    def progress(self) -> list[Progress]:
        """How far each slot is that people can open."""
        return [self._progress_of(slot) for slot in self._slots]

    def tick(self) -> None:
        """To be called now and then: closes a ceremony that was left."""
        last = self._last_entry
        if last is not None and not self._ended and self._clock.monotonic() - last >= IDLE_SECONDS:
            self._restart("idle")

    def end(self) -> None:
        """The store is open, by whatever way: forget everything."""
        self._ended = True
        self._forget()

    async def enter(self, submission: Submission) -> Progress:
        """Take one entry, and open the store if it was the last that was missing.

        Raises ``ceremony_not_found``, ``slot_not_found``, what a `ShareSet` raises,
        ``wrong_passphrase``, and what ``open_store`` raises.
        """
        self._check(submission.ceremony)  # those who do not know it keep nobody waiting
        async with self._turn:
            self._check(submission.ceremony)  # it may have been closed meanwhile
            self._last_entry = self._clock.monotonic()
            try:
                if submission.is_passphrase:
                    return await self._enter_passphrase(submission)
                return await self._enter_share(submission)
            except DoxStoreError as error:
                if error.code not in _WRONG:
                    raise
                raise self._refusal(error) from None

    async def _enter_share(self, submission: Submission) -> Progress:
        slot = self._take(submission)
        progress = self._progress_of(slot)
        shares = self._shares[slot.slot_id]
        if not shares.complete:
            return progress
        who = ", ".join(dict.fromkeys(self._addresses[slot.slot_id]))
        otherwise = error_for("wrong_share", f"The shares of slot {slot.slot_id} do not open it.")
        try:
            offer = Offer(
                [(slot, shares.key())], otherwise, self._how(f"{shares.needed} shares from {who}")
            )
            await self._open_store(offer)
        except DoxStoreError:
            self._renew(slot)  # which of them it is, nobody knows
            raise
        return progress._replace(opened=True)

    def _take(self, submission: Submission) -> Slot:
        """The slot whose share it is."""
        wrong: DoxStoreError | None = None
        for slot in self._named(SlotKind.SHARES, submission.slot_id):
            try:
                self._shares[slot.slot_id].enter(submission.secret)
            except DoxStoreError as error:
                if error.code != "wrong_share":
                    raise
                wrong = wrong or error
            else:
                self._addresses[slot.slot_id].append(submission.address)
                return slot
        raise wrong or error_for("wrong_share", "The share is of no slot here.")

    async def _enter_passphrase(self, submission: Submission) -> Progress:
        slots = self._named(SlotKind.PASSPHRASE, submission.slot_id)
        keys, unusable = [], None
        for slot in slots:
            try:
                keys.append((slot, await self._passphrase_key(slot, submission.secret)))
            except DoxStoreError as error:
                if error.code in _WRONG:
                    raise
                unusable = error  # a slot that was damaged must not bar another
        if unusable is not None and not keys:
            raise unusable
        otherwise = error_for("wrong_passphrase", "The passphrase opens no slot of this store.")
        await self._open_store(
            Offer(keys, otherwise, self._how(f"a passphrase from {submission.address}"))
        )
        return Progress(slots[0], 1, 1, opened=True)

    def _named(self, kind: SlotKind, slot_id: str | None) -> list[Slot]:
        slots = [s for s in of_kind(self._slots, kind) if slot_id in (None, s.slot_id)]
        if not slots:
            what = f"slot {slot_id[:40]!a} of kind" if slot_id is not None else "slot of kind"
            raise NotFoundError("slot_not_found", f"There is no {what} {kind} that could open it.")
        return slots

    def _check(self, ceremony: str) -> None:
        self.tick()
        given, ours = ceremony.encode("utf-8", "replace"), self._ceremony.encode()
        if not hmac.compare_digest(given, ours) or self._ended:
            raise NotFoundError("ceremony_not_found", "There is no such ceremony.")

    def _refusal(self, error: DoxStoreError) -> DoxStoreError:
        """Count a wrong entry; what is told of it."""
        self._wrong += 1
        if self._wrong < MAX_WRONG:
            left = f"{self._wrong} of {MAX_WRONG} wrong entries; the last closes the ceremony."
            return error_for(error.code, f"{error.detail} {left}")
        self._restart("wrong")
        return error_for(
            error.code,
            f"{error.detail} This was wrong entry {MAX_WRONG}: the ceremony is closed, and what was"
            " entered is forgotten. The node has printed the id of the next.",
        )

    def _restart(self, why: str) -> None:
        self._start()
        self._announce(self._ceremony, why)

    def _start(self) -> None:
        self._ceremony = f"unseal-{secrets.token_hex(_ID_BYTES)}"
        self._wrong = 0
        self._last_entry = None
        self._forget()

    def _forget(self) -> None:
        self._shares: dict[str, ShareSet] = {}
        self._addresses: dict[str, list[str]] = {}
        for slot in of_kind(self._slots, SlotKind.SHARES):
            self._renew(slot)

    def _renew(self, slot: Slot) -> None:
        self._shares[slot.slot_id] = self._share_set(slot)
        self._addresses[slot.slot_id] = []

    def _progress_of(self, slot: Slot) -> Progress:
        shares = self._shares.get(slot.slot_id)
        if shares is None:
            return Progress(slot, 0, 1, opened=False)
        return Progress(slot, shares.entered, shares.needed, opened=False)

    def _how(self, what: str) -> str:
        return f"{what}; wrong entries before: {self._wrong}" if self._wrong else what


def retry_seconds(attempt: int, spread: float) -> float:
    """How long to wait before the ``attempt``-th retry (from 0) of a key service that was down.

    Doubles up to 30 s. ``spread``, at random from 0 to 1, keeps nodes that lost it together from
    coming back together.
    """
    longest = min(_FIRST_RETRY_SECONDS * 2.0 ** min(attempt, 10), _LAST_RETRY_SECONDS)
    return longest * (0.75 + 0.25 * spread)
