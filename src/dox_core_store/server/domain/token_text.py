"""The text of a token, read so that it can mean one thing only.

Base64url with one spelling of each part, JSON of one flat object with each name once: what two
readers could understand differently is refused, whichever of them was right. Nothing here knows
what a token says.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final, Never

import msgspec

from dox_core_store.errors import AuthenticationError

__all__ = [
    "MAX_TOKEN_BYTES",
    "claimed_token_id",
    "distinct",
    "flat_object",
    "invalid_token",
    "part_bytes",
    "refuse_number",
    "unpadded",
]

MAX_TOKEN_BYTES: Final = 4096


class _Claimed(msgspec.Struct):
    """As much of a payload as `claimed_token_id` looks at."""

    jti: str


def invalid_token(why: str) -> AuthenticationError:
    """The one refusal. ``why`` goes into a note for the log and never quotes the token."""
    error = AuthenticationError("token_invalid", "The token is not valid here.")
    error.add_note(f"token refused: {why}")
    return error


def part_bytes(part: str) -> bytes:
    """The bytes of a base64url part, if it is their only spelling: trailing bits that decoders drop
    would give one token many texts, and the cache of tokens as many entries. Else `ValueError`."""
    data = base64.b64decode(part + "=" * (-len(part) % 4), b"-_", validate=True)
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part.encode("ascii"):
        raise ValueError("stray bits")
    return data


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's members; `ValueError` where one is repeated."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is repeated")
    return members


def refuse_number(_: str) -> Never:
    """What JSON's parser is told to do with a number of another kind."""
    raise ValueError("another kind of number")


def unpadded(part: str) -> bytes:
    """`part_bytes` of one of our tokens."""
    try:
        return part_bytes(part)
    except ValueError:
        raise invalid_token("not base64url in its only spelling") from None


def flat_object(data: bytes, place: str) -> dict[str, Any]:
    """``data`` as a flat JSON object of strings and whole numbers.

    Nothing of ours nests, so a second bracket is refused before the parser can recurse (even one
    inside a string: no name of ours has it). Bytes are decoded here because ``json`` would guess
    UTF-16 and UTF-32 too.
    """
    if data.count(b"{") != 1 or b"[" in data:
        raise invalid_token(f"{place} is not one flat object")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=distinct,
            parse_float=refuse_number,
            parse_constant=refuse_number,
        )
    except ValueError:
        raise invalid_token(f"{place} is not JSON, or has a float or a repeated member") from None
    if not isinstance(value, dict):
        raise invalid_token(f"{place} is not an object")
    return value


def claimed_token_id(raw: bytes) -> str | None:
    """The id that ``raw`` names, before anything of it is believed; None where it names none. Far
    cheaper than a signature, and good for nothing but to ask whether that is worth its price."""
    parts = raw.split(b".", 3)
    if len(raw) > MAX_TOKEN_BYTES or len(parts) != 3:  # noqa: PLR2004 - RFC 7515, 3.1
        return None
    payload = parts[1]
    try:
        claimed = base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4))
        return msgspec.json.decode(claimed, type=_Claimed).jti
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return None
