"""`MaskKeys`: a ``logging`` filter that hides every value the client has handed out.

::

    import logging

    from dox_core_store import SyncKeyClient
    from dox_core_store.integrations.logging import MaskKeys

    client = SyncKeyClient("jules-mcp")
    handler = logging.StreamHandler()
    handler.addFilter(MaskKeys(client))
    logging.getLogger().addHandler(handler)

    key = client.get_key("service_keys.jules_api")
    logging.warning("calling with %s", key.value)  # calling with [hidden]

Put it on handlers: a logger's own filters do not see what its children log. Looked at are the
message with its arguments, the traceback, the stack and what was given as ``extra``; each value is
hidden as it is, as ``repr`` and JSON escape it, URL-quoted, and in base64, also amid other text.

A value stays hidden for ``keep_seconds`` after the client last held it, for whoever was handed it
may hold it longer. Values of fewer than four characters are not hidden: they would be found in
every line. It is a net, not a licence: what is cut in pieces or compressed passes through.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from dox_core_store.client.forking import begin_anew_in_child
from dox_core_store.client.key import HeldKey
from dox_core_store.sensitive import HIDDEN
from dox_core_store.value_forms import SHORTEST, forms_of

__all__ = ["MaskKeys"]

_DAY_SECONDS = 86_400.0
_PURGE_SECONDS = 60.0
_PLAIN = (bool, int, float, type(None))
_OF_EVERY_RECORD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
_WRITER = logging.Formatter()


class TellsValues(Protocol):
    """`KeyClient` and `SyncKeyClient`."""

    def on_value(self, hear: Callable[[Any], None]) -> None:
        """See `KeyClient.on_value`."""


class MaskKeys(logging.Filter):
    """See the module. It lets every record through, changed where it has to be."""

    def __init__(
        self,
        *clients: TellsValues,
        keep_seconds: float = _DAY_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._keep_seconds = keep_seconds
        self._monotonic = monotonic
        self._heard: dict[str, float] = {}
        self._forms: tuple[str, ...] | None = None
        self._changing = threading.RLock()
        self._purge_at = monotonic() + _PURGE_SECONDS
        begin_anew_in_child(self)
        for client in clients:
            client.on_value(self._hear)

    def filter(self, record: logging.LogRecord) -> bool:
        forms = self._current_forms()
        if forms:
            self._mask_message(record, forms)
            self._mask_traceback(record, forms)
            self._mask_extra(record, forms)
        return True

    def masked(self, text: str) -> str:
        """``text`` with every value in it hidden; for output that is no log."""
        return _masked(text, self._current_forms())

    def begin_anew(self) -> None:
        """In a process that was forked: its parent's threads may have held the lock."""
        self._changing = threading.RLock()

    def _hear(self, key: HeldKey) -> None:
        if len(key.value) < SHORTEST:
            return
        with self._changing:
            if key.value not in self._heard:
                self._forms = None
            self._heard[key.value] = self._monotonic()

    def _current_forms(self) -> tuple[str, ...]:
        now, forms = self._monotonic(), self._forms
        if forms is not None and now < self._purge_at:
            return forms
        with self._changing:
            self._purge_at = now + _PURGE_SECONDS
            for value, heard_at in list(self._heard.items()):
                if now >= heard_at + self._keep_seconds:
                    del self._heard[value]
            found = {form for value in self._heard for form in forms_of(value)}
            forms = self._forms = tuple(sorted(found, key=len, reverse=True))  # a whole first
            return forms

    def _mask_message(self, record: logging.LogRecord, forms: tuple[str, ...]) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - logging would print the arguments as they are
            message = f"{record.msg} {_shown(record.args)}"
            record.msg, record.args = message, ()
        masked = _masked(message, forms)
        # Some formatters write the arguments by themselves.
        if masked is not message or (
            record.args and _masked(shown := _shown(record.args), forms) is not shown
        ):
            record.msg, record.args = masked, ()

    def _mask_traceback(self, record: logging.LogRecord, forms: tuple[str, ...]) -> None:
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
            text = record.exc_text or _WRITER.formatException(record.exc_info)
            masked = _masked(text, forms)
            if masked is not text:  # the text stands for the error, which cannot be changed
                record.exc_text, record.exc_info = masked, None
        elif record.exc_text:
            record.exc_text = _masked(record.exc_text, forms)
        if record.stack_info:
            record.stack_info = _masked(record.stack_info, forms)

    def _mask_extra(self, record: logging.LogRecord, forms: tuple[str, ...]) -> None:
        for name, value in list(record.__dict__.items()):
            if name in _OF_EVERY_RECORD or isinstance(value, _PLAIN):
                continue
            text = value if isinstance(value, str) else _shown(value)
            masked = _masked(text, forms)
            if masked is not text:
                setattr(record, name, masked)


def _masked(text: str, forms: tuple[str, ...]) -> str:
    """``text`` itself, if there is nothing to hide in it."""
    for form in forms:
        if form in text:
            text = text.replace(form, HIDDEN)
    return text


def _shown(thing: object) -> str:
    try:
        return repr(thing)
    except Exception:  # noqa: BLE001 - anybody's code
        return f"<{type(thing).__name__}>"
