"""Server-Sent Events, as the store sends them: lines in, events out. No I/O.

The format is the HTML standard's (section 9.2, "Server-sent events"): fields by line, an event at
each empty line, lines that begin with a colon are comments. An event that cannot be understood is
one that a later release sends; what counts is then that something may have changed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from dox_core_store import wire
from dox_core_store.client.protocol import Call

__all__ = ["Event", "EventReader", "Kind", "to_events"]


class Kind(StrEnum):
    """``beat``: all that happened so far was told. ``changed``: another version is current, or may
    be. ``revoked``: that version must not be used. ``access``: what may be read changed. ``reset``:
    what happened before is not known any more."""

    BEAT = "beat"
    CHANGED = "changed"
    REVOKED = "revoked"
    ACCESS = "access"
    RESET = "reset"


class Event(NamedTuple):
    kind: Kind
    change: wire.ChangeEvent | None = None


class EventReader:
    """One stream's state. ``last_id`` is where to go on from."""

    def __init__(self, last_id: str | None = None) -> None:
        self.last_id = last_id
        self._id = last_id
        self._name = ""
        self._data: list[str] = []

    def feed(self, line: bytes) -> Event | None:
        """The event that ``line`` ends, if it ends one."""
        text = line.rstrip(b"\r").decode("utf-8", errors="replace")
        if text:
            self._field(*text.partition(":")[::2])
            return None
        # Not before its event is whole: one that was cut off has to be told again.
        self.last_id = self._id
        name, data = self._name, "\n".join(self._data)
        self._name, self._data = "", []
        return _event(name, data) if name else None

    def _field(self, name: str, value: str) -> None:
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value


def to_events(last_id: str | None) -> Call:
    """The call that follows the store's changes, from ``last_id`` on."""
    headers = [("Accept", "text/event-stream")]
    if last_id is not None:
        headers.append(("Last-Event-ID", last_id))
    return Call(method="GET", path="/v1/events", headers=headers, repeatable=True)


def _event(name: str, data: str) -> Event:
    if name in (Kind.CHANGED, Kind.REVOKED):
        try:
            return Event(Kind(name), wire.decode(wire.ChangeEvent, data.encode()))
        except msgspec.MsgspecError:
            return Event(Kind.RESET)
    return Event(Kind(name) if name in list(Kind) else Kind.RESET)
