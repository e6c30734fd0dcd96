"""What may be dropped of the ledger, and the entry that keeps the rest provable.

Before anything is dropped, a PRUNE entry in `changes` says of each stream up to where: the last
dropped ``seq`` and its hash. Only when a checkpoint covers that entry the blocks go. So a stream
that begins at ``seq`` n+1 is whole exactly if a signed PRUNE entry anchors (n, hash); a crash
between the two steps leaves an anchor too many and no entry too few. `changes` streams are never
dropped: they say what was revoked, and hold the anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from dox_core_store.server.domain.checkpoint_statement import Heads
from dox_core_store.server.domain.ledger import is_changes

__all__ = ["MOST_STREAMS", "Anchor", "Anchors", "due", "prune_reason"]

MOST_STREAMS = 50
"""Streams that one PRUNE entry names: an entry stays some kilobytes."""

_STEPS = 10
"""A pause counts for at most a tenth of the time that entries are kept, and is looked for ten times
finer than that."""


class _Reason(msgspec.Struct):
    until: str
    streams: Heads


class Anchor(NamedTuple):
    """The PRUNE entry (`changes` stream and ``seq``) that names a place, and the hash there."""

    hash: str
    stream: str
    seq: int


class Anchors:
    """The places up to which streams were dropped, as PRUNE entries tell them."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, int], Anchor] = {}
        self._last: dict[str, int] = {}

    def take(self, stream: str, seq: int, reason: str | None) -> None:
        """Take over what a PRUNE entry says. One that cannot be read anchors nothing."""
        if not is_changes(stream):
            return
        try:
            said = msgspec.json.decode(reason or "", type=_Reason)
        except msgspec.DecodeError:
            return
        for named, (at, hashed) in said.streams.items():
            if not is_changes(named):
                # The first one stands: later ones repeat it, after a crash.
                self._at.setdefault((named, at), Anchor(hashed, stream, seq))
                self._last[named] = max(at, self._last.get(named, 0))

    def at(self, stream: str, seq: int) -> Anchor | None:
        """What anchors ``seq`` as the last dropped entry of ``stream``."""
        return self._at.get((stream, seq))

    def last(self, stream: str) -> int:
        """The last entry of ``stream`` that was dropped; 0: none was."""
        return self._last.get(stream, 0)

    @property
    def streams(self) -> int:
        """How many streams lost their beginning."""
        return len(self._last)


def prune_reason(until: str, streams: Mapping[str, tuple[int, bytes]]) -> str:
    """The ``reason`` of a PRUNE entry: what is dropped is older than ``until``."""
    heads = {name: (seq, head.hex()) for name, (seq, head) in sorted(streams.items())}
    return msgspec.json.encode(_Reason(until, heads)).decode()


def due(
    now: datetime, *, keep_days: int, before: Callable[[datetime], datetime | None]
) -> datetime | None:
    """Entries older than this may go; None: none may. ``before`` tells when the newest entry was
    made that is not newer than a given time.

    Age is counted along the ledger, and a pause in it counts for at most a tenth of ``keep_days``:
    so a clock that jumped years ahead makes nothing old at once, however often the node is started
    with it, and after a long pause entries stay a little longer than they have to.
    """
    if not keep_days:
        return None
    left = timedelta(days=keep_days)
    most = left / _STEPS
    at = now
    while True:
        found = before(at - most / _STEPS)
        if found is None:
            return None
        pause = at - found
        if left <= min(pause, most):
            return at - left if pause <= most else found
        left -= min(pause, most)
        at = found
