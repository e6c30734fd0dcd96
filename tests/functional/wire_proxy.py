"""A TCP proxy that a test can have hold what it carries, without closing anything: a network that
swallows packets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Self

__all__ = ["WireProxy"]

_CHUNK = 65_536


class WireProxy:
    """Between its own ``port`` and ``target`` on loopback: a port, or what says for each connection
    which port it is to be now (None: nobody is there), as a load balancer does. `holding` keeps
    back what the target answers; `swallow` loses both directions of the connections that are open
    at the time, for good, and takes new ones."""

    def __init__(self, target: int | Callable[[], int | None]) -> None:
        self._target = target if callable(target) else lambda: target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open = threading.Event()
        self._open.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._swallowed: set[socket.socket] = set()
        self._closing = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._open.set()
        self._listener.close()
        for pair in self._pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Keep back what the target answers meanwhile."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def swallow(self) -> int:
        """From now on nothing passes over the connections that are open; how many that are."""
        open_now = [each for pair in self._pairs for each in pair]
        self._swallowed.update(open_now)
        return len(open_now) // 2

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                target = self._connected()
            except OSError:  # the target is down: so is what stands in its place
                client.close()
                continue
            self._pairs.append((client, target))
            threading.Thread(target=self._carry, args=(client, target, False), daemon=True).start()
            threading.Thread(target=self._carry, args=(target, client, True), daemon=True).start()

    def _connected(self) -> socket.socket:
        if (port := self._target()) is None:
            raise ConnectionRefusedError
        return socket.create_connection(("127.0.0.1", port))

    def _carry(self, source: socket.socket, sink: socket.socket, held: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                if held:
                    self._open.wait()
                if source not in self._swallowed:
                    sink.sendall(chunk)
        if source in self._swallowed:
            return  # nobody is told that anything ended
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
