"""Which entries were lost with a history, as against taken away from one.

A restore, and a database found behind what had been seen of it, begin a new epoch, and the first
entry of its `changes` stream says how far the history goes that it continues. What a checkpoint
signed beyond that end is lost, and explained. What was signed up to it has to be there.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from dox_core_store import wire
from dox_core_store.server.domain.ledger import CHANGES, Action, is_changes

__all__ = ["Beginning", "Lost", "beginning", "epoch_of", "reviewed_epoch"]

_THERE = re.compile(r"; there: epoch (\d+), (changes\S*) #(\d+) ")
_EPOCHS = "_store.epochs."


class Lost(NamedTuple):
    """Of ``stream`` the entries from ``first`` to at least ``last`` were lost between ``since`` and
    ``until``, when the epoch ``epoch`` began; ``reviewed`` says whether somebody signed it off."""

    stream: str
    first: int
    last: int
    since: str
    until: str
    epoch: int
    reviewed: bool


class Beginning(NamedTuple):
    """Epoch ``epoch`` began at ``began``, and goes on from ``kept_epoch`` at ``kept_change``, the
    last entry of its `changes` stream; nothing that was signed up to ``kept_until`` is lost."""

    epoch: int
    began: str
    kept_epoch: int
    kept_change: int
    kept_until: str

    def explains(self, epoch: int, change: int, at: str) -> bool:
        """Whether what was signed in ``epoch``, when `changes` had come to ``change``, is lost."""
        if epoch >= self.epoch:
            return False
        if epoch != self.kept_epoch:
            return epoch > self.kept_epoch
        if change != self.kept_change:
            return change > self.kept_change
        return at > self.kept_until


class _Restore(msgspec.Struct):
    stream: str
    seq: int
    created_at: str


def epoch_of(stream: str) -> int:
    """The epoch of a `changes` stream."""
    return int(stream.partition("-")[2] or 1)


def beginning(record: wire.LedgerRecord, newest: str) -> Beginning | None:
    """What ``record`` says, if it is the first entry of an epoch. ``newest`` is the time of the
    newest entry that stands before it."""
    stream, reason = record.stream, record.reason or ""
    if record.seq != 1 or stream == CHANGES or not is_changes(stream):
        return None
    epoch, at = epoch_of(stream), record.timestamp
    if record.action == Action.HISTORY_LOST:
        found = _THERE.search(reason)
        if found is None:
            return None
        return Beginning(epoch, at, int(found[1]), int(found[3]), newest)
    if record.action != Action.RESTORE:
        return None
    try:
        said = msgspec.json.decode(reason, type=_Restore)
    except msgspec.DecodeError:
        return None
    return Beginning(epoch, at, epoch_of(said.stream), said.seq, max(newest, said.created_at))


def reviewed_epoch(record: wire.LedgerRecord) -> int | None:
    """The epoch that ``record`` signs off, if it does."""
    name = record.key_path.removeprefix(_EPOCHS)
    is_review = record.action == Action.REVIEW and record.key_path.startswith(_EPOCHS)
    return int(name) if is_review and name.isdigit() else None
