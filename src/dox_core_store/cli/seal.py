"""`doxstore seal`: what opens the store, and the keys that seal it."""

from __future__ import annotations

from dox_core_store.cli.command import Command, Group

__all__ = ["SEAL"]

_COMMANDS: tuple[Command | Group, ...] = ()

SEAL = Group(
    "seal",
    "What opens the store (slots), opening it, and changing the keys that seal it.",
    _COMMANDS,
)
