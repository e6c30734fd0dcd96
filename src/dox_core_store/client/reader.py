"""`Reader`: what `KeyClient` and `SyncKeyClient` have in common, which is all but how it is called.

A get is answered, in this order: from the cache, if the caller's ``cache_ttl`` and the store's
ceiling allow; by what is known, where the store is known to be away; by a request that is in flight
for the same key; by a new request.

Nothing here refers to the client that it belongs to: one that nobody holds any more is collected,
and its worker ends.
"""

from __future__ import annotations

import asyncio
import copy
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from dox_core_store.client.breaker import Breaker
from dox_core_store.client.cache import Held, KeyCache
from dox_core_store.client.clock import elapsed
from dox_core_store.client.connection import StoreConnection
from dox_core_store.client.credential import Credential, source_from
from dox_core_store.client.endpoint import endpoint_from
from dox_core_store.client.exchanged import ExchangedCredential
from dox_core_store.client.fetch import Fetch
from dox_core_store.client.follow import Follow
from dox_core_store.client.health import HealthReport, check_health
from dox_core_store.client.identity import identity_from
from dox_core_store.client.key import HeldKey, Source
from dox_core_store.client.key_change import Changes, KeyChange
from dox_core_store.client.outage import Outage
from dox_core_store.client.outage_store import outage_store_from
from dox_core_store.client.outcomes import all_or_first_error
from dox_core_store.client.protocol import MAX_BATCH, check_spelling
from dox_core_store.client.refused_key import Refusals
from dox_core_store.client.tally import Tally
from dox_core_store.client.worker import Worker
from dox_core_store.errors import (
    ConfigurationError,
    DoxStoreError,
    InvalidRequestError,
)
from dox_core_store.sensitive import HIDDEN
from dox_core_store.wire import KeyValue

__all__ = ["DEFAULT_CACHE_TTL_SECONDS", "Reader"]

K = TypeVar("K", bound=HeldKey)

DEFAULT_CACHE_TTL_SECONDS = 300

_MOST_CHARACTERS = 1_000
"""Of a reason, as the store takes it."""


