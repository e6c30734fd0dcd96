"""`OperatorCalls`: what all calls of the operators' client share. The calls are its subclasses'."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from dox_core_store import wire
from dox_core_store.client.connection import StoreConnection
from dox_core_store.client.credential import Credential, source_from
from dox_core_store.client.endpoint import endpoint_from
from dox_core_store.client.health import HealthReport, check_health
from dox_core_store.client.protocol import Call, accept, read_answer
from dox_core_store.errors import InvalidRequestError

__all__ = ["OperatorCalls", "as_utc"]

T = TypeVar("T")

Parameter = str | int | datetime | None


class OperatorCalls:
    """A connection as an operator: token from ``ADMIN_TOKEN``, address from ``KEY_SERVICE_URL``."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        timeout_ms: float | None = None,
        ca_file: str | Path | None = None,
        *,
        proxy: str | None = None,
    ) -> None:
        self._connection = StoreConnection(
            endpoint=endpoint_from(
                os.environ, url=url, timeout_ms=timeout_ms, ca_file=ca_file, proxy=proxy
            ),
            credential=Credential(
                source_from(os.environ, token, variable="ADMIN_TOKEN", file_variable=None),
                wall=time.time,
            ),
        )

    async def health_check(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # part of the answer, not of the task
    ) -> HealthReport:
        """Whether the store can serve now, within ``timeout`` seconds. Never raises."""
        return await check_health(self._connection, timeout_seconds=timeout)

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
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

    async def _call(
        self,
        method: str,
        path: str,
        body: wire.Request | None,
        answer_type: type[T],
        *,
        query: Mapping[str, Parameter] | None = None,
    ) -> T:
        """One call, and its answer as ``answer_type``."""
        call = _call_of(method, path, body, query)
        return await self._connection.ask(call, partial(read_answer, answer_type))

    async def _command(
        self,
        method: str,
        path: str,
        body: wire.Request | None,
        *,
        query: Mapping[str, Parameter] | None = None,
    ) -> None:
        """One call that is answered by nothing but its success."""
        await self._connection.ask(_call_of(method, path, body, query), accept)

    async def _pages(
        self,
        path: str,
        page_type: type[wire.Page[T]],
        query: Mapping[str, Parameter],
        *,
        on_page: Callable[[], None] | None = None,
    ) -> AsyncIterator[T]:
        """The items of a list, page after page, fetched as they are consumed; ``on_page`` is told
        of each."""
        cursor: str | None = None
        while True:
            page = await self._call("GET", path, None, page_type, query={**query, "cursor": cursor})
            if on_page is not None:
                on_page()
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    def _lines(self, path: str, query: Mapping[str, Parameter]) -> AsyncIterator[bytes]:
        """The lines of a long answer, as they come."""
        return self._connection.lines(_call_of("GET", path, None, query))


def _call_of(
    method: str, path: str, body: wire.Request | None, query: Mapping[str, Parameter] | None
) -> Call:
    encoded, is_text = None, True
    if body is not None:
        try:
            encoded = wire.encode(body)
        except UnicodeEncodeError:
            is_text = False
    if not is_text:  # not chained: the error of the encoder carries the whole text, value and all
        raise InvalidRequestError("invalid_field", "A field holds what no UTF-8 text can hold.")
    return Call(
        method=method,
        path=path,
        query=[(name, _shown(value)) for name, value in (query or {}).items() if value is not None],
        body=encoded,
        repeatable=method == "GET",
    )


def _shown(value: Any) -> str:
    return as_utc(value).isoformat() if isinstance(value, datetime) else str(value)


def as_utc(moment: datetime) -> datetime:
    """``moment`` in UTC. A time without a zone means another moment on each machine: refused."""
    if moment.tzinfo is None:
        raise InvalidRequestError("invalid_field", "A time needs its zone, for example UTC.")
    return moment.astimezone(UTC)
