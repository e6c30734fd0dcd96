"""Destinations for what is shipped: a syslog server and a webhook, each on a real socket.

Each can be told to misbehave, and to stop that again. What they took is what their peer was told
that they took.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["SyslogServer", "WebhookServer", "serving_syslog", "serving_webhook"]

_MESSAGE = re.compile(
    r"<110>1 (\S+) (\S+) doxstore (\d+) (CHECKPOINT|CHANGE)"
    r' \[doxstore@32473 store="(store_[0-9a-f]{32})"\] (.*)'
)


class SyslogServer:
    """Reads octet-counted messages to the end of a connection, and then closes it."""

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.hangs = threading.Event()
        """While it is set, connections are accepted and never read."""
        self.taken: list[str] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def entries(self) -> list[dict[str, Any]]:
        found = []
        for message in self.taken:
            match = _MESSAGE.fullmatch(message)
            assert match, message
            entry = json.loads(match[6])
            assert match[1] == entry["timestamp"]
            assert (match[4] == "CHECKPOINT") == (entry["action"] == "CHECKPOINT")
            found.append(entry)
        return found

    def close(self) -> None:
        self._listener.close()
        for each in self._open:
            each.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(peer)
            if self.hangs.is_set():
                continue
            with contextlib.suppress(OSError):
                self._take(peer)

    def _take(self, peer: socket.socket) -> None:
        secure = peer if self._context is None else self._context.wrap_socket(peer, True)
        with secure:
            raw = b""
            while part := secure.recv(65536):
                raw += part
            messages = []
            while raw:
                length, _, raw = raw.partition(b" ")
                messages.append(raw[: int(length)].decode("ascii"))
                raw = raw[int(length) :]
            self.taken += messages


class WebhookServer:
    """Answers POST with `status`, and keeps the lines where that is 2xx."""

    def __init__(self) -> None:
        self.status = 204
        self.hangs = threading.Event()
        self.lines: list[bytes] = []
        self.requests: list[dict[str, str]] = []
        self._ending = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append({**dict(self.headers.items()), "path": self.path})
                if outer.hangs.is_set():
                    outer._ending.wait(60)
                    return
                status = outer.status
                if 200 <= status < 300:
                    outer.lines += body.splitlines()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def close(self) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def serving_syslog(context: ssl.SSLContext | None = None, port: int = 0) -> Iterator[SyslogServer]:
    server = SyslogServer(context, port)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def serving_webhook() -> Iterator[WebhookServer]:
    server = WebhookServer()
    try:
        yield server
    finally:
        server.close()
