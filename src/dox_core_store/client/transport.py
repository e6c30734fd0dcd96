"""`HttpTransport`: carries one `Call` to the store and brings one `Reply` back.

The one module that knows the HTTP library. Every failure of it leaves here as one
``connection_failed`` that names host and cause, and nothing else: it is raised outside the
``except`` block, because a chained error of the library holds the request with its token.

Redirects are not followed (the token would travel along), proxies and certificates of the
environment are not looked at, compressed bodies are refused (the store sends none). A reading call
whose connection broke is sent once more: a node that restarts closes its idle connections, and the
first to notice would otherwise fail. Time is bounded as a whole, not per read.

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx2

from dox_core_store.client.endpoint import Endpoint
from dox_core_store.client.protocol import Call, Reply, not_the_store
from dox_core_store.errors import ConnectionFailedError, DoxStoreError
from dox_core_store.sensitive import Sensitive

if TYPE_CHECKING:
    from dox_core_store.client.proof import ServiceKey

__all__ = ["HttpTransport", "failure_of"]

MAX_REPLY_BYTES = 128 * 1024 * 1024
"""Above the largest honest answer: 100 keys of 64 KiB, each byte escaped as six."""

MAX_LINE_BYTES = 1024 * 1024
"""Far above a ledger entry."""

_UNAUTHORIZED = 401
_BROKEN = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError)

_REASONS: dict[type[BaseException], str] = {
    TimeoutError: "no whole answer in time",
    httpx2.TimeoutException: "no whole answer in time",
    httpx2.ConnectError: "could not connect",
    httpx2.ProxyError: "the proxy refused",
    httpx2.NetworkError: "the connection broke",
    httpx2.RemoteProtocolError: "the connection broke, or what came is not HTTP",
    httpx2.InvalidURL: "the address is not one",
    OSError: "the connection broke",
}


def failure_of(error: BaseException, *, url: str) -> ConnectionFailedError:
    """``error``, whatever it is, as ours. Its own text is not used: it may quote a request."""
    kinds = type(error).__mro__
    reason = next((_REASONS[kind] for kind in kinds if kind in _REASONS), "the exchange failed")
    cause = _cause(error)
    said = f"{reason}: {cause}" if cause else reason
    return ConnectionFailedError(
        "connection_failed", f"No answer from {url}: {said} ({type(error).__name__})."
    )


class _Quiet(logging.Filter):
    """Keeps the library's note of each call to a store out of the service's log: the client makes
    calls by itself all the time. What else a process asks by the library is noted as before."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        noted = record.args
        if record.levelno != logging.INFO or not isinstance(noted, tuple) or len(noted) <= 1:
            return True
        return not any(str(noted[1]).startswith(url) for url in self.urls)


_quiet = _Quiet()
logging.getLogger("httpx2").addFilter(_quiet)


