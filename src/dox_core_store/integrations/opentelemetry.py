"""OpenTelemetry spans for what a client asks of the store; never a value in them.

::

    from dox_core_store import SyncKeyClient
    from dox_core_store.integrations.opentelemetry import trace_client

    client = trace_client(SyncKeyClient("jules-mcp"))
    key = client.get_key("service_keys.jules_api")  # the span "get_key"

A span says which key, environment and version, where from (``source``), and the code of the error,
if there was one; one of ``get_keys`` has a list of each, in the order of the keys. What the cache
answers makes no span, unless ``cached`` says so: it takes less time than the span would. Which it
was is known only afterwards, so a span is made when the call has ended, with the time at which it
began; spans of an HTTP library lie beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TypeVar

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.util.types import AttributeValue

from dox_core_store.client import Key, KeyClient, SyncKey, SyncKeyClient
from dox_core_store.client.key import HeldKey
from dox_core_store.client.reader import DEFAULT_CACHE_TTL_SECONDS
from dox_core_store.errors import DoxStoreError

__all__ = ["trace_client"]

C = TypeVar("C", KeyClient, SyncKeyClient)


def trace_client(
    client: C, tracer_provider: TracerProvider | None = None, *, cached: bool = False
) -> C:
    """``client``, which makes spans from now on: with ``tracer_provider``, else the global one."""
    if "get_key" in vars(client):
        raise ValueError("this client is traced already")
    tracer = trace.get_tracer("dox_core_store", tracer_provider=tracer_provider)
    spans = _Spans(tracer, cached=cached)
    if isinstance(client, SyncKeyClient):
        _trace_blocking(client, spans)
    else:
        _trace_asynchronous(client, spans)
    return client


class _Spans:
    def __init__(self, tracer: trace.Tracer, *, cached: bool) -> None:
        self._tracer = tracer
        self._cached = cached

    def answered(self, began_ns: int, key: HeldKey) -> None:
        if key.source != "cache" or self._cached:
            self._make("get_key", began_ns, _told(key))

    def answered_all(self, began_ns: int, keys: Mapping[str, HeldKey]) -> None:
        told = [_told(key) for key in keys.values()]
        if self._cached or not all(each["doxstore.cache_hit"] for each in told):
            columns = {name: [each[name] for each in told] for name in (told[0] if told else ())}
            self._make("get_keys", began_ns, columns)

    def failed(
        self, name: str, began_ns: int, key_paths: AttributeValue, error: BaseException
    ) -> None:
        code = error.code if isinstance(error, DoxStoreError) else type(error).__name__
        # The code only: not the error's traceback, which may show what is around it.
        attributes = {"doxstore.key_path": key_paths, "error.type": code}
        self._make(name, began_ns, attributes, Status(StatusCode.ERROR, code))

    def _make(
        self,
        name: str,
        began_ns: int,
        attributes: Mapping[str, AttributeValue],
        status: Status | None = None,
    ) -> None:
        span = self._tracer.start_span(
            name, kind=SpanKind.CLIENT, attributes=attributes, start_time=began_ns
        )
        if status is not None:
            span.set_status(status)
        span.end()


def _told(key: HeldKey) -> dict[str, str | int | bool]:
    return {
        "doxstore.key_path": key.key_path,
        "doxstore.environment": key.environment,
        "doxstore.version": key.version,
        "doxstore.source": key.source,
        "doxstore.cache_hit": key.source == "cache",
    }


def _trace_blocking(client: SyncKeyClient, spans: _Spans) -> None:
    get_key, get_keys = client.get_key, client.get_keys

    def traced_get_key(key_path: str, cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS) -> SyncKey:
        began_ns = time.time_ns()
        try:
            key = get_key(key_path, cache_ttl)
        except BaseException as error:
            spans.failed("get_key", began_ns, key_path, error)
            raise
        spans.answered(began_ns, key)
        return key

    def traced_get_keys(
        key_paths: Iterable[str], cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS
    ) -> dict[str, SyncKey]:
        began_ns, asked = time.time_ns(), _listed(key_paths)
        try:
            keys = get_keys(asked, cache_ttl)
        except BaseException as error:
            spans.failed("get_keys", began_ns, asked, error)
            raise
        spans.answered_all(began_ns, keys)
        return keys

    vars(client).update(get_key=traced_get_key, get_keys=traced_get_keys)


def _trace_asynchronous(client: KeyClient, spans: _Spans) -> None:
    get_key, get_keys = client.get_key, client.get_keys

    async def traced_get_key(key_path: str, cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS) -> Key:
        began_ns = time.time_ns()
        try:
            key = await get_key(key_path, cache_ttl)
        except BaseException as error:
            spans.failed("get_key", began_ns, key_path, error)
            raise
        spans.answered(began_ns, key)
        return key

    async def traced_get_keys(
        key_paths: Iterable[str], cache_ttl: float = DEFAULT_CACHE_TTL_SECONDS
    ) -> dict[str, Key]:
        began_ns, asked = time.time_ns(), _listed(key_paths)
        try:
            keys = await get_keys(asked, cache_ttl)
        except BaseException as error:
            spans.failed("get_keys", began_ns, asked, error)
            raise
        spans.answered_all(began_ns, keys)
        return keys

    vars(client).update(get_key=traced_get_key, get_keys=traced_get_keys)


def _listed(key_paths: Iterable[str]) -> str | list[str]:
    """To be looked at twice; a text is left as it is, for the client to refuse."""
    return key_paths if isinstance(key_paths, str) else list(key_paths)
