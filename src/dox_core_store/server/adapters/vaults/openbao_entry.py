"""An entry of the KV engine as the store sees it: its versions, and who wrote which of them.

The engine keeps metadata for a key and not for its versions, so the store claims each version that
it writes in the key's ``custom_metadata``: ``doxstore_version_<number>`` = ``<engine's version>
<version id>``. The claim comes before the write, whose check-and-set says which number it will be,
so nobody sees one of ours without its claim. Claims are merged into what is there (PATCH), so those
of two nodes do not undo each other; of two for one version, the higher number wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dox_core_store.server.adapters.vaults.openbao_place import Place, Target, digest_of, value_in
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import About

__all__ = ["MANAGED_BY", "Claims", "Version", "claim_of", "description_of"]

MANAGED_BY = "dox-core-store"
_CLAIM = "doxstore_version_"
_CLAIMS_KEPT = 40
"""The engine takes 64 pairs for a key. Older versions are found by their own places."""
_MAX_BYTES = 512  # of a pair's value, so says the engine


class Version(NamedTuple):
    """A version of an entry: 0 where the entry has none. ``fields`` is None where it was deleted
    or destroyed, or is no longer kept."""

    number: int
    created: str
    fields: dict[str, Any] | None
    custom: Mapping[str, str]

    def value(self, field: str) -> bytes | None:
        return None if self.fields is None else value_in(self.fields, field)

    def place(self, target: Target) -> Place | None:
        """Where the value of ``target`` lies in this version, if it does."""
        if (value := self.value(target.field)) is None:
            return None
        return Place(
            path=target.path,
            version=self.number,
            field=target.field,
            created=self.created,
            digest=digest_of(value),
            shared=target.shared,
        )

    def __repr__(self) -> str:
        return f"Version({self.number})"


class Claims:
    """What the store has claimed of an entry."""

    def __init__(self, custom: Mapping[str, str]) -> None:
        self._custom = custom
        self._by_number: dict[int, tuple[int, str]] = {}
        for name, text in custom.items():
            number, (version, _, version_id) = name.removeprefix(_CLAIM), text.partition(" ")
            if name.startswith(_CLAIM) and number.isdecimal() and version.isdecimal():
                self._by_number[int(number)] = int(version), version_id

    @property
    def managed(self) -> bool:
        return self._custom.get("managed_by") == MANAGED_BY

    def highest(self, about: About) -> int:
        """The highest number of the store's that was ever claimed here, but for those that
        have passed; 0 if none."""
        return max(self._by_number.keys() - about.passed, default=0)

    def belong_to(self, binding: Binding) -> bool:
        """Whether the entry is that of this key of this store."""
        ours = _identity(binding)
        return self.managed and all(self._custom.get(name) == ours[name] for name in ours)

    def of(self, version_id: str) -> int | None:
        """The engine's version that was claimed for ``version_id``, unless a higher number of the
        store's claims it too."""
        for number, (version, claimed_by) in self._by_number.items():
            if claimed_by == version_id:
                rivals = (n for n, (v, _) in self._by_number.items() if v == version)
                return version if max(rivals) == number else None
        return None

    def mentions(self, version_id: str) -> bool:
        return any(version_id == claimed_by for _, claimed_by in self._by_number.values())

    def has(self, version: int) -> bool:
        return any(version == claimed for claimed, _ in self._by_number.values())

    def surplus(self) -> list[str]:
        """The names of claims to forget when another one comes."""
        return [f"{_CLAIM}{each}" for each in sorted(self._by_number)[: 1 - _CLAIMS_KEPT]]


def claim_of(binding: Binding, about: About, version: int | None) -> dict[str, str | None]:
    """What claims ``version`` (None: nothing any more) for ``binding``."""
    text = None if version is None else f"{version} {binding.version_id}"
    return {f"{_CLAIM}{about.number}": text}


def description_of(binding: Binding, about: About) -> dict[str, str | None]:
    """What tells the vault's own tools what an entry is. None takes away what was there."""
    return {
        **_identity(binding),
        "managed_by": MANAGED_BY,
        "doxstore_number": str(about.number),
        "doxstore_version_id": binding.version_id,
        "owner": _fitting(about.owner),
        "usage": _fitting(about.usage),
    }


def _identity(binding: Binding) -> dict[str, str]:
    return {
        "doxstore_store": binding.store_id,
        "doxstore_key": binding.key_path,
        "doxstore_environment": binding.environment,
    }


def _fitting(text: str | None) -> str | None:
    """The engine takes printable text of a limited size."""
    printable = "".join(each if each.isprintable() else " " for each in text or "")
    return printable.encode()[:_MAX_BYTES].decode(errors="ignore").strip() or None
