"""`Mask`: replaces values in what a command prints, however it is cut into pieces.

Looked for is each value in the forms that `value_forms` knows. What has fewer than four characters
is not looked for: it would be everywhere.

Nothing is held back but the beginning of a value at the very end of what came. If no more comes,
up to three bytes of that are shown: a prompt may end like a value begins, and somebody waits for
it. A longer beginning is not a coincidence, and waits for what follows it.

Pure: bytes in, bytes out. It protects against a slip, not against a command that wants to tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dox_core_store.value_forms import SHORTEST, forms_of

__all__ = ["Forms", "Mask"]

_HIDDEN = b"***"
_LEAST = SHORTEST
"""Bytes of what is looked for; a longer one is found by as many."""


class Forms:
    """What is looked for; may grow while a command runs."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._forms: set[bytes] = set()
        self.by_head: dict[bytes, list[bytes]] = {}
        self.heads = re.compile(rb"(?!)")
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Look for ``values`` too."""
        for value in values:
            self._forms |= {form.encode() for form in forms_of(value)}
        by_head: dict[bytes, list[bytes]] = {}
        for form in sorted(self._forms, key=len, reverse=True):
            by_head.setdefault(form[:_LEAST], []).append(form)
        if by_head:
            self.heads = re.compile(b"|".join(map(re.escape, sorted(by_head))))
        self.by_head = by_head


class Mask:
    """One stream. See the module."""

    def __init__(self, forms: Forms) -> None:
        self._forms = forms
        self._rest = b""
        self._shown = 0
        """How much of the beginning of ``_rest`` was shown, and cannot be taken back."""

    @property
    def is_waiting(self) -> bool:
        """Whether `pause` may have something to show."""
        return 0 < len(self._rest) < _LEAST and self._shown < len(self._rest)

    def feed(self, more: bytes) -> bytes:
        """What can be shown now that ``more`` came."""
        text = self._rest + more
        hidden, end = self._found(text)
        out = self._with_hidden(text, hidden, end)
        self._rest = text[end:]
        self._shown = max(0, self._shown - end)
        return out

    def pause(self) -> bytes:
        """What is shown where nothing more came for a moment."""
        if not self.is_waiting:
            return b""
        out = self._rest[self._shown :]
        self._shown = len(self._rest)
        return out

    def end(self) -> bytes:
        """What is shown where nothing more will come: of a value that was cut off, nothing."""
        rest, self._rest = self._rest, b""
        if len(rest) >= _LEAST:
            return _HIDDEN
        return rest[self._shown :]

    def _found(self, text: bytes) -> tuple[list[tuple[int, int]], int]:
        """Where there are values, and up to where that is sure."""
        hidden: list[tuple[int, int]] = []
        end, at = len(text), 0
        heads, by_head = self._forms.heads, self._forms.by_head
        while head := heads.search(text, at):
            start = head.start()
            at = start + 1
            for form in by_head[head.group()]:
                if text.startswith(form, start):
                    last = start + len(form)
                    if hidden and start < hidden[-1][1]:
                        hidden[-1] = (hidden[-1][0], max(last, hidden[-1][1]))
                    else:
                        hidden.append((start, last))
                    break
                if start + len(form) > len(text) and form.startswith(text[start:]):
                    end = min(end, start)
        for length in range(min(_LEAST - 1, len(text)), 0, -1):
            if any(each.startswith(text[-length:]) for each in by_head):
                end = min(end, len(text) - length)
                break
        # A value in which another one begins is not shown as hidden before that one is known.
        for start, last in hidden:
            if start < end < last:
                end = start
        return hidden, end

    def _with_hidden(self, text: bytes, hidden: list[tuple[int, int]], end: int) -> bytes:
        parts, at = [], self._shown
        for start, last in hidden:
            if start < end:
                parts += [text[at:start], _HIDDEN]
                at = max(at, last)
        parts.append(text[at:end])
        return b"".join(parts)
