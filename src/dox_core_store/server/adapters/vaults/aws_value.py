"""Values as Secrets Manager keeps them.

A value that is text is the ``SecretString`` as it stands, so that everybody's tools read it without
knowing us. AWS takes no empty one: an empty value is a ``SecretBinary`` that says so, which no
other value becomes, since all text is a ``SecretString``. What is not UTF-8 is a ``SecretBinary``
too. A value that has a *field* is one member of a JSON object; members that are no text are
their JSON.

AWS's limit is that of the store, 65,536 bytes, and counts the whole object where there is one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dox_core_store.errors import error_for

__all__ = [
    "MAX_BYTES",
    "fields_of",
    "has_value",
    "object_of",
    "others_of",
    "secret_of",
    "value_of",
    "withdrawn_secret",
]

MAX_BYTES = 65_536
"""Of one version, as AWS's quotas have it; moto takes more, so it is checked here."""

_EMPTY = b"dox-core-store: this value is empty"
_NOTE = "doxstore:withdrawn"
_WITHDRAWN = json.dumps({_NOTE: "this key has no current version: it was revoked"})


def secret_of(value: bytes) -> dict[str, Any]:
    """``value`` as parameters of a request. Raises `PayloadTooLargeError` ``value_too_large``."""
    _check(value)
    if not value:
        return {"SecretBinary": _EMPTY}
    try:
        return {"SecretString": value.decode()}
    except UnicodeDecodeError:
        return {"SecretBinary": value}


def object_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An object with the members ``fields``. Raises as `secret_of`."""
    text = json.dumps(dict(fields), ensure_ascii=False)
    _check(text.encode(errors="surrogatepass"))
    return {"SecretString": text}


def withdrawn_secret() -> dict[str, Any]:
    """What stands where a revoked version stood, for people and tools that look there."""
    return {"SecretString": _WITHDRAWN}


def has_value(answer: Mapping[str, Any]) -> bool:
    return answer.get("SecretString") is not None or answer.get("SecretBinary") is not None


def value_of(answer: Mapping[str, Any], field: str | None = None) -> bytes | None:
    """The value in what AWS answered; None if there is no ``field`` in it."""
    if field is not None:
        member = (fields_of(answer) or {}).get(field)
        if member is None or isinstance(member, str):
            return None if member is None else member.encode(errors="surrogatepass")
        return json.dumps(member, ensure_ascii=False, separators=(",", ":")).encode()
    text, raw = answer.get("SecretString"), answer.get("SecretBinary")
    if text is not None:
        return str(text).encode(errors="surrogatepass")
    return None if raw is None else (b"" if raw == _EMPTY else bytes(raw))


def fields_of(answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """The members of the object that AWS answered; None if it is none, or has no members."""
    text = answer.get("SecretString")
    if not isinstance(text, str) or not text.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found else None


def others_of(answer: Mapping[str, Any] | None, field: str) -> dict[str, Any]:
    """The members beside ``field``, and beside what `withdrawn_secret` says."""
    found = fields_of(answer or {}) or {}
    return {name: value for name, value in found.items() if name not in (field, _NOTE)}


def _check(raw: bytes) -> None:
    if len(raw) > MAX_BYTES:
        raise error_for(
            "value_too_large",
            f"With what surrounds it the value is {len(raw)} bytes; AWS takes {MAX_BYTES}.",
        )
