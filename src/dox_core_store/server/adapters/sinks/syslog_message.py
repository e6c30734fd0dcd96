"""An entry as a syslog message, RFC 5424, and how it stands on a stream, RFC 6587.

The message is the entry's line of an export, with everything beyond printable ASCII escaped as JSON
does, so neither a line end nor a control character can end a record or begin another, whatever a
relay makes of it. On a stream each message has its length in front.
"""

from __future__ import annotations

import re

from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.shipping import Shipped

__all__ = ["octet_counted", "syslog_message"]

_PRIORITY = 13 * 8 + 6
"""Facility 13 (log audit), severity 6 (informational): RFC 5424, 6.2.1."""

_APPLICATION = "doxstore"
_SD_ID = "doxstore@32473"
"""32473 is the number that RFC 5612 sets aside: a receiver matches on the whole name."""

_TIMESTAMP = re.compile(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}\.[0-9]{1,6}Z", re.ASCII)
_BEYOND_ASCII = re.compile(r"[^ -~]")
_NO_NAME = re.compile(r"[^!-~]")
_MAX_HOST_CHARACTERS = 255


def syslog_message(entry: Shipped, *, host: str, process: int, store_id: str) -> bytes:
    """One message, without a frame."""
    time = entry.timestamp if _TIMESTAMP.fullmatch(entry.timestamp) else "-"
    kind = "CHECKPOINT" if entry.action == Action.CHECKPOINT else "CHANGE"
    named = _NO_NAME.sub("", host)[:_MAX_HOST_CHARACTERS] or "-"
    data = f'[{_SD_ID} store="{_quoted(store_id)}"]'
    line = _BEYOND_ASCII.sub(_escaped, entry.line.decode())
    head = f"<{_PRIORITY}>1 {time} {named} {_APPLICATION} {process} {kind} {data}"
    return f"{head} {line}".encode("ascii")


def octet_counted(message: bytes) -> bytes:
    """As it stands on a stream: RFC 6587, 3.4.1."""
    return b"%d %b" % (len(message), message)


def _quoted(text: str) -> str:
    """RFC 5424, 6.3.3: these three are escaped; ours has none, and no control character either."""
    return re.sub(r'(["\\\]])', r"\\\1", _NO_NAME.sub("", text))


def _escaped(match: re.Match[str]) -> str:
    """As in JSON, where two escapes make what one cannot."""
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
