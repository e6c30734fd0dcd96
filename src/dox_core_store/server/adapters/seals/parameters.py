"""A slot's public parameters, read as what they are: text that whoever writes the database chose.

Each kind describes its own as a struct with bounds. What does not fit is refused before anything is
computed from it or sent anywhere: it must cost neither memory nor time, and open nothing.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.domain.seal import Slot

__all__ = ["parameters_of", "read_parameters"]

Parameters = TypeVar("Parameters", bound=msgspec.Struct)


def read_parameters(slot: Slot, kind: type[Parameters]) -> Parameters:
    """The parameters of ``slot`` as ``kind``. Raises `ConfigurationError` ``store_damaged``."""
    try:
        return msgspec.convert(slot.parameters, kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            "store_damaged", f"Slot {slot.slot_id} cannot be understood: {error}."
        ) from error


def parameters_of(parameters: msgspec.Struct) -> dict[str, Any]:
    """``parameters`` as they are stored."""
    return dict(msgspec.to_builtins(parameters))
