"""Holding a ledger against what shipped checkpoints prove of it.

Entry by entry, in stored order: where something is believed of a place, the entry there has to have
that hash. At the end, whatever is believed of places that were never reached is missing: dropped by
retention, lost with a history that a later epoch owns up to, or taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from dox_core_store import wire
from dox_core_store.server.domain.ledger import BrokenChainError, changes_stream
from dox_core_store.server.domain.lost_history import (
    Beginning,
    Lost,
    beginning,
    reviewed_epoch,
)
from dox_core_store.server.domain.shipped import Proof, SignedHead

__all__ = ["ShippedCheck"]


class _Waiting(NamedTuple):
    """What is believed of a stream and was not reached yet."""

    head: SignedHead
    behind: Iterator[SignedHead]


class ShippedCheck:
    """`check` every entry, then `finish`. Both raise `BrokenChainError`."""

    def __init__(self, proof: Proof | None) -> None:
        self._proof = proof
        self._waiting: dict[str, _Waiting] = {}
        self._unseen = set() if proof is None else set(proof.streams())
        self._beginnings: list[Beginning] = []
        self._reviews: dict[int, tuple[str, int]] = {}
        self._newest = ""
        self.confirmed: dict[str, int] = {}
        """Per stream the last place that is as it was shipped."""
        self.compared = 0

    def check(self, record: wire.LedgerRecord) -> None:
        """Hold the next entry against what is believed of its place."""
        if self._proof is None:
            return
        self._note(record)
        stream, seq = record.stream, record.seq
        if stream in self._unseen:
            self._unseen.discard(stream)
            self._wait(stream, self._proof.heads(stream))
        while (waiting := self._waiting.get(stream)) is not None and waiting.head.seq <= seq:
            head = waiting.head
            if head.seq == seq and head.hash != record.hash:
                why = f"is not the entry that was shipped, of {head.at}"
                first = self.confirmed.get(stream, 0) + 1
                raise BrokenChainError(stream, seq, why, first=first)
            if head.seq == seq:
                self.confirmed[stream] = seq
                self.compared += 1
            self._wait(stream, waiting.behind)

    def finish(
        self,
        heads: Mapping[str, tuple[int, str]],
        signed: Mapping[str, int],
        dropped: Callable[[str], int],
    ) -> list[Lost]:
        """What was lost, by stream. ``heads`` is how far each stream goes, ``signed`` how far the
        ledger's own checkpoints cover it, and ``dropped`` tells how far it was dropped."""
        if self._proof is None:
            return []
        for stream in self._unseen:
            self._wait(stream, self._proof.heads(stream))
        lost, missing = [], []
        for stream in sorted(self._waiting):
            reached = max(heads.get(stream, (0, ""))[0], dropped(stream))
            began: Beginning | None = None
            last = 0
            for head in self._rest(stream):
                if head.seq <= reached:
                    continue
                explained = self._explained(head, signed)
                if explained is None:
                    missing.append((head.at, stream, reached + 1, head.seq))
                    break
                began, last = began or explained, head.seq
            if began is not None:
                lost.append(self._lost(stream, reached + 1, last, began, signed))
        if missing:
            at, stream, seq, shipped = min(missing)
            why = f"and what follows lacks: a shipped checkpoint of {at} signs #{shipped}"
            raise BrokenChainError(stream, seq, why)
        return lost

    def _note(self, record: wire.LedgerRecord) -> None:
        began = beginning(record, self._newest)
        if began is not None:
            self._beginnings.append(began)
        epoch = reviewed_epoch(record)
        if epoch is not None and record.stream == changes_stream(epoch):
            self._reviews[epoch] = (record.stream, record.seq)
        self._newest = max(record.timestamp, self._newest)

    def _wait(self, stream: str, heads: Iterator[SignedHead]) -> None:
        head = next(heads, None)
        if head is None:
            self._waiting.pop(stream, None)
        else:
            self._waiting[stream] = _Waiting(head, heads)

    def _rest(self, stream: str) -> Iterator[SignedHead]:
        while (waiting := self._waiting.get(stream)) is not None:
            yield waiting.head
            self._wait(stream, waiting.behind)

    def _explained(self, head: SignedHead, signed: Mapping[str, int]) -> Beginning | None:
        """The epoch that says that ``head`` was lost; one that nothing signs says nothing."""
        for began in self._beginnings:
            stream = changes_stream(began.epoch)
            if self._covers(stream, 1, signed) and began.explains(head.epoch, head.change, head.at):
                return began
        return None

    def _lost(
        self,
        stream: str,
        first: int,
        last: int,
        began: Beginning,
        signed: Mapping[str, int],
    ) -> Lost:
        review = self._reviews.get(began.epoch)
        return Lost(
            stream=stream,
            first=first,
            last=last,
            since=began.kept_until,
            until=began.began,
            epoch=began.epoch,
            reviewed=review is not None and self._covers(*review, signed),
        )

    def _covers(self, stream: str, seq: int, signed: Mapping[str, int]) -> bool:
        return max(signed.get(stream, 0), self.confirmed.get(stream, 0)) >= seq
