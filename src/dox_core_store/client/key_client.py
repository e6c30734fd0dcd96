"""`KeyClient`: how a service gets its keys.

A get is answered, in this order: from the cache, if the caller's ``cache_ttl`` and the store's
ceiling allow; by a request that is in flight for the same key; by a new request. What the store
refuses (403, 404, 410) is dropped from the cache at once, and everything is once it refuses the
token (401); whatever else goes wrong leaves the cache as it was. Errors are never cached.
"""

from __future__ import annotations

import asyncio
import copy
import os
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from dox_core_store.client.cache import KeyCache
from dox_core_store.client.connection import StoreConnection
from dox_core_store.client.credential import Credential, source_from
from dox_core_store.client.endpoint import endpoint_from
from dox_core_store.client.exchanged import ExchangedCredential
from dox_core_store.client.health import HealthReport, check_health
from dox_core_store.client.identity import identity_from
from dox_core_store.client.key import Key
from dox_core_store.client.protocol import (
    MAX_BATCH,
    check_spelling,
    read_batch,
    read_key,
    to_batch_get,
    to_get_key,
)
from dox_core_store.errors import (
    AuthenticationError,
    ConfigurationError,
    DoxStoreError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    UnauthorizedError,
)
from dox_core_store.wire import KeyValue

__all__ = ["KeyClient"]

DEFAULT_CACHE_TTL_SECONDS = 300

_REFUSALS = (UnauthorizedError, NotFoundError, GoneError)

Outcomes = Mapping[str, Key | DoxStoreError]


