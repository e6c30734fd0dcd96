"""What a set of grants says of one key, and why: which of them name it and which one decides.

Whether a grant names a key is asked of the door's own `GrantTree`, compiled of that grant alone, so
an explanation cannot follow other rules than the door. A deny decides over every allow; among
equals the one that names the key most closely does. Grants that nearly name it are said with what
is between them and the key. Nothing here is on the read path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import SequenceMatcher
from typing import NamedTuple

from msgspec.structs import replace

from dox_core_store.key_path import fold
from dox_core_store.server.domain.access import Effect, GrantRecord, GrantTree

__all__ = ["ONLY_CASE", "NearMiss", "Ruling", "literal_prefix", "names", "near_misses", "ruling"]

ONLY_CASE = "differs only in case"
"""Why a grant misses a key that is the same but for its spelling: one of both is a mistake."""

_NEAR_MISSES = 5
"""How many are told: whoever has more reads `grant list`."""

_ALIKE = 0.8
"""From which likeness on two segments may be one, mistyped (1.0: they are equal)."""

_CLOSENESS = {"*": 1, "**": 2}
"""How loosely a segment of a pattern names one of a path; a literal one does not."""


class Ruling(NamedTuple):
    """``matching``: the grants that name the key; the first one decides."""

    is_allowed: bool
    matching: tuple[GrantRecord, ...]

    @property
    def deciding(self) -> GrantRecord | None:
        """The grant that allows or denies; None where none names the key."""
        return self.matching[0] if self.matching else None


class NearMiss(NamedTuple):
    """A grant that does not name the key, and the one thing that is between them."""

    grant: GrantRecord
    why: str


def names(grant: GrantRecord, path: str, environment: str) -> bool:
    """Whether ``grant``, whatever its effect, names ``path`` in ``environment``."""
    return bool(GrantTree([grant]).effects(path, environment))


def ruling(grants: Collection[GrantRecord], path: str, environment: str) -> Ruling:
    """What ``grants``, all of one service, say of a key."""
    matching = [each for each in grants if names(each, path, environment)]
    return Ruling(
        GrantTree(grants).allows(path, environment), tuple(sorted(matching, key=_precedence))
    )


def near_misses(
    grants: Iterable[GrantRecord], path: str, environment: str, environments: Collection[str]
) -> list[NearMiss]:
    """The allowing grants that miss the key by one thing, and by which."""
    found = []
    for grant in sorted(grants, key=_precedence):
        if grant.effect is Effect.ALLOW and not names(grant, path, environment):
            why = _difference(grant, path, environment, environments)
            if why is not None:
                found.append(NearMiss(grant, why))
    return found[:_NEAR_MISSES]


def literal_prefix(pattern: str) -> str | None:
    """The segments of ``pattern`` before its first wildcard; None where it begins with one.
    Without a wildcard, the whole of it."""
    segments = []
    for segment in pattern.split("."):
        if segment in _CLOSENESS:
            break
        segments.append(segment)
    return ".".join(segments) or None


def _precedence(grant: GrantRecord) -> tuple[bool, list[int], str]:
    segments = grant.pattern.split(".")
    closeness = [_CLOSENESS.get(segment, 0) for segment in segments]
    return grant.effect is not Effect.DENY, closeness, grant.grant_id


def _difference(
    grant: GrantRecord, path: str, environment: str, environments: Collection[str]
) -> str | None:
    pattern, count = grant.pattern, path.count(".") + 1
    if names(grant, path, grant.environment):
        return f"granted in {grant.environment}, asked in {environment}"
    if grant.environment != environment:
        return None
    if pattern.rpartition(".")[2] in environments:
        return "its last segment is an environment, declared since: it names no key any more"
    if _would(grant, fold(pattern), fold(path)):
        return ONLY_CASE
    ends_at_wildcard = pattern.endswith("*") and count == _segments(pattern) - 1
    if ends_at_wildcard and _would(grant, f"{pattern.rstrip('*')}**", f"{path}.x"):
        return f"{pattern} names what is below {path}, not {path} itself"
    if pattern.rpartition(".")[2] == "*" and _would(grant, f"{pattern}*", path):
        return f"* is one segment: {pattern} has {_segments(pattern)} in all, the key {count}"
    if _would(grant, f"{pattern}.**", path):
        return f"names {pattern} alone, not what is below it"
    return _mistyped(grant, path)


def _mistyped(grant: GrantRecord, path: str) -> str | None:
    """What is said where one segment alone is another, and looks alike."""
    segments, asked = grant.pattern.split("."), path.split(".")
    for at, (granted, wanted) in enumerate(zip(segments, asked, strict=False)):
        if granted in _CLOSENESS or granted == wanted:
            continue
        corrected = ".".join([*segments[:at], wanted, *segments[at + 1 :]])
        alike = SequenceMatcher(None, fold(granted), fold(wanted)).ratio()
        if alike >= _ALIKE and _would(grant, corrected, path):
            return f"says {granted} where the key says {wanted}"
        break
    return None


def _would(grant: GrantRecord, pattern: str, path: str) -> bool:
    """Whether ``grant`` with another pattern would name ``path``."""
    return names(replace(grant, pattern=pattern), path, grant.environment)


def _segments(pattern: str) -> int:
    return pattern.count(".") + 1
