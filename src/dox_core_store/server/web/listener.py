"""The socket: Granian in one process, on our event loop.

HTTP/1 with a header timeout, because automatic protocol detection never closes a silent connection;
a backpressure far above the default, because it counts connections, so that silent ones cannot keep
others out; a small buffer. SIGTERM and SIGINT drain and end, SIGHUP re-reads the certificates.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.server.embed import Server

from dox_core_store.errors import ConfigurationError

__all__ = ["listen", "refuse_taken_port"]

_HEADER_SECONDS = 30
_BUFFER_BYTES = 32 * 1024
_BACKLOG = 4_096
_MIN_FILES = 32_768
_OVERLAP_SECONDS = 0.5
"""How long old and new listener both accept when certificates are re-read."""


async def listen(
    application: Any,
    *,
    host: str,
    port: int,
    certificate: Path | None,
    key: Path | None,
    max_connections: int,
    shutdown_seconds: int,
    on_reload: Callable[[str], None],
    before_stop: Callable[[], Awaitable[None]],
    failed: asyncio.Event,
) -> None:
    """Serve ``application`` until SIGTERM or SIGINT, or until ``failed``; requests under way get
    ``shutdown_seconds``.

    Raises `ConfigurationError` ``bad_setting`` if the address or the certificate is unusable.
    """
    _raise_file_limit()
    try:
        # Its methods bear no types.
        server: Any = _PatientServer(
            application,
            address=host,
            port=port,
            interface=Interfaces.ASGINL,  # start-up is ours: it fails before a socket exists
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(
                header_read_timeout=_HEADER_SECONDS * 1000, max_buffer_size=_BUFFER_BYTES
            ),
            websockets=False,
            backlog=_BACKLOG,
            backpressure=max_connections,
            log_enabled=False,
            ssl_cert=certificate,
            ssl_key=key,
        )
    except OSError as error:  # includes ssl.SSLError
        raise ConfigurationError("bad_setting", f"The TLS files are unusable: {error}.") from error
    server.workers_kill_timeout = shutdown_seconds
    server.respawn_interval = _OVERLAP_SECONDS
    loop = asyncio.get_running_loop()

    def reload() -> None:
        try:
            server.build_ssl_context(
                cert=certificate,
                key=key,
                password=None,
                proto=SSLProtocols.tls13,
                ca=None,
                crl=[],
                client_verify=False,
            )
        except OSError as error:
            on_reload(f"failed, the old certificate stays: {error}")
            return
        server.reload()
        on_reload("ok")

    async def stop() -> None:
        try:
            await before_stop()
        finally:
            server.stop()

    async def stop_when_failed() -> None:
        await failed.wait()
        await stop()

    watch = loop.create_task(stop_when_failed())
    stopping: list[asyncio.Task[None]] = []
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, lambda: stopping.append(loop.create_task(stop())))
    if certificate is not None:
        loop.add_signal_handler(signal.SIGHUP, reload)
    else:
        loop.add_signal_handler(signal.SIGHUP, on_reload, "nothing to do without TLS")
    try:
        await server.serve()
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(
            "bad_setting", f"Cannot listen on {host}:{port}: {error}."
        ) from error
    finally:
        watch.cancel()


def refuse_taken_port(host: str, port: int) -> None:
    """Raise `ConfigurationError` ``bad_setting`` if somebody listens there already.

    The server's own socket shares its port (``SO_REUSEPORT``), so two stores on one port would
    start without a word, and the kernel would hand each of them half of the connections.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not for what lingers only
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                "bad_setting", f"Cannot listen on {host}:{port}: {error.strerror}."
            ) from error


class _PatientServer(Server):
    """Granian's server, except that a connection which outlasts the time it is given is left to its
    header timeout. There, half a request is enough to end the whole server, on SIGHUP too."""

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:  # type: ignore[override]  # as `Server` does
        worker: Any = super()._spawn_worker(idx, target, callback_loader)
        join = worker.join

        async def join_or_leave(timeout: float | None = None) -> None:  # noqa: ASYNC109
            with contextlib.suppress(TimeoutError):
                await join(timeout)

        worker.join = join_or_leave
        return worker


def _raise_file_limit() -> None:
    """Connections are files: take what the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MIN_FILES if hard == resource.RLIM_INFINITY else min(_MIN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
