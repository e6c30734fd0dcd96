"""Forms (``application/x-www-form-urlencoded``) as the wire types: only what RFC 8693 asks for.

Held to the same as JSON bodies: every field once, none that is unknown, bounded in size, whatever
the Content-Type says.
"""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from dox_core_store.errors import InvalidRequestError
from dox_core_store.server.web.request import parse

__all__ = ["MAX_FORM_BYTES", "parse_form"]

Body = TypeVar("Body")

MAX_FORM_BYTES = 32 * 1024
"""Twice the largest token: a form may escape some of it."""

_MAX_FIELDS = 20


def parse_form(kind: type[Body], raw: bytes) -> Body:
    """A form's body as ``kind``. Raises `InvalidRequestError` ``invalid_field``."""
    pairs: list[tuple[str, str]] | None = None
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        pairs = None  # raised below: a decoding error would carry the bytes along
    if pairs is None or len(dict(pairs)) != len(pairs):
        raise InvalidRequestError(
            "invalid_field", "The body is no form, or names a field twice: send NAME=VALUE&…."
        )
    return parse(kind, msgspec.json.encode(dict(pairs)))
