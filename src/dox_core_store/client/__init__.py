"""The client: `KeyClient` for services, `KeyService` for operators.

Pure decisions (`protocol`, `cache`, `credential`, `endpoint`) under a thin asynchronous shell
(`transport`, `connection`), so that another shell can use the same decisions. Nothing is imported
before it is used: the HTTP library alone costs more start-up time than everything here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dox_core_store.client.health import HealthReport
    from dox_core_store.client.key import Key
    from dox_core_store.client.key_client import KeyClient
    from dox_core_store.client.key_import import KeyImport
    from dox_core_store.client.key_service import KeyService

__all__ = ["HealthReport", "Key", "KeyClient", "KeyImport", "KeyService"]

_HOMES = {
    "HealthReport": "health",
    "Key": "key",
    "KeyClient": "key_client",
    "KeyImport": "key_import",
    "KeyService": "key_service",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
