"""The environment of a command: ours, without what speaks for the service, and with its keys.

The command shall use the keys and not the store: it gets no token, nor what a token is got with.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from dox_core_store.errors import ConfigurationError

__all__ = ["KEPT_IF_PURE", "WITHHELD", "WITHHELD_BEGINNING", "child_environment"]

WITHHELD = frozenset(
    ("ADMIN_TOKEN", "SERVICE_KEY", "SERVICE_KEY_FILE", "SERVICE_TOKEN", "SERVICE_TOKEN_FILE")
)
WITHHELD_BEGINNING = "SERVICE_IDENTITY_"

KEPT_IF_PURE = frozenset(("HOME", "LANG", "PATH", "TERM"))


def child_environment(
    ours: Mapping[str, str],
    given: Mapping[str, str] | None = None,
    *,
    pure: bool = False,
    override: bool = False,
) -> dict[bytes, bytes]:
    """``ours`` as the command gets it, and the variables ``given`` to it.

    Raises `ConfigurationError`: ``bad_map`` where one is set already, unless ``override``;
    ``unsafe_variable`` where a value cannot be one.
    """
    kept = {
        name: text
        for name, text in ours.items()
        if name not in WITHHELD
        and not name.startswith(WITHHELD_BEGINNING)
        and (not pure or name in KEPT_IF_PURE)
    }
    # As bytes: a value is UTF-8, whatever the locale says.
    made = {os.fsencode(name): os.fsencode(text) for name, text in kept.items()}
    for name, value in (given or {}).items():
        if name in kept and not override:
            raise ConfigurationError(
                "bad_map", f"{name} is set already; --override gives it the key's value."
            )
        if "\0" in value:
            raise ConfigurationError(
                "unsafe_variable",
                f"The value for {name} has a NUL in it, which no variable can hold: say --files.",
            )
        made[name.encode()] = value.encode()
    return made
