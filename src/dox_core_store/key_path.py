"""The grammar of key paths, parsed once at every edge (API, grants, searches, CLI, client).

A path is 1 to 8 segments joined by ``.``; a segment is ``[A-Za-z0-9_-]{1,64}``; 256 characters at
most; case-sensitive. A last segment that is a declared environment selects that environment of
the key before it: ``service_keys.jules_api.production`` is key ``service_keys.jules_api`` in
``production``. Environments are reserved as last segments in any case, so a path of only an
environment, one ending in two, and one ending in ``Production`` are all malformed.

Nothing is repaired: no trimming, no case folding, no percent decoding, no Unicode normalisation.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from dox_core_store.errors import InvalidRequestError

__all__ = [
    "MAX_PATH_CHARACTERS",
    "MAX_SEGMENTS",
    "RESERVED_PREFIX",
    "KeyAddress",
    "check_environment_name",
    "check_service_name",
    "fold",
    "parse_address",
    "parse_pattern",
    "prefixes",
    "split_environment",
]

MAX_SEGMENTS = 8
MAX_PATH_CHARACTERS = 256
RESERVED_PREFIX = "_store"
"""First segment of everything that belongs to the store itself; no grant can name it."""

_PATH = re.compile(r"[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,8}", re.ASCII)
_PATTERN_SEGMENT = re.compile(r"[A-Za-z0-9_-]{1,64}|\*", re.ASCII)
_SERVICE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_ENVIRONMENT = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)


class KeyAddress(NamedTuple):
    """Where one value lives: the canonical key path and its environment."""

    path: str
    environment: str

    def __str__(self) -> str:
        return f"{self.path}.{self.environment}"


def split_environment(text: str, environments: Collection[str]) -> tuple[str, str | None]:
    """Split ``text`` into the canonical path and the environment its last segment names, if any.

    Raises `InvalidRequestError` ``malformed_path``.
    """
    if len(text) > MAX_PATH_CHARACTERS + 33 or _PATH.fullmatch(text) is None:
        raise _malformed(text)
    path, _, last = text.rpartition(".")
    if last in environments:
        if not path or path.rpartition(".")[2].lower() in environments:
            raise _malformed(text, "a path is more than an environment, and names only one")
        environment: str | None = last
    elif last.lower() in environments:
        raise _malformed(text, f"{last} is reserved: the environment is spelled {last.lower()}")
    else:
        path, environment = text, None
    if len(path) > MAX_PATH_CHARACTERS or path.count(".") >= MAX_SEGMENTS:
        raise _malformed(text)
    return path, environment


def parse_address(
    text: str, environments: Collection[str], *, default: str, explicit: str | None = None
) -> KeyAddress:
    """The address that ``text`` names.

    The environment is the suffix, else ``explicit`` (the request's own field), else ``default``
    (the token's). Raises `InvalidRequestError`: ``malformed_path``; ``unknown_environment`` for an
    undeclared ``explicit``; ``environment_conflict`` where suffix and ``explicit`` differ.
    """
    path, suffix = split_environment(text, environments)
    if explicit is not None:
        if explicit not in environments:
            raise InvalidRequestError(
                "unknown_environment", f"Environment {_shown(explicit)} is not declared."
            )
        if suffix is not None and suffix != explicit:
            raise InvalidRequestError(
                "environment_conflict",
                f"The path ends in {suffix}, but the request says environment {explicit}.",
            )
    return KeyAddress(path, suffix or explicit or default)


def parse_pattern(text: str, environments: Collection[str]) -> tuple[str, str | None]:
    """A grant's pattern and the environment its last segment names, if any.

    ``*`` is one whole segment, a trailing ``**`` one or more; a wildcard never matches an
    environment. Raises `InvalidRequestError` ``malformed_pattern`` or ``reserved_path``.
    """
    segments = text.split(".")
    environment = None
    if len(segments) > 1 and segments[-1] in environments:
        environment = segments.pop()
    body, tail = (segments[:-1], segments[-1]) if segments[-1] == "**" else (segments, None)
    if (
        len(".".join(segments)) > MAX_PATH_CHARACTERS
        or len(segments) > MAX_SEGMENTS
        or any(_PATTERN_SEGMENT.fullmatch(segment) is None for segment in body)
        or (tail is None and segments[-1].lower() in environments)
    ):
        raise InvalidRequestError(
            "malformed_pattern", f"{_shown(text)} is not a pattern of whole segments."
        )
    if segments[0].lower() == RESERVED_PREFIX:
        raise InvalidRequestError("reserved_path", "No grant can name what the store keeps.")
    return ".".join(segments), environment


def prefixes(path: str) -> list[str]:
    """``a``, ``a.b``, ``a.b.c`` for ``a.b.c``."""
    segments = path.split(".")
    return [".".join(segments[: end + 1]) for end in range(len(segments))]


def fold(name: str) -> str:
    """The form under which two spellings collide. The grammar is ASCII, so lower case is exact."""
    return name.lower()


def check_service_name(name: str) -> str:
    """``name``, if it is ``[a-z0-9][a-z0-9-]{0,62}``; else ``invalid_field``."""
    if _SERVICE.fullmatch(name) is None:
        raise InvalidRequestError(
            "invalid_field",
            f"{_shown(name)} is not a service name: a-z, 0-9 and -, at most 63 characters.",
        )
    return name


def check_environment_name(name: str) -> str:
    """``name``, if it can be an environment: ``[a-z0-9][a-z0-9_-]{0,31}``; else
    ``invalid_field``."""
    if _ENVIRONMENT.fullmatch(name) is None:
        raise InvalidRequestError(
            "invalid_field",
            f"{_shown(name)} is not an environment name: a-z, 0-9, _ and -, at most 32 characters.",
        )
    return name


def _malformed(text: str, why: str = "") -> InvalidRequestError:
    return InvalidRequestError(
        "malformed_path", f"{_shown(text)} is not a key path" + (f": {why}." if why else ".")
    )


def _shown(text: str, limit: int = 80) -> str:
    """A foreign text, safe for a message: escaped, and cut after ``limit`` characters."""
    return ascii(text if len(text) <= limit else text[:limit] + "…")
