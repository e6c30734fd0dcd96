"""Which keys the entries of a vault would be: names decided before anything is asked of the store.

An entry's path is its key, with ``.`` for each ``/``; a first segment that is a declared
environment says which one. An entry of several fields is a key for each, named ``<entry>.<field>``.
A name that no key can have is told with the reason, and may be given another one. Nothing is
repaired unseen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from dox_core_store import wire
from dox_core_store.errors import DoxStoreError, InvalidRequestError
from dox_core_store.key_path import fold, parse_pattern, prefixes, split_environment

__all__ = ["Names", "Unnamed", "collisions", "matches", "parse_names"]


class Unnamed(NamedTuple):
    """A field of an entry that has no key's name, and why."""

    path: str
    field: str | None
    key_path: str
    why: str


class Names:
    """See the module. ``renames`` are by the entry's path, or ``path.field`` where there are
    several; ``environment`` is for entries whose path says none (None: the store's default)."""

    def __init__(
        self,
        *,
        environments: Collection[str],
        environment: str | None,
        renames: Mapping[str, str],
    ) -> None:
        self._environments = environments
        self._environment = environment
        self._renames = renames
        self._used: set[str] = set()

    @property
    def unused(self) -> list[str]:
        """What was to be renamed and is not there."""
        return sorted(self._renames.keys() - self._used)

    def skip(self, path: str) -> None:
        """A store has ``path`` already: names for it are no mistake, since it may be run again."""
        self._used |= {each for each in self._renames if f"{each}.".startswith(f"{path}.")}

    def of(self, entry: wire.VaultEntry) -> list[wire.AdoptEntry | Unnamed]:
        """What is to become of each field of ``entry``."""
        shared = len(entry.fields) > 1
        return [self._named(entry.path or "", field, shared=shared) for field in entry.fields]

    def _named(self, path: str, field: str | None, *, shared: bool) -> wire.AdoptEntry | Unnamed:
        name, environment = self._derived(path)
        source = f"{path}.{field}" if shared else path
        if source in self._renames:
            self._used.add(source)
            name, problem = self._renames[source], None
        elif shared and path in self._renames:
            self._used.add(path)
            name, problem = f"{self._renames[path]}.{field}", _dotted([field or ""])
        else:
            segments = [*name.split("/"), *([field or ""] if shared else [])]
            name, problem = ".".join(segments), _dotted(segments)
        problem = problem or self._problem(name, environment)
        if problem is not None:
            return Unnamed(path, field, name, problem)
        return wire.AdoptEntry(
            path=path, field=field, shared=shared, key_path=name, environment=environment
        )

    def _derived(self, path: str) -> tuple[str, str | None]:
        first, slash, rest = path.partition("/")
        if slash and first in self._environments:
            return rest, first
        return path, self._environment

    def _problem(self, name: str, environment: str | None) -> str | None:
        try:
            _, suffix = split_environment(name, self._environments)
        except DoxStoreError as error:
            return error.detail
        if suffix and environment and suffix != environment:
            return f"its path says {environment}, and its name ends in {suffix}"
        return None


def collisions(planned: Iterable[wire.AdoptedEntry]) -> list[wire.AdoptedEntry]:
    """``planned``, where those that the store would refuse because of others of them are refused:
    it was asked some at a time, and what it is asked it does not keep."""
    spelled: dict[str, str] = {}
    taken: set[tuple[str, str | None]] = set()
    checked = []
    for each in planned:
        if each.outcome != "adopted":
            checked.append(each)
            continue
        folded = {fold(prefix): prefix for prefix in prefixes(each.key_path)}
        other = next((spelled[f] for f, name in folded.items() if spelled.get(f, name) != name), "")
        if other:
            why = f"{each.key_path} differs from {other} only in case."
            checked.append(replace(each, outcome="refused", code="case_collision", detail=why))
        elif (each.key_path, each.environment) in taken:
            why = "Another one would be this key."
            checked.append(replace(each, outcome="refused", code="already_exists", detail=why))
        else:
            spelled.update(folded)
            taken.add((each.key_path, each.environment))
            checked.append(each)
    return checked


def _dotted(segments: Iterable[str]) -> str | None:
    for segment in segments:
        if "." in segment:
            return f"{segment!a} has a dot, which stands between the words of a key's path"
    return None


def parse_names(given: Iterable[str]) -> dict[str, str]:
    """``old/path=new.key``, as often as wanted. Raises ``invalid_field``."""
    renames: dict[str, str] = {}
    for text in given:
        old, equals, new = text.rpartition("=")
        if not equals or not old or not new or old in renames:
            raise InvalidRequestError(
                "invalid_field", f"{text[:80]!a} is not of the form old/path=new.key, once each."
            )
        renames[old] = new
    return renames


def matches(pattern: str, environments: Collection[str], key: str, environment: str | None) -> bool:
    """Whether ``pattern``, spelled as a grant's, names a key. Raises ``malformed_pattern``."""
    body, only = parse_pattern(pattern, environments)
    if only is not None and only != environment:
        return False
    wanted, found = body.split("."), key.split(".")
    if wanted[-1] == "**":
        wanted.pop()
        if len(found) <= len(wanted):
            return False
        found = found[: len(wanted)]
    return len(wanted) == len(found) and all(
        each in ("*", segment) for each, segment in zip(wanted, found, strict=True)
    )
