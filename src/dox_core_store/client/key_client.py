"""`KeyClient`: how a service gets its keys."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from dox_core_store.client.health import HealthReport
from dox_core_store.client.key import Key
from dox_core_store.client.key_change import KeyChange
from dox_core_store.client.reader import DEFAULT_CACHE_TTL_SECONDS, Reader

__all__ = ["KeyClient"]


class KeyClient:
    """Keys for the service ``service_name``.

    What is not given comes from the environment: ``SERVICE_TOKEN`` (or the file that
    ``SERVICE_TOKEN_FILE`` names), else who the platform says we are
    (``SERVICE_IDENTITY_TOKEN_FILE``, or ``SERVICE_IDENTITY_AUDIENCE`` in GitHub Actions);
    ``KEY_SERVICE_URL``, ``KEY_SERVICE_TIMEOUT`` in milliseconds, ``KEY_SERVICE_CA_FILE``,
    ``KEY_SERVICE_OUTAGE_DIR``. A ``proxy`` is used only if given here. Raises `ConfigurationError`
    if any of it is unusable, or if the token is another service's.

    ``outage_dir`` is a folder for sealed copies of what was read, so that a service that starts
    during an outage has its keys; without one only what this process holds is served then.
    ``follow``: hear of changes and keep what is held current, in a thread of the client's own.

    Make one and keep it: it may be used from several event loops, one after the other or at once,
    in threads and in forked processes, and its cache is shared by all of a process.
    """

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
            Key,
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
        # At the end of the process the worker ends by itself, and is waited for.
        weakref.finalize(self, reader.let_go).atexit = False

    async def get_key(self, key_path: str, cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS) -> Key:
        """The current version of ``key_path``, at most ``cache_ttl`` seconds old.

        0 asks the store in any case; the store's own ceiling wins over a larger number. While the
        store cannot be asked, what is known may be older: its ``source`` is ``outage`` then.
        """
        held = self._lookup(key_path, cache_ttl)
        return await self._reader.get_key(key_path, cache_ttl) if held is None else held

    async def get_keys(
        self, key_paths: Iterable[str], cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS
    ) -> dict[str, Key]:
        """Several keys by the spelling asked, in one round trip (per hundred).

        If some fail, the others are cached and the first error is raised; its ``errors`` has the
        error of each path that failed.
        """
        return await self._reader.get_keys(key_paths, cache_ttl)

    def changes(
        self, key_paths: Iterable[str], cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS
    ) -> AsyncIterator[KeyChange[Key]]:
        """What each of ``key_paths`` is now, and again whenever one becomes another version, or can
        be had no more. Never ends by itself; close it with ``aclose``."""
        return self._reader.changes(key_paths, cache_ttl)

    def on_value(self, hear: Callable[[Key], None]) -> None:
        """Call ``hear`` with each key that is held now, and with each that comes or is confirmed
        from now on, before anybody is handed it. In any thread; it must be quick and never raise.
        For what has to know the values in order to hide them."""
        self._reader.on_value(hear)

    async def clear_cache(self, key_path: str | None = None) -> None:
        """Forget ``key_path`` in every spelling, or everything, in memory and in the folder for
        outages. The next get asks the store."""
        await self._reader.clear_cache(key_path)

    async def health_check(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # part of the answer, not of the task
    ) -> HealthReport:
        """Whether keys can be had now, within ``timeout`` seconds. Never raises."""
        return await self._reader.health_check(timeout)

    async def aclose(self) -> None:
        """Report what was served, close the connections of this event loop, forget every key."""
        await self._reader.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
