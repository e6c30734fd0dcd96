"""Which place is meant: a vault by its name in the catalog or by any address of it, or `HERE`.

Only places that the settings of this node name are known: whatever is put elsewhere, it could not
read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from dox_core_store.errors import InvalidRequestError

__all__ = ["HERE", "VaultNames"]

HERE = "here"
"""How settings and commands call the place beside the catalog."""

_SHOWN_CHARACTERS = 200


class VaultNames:
    """``known`` are the names of vaults; ``here`` says whether values may lie beside the catalog;
    ``name_of`` is the name in an address, or the text itself if it is none."""

    def __init__(
        self, *, known: Collection[str], here: bool, name_of: Callable[[str], str]
    ) -> None:
        self._known = known
        self.has_here = here
        self._name_of = name_of

    def place(self, text: str) -> str:
        """What the catalog calls the place ``text``: nothing for `HERE`. Raises
        ``unknown_vault``."""
        return "" if text == HERE and self.has_here else self.vault(text)

    def vault(self, text: str) -> str:
        """The same for a vault."""
        name = text if text in self._known else self._name_of(text)
        if name not in self._known:
            known = ", ".join([*self._known, *([HERE] if self.has_here else [])])
            raise InvalidRequestError(
                "unknown_vault",
                f"This node knows {known or 'no vault'}, not {text[:_SHOWN_CHARACTERS]!a}.",
            )
        return name