class KeyClient:
    """Keys for the service ``service_name``.

    What is not given comes from the environment: ``SERVICE_TOKEN`` (or the file that
    ``SERVICE_TOKEN_FILE`` names), else who the platform says we are
    (``SERVICE_IDENTITY_TOKEN_FILE``, or ``SERVICE_IDENTITY_AUDIENCE`` in GitHub Actions);
    ``KEY_SERVICE_URL``, ``KEY_SERVICE_TIMEOUT`` in milliseconds,
    ``KEY_SERVICE_CA_FILE``. A ``proxy`` is used only if given here. Raises `ConfigurationError`
    if any of it is unusable, or if the token is another service's.

    Make one and keep it: it may be used from several event loops, one after the other or at once,
    and its cache is shared by all of them.
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
    ) -> None:
        self._cache = KeyCache(monotonic=time.monotonic, wall=time.time)
        self._lookup = self._cache.lookup
        endpoint = endpoint_from(
            os.environ, url=url, timeout_ms=timeout_ms, ca_file=ca_file, proxy=proxy
        )
        self._connection = StoreConnection(
            endpoint=endpoint, credential=self._credential(service_name, service_token)
        )

    async def get_key(self, key_path: str, cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS) -> Key:
        """The current version of ``key_path``, at most ``cache_ttl`` seconds old.

        0 asks the store in any case; the store's own ceiling wins over a larger number.
        """
        held = self._lookup(key_path, cache_ttl)
        if held is not None:
            return held
        _check_ttl(cache_ttl)
        name = self._cache.name(check_spelling(key_path))
        session = await self._connection.session()
        flight = session.flights.board({name: key_path}, self._fetch_one)[name]
        outcome = await asyncio.shield(flight)
        if isinstance(outcome, Key):
            return outcome
        raise copy.copy(outcome)

    async def get_keys(
        self, key_paths: Iterable[str], cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS
    ) -> dict[str, Key]:
        """Several keys by the spelling asked, in one round trip (per hundred).

        If some fail, the others are cached and the first error is raised; its ``errors`` has the
        error of each path that failed.
        """
        _check_ttl(cache_ttl)
        if isinstance(key_paths, str):
            raise InvalidRequestError("invalid_parameter", "get_keys takes a list of key paths.")
        asked = list(dict.fromkeys(key_paths))
        outcomes: dict[str, Key | DoxStoreError] = {}
        names: dict[str, str] = {}
        for spelling in asked:
            held = self._lookup(spelling, cache_ttl)
            if held is not None:
                outcomes[spelling] = held
                continue
            try:
                names[spelling] = self._cache.name(check_spelling(spelling))
            except InvalidRequestError as error:
                outcomes[spelling] = error
        if names:
            by_name = await self._fetch_names({name: text for text, name in names.items()})
            outcomes.update((spelling, by_name[name]) for spelling, name in names.items())
        return _all_or_first_error({spelling: outcomes[spelling] for spelling in asked})

    async def clear_cache(self, key_path: str | None = None) -> None:
        """Forget ``key_path`` in every spelling, or everything. The next get asks the store."""
        if key_path is None:
            self._forget_all()
        else:
            self._cache.forget(key_path)
            self._connection.detach_flights()

    async def health_check(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # part of the answer, not of the task
    ) -> HealthReport:
        """Whether keys can be had now, within ``timeout`` seconds. Never raises."""
        return await check_health(self._connection, timeout_seconds=timeout)

    async def aclose(self) -> None:
        """Close the connections of this event loop and forget every key."""
        self._forget_all()
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _fetch_names(self, spellings: dict[str, str]) -> Outcomes:
        session = await self._connection.session()
        everyone = list(spellings.items())
        flights = {
            name: flight
            for start in range(0, len(everyone), MAX_BATCH)
            for name, flight in session.flights.board(
                dict(everyone[start : start + MAX_BATCH]), self._fetch_batch
            ).items()
        }
        return {name: await asyncio.shield(flight) for name, flight in flights.items()}

    async def _fetch_one(self, spellings: list[str]) -> Outcomes:
        (spelling,) = spellings
        sent_at, epoch = time.monotonic(), self._cache.epoch
        outcome: KeyValue | DoxStoreError
        try:
            outcome = await self._connection.ask(to_get_key(spelling), partial(read_key, spelling))
        except DoxStoreError as error:
            outcome = error
        return self._settled({spelling: outcome}, sent_at=sent_at, epoch=epoch)

    async def _fetch_batch(self, spellings: list[str]) -> Outcomes:
        sent_at, epoch = time.monotonic(), self._cache.epoch
        outcomes: Mapping[str, KeyValue | DoxStoreError]
        try:
            outcomes = await self._connection.ask(
                to_batch_get(spellings), partial(read_batch, spellings)
            )
        except DoxStoreError as error:
            outcomes = dict.fromkeys(spellings, error)
        return self._settled(outcomes, sent_at=sent_at, epoch=epoch)

    def _settled(
        self, outcomes: Mapping[str, KeyValue | DoxStoreError], *, sent_at: float, epoch: int
    ) -> Outcomes:
        settled: dict[str, Key | DoxStoreError] = {}
        for spelling, outcome in outcomes.items():
            if isinstance(outcome, KeyValue):
                self._cache.keep(spelling, outcome, sent_at=sent_at, epoch=epoch)
                settled[spelling] = Key(
                    outcome, source="service", fetched_at=sent_at, monotonic=time.monotonic
                )
            else:
                settled[spelling] = outcome
        # Refusals last: they start a new epoch, in which this answer would come too late.
        for spelling, outcome in outcomes.items():
            if isinstance(outcome, AuthenticationError):
                self._cache.forget_all()
            elif isinstance(outcome, _REFUSALS):
                self._cache.refused(spelling)
        return settled

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


def _all_or_first_error(outcomes: Outcomes) -> dict[str, Key]:
    errors = {
        spelling: copy.copy(outcome)
        for spelling, outcome in outcomes.items()
        if isinstance(outcome, DoxStoreError)
    }
    if errors:
        first = copy.copy(next(iter(errors.values())))
        first.errors = errors
        raise first
    return {spelling: key for spelling, key in outcomes.items() if isinstance(key, Key)}


def _check_ttl(cache_ttl: float) -> None:
    if not cache_ttl >= 0:  # also true of NaN, which compares with nothing
        raise ConfigurationError("bad_setting", "cache_ttl takes seconds, 0 or more.")
