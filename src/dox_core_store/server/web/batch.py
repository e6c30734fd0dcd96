"""What a batch asks for, and how its answer is written: for each a key, a problem, or neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from dox_core_store.errors import DoxStoreError, InvalidRequestError
from dox_core_store.server.usecases.reveal import Revealed
from dox_core_store.server.web.request import parse
from dox_core_store.wire import BatchRequest, Problem, encode

__all__ = ["MAX_BATCH_BYTES", "Items", "batch_items", "parse_batch"]

MAX_BATCH_BYTES = 64 * 1024
_MAX_BATCH = 100
_MAX_ID_CHARACTERS = 64


class Items(NamedTuple):
    """An answer's body, None where nothing is to be told; and how many values are in it."""

    body: bytes | None
    values: int


def parse_batch(body: bytes) -> BatchRequest:
    """What is asked for. Raises as `parse` does, and ``invalid_field``."""
    wanted = parse(BatchRequest, body)
    if not 1 <= len(wanted.key_paths) <= _MAX_BATCH:
        raise InvalidRequestError("invalid_field", f"key_paths takes 1 to {_MAX_BATCH} paths.")
    if wanted.known.keys() - set(wanted.key_paths):
        raise InvalidRequestError("invalid_field", "known names what key_paths does not.")
    if any(len(each) > _MAX_ID_CHARACTERS for each in wanted.known.values()):
        raise InvalidRequestError(
            "invalid_field", f"known takes ids of at most {_MAX_ID_CHARACTERS} characters."
        )
    return wanted


def batch_items(
    paths: Iterable[str],
    found: Iterable[Revealed | DoxStoreError],
    problem: Callable[[DoxStoreError], Problem],
) -> Items:
    """The answer for ``found``, in the order of ``paths``."""
    items: list[dict[str, Any]] = []
    values, unchanged = 0, 0
    for path, each in zip(paths, found, strict=True):
        if isinstance(each, DoxStoreError):
            items.append({"asked": path, "problem": problem(each)})
        elif each.unchanged:
            items.append({"asked": path, "unchanged": True})
            unchanged += 1
        else:
            items.append({"asked": path, "key": msgspec.Raw(each.body)})
            values += 1
    return Items(None if unchanged == len(items) else encode({"keys": items}), values)
