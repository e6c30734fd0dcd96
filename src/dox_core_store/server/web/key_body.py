"""The body of a read: `wire.KeyValue`, written straight from the catalog's records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dox_core_store.server.domain.key import VersionRecord
from dox_core_store.wire import encode

__all__ = ["render_key"]


def render_key(ceiling_seconds: int, grace_seconds: int) -> Callable[..., bytes]:
    """How a version becomes the body of `wire.KeyValue`."""

    def render(address: Any, version: VersionRecord, value: bytes) -> bytes:
        return encode(
            {
                "key_path": address.path,
                "environment": address.environment,
                "version": version.number,
                "version_id": version.version_id,
                "state": version.state,
                "value": value.decode(),
                "expires_at": version.expires_at,
                "cache_ttl_ceiling_seconds": ceiling_seconds,
                "outage_grace_seconds": grace_seconds,
            }
        )

    return render
