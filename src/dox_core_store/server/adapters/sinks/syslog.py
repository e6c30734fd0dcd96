"""A syslog server as a destination: TCP (RFC 6587), TLS (RFC 5425), UDP (RFC 5426).

Syslog has no acknowledgement. Over TCP and TLS each batch has a connection of its own, which is
ended in order: we close our side and wait for the server to close its own. A server does that when
it has read everything; one that dies before answers with a reset, one that hangs not at all, and
both are failures. What it then does with the entries, nobody tells. UDP tells nothing whatever, so
no destination that is required may use it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time

from dox_core_store.server.adapters.sinks.syslog_message import octet_counted, syslog_message
from dox_core_store.server.domain.shipping import Batch, ShippingError

__all__ = ["SyslogSink", "SyslogUdpSink"]

_CONNECT_SECONDS = 5.0
_BATCH_SECONDS = 15.0
_READ_BYTES = 4096


class SyslogSink:
    """See the `Sink` port. Over TLS if there is a ``context``."""

    kind = "syslog"

    def __init__(self, host: str, port: int, *, shown: str, context: ssl.SSLContext | None) -> None:
        self._host = host
        self._port = port
        self._context = context
        self.shown = shown

    def send(self, batch: Batch) -> None:
        frames = b"".join(octet_counted(message) for message in _messages(batch))
        until = time.monotonic() + _BATCH_SECONDS
        with (
            _translated(),
            socket.create_connection((self._host, self._port), _CONNECT_SECONDS) as plain,
        ):
            if self._context is None:
                plain.settimeout(_left(until))
                plain.sendall(frames)
                plain.shutdown(socket.SHUT_WR)
                _read_to_end(plain, until)
            else:
                with self._context.wrap_socket(plain, server_hostname=self._host) as secure:
                    secure.settimeout(_left(until))
                    secure.sendall(frames)
                    _end_tls(secure, until)


class SyslogUdpSink:
    """See the `Sink` port; nothing tells whether anything arrives."""

    kind = "syslog"

    def __init__(self, host: str, port: int, *, shown: str) -> None:
        self._host = host
        self._port = port
        self.shown = shown

    def send(self, batch: Batch) -> None:
        with _translated():
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_DGRAM
            )[0]
            with socket.socket(family, kind, protocol) as datagrams:
                datagrams.settimeout(_CONNECT_SECONDS)
                datagrams.connect(address)
                for message in _messages(batch):
                    datagrams.send(message)


def _messages(batch: Batch) -> list[bytes]:
    host, process = socket.gethostname(), os.getpid()
    return [
        syslog_message(entry, host=host, process=process, store_id=batch.store_id)
        for entry in batch.entries
    ]


def _end_tls(secure: ssl.SSLSocket, until: float) -> None:
    """Say that nothing follows, and wait until the server has read so. Many close the connection
    without saying it in TLS: an end that is no reset is as good."""
    secure.settimeout(_left(until))
    try:
        plain = secure.unwrap()
    except ssl.SSLEOFError:
        return
    except OSError as error:
        if error.errno:  # 0 is how an end without a word in TLS is told, too
            raise
        return
    with contextlib.closing(plain):
        plain.shutdown(socket.SHUT_WR)
        _read_to_end(plain, until)


def _read_to_end(plain: socket.socket, until: float) -> None:
    while True:
        plain.settimeout(_left(until))
        if not plain.recv(_READ_BYTES):
            return


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@contextlib.contextmanager
def _translated():  # type: ignore[no-untyped-def]  # noqa: ANN202
    try:
        yield
    except TimeoutError as error:
        raise ShippingError("it did not take everything in time") from error
    except ssl.SSLCertVerificationError as error:
        raise ShippingError(f"its certificate: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise ShippingError(f"TLS: {error.reason or type(error).__name__}") from error
    except OSError as error:
        raise ShippingError(error.strerror or type(error).__name__) from error
