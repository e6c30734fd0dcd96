"""Several keys or none: what a caller gets for outcomes of which some may be errors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

from dox_core_store.client.key import HeldKey
from dox_core_store.errors import DoxStoreError

__all__ = ["all_or_first_error"]

K = TypeVar("K", bound=HeldKey)


def all_or_first_error(outcomes: Mapping[str, K | DoxStoreError]) -> dict[str, K]:
    """The keys by spelling, or the first error, whose ``errors`` has a copy of each."""
    errors = {
        spelling: copy.copy(outcome)
        for spelling, outcome in outcomes.items()
        if isinstance(outcome, DoxStoreError)
    }
    if errors:
        first = copy.copy(next(iter(errors.values())))
        first.errors = errors
        raise first
    return {
        spelling: outcome
        for spelling, outcome in outcomes.items()
        if not isinstance(outcome, DoxStoreError)
    }
