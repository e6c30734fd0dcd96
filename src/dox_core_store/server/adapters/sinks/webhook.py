"""A webhook as a destination: POST of JSON Lines, taken when the answer is 2xx.

No redirect is followed, since the bearer would travel along; proxies and certificates of the
environment are not looked at; the answer's body is not read. Each batch has a connection of its
own, cut when its time is over, also under a server that answers a byte at a time.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import socket
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from dox_core_store.server.domain.shipping import Batch, ShippingError

__all__ = ["WebhookSink"]

_CONNECT_SECONDS = 5.0
_READ_SECONDS = 10.0
_BATCH_SECONDS = 20.0
_MAX_TOKEN_BYTES = 8192
_EXTRA = "get_extra_info"


class WebhookSink:
    """See the `Sink` port. ``token_file`` holds the bearer, if any."""

    kind = "webhook"

    def __init__(
        self, url: str, *, shown: str, token_file: Path | None, context: ssl.SSLContext | None
    ) -> None:
        self._url = url
        self._token_file = token_file
        self._context = context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # of http://: not used
        self.shown = shown

    def send(self, batch: Batch) -> None:
        headers = self._headers(batch)
        line = _Line()
        limit = threading.Timer(_BATCH_SECONDS, line.cut)
        limit.daemon = True
        limit.start()
        try:
            status = self._post(headers, batch.lines(), line)
        except Exception as error:  # noqa: BLE001 - total on purpose: nothing foreign leaves here
            raise ShippingError(_reason(error)) from None  # the library's own holds the request
        finally:
            limit.cancel()
        if not 200 <= status < 300:  # noqa: PLR2004 - RFC 9110, 15.3
            raise ShippingError(f"it answered {status}")

    def _post(self, headers: Mapping[str, str], body: bytes, line: _Line) -> int:
        with (
            httpx2.Client(
                verify=self._context,
                trust_env=False,
                follow_redirects=False,
                timeout=httpx2.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
            ) as client,
            client.stream(
                "POST", self._url, headers=headers, content=body, extensions={"trace": line.trace}
            ) as answer,
        ):
            return answer.status_code

    def _headers(self, batch: Batch) -> dict[str, str]:
        headers = {
            "Content-Type": "application/x-ndjson",
            "User-Agent": f"dox-core-store/{importlib.metadata.version('dox-core-store')}",
            "X-Doxstore-Store": batch.store_id,
        }
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {_token(self._token_file)}"
        return headers


class _Line:
    """The connection of one exchange, for whoever has to cut it from another thread."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._is_cut = False

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Told by the library of each step; those that end in a stream have a socket."""
        stream = info.get("return_value")
        if event.endswith(".complete") and stream is not None and hasattr(stream, _EXTRA):
            self._socket = stream.get_extra_info("socket")
            if self._is_cut:
                self.cut()

    def cut(self) -> None:
        """Whoever reads from it or writes to it fails now."""
        self._is_cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _token(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            token = file.read(_MAX_TOKEN_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ShippingError(
            f"the file of ship_token_file cannot be read ({type(error).__name__})"
        ) from None
    if not token or not all("!" <= each <= "~" for each in token):
        raise ShippingError("the file of ship_token_file holds no token")
    return token


def _reason(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "it did not answer in time"
    if isinstance(error, httpx2.ConnectError):
        return "it cannot be connected to"
    return f"the exchange failed ({type(error).__name__})"
