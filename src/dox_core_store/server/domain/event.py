"""What a change of the store is to those who follow it: the events of ``GET /v1/events``.

Events tell that something changed, and of which key; never a value. What stands in the change feed
is told in its order, and the place in the feed is the event's id, so that whoever was away goes on
where they were. The format is in ``docs/spec/events.md``.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from dox_core_store.key_path import RESERVED_PREFIX
from dox_core_store.server.domain.ledger import Action

__all__ = ["EventKind", "Place", "kind_of"]

_SERVICES = f"{RESERVED_PREFIX}.services."
_OF_ALL = tuple(f"{RESERVED_PREFIX}.{kind}." for kind in ("environments", "epochs"))
_IMPORTS = f"{RESERVED_PREFIX}.imports."
_PLACE = re.compile(rb"([1-9][0-9]{0,8})-(0|[1-9][0-9]{0,17})")


class EventKind(StrEnum):
    """``beat``: all that was committed until a moment ago has been told. ``changed``: another
    version is current, or it lives until another time. ``revoked``: that version must not be used.
    ``access``: what this service may read changed. ``reset``: what happened before is not known."""

    BEAT = "beat"
    CHANGED = "changed"
    REVOKED = "revoked"
    ACCESS = "access"
    RESET = "reset"


_OF_KEYS: dict[str, EventKind] = {
    Action.PUT: EventKind.CHANGED,
    Action.PROMOTE: EventKind.CHANGED,
    Action.ROLLBACK: EventKind.CHANGED,
    Action.ADOPT: EventKind.CHANGED,
    Action.EXTEND: EventKind.CHANGED,
    Action.RETIRE: EventKind.CHANGED,
    Action.REVOKE: EventKind.REVOKED,
    Action.DESTROY: EventKind.REVOKED,
    Action.EXPIRE: EventKind.REVOKED,
}
"""What else is done to a key (`PROPOSE`, `DESCRIBE`, `LIMIT`, `MOVE`) changes nothing for those who
hold its value. A version that was retired is handed out by number no more: whoever fell back to it
asks again."""

_NO_ACCESS = frozenset({Action.LIMIT, Action.REVOKE_SERVICE_TOKENS, Action.DECOMMISSION})
"""What is done to a service and leaves what it may read as it is, or ends its streams."""


def kind_of(action: str, key_path: str, *, in_effect: bool) -> EventKind | None:
    """What one entry of the change feed is told as; None: as nothing. ``in_effect``: it is no part
    of an import that was not committed."""
    if key_path.startswith(f"{RESERVED_PREFIX}."):
        if key_path.startswith(_SERVICES):
            return None if action in _NO_ACCESS else EventKind.ACCESS
        if key_path.startswith(_OF_ALL):
            return EventKind.RESET
        return EventKind.RESET if in_effect and key_path.startswith(_IMPORTS) else None
    return _OF_KEYS.get(action) if in_effect else None


class Place(NamedTuple):
    """Where in the change feed of which epoch; written ``1-4711``."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @classmethod
    def parse(cls, text: bytes | None) -> Place | None:
        """The place that a client says it is at; None for whatever names none."""
        found = None if text is None else _PLACE.fullmatch(text)
        return None if found is None else cls(int(found[1]), int(found[2]))
