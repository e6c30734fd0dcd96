"""`Sensitive`: a text that can be used but not seen by accident.

It hides itself from ``repr``, ``str``, ``format``, pickling, copying and JSON, and compares in
constant time. Whoever needs the text says `Sensitive.reveal`, which is easy to search for.
Python cannot promise to wipe memory; see ``docs/threat-model.md``.
"""

from __future__ import annotations

import hmac
from typing import Never

__all__ = ["HIDDEN", "Sensitive"]

HIDDEN = "[hidden]"


class Sensitive:
    """Holds one secret text (a key's value, a token). Unhashable: never a dict key or set
    member."""

    __slots__ = ("__text",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """The text itself. The only way to it."""
        return self.__text

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sensitive):
            return NotImplemented
        return hmac.compare_digest(self.__text.encode(), other.__text.encode())

    def __repr__(self) -> str:
        return HIDDEN

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return HIDDEN

    def __bool__(self) -> Never:
        raise TypeError("the truth of a secret tells something about it; call reveal() first")

    def __reduce__(self) -> Never:
        raise TypeError("a secret is never pickled or copied")