class HttpTransport:
    """Connections to one endpoint, kept alive between calls."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._url = endpoint.url
        _quiet.urls.add(f"{endpoint.url}/")
        self._timeout_seconds = endpoint.timeout_seconds
        self._nonce: str | None = None
        self._client = httpx2.AsyncClient(
            verify=endpoint.tls_context(),
            proxy=endpoint.proxy,
            trust_env=False,
            follow_redirects=False,
            timeout=endpoint.timeout_seconds,
            headers={
                "User-Agent": f"dox-core-store/{importlib.metadata.version('dox-core-store')}",
                "Accept": "application/json, application/problem+json",
                "Accept-Encoding": "identity",
            },
        )

    async def send(
        self,
        call: Call,
        *,
        token: Sensitive | None,
        timeout_seconds: float,
        key: ServiceKey | None = None,
    ) -> Reply:
        """The store's reply, or somebody's; ``key`` proves that a bound ``token`` is ours. Raises
        only `ConnectionFailedError`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                try:
                    return await self._exchange(call, token, key, timeout_seconds)
                except _BROKEN:
                    if not call.repeatable:
                        raise
                return await self._exchange(call, token, key, timeout_seconds)
        except Exception as error:  # noqa: BLE001  # total on purpose: nothing foreign leaves here
            failure = self._ours(error)
        raise failure

    async def lines(
        self,
        call: Call,
        *,
        token: Sensitive,
        check: Callable[[Reply], None],
        key: ServiceKey | None = None,
        silence_seconds: float | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The lines of a long answer, as they come.

        ``check`` sees the reply before the first line (with its body, unless it is a success) and
        raises if there will be none. Time is bounded per read here, by ``silence_seconds``, for
        what comes may have no end.
        """
        try:
            response = await self._opened(call, token, key, silence_seconds)
            try:
                check(_head(response) if response.is_success else await _read(response))
                rest = b""
                async for chunk in response.aiter_raw():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield line
                    if len(rest) > MAX_LINE_BYTES:
                        raise not_the_store(_head(response))
                if rest:
                    yield rest
                return
            finally:
                await response.aclose()
        except Exception as error:  # noqa: BLE001  # as above
            failure = self._ours(error)
        raise failure

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _exchange(
        self,
        call: Call,
        token: Sensitive | None,
        key: ServiceKey | None,
        timeout_seconds: float,
    ) -> Reply:
        proven_with = self._nonce
        reply = await self._send(self._request(call, token, key, timeout_seconds))
        if key is None or reply.status != _UNAUTHORIZED or self._nonce == proven_with:
            return reply
        # Refused for its nonce, and so not done: the answer brought the one to use.
        return await self._send(self._request(call, token, key, timeout_seconds))

    async def _opened(
        self,
        call: Call,
        token: Sensitive,
        key: ServiceKey | None,
        silence_seconds: float | None,
    ) -> httpx2.Response:
        """The head of a long answer."""
        silence = self._timeout_seconds if silence_seconds is None else silence_seconds

        async def begun() -> httpx2.Response:
            request = self._request(call, token, key, silence)
            response = await self._client.send(request, stream=True)
            self._nonce = response.headers.get("DPoP-Nonce", self._nonce)
            return response

        proven_with, response = self._nonce, await begun()
        if key is None or response.status_code != _UNAUTHORIZED or self._nonce == proven_with:
            return response
        await response.aclose()
        return await begun()

    async def _send(self, request: httpx2.Request) -> Reply:
        response = await self._client.send(request, stream=True)
        try:
            self._nonce = response.headers.get("DPoP-Nonce", self._nonce)
            return await _read(response)
        finally:
            await response.aclose()

    def _request(
        self,
        call: Call,
        token: Sensitive | None,
        key: ServiceKey | None,
        timeout_seconds: float,
    ) -> httpx2.Request:
        request = self._client.build_request(
            call.method,
            self._url + call.target,
            content=call.body,
            headers=dict(call.headers)
            | ({} if call.body is None else {"Content-Type": call.content_type}),
            timeout=timeout_seconds,
        )
        if token is not None:
            # The library hides this header from every repr; a dictionary of ours would not.
            scheme = "Bearer" if key is None else "DPoP"
            request.headers["Authorization"] = f"{scheme} {token.reveal()}"
        if token is not None and key is not None:
            request.headers["DPoP"] = key.proof(
                method=call.method,
                url=str(request.url),
                token=token.reveal(),
                nonce=self._nonce,
                body=call.body,
                now=int(time.time()),
            )
        return request

    def _ours(self, error: Exception) -> DoxStoreError:
        return error if isinstance(error, DoxStoreError) else failure_of(error, url=self._url)


async def _read(response: httpx2.Response) -> Reply:
    head = _head(response)
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise not_the_store(head, "The answer is larger than any of the store's.")
    return replace(head, body=bytes(body))


def _head(response: httpx2.Response) -> Reply:
    head = Reply(
        status=response.status_code,
        content_type=response.headers.get("Content-Type", ""),
        request_id=response.headers.get("X-Request-Id"),
        store_id=response.headers.get("X-Store-Id"),
    )
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise not_the_store(head, "The answer is compressed, which the store never does.")
    return head


def _cause(error: BaseException) -> str:
    """What the system or TLS said, from their own fixed texts."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, ssl.SSLError):
            # Not always set: `ssl` makes some of its errors without either.
            said = getattr(at, "verify_message", None) or getattr(at, "reason", None)
            return f"TLS: {said}" if said else "TLS"
        if isinstance(at, OSError) and at.strerror:
            return at.strerror
        at = at.__cause__ or at.__context__
    return ""
