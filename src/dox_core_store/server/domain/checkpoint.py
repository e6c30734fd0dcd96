"""Verifying a whole ledger from outside: hashes, order, and the checkpoints signed over them.

Entries are given in stored order, as exports tell them. Each is hashed anew and has to follow from
the one before it in its stream. A checkpoint's signature has to hold, and every head that it signs
has to be an entry seen before it: so neither can entries be changed or removed and all hashes made
again, nor the end of a stream be cut off before its next checkpoint. A stream may begin in the
middle, or leave some out, only where a PRUNE entry that a checkpoint covers says so. With shipped
checkpoints (`Proof`) all of it is held against what they sign, which nobody who can write the
database reaches. What no checkpoint covers rests on its hashes alone; `Verified.unsigned` says how
much that is.

The first bad entry is named. What makes it bad may be known only later (a PRUNE entry that is not
there), so everything is read, and `finish` tells. Bytes: ``docs/spec/ledger.md``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dox_core_store import wire
from dox_core_store.server.domain.checkpoint_statement import Signatures, entry_hash
from dox_core_store.server.domain.ledger import Action, BrokenChainError, genesis
from dox_core_store.server.domain.ledger_retention import Anchor, Anchors
from dox_core_store.server.domain.lost_history import Lost
from dox_core_store.server.domain.shipped import Proof
from dox_core_store.server.domain.shipped_check import ShippedCheck

__all__ = ["LedgerVerifier", "Lost", "Verified"]

_REMEMBERED = 100_000
"""How far back, in entries of one stream, a checkpoint may point."""

_MOST_GAPS = 100_000
"""Gaps that may wait for their PRUNE entry; a ledger that was pruned has one a stream."""


class Verified(NamedTuple):
    """What a verified ledger holds. ``unsigned``: entries that no checkpoint covers; ``cut``:
    streams that begin in the middle of a part; ``pruned``: streams that lost their beginning to
    retention; ``shipped``: places held against shipped checkpoints; ``lost``: see `Lost`."""

    entries: int
    streams: int
    checkpoints: int
    last_checkpoint: str | None
    newest: str | None
    unsigned: int
    cut: list[str]
    pruned: int = 0
    shipped: int = 0
    lost: tuple[Lost, ...] = ()


class _Gap(NamedTuple):
    """Entries from ``first`` are missing; the next one there says what hash was before it."""

    stream: str
    first: int
    next_seq: int
    prev: str


class LedgerVerifier:
    """`check` every entry, `check_end` what the store says of its ends, then `finish`, which raises
    `BrokenChainError` at the first that is wrong.

    Without a ``checkpoint_key`` signatures are not checked, everything else is; ``earlier_keys``
    are as good as it. ``may_be_cut`` allows streams that begin in the middle, as in a part of an
    export. ``proof`` is what shipped checkpoints prove.
    """

    def __init__(
        self,
        *,
        store_id: str,
        checkpoint_key: Ed25519PublicKey | None,
        earlier_keys: Sequence[Ed25519PublicKey] = (),
        may_be_cut: bool = False,
        proof: Proof | None = None,
    ) -> None:
        self._store_id = store_id
        keys = [] if checkpoint_key is None else [checkpoint_key, *earlier_keys]
        self._signatures = Signatures(store_id, keys)
        self._may_be_cut = may_be_cut
        self._shipped = ShippedCheck(proof)
        self._heads: dict[str, tuple[int, str]] = {}
        self._first: dict[str, int] = {}
        self._unsure: dict[str, int] = {}
        self._recent: dict[str, deque[tuple[int, str]]] = {}
        self._signed: dict[str, int] = {}
        self._anchors = Anchors()
        self._gaps: list[_Gap] = []
        self._ends: list[tuple[str, int, str]] = []
        self._fault: BrokenChainError | None = None
        self._cut: set[str] = set()
        self._checkpoints = 0
        self._last_checkpoint: str | None = None
        self._newest = ""
        self.entries = 0
        """How many entries were checked so far."""

    def check(self, record: wire.LedgerRecord, *, unsure_from: int | None = None) -> None:
        """Check the next entry. ``unsure_from``: the hashes from there up to this one are not
        stored, only this one's is."""
        if record.action == Action.PRUNE:
            self._anchors.take(record.stream, record.seq, record.reason)
        if self._fault is not None:
            return  # only what explains gaps before the fault matters now
        try:
            self._check(record, record.seq if unsure_from is None else unsure_from)
        except BrokenChainError as fault:
            self._fault = fault

    def refuse(self, stream: str, seq: int, why: str) -> None:
        """Here stands what is no entry at all."""
        self._fault = self._fault or BrokenChainError(stream, seq, why)

    def check_end(self, stream: str, seq: int, head: bytes) -> None:
        """The store says that ``stream`` reached ``seq`` (and, if no further, with this hash)."""
        self._ends.append((stream, seq, head.hex()))

    def finish(self) -> Verified:
        """What was verified. Raises `BrokenChainError`."""
        for gap in self._gaps:
            self._check_gap(gap)
        if self._fault is not None:
            raise self._fault
        for stream, seq, head in self._ends:
            self._check_end(stream, seq, head)
        lost = self._shipped.finish(self._heads, self._signed, self._anchors.last)
        covered = self._shipped.confirmed
        return Verified(
            entries=self.entries,
            streams=len(self._heads),
            checkpoints=self._checkpoints,
            last_checkpoint=self._last_checkpoint,
            newest=self._newest or None,
            unsigned=sum(
                seq - max(self._signed.get(name, 0), covered.get(name, 0), self._first[name] - 1)
                for name, (seq, _) in self._heads.items()
            ),
            cut=sorted(self._cut),
            pruned=self._anchors.streams,
            shipped=self._shipped.compared,
            lost=tuple(lost),
        )

    def _check(self, record: wire.LedgerRecord, unsure_from: int) -> None:
        stream, seq = record.stream, record.seq
        if entry_hash(record) != record.hash:
            why = "was changed: its content does not give its hash"
            raise BrokenChainError(stream, seq, why, first=unsure_from)
        known = self._heads.get(stream)
        if known is None or seq > known[0] + 1:
            self._pass_gap(record, 0 if known is None else known[0])
        elif seq <= known[0]:
            raise BrokenChainError(stream, seq, f"stands behind #{known[0]}")
        elif record.prev != known[1]:
            why = "does not follow from the entry before it: one of them was changed"
            raise BrokenChainError(stream, seq, why, first=self._unsure[stream])
        self._shipped.check(record)
        self._first.setdefault(stream, seq)
        self._heads[stream] = (seq, record.hash)
        self._unsure[stream] = unsure_from
        if record.action == Action.CHECKPOINT:
            self._check_statement(record)
        self.entries += 1
        self._newest = max(record.timestamp, self._newest)
        if record.action == Action.CLOSE:
            self._recent.pop(stream, None)
        else:
            self._recent.setdefault(stream, deque(maxlen=_REMEMBERED)).append((seq, record.hash))

    def _pass_gap(self, record: wire.LedgerRecord, last: int) -> None:
        stream, seq = record.stream, record.seq
        if seq == 1:
            if record.prev != genesis(self._store_id, stream).hex():
                raise BrokenChainError(stream, 1, "does not begin where this store's streams do")
        elif last == 0 and self._may_be_cut:
            self._cut.add(stream)
        else:
            gap = _Gap(stream, last + 1, seq, record.prev)
            if len(self._gaps) >= _MOST_GAPS:
                raise _missing(gap, 0)
            self._gaps.append(gap)

    def _check_gap(self, gap: _Gap) -> None:
        anchor = self._anchors.at(gap.stream, gap.next_seq - 1)
        if anchor is None:
            raise _missing(gap, self._anchors.last(gap.stream))
        self._check_anchor(gap.stream, gap.next_seq - 1, gap.prev, anchor)

    def _check_anchor(self, stream: str, seq: int, head: str, anchor: Anchor) -> None:
        said = f"what {anchor.stream} #{anchor.seq} says was dropped"
        if anchor.hash != head:
            raise BrokenChainError(stream, seq + 1, f"does not follow from {said}")
        covered = max(
            self._signed.get(anchor.stream, 0), self._shipped.confirmed.get(anchor.stream, 0)
        )
        if self._fault is None and covered < anchor.seq:
            why = f"is {said}, but no checkpoint covers that entry"
            raise BrokenChainError(stream, seq, why)

    def _check_end(self, stream: str, seq: int, head: str) -> None:
        seen, hashed = self._heads.get(stream, (0, ""))
        if seen < seq:
            anchor = self._anchors.at(stream, seq)
            if anchor is None:
                first = max(seen, self._anchors.last(stream)) + 1
                why = f"and what follows lacks: the store says that it ends at #{seq}"
                raise BrokenChainError(stream, first, why)
            self._check_anchor(stream, seq, head, anchor)
        elif seen == seq and seq and hashed != head:
            raise BrokenChainError(stream, seq, "is not the entry that the store had last")

    def _check_statement(self, record: wire.LedgerRecord) -> None:
        stream, seq = record.stream, record.seq
        heads = self._signatures.heads(record)
        if stream not in heads:
            raise BrokenChainError(stream, seq, "does not sign the entry before it")
        if heads[stream] != (seq - 1, record.prev):
            why = f"is not the entry that the checkpoint {stream} #{seq} signs"
            raise BrokenChainError(stream, seq - 1, why, first=self._after_signed(stream))
        for named, (at, head) in heads.items():
            if named != stream:
                self._check_signed(record, named, at, head)
        for named, (at, _) in heads.items():
            self._signed[named] = max(at, self._signed.get(named, 0))
        self._checkpoints += 1
        self._last_checkpoint = record.timestamp
        # What the statement itself is, its signature says; of the rest of it, the next one.
        self._signed[stream] = seq

    def _check_signed(self, record: wire.LedgerRecord, named: str, at: int, head: str) -> None:
        """A head of another stream: it has to be among the entries seen so far."""
        if (at, head) in reversed(self._recent.get(named, ())):
            return
        if self._may_be_cut and at < self._first.get(named, at + 1):
            return
        by = f"the checkpoint {record.stream} #{record.seq} signs {named} #{at}"
        seen = self._heads.get(named, (0, ""))[0]
        if seen < at:
            raise BrokenChainError(named, seen + 1, f"and what follows lacks: {by}")
        why = f"is not what it was: {by}, with another hash"
        raise BrokenChainError(named, at, why, first=self._after_signed(named))

    def _after_signed(self, stream: str) -> int:
        return max(self._signed.get(stream, 0) + 1, self._first.get(stream, 1))


def _missing(gap: _Gap, dropped: int) -> BrokenChainError:
    first = max(gap.first, dropped + 1)
    last = gap.next_seq - 1
    until = "" if first == last else f" (to #{last})"
    what = "what is there begins at" if gap.first == 1 else f"#{gap.first - 1} is followed by"
    why = f"is missing{until}: {what} #{gap.next_seq}, and no PRUNE entry says that it was dropped"
    return BrokenChainError(gap.stream, first, why)
