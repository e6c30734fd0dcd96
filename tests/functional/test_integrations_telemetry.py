"""Spans of real calls to a real store: what they say, and that they never say a value."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.functional.running import RunningStore

from dox_core_store import InvalidRequestError, KeyClient, SyncKeyClient, UnauthorizedError
from dox_core_store.integrations.opentelemetry import trace_client

VALUES = {"tracing.one": "value-of-one", "tracing.two": "value-of-two"}


class Spans:
    """What was made, and a provider to make it with."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))

    def taken(self) -> list[ReadableSpan]:
        spans = list(self._kept.get_finished_spans())
        self._kept.clear()
        for span in spans:
            assert not any(value in span.to_json() for value in VALUES.values())
            assert span.kind is SpanKind.CLIENT
            assert span.start_time < span.end_time
        return spans


@pytest.fixture(scope="module")
def token(shared_store: RunningStore) -> str:
    for path, value in VALUES.items():
        shared_store.put(path, value, environment="production")
    return shared_store.issue("traced", *VALUES)


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def client(shared_store: RunningStore, token: str) -> Iterator[SyncKeyClient]:
    with SyncKeyClient("traced", token, shared_store.url, follow=False) as made:
        yield made


def test_a_span_says_all_but_the_value(client: SyncKeyClient, spans: Spans) -> None:
    traced = trace_client(client, spans.provider)
    assert traced is client
    assert traced.get_key("tracing.one").value == "value-of-one"
    (span,) = spans.taken()
    assert span.name == "get_key"
    assert dict(span.attributes) == {
        "doxstore.key_path": "tracing.one",
        "doxstore.environment": "production",
        "doxstore.version": 1,
        "doxstore.source": "service",
        "doxstore.cache_hit": False,
    }


def test_what_the_cache_answers_makes_no_span_unless_asked(
    shared_store: RunningStore, token: str, client: SyncKeyClient, spans: Spans
) -> None:
    trace_client(client, spans.provider)
    client.get_keys(VALUES)
    spans.taken()
    client.get_key("tracing.one")
    client.get_keys(list(VALUES))
    assert spans.taken() == []
    with SyncKeyClient("traced", token, shared_store.url, follow=False) as other:
        trace_client(other, spans.provider, cached=True)
        other.get_key("tracing.one")
        other.get_key("tracing.one")
        hits = [span.attributes["doxstore.cache_hit"] for span in spans.taken()]
        assert hits == [False, True]


def test_a_batch_is_one_span(client: SyncKeyClient, spans: Spans) -> None:
    trace_client(client, spans.provider)
    client.get_key("tracing.one")
    spans.taken()
    client.get_keys(path for path in VALUES)
    (span,) = spans.taken()
    assert span.name == "get_keys"
    assert span.attributes["doxstore.key_path"] == tuple(VALUES)
    assert span.attributes["doxstore.source"] == ("cache", "service")


def test_an_error_is_its_code(client: SyncKeyClient, spans: Spans) -> None:
    trace_client(client, spans.provider)
    with pytest.raises(UnauthorizedError):
        client.get_key("tracing.other")
    with pytest.raises(UnauthorizedError):
        client.get_keys(["tracing.one", "tracing.other"])
    with pytest.raises(InvalidRequestError):
        client.get_keys("tracing.one")
    one, many, no_list = spans.taken()
    assert one.attributes == {"doxstore.key_path": "tracing.other", "error.type": "not_authorized"}
    assert one.status.status_code is StatusCode.ERROR
    assert many.attributes["doxstore.key_path"] == ("tracing.one", "tracing.other")
    assert no_list.attributes["error.type"] == "invalid_parameter"
    assert [span.events for span in (one, many, no_list)] == [(), (), ()]


def test_a_client_is_traced_once(client: SyncKeyClient, spans: Spans) -> None:
    trace_client(client, spans.provider)
    with pytest.raises(ValueError, match="traced already"):
        trace_client(client, spans.provider)


async def _ask(url: str, token: str, spans: Spans) -> None:
    async with trace_client(KeyClient("traced", token, url), spans.provider) as client:
        await client.get_key("tracing.one")
        await client.get_key("tracing.one")
        await client.get_keys(VALUES)
        with pytest.raises(UnauthorizedError):
            await client.get_key("tracing.other")
        with pytest.raises(UnauthorizedError):
            await client.get_keys(["tracing.other"])


def test_an_asynchronous_client_is_traced_too(
    shared_store: RunningStore, token: str, spans: Spans
) -> None:
    asyncio.run(_ask(shared_store.url, token, spans))
    told = [(span.name, span.attributes.get("error.type")) for span in spans.taken()]
    assert told == [
        ("get_key", None),
        ("get_keys", None),
        ("get_key", "not_authorized"),
        ("get_keys", "not_authorized"),
    ]
