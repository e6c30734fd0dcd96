"""The client: `KeyClient` and `SyncKeyClient` for services, `KeyService` for operators.

Pure decisions (`protocol`, `cache`, `credential`, `endpoint`) under a thin asynchronous shell
(`transport`, `connection`), so that another shell can use the same decisions. Nothing is imported
before it is used: the HTTP library alone costs more start-up time than everything here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dox_core_store.client.health import HealthReport
    from dox_core_store.client.key import Key, SyncKey
    from dox_core_store.client.key_change import KeyChange
    from dox_core_store.client.key_client import KeyClient
    from dox_core_store.client.key_import import KeyImport
    from dox_core_store.client.key_service import KeyService
    from dox_core_store.client.sync_key_client import SyncKeyClient

__all__ = [
    "HealthReport",
    "Key",
    "KeyChange",
    "KeyClient",
    "KeyImport",
    "KeyService",
    "SyncKey",
    "SyncKeyClient",
]

_HOMES = {
    "HealthReport": "health",
    "Key": "key",
    "KeyChange": "key_change",
    "KeyClient": "key_client",
    "KeyImport": "key_import",
    "KeyService": "key_service",
    "SyncKey": "key",
    "SyncKeyClient": "sync_key_client",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
