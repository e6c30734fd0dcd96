"""`SyncKeyClient`: `KeyClient` for code without an event loop.

What is in the cache is answered at once; everything else is done on the client's own thread, on
which all callers of a process meet: fifty threads that want one cold key make one request.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from dox_core_store.client.health import HealthReport
from dox_core_store.client.key import SyncKey
from dox_core_store.client.reader import DEFAULT_CACHE_TTL_SECONDS, Reader

__all__ = ["SyncKeyClient"]


class SyncKeyClient:
    """See `KeyClient`, whose arguments and methods these are. May be used by any number of threads,
    and in forked processes."""

    def __init__(
        self,
        service_name: str,
        service_token: str | None = None,
        url: str | None = None,
        timeout_ms: float | None = None,
        ca_file: str | Path | None = None,
        *,
        proxy: str | None = None,
        outage_dir: str | Path | None = None,
        follow: bool = True,
    ) -> None:
        self._reader = reader = Reader(
            SyncKey,
            service_name=service_name,
            service_token=service_token,
            url=url,
            timeout_ms=timeout_ms,
            ca_file=ca_file,
            proxy=proxy,
            outage_dir=outage_dir,
            follow=follow,
        )
        self._lookup = reader.lookup
        self._wait_for = reader.worker.wait_for
        # At the end of the process the worker ends by itself, and is waited for.
        weakref.finalize(self, reader.let_go).atexit = False

    def get_key(self, key_path: str, cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS) -> SyncKey:
        """See `KeyClient.get_key`."""
        held = self._lookup(key_path, cache_ttl)
        if held is not None:
            return held
        return self._wait_for(self._reader.get_key(key_path, cache_ttl))

    def get_keys(
        self, key_paths: Iterable[str], cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS
    ) -> dict[str, SyncKey]:
        """See `KeyClient.get_keys`."""
        return self._wait_for(self._reader.get_keys(key_paths, cache_ttl))

    def on_value(self, hear: Callable[[SyncKey], None]) -> None:
        """See `KeyClient.on_value`."""
        self._reader.on_value(hear)

    def clear_cache(self, key_path: str | None = None) -> None:
        """See `KeyClient.clear_cache`."""
        self._wait_for(self._reader.clear_cache(key_path))

    def health_check(self, timeout: float | None = None) -> HealthReport:
        """See `KeyClient.health_check`."""
        return self._wait_for(self._reader.health_check(timeout))

    def close(self) -> None:
        """Report what was served, close every connection, forget every key."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
