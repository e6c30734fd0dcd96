"""The share slot: a random key, split by SLIP-39 so that any k of n people have it together.

One group, no passphrase. A share is 33 words with a checksum of its own, which finds typing
mistakes but not a share of another set; so the slot also stores a commitment to each share (a hash
of 256 random bits gives nothing away), and each share is known to be right or wrong when it is
entered, not only when all are there. The library is not hardened against side channels: it runs
only when shares are made or entered. Byte by byte: ``docs/spec/envelope.md``.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import shamir_mnemonic  # type: ignore[import-untyped]

from dox_core_store.errors import ConfigurationError, DoxStoreError, InvalidRequestError, error_for
from dox_core_store.sensitive import Sensitive
from dox_core_store.server.adapters.seals.parameters import parameters_of, read_parameters
from dox_core_store.server.domain.envelope import KEY_BYTES, associated_data
from dox_core_store.server.domain.seal import Slot, SlotKind

__all__ = ["MAX_SHARES", "ShareSet", "SharesHolder"]

MAX_SHARES = 16
"""SLIP-39's own limit: an index has four bits."""

_MIN_THRESHOLD = 2
_WORDS = 33  # for 256 bits
_MAX_TEXT = 1_000
_EXPONENT = 1
"""Of the PBKDF2 iterations inside SLIP-39; without a passphrase they protect nothing."""


class _Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    threshold: Annotated[int, msgspec.Meta(ge=_MIN_THRESHOLD, le=MAX_SHARES)]
    count: Annotated[int, msgspec.Meta(ge=_MIN_THRESHOLD, le=MAX_SHARES)]
    identifier: Annotated[int, msgspec.Meta(ge=0, lt=1 << 15)]
    extendable: bool
    checks: Annotated[dict[str, str], msgspec.Meta(min_length=2, max_length=MAX_SHARES)]


class ShareSet:
    """The shares of one slot, entered one by one, by whomever and in whatever order."""

    def __init__(self, store_id: str, slot: Slot) -> None:
        self._parameters = read_parameters(slot, _Parameters)
        self._store_id = store_id
        self._slot_id = slot.slot_id
        self._entered: dict[int, str] = {}

    @property
    def needed(self) -> int:
        """How many different shares it takes."""
        return self._parameters.threshold

    @property
    def entered(self) -> int:
        """How many different shares there are so far."""
        return len(self._entered)

    @property
    def complete(self) -> bool:
        return self.entered >= self.needed

    def enter(self, words: Sensitive) -> None:
        """Take one share; one that is refused changes nothing.

        Raises ``malformed_share`` (a word, the number of words, the checksum), ``wrong_share``
        (another set's) or ``share_repeated``. No message has a word of the share.
        """
        text = " ".join(words.reveal().lower().split())
        share = _parse(text)
        check = self._parameters.checks.get(str(share.index), "")
        made = _commitment(self._store_id, self._slot_id, share.index, text)
        if not hmac.compare_digest(made, check.encode()):
            raise error_for("wrong_share", f"The share is not one of slot {self._slot_id}.")
        if share.index in self._entered:
            raise error_for("share_repeated", f"Share {share.index + 1} was entered already.")
        if not self.complete:
            self._entered[share.index] = text

    def key(self) -> bytes:
        """The slot's key, once the set is `complete`."""
        if not self.complete:
            raise error_for(
                "wrong_share", f"There are {self.entered} of {self.needed} shares so far."
            )
        try:
            return bytes(shamir_mnemonic.combine_mnemonics(self._entered.values()))
        except shamir_mnemonic.MnemonicError:  # the commitments were changed; its words quote ours
            raise ConfigurationError(
                "store_damaged", f"The shares of slot {self._slot_id} do not fit together."
            ) from None


class SharesHolder:
    """The `SlotHolder` port over shares that people enter.

    ``ask`` is given the slot's label, how many shares are there and how many it takes; what is
    wrong with a share that it returned goes to ``refused``, which raises to give up. Making a slot
    leaves its shares in `made`, to be handed out once and kept nowhere.
    """

    kind = SlotKind.SHARES

    def __init__(
        self,
        *,
        ask: Callable[[str, int, int], Sensitive],
        refused: Callable[[DoxStoreError], None],
        threshold: int = 2,
        count: int = 3,
    ) -> None:
        self._ask = ask
        self._refused = refused
        self._threshold = threshold
        self._count = count
        self._typed: list[Sensitive] = []
        self.made: list[Sensitive] = []
        """The shares of the slot that was made; share 1 is the first."""

    def make(self, store_id: str, slot_id: str) -> tuple[bytes, dict[str, Any]]:
        if not _MIN_THRESHOLD <= self._threshold <= self._count <= MAX_SHARES:
            raise InvalidRequestError(
                "invalid_field",
                f"{self._threshold} of {self._count} shares cannot be made: at least"
                f" {_MIN_THRESHOLD} open the store, and there are at most {MAX_SHARES}.",
            )
        key = os.urandom(KEY_BYTES)
        (texts,) = shamir_mnemonic.generate_mnemonics(
            1, [(self._threshold, self._count)], key, iteration_exponent=_EXPONENT
        )
        shares = [shamir_mnemonic.Share.from_mnemonic(text) for text in texts]
        parameters = _Parameters(
            threshold=self._threshold,
            count=self._count,
            identifier=shares[0].identifier,
            extendable=shares[0].extendable,
            checks={
                str(share.index): _commitment(store_id, slot_id, share.index, text).decode()
                for share, text in zip(shares, texts, strict=True)
            },
        )
        self.made = [Sensitive(text) for text in texts]
        return key, parameters_of(parameters)

    def open(self, store_id: str, slot: Slot) -> bytes:
        shares = ShareSet(store_id, slot)
        label = slot.label or slot.slot_id
        for words in self._typed:  # for another slot, of whose shares they are not
            try:
                shares.enter(words)
            except DoxStoreError:
                continue
        while not shares.complete:
            words = self._ask(label, shares.entered, shares.needed)
            self._typed.append(words)
            try:
                shares.enter(words)
            except DoxStoreError as error:
                self._refused(error)
        return shares.key()


def _parse(text: str) -> Any:
    words = text.split()
    if len(text) > _MAX_TEXT or len(words) != _WORDS:
        raise error_for("malformed_share", f"A share has {_WORDS} words; these are {len(words)}.")
    for number, word in enumerate(words, 1):
        if word not in shamir_mnemonic.wordlist.WORD_INDEX_MAP:
            raise error_for("malformed_share", f"Word {number} is not in the list of SLIP-39.")
    try:
        return shamir_mnemonic.Share.from_mnemonic(text)
    except shamir_mnemonic.MnemonicError:  # not chained: it quotes the share
        raise error_for(
            "malformed_share", "The share's checksum is wrong: a word is another, or misplaced."
        ) from None


def _commitment(store_id: str, slot_id: str, index: int, text: str) -> bytes:
    """A hash of the share as text: its value, and all that says how it is to be used."""
    context = associated_data("share", store_id, slot_id, str(index), text)
    return hashlib.sha256(context).hexdigest().encode()
