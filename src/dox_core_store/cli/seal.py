"""`doxstore seal`: what opens the store, and the keys that seal it."""

from __future__ import annotations

from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.seal_rotate import REKEY, ROTATE_ROOT
from dox_core_store.cli.seal_slots import SLOTS
from dox_core_store.cli.seal_unseal import STATUS, UNSEAL

__all__ = ["SEAL"]

_COMMANDS: tuple[Command | Group, ...] = (SLOTS, STATUS, UNSEAL, REKEY, ROTATE_ROOT)

SEAL = Group(
    "seal",
    "What opens the store (slots), opening it, and changing the keys that seal it.",
    _COMMANDS,
)
