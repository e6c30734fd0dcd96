"""dox-core-store: one place for a platform's keys, and one door through which services get them.

::

    from dox_core_store import KeyClient

    client = KeyClient(service_name="jules-mcp", service_token=os.getenv("SERVICE_TOKEN"))
    key = await client.get_key("service_keys.jules_api.production", cache_ttl=3600)

Importing this package imports nothing else: each public name is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dox_core_store.client import (
        HealthReport,
        Key,
        KeyChange,
        KeyClient,
        KeyService,
        SyncKey,
        SyncKeyClient,
    )
    from dox_core_store.errors import (
        AuthenticationError,
        ConfigurationError,
        ConflictError,
        ConnectionFailedError,
        DoxStoreError,
        GoneError,
        InternalError,
        InvalidRequestError,
        MethodNotAllowedError,
        NotFoundError,
        PayloadTooLargeError,
        RateLimitError,
        StoreUnavailableError,
        UnauthorizedError,
    )

__all__ = [
    "AuthenticationError",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "DoxStoreError",
    "GoneError",
    "HealthReport",
    "InternalError",
    "InvalidRequestError",
    "Key",
    "KeyChange",
    "KeyClient",
    "KeyService",
    "MethodNotAllowedError",
    "NotFoundError",
    "PayloadTooLargeError",
    "RateLimitError",
    "StoreUnavailableError",
    "SyncKey",
    "SyncKeyClient",
    "UnauthorizedError",
]

_FROM_CLIENT = frozenset(
    {"HealthReport", "Key", "KeyChange", "KeyClient", "KeyService", "SyncKey", "SyncKeyClient"}
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "client" if name in _FROM_CLIENT else "errors"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