class Reader(Generic[K]):
    """See the module, and `KeyClient` for the arguments."""

    def __init__(
        self,
        kind: type[K],
        *,
        service_name: str,
        service_token: str | None,
        url: str | None,
        timeout_ms: float | None,
        ca_file: str | Path | None,
        proxy: str | None,
        outage_dir: str | Path | None,
        follow: bool,
    ) -> None:
        self.elapsed = elapsed
        self._kind = kind
        self._follows = follow
        self._tally = Tally()
        self._hearers: list[Callable[[K], None]] = []
        self._changes: Changes[K] = Changes(get=self.get_key, elapsed=elapsed)
        self._cache: KeyCache[K] = KeyCache(
            elapsed=elapsed, wall=time.time, make=self._make, dropped=self._dropped
        )
        self.lookup = self._cache.lookup
        endpoint = endpoint_from(
            os.environ, url=url, timeout_ms=timeout_ms, ca_file=ca_file, proxy=proxy
        )
        credential = self._credential(service_name, service_token)
        self._connection = StoreConnection(endpoint=endpoint, credential=credential)
        self.worker = Worker(self._background)
        self._breaker = Breaker(
            elapsed=elapsed, is_watched=lambda: follow and self.worker.is_running
        )
        self._has_files = bool(outage_dir or os.environ.get("KEY_SERVICE_OUTAGE_DIR"))
        self._outage: Outage[K] = Outage(
            cache=self._cache,
            files=outage_store_from(
                os.environ, outage_dir, credential=credential, service_name=service_name
            ),
            tally=self._tally,
            make=self._make,
            elapsed=elapsed,
            wall=time.time,
        )
        self._fetch: Fetch[K] = Fetch(
            connection=self._connection,
            cache=self._cache,
            outage=self._outage,
            breaker=self._breaker,
            make=self._make,
            elapsed=elapsed,
            kept=self._kept,
        )
        self._refusals: Refusals[K] = Refusals(
            connection=self._connection, cache=self._cache, fetch=self._fetch, elapsed=elapsed
        )
        self._follow: Follow[K] = Follow(
            connection=self._connection,
            cache=self._cache,
            fetch=self._fetch,
            outage=self._outage,
            breaker=self._breaker,
            tally=self._tally,
            elapsed=elapsed,
            wall=time.time,
            changed=self._changes.wake,
        )

    async def get_key(self, key_path: str, cache_ttl: float) -> K:
        held = self.lookup(key_path, cache_ttl)
        if held is not None:
            return held
        _check_ttl(cache_ttl)
        name = self._cache.name(check_spelling(key_path))
        outcome = self._fetch.in_spite(name)
        if outcome is None:
            session = await self._connection.session()
            fetch = partial(self._fetch.one, ttl=cache_ttl)
            flight = session.flights.board({name: key_path}, fetch)[name]
            self._start()
            outcome = cast("K | DoxStoreError", await asyncio.shield(flight))
            if not _is_of(outcome, key_path):
                flight = session.flights.board({key_path: key_path}, fetch)[key_path]
                outcome = cast("K | DoxStoreError", await asyncio.shield(flight))
        if isinstance(outcome, DoxStoreError):
            raise copy.copy(outcome)
        return self._served(outcome)

    async def get_keys(self, key_paths: Iterable[str], cache_ttl: float) -> dict[str, K]:
        _check_ttl(cache_ttl)
        if isinstance(key_paths, str):
            raise InvalidRequestError("invalid_parameter", "get_keys takes a list of key paths.")
        asked = list(dict.fromkeys(key_paths))
        outcomes: dict[str, K | DoxStoreError] = {}
        names: dict[str, str] = {}
        for spelling in asked:
            held = self.lookup(spelling, cache_ttl)
            if held is not None:
                outcomes[spelling] = held
                continue
            try:
                names[spelling] = self._cache.name(check_spelling(spelling))
            except InvalidRequestError as error:
                outcomes[spelling] = error
                continue
            in_spite = self._fetch.in_spite(names[spelling])
            if in_spite is not None:
                outcomes[spelling] = in_spite
                del names[spelling]
        if names:
            spellings = {name: text for text, name in names.items()}
            by_name = await self._fetch_names(spellings, cache_ttl)
            outcomes.update((spelling, by_name[name]) for spelling, name in names.items())
            others = {each: each for each in names if not _is_of(outcomes[each], each)}
            if others:
                outcomes.update(await self._fetch_names(others, cache_ttl))
        return {
            spelling: self._served(key)
            for spelling, key in all_or_first_error(
                {spelling: outcomes[spelling] for spelling in asked}
            ).items()
        }

    def changes(
        self, key_paths: Iterable[str], cache_ttl: float
    ) -> AsyncGenerator[KeyChange[K], None]:
        return self._changes.of(key_paths, cache_ttl)

    def on_value(self, hear: Callable[[K], None]) -> None:
        """See `KeyClient.on_value`."""
        self._hearers.append(hear)
        for held in self._cache.all_held():
            hear(held.key)

    def refused(self, key: Any, reason: str) -> Coroutine[Any, Any, Any]:
        """See `Key.rejected`. What the upstream said may quote what it was sent."""
        said = reason.replace(key.value, HIDDEN) if key.value else reason
        return self._refused(key, said[:_MOST_CHARACTERS])

    def wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What ``work`` comes to, on the worker's loop; blocks."""
        return self.worker.wait_for(work)

    async def clear_cache(self, key_path: str | None) -> None:
        if key_path is None:
            self._forget_all()
        else:
            self._cache.forget(key_path)
            self._connection.detach_flights()
        self._outage.erase(key_path)

    async def health_check(self, timeout_seconds: float | None) -> HealthReport:
        report = await check_health(self._connection, timeout_seconds=timeout_seconds)
        mode = self._follow.mode if self.worker.is_running else "off"
        return report.following(mode, "" if mode in ("stream", "off") else self._follow.why)

    async def aclose(self) -> None:
        """Close what belongs to this event loop, and the worker; forget every key."""
        if self.worker.is_running:
            await asyncio.to_thread(self.worker.stop)
        self._forget_all()
        await self._connection.aclose()

    def close(self) -> None:
        """The same, where there is no event loop."""
        self.worker.stop()
        self._forget_all()

    def let_go(self) -> None:
        """Nobody holds the client any more: end what was begun for it, without waiting."""
        self._connection.let_go(but=self.worker.loop)
        self.worker.stop(wait=False)

    async def _background(self) -> None:
        if self._follows:
            await self._follow.run()

    async def _refused(self, key: K, reason: str) -> K:
        return self._served(await self.worker.outcome_of(self._refusals.of(key, reason)))

    async def _fetch_names(
        self, spellings: dict[str, str], ttl: float
    ) -> Mapping[str, K | DoxStoreError]:
        session = await self._connection.session()
        everyone = list(spellings.items())
        fetch = partial(self._fetch.batch, ttl=ttl)
        flights = {
            name: flight
            for start in range(0, len(everyone), MAX_BATCH)
            for name, flight in session.flights.board(
                dict(everyone[start : start + MAX_BATCH]), fetch
            ).items()
        }
        self._start()
        return {
            name: cast("K | DoxStoreError", await asyncio.shield(flight))
            for name, flight in flights.items()
        }

    def _start(self) -> None:
        if self._follows:
            self.worker.start()

    def _served(self, key: K) -> K:
        if key.source == "outage":
            self._outage.served(key)
        return key

    def _make(self, answer: KeyValue, source: Source, fetched_at: float) -> K:
        key = self._kind(answer, source=source, fetched_at=fetched_at, owner=self)
        for hear in self._hearers:
            hear(key)
        return key

    def _kept(self, spelling: str) -> None:
        if self._has_files:
            self.worker.start()
            self.worker.call(lambda: self._outage.write(spelling))

    def _dropped(self, held: Held[K], now: float) -> None:
        self._tally.settle(held, now)

    def _credential(
        self, service_name: str, service_token: str | None
    ) -> Credential | ExchangedCredential:
        """The token that was given, else one got by exchange, if the platform says who we are."""
        identity = identity_from(os.environ, service_token)
        if identity is None:
            return Credential(
                source_from(
                    os.environ,
                    service_token,
                    variable="SERVICE_TOKEN",
                    file_variable="SERVICE_TOKEN_FILE",
                ),
                wall=time.time,
                service_name=service_name,
                on_new_principal=self._forget_all,
                environ=os.environ,
            )
        return ExchangedCredential(
            identity,
            wall=time.time,
            monotonic=time.monotonic,
            service_name=service_name,
            on_new_principal=self._forget_all,
        )

    def _forget_all(self) -> None:
        self._cache.forget_all()
        self._connection.detach_flights()


def _check_ttl(cache_ttl: float) -> None:
    if not cache_ttl >= 0:  # also true of NaN, which compares with nothing
        raise ConfigurationError("bad_setting", "cache_ttl takes seconds, 0 or more.")


def _is_of(outcome: HeldKey | DoxStoreError, spelling: str) -> bool:
    """Whether it answers ``spelling``: with another token a bare path, as which others may have
    asked for it, means another key."""
    return isinstance(outcome, DoxStoreError) or spelling in (
        outcome.key_path,
        f"{outcome.key_path}.{outcome.environment}",
    )
