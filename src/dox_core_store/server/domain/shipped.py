"""What shipped ledger entries prove of a ledger.

A shipped checkpoint is believed if its signature holds, and then every head that it signs is: at
that place of that stream stood an entry with that hash. A shipped entry is believed if its hash is
believed, and then so is the one before it. Anything else among the lines proves nothing and is not
used. Lines may come in any order and more than once; a file may lack its beginning or its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from dox_core_store import wire
from dox_core_store.server.domain.checkpoint_statement import Signatures, entry_hash
from dox_core_store.server.domain.ledger import Action, BrokenChainError, is_changes
from dox_core_store.server.domain.lost_history import epoch_of

__all__ = ["Carried", "Proof", "SignedHead", "believed", "carried", "signed"]


class SignedHead(NamedTuple):
    """At ``seq`` of ``stream`` stood an entry with this ``hash`` (hex), at the latest at ``at``,
    when `changes` of ``epoch`` had come to ``change``."""

    stream: str
    seq: int
    hash: str
    at: str
    epoch: int
    change: int


class Carried(NamedTuple):
    """A shipped entry, not believed by itself."""

    head: SignedHead
    prev: str


class Proof(Protocol):
    """All that is believed, kept in order."""

    def streams(self) -> Iterable[str]:
        """Every stream that something is believed of."""

    def heads(self, stream: str) -> Iterator[SignedHead]:
        """What is believed of ``stream``, by ``seq``."""


def carried(record: wire.LedgerRecord) -> Carried | None:
    """``record``, if it is as its hash says. What it stands for is known of `changes` alone."""
    try:
        if entry_hash(record) != record.hash:
            return None
    except BrokenChainError:
        return None
    epoch, change = (epoch_of(record.stream), record.seq) if is_changes(record.stream) else (0, 0)
    head = SignedHead(record.stream, record.seq, record.hash, record.timestamp, epoch, change)
    return Carried(head, record.prev)


def signed(record: wire.LedgerRecord, signatures: Signatures) -> list[SignedHead]:
    """What ``record`` proves: nothing, unless it is a checkpoint whose signature holds."""
    if record.action != Action.CHECKPOINT:
        return []
    try:
        heads = signatures.heads(record)
    except BrokenChainError:
        return []
    changes = [(epoch_of(name), seq) for name, (seq, _) in heads.items() if is_changes(name)]
    epoch, change = max(changes, default=(0, 0))
    return [
        SignedHead(name, seq, head, record.timestamp, epoch, seq if is_changes(name) else change)
        for name, (seq, head) in heads.items()
    ]


def believed(rows: Iterable[SignedHead | Carried]) -> Iterator[SignedHead]:
    """What is believed of one stream, from the end back. ``rows`` come by falling ``seq``, what is
    signed before what is carried."""
    at = 0
    here: dict[str, SignedHead] = {}
    below: dict[str, SignedHead] = {}
    for row in rows:
        head = row.head if isinstance(row, Carried) else row
        if head.seq != at:
            here = below if head.seq == at - 1 else {}
            at, below = head.seq, {}
        if not isinstance(row, Carried):
            here[head.hash] = head
            yield head
        elif head.hash in here:
            # A `changes` entry says itself when it stood there; any other did before its successor.
            told = head if head.epoch else here[head.hash]
            yield told._replace(seq=at, hash=head.hash)
            if at > 1:
                change = at - 1 if head.epoch else told.change
                below[row.prev] = told._replace(seq=at - 1, hash=row.prev, change=change)
                yield below[row.prev]
