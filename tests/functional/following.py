"""One stream of events, read from a socket with nothing of our own client in between."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from tests.functional.running import RunningStore

__all__ = ["Follower", "Told"]

EVENTS = "/v1/events"


class Told(NamedTuple):
    """One event. ``data`` is what its JSON says, None where it has none."""

    kind: str
    place: str
    data: Any
    at: float

    @property
    def seq(self) -> int:
        return int(self.place.partition("-")[2])

    @property
    def key_path(self) -> str:
        return str(self.data["key_path"])


class Follower:
    """An open stream. ``last`` is sent as ``Last-Event-ID``; ``raw`` is what was read of it."""

    def __init__(
        self,
        store: RunningStore,
        token: str,
        last: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._socket = socket.create_connection((store.host, store.port), 10)
        lines = [f"GET {EVENTS} HTTP/1.1", f"Host: {store.host}:{store.port}"]
        if token:
            lines.append(f"Authorization: Bearer {token}")
        if last is not None:
            lines.append(f"Last-Event-ID: {last}")
        lines += [f"{name}: {text}" for name, text in headers]
        self._socket.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        self.response = http.client.HTTPResponse(self._socket, method="GET")
        self.response.begin()
        self.raw = b""
        self.last = last

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.response.close()
        self._socket.close()

    @property
    def status(self) -> int:
        return self.response.status

    def next(self, seconds: float = 10) -> Told | None:
        """The next event; None where the stream has ended. Raises `TimeoutError`."""
        self._socket.settimeout(seconds)
        fields: dict[str, str] = {}
        while True:
            line = self.response.readline()
            self.raw += line
            if not line:
                return None
            text = line.decode().rstrip("\n")
            if not text:
                break
            name, _, value = text.partition(": ")
            fields[name.removesuffix(":")] = value
        self.last = fields["id"]
        data = json.loads(fields["data"]) if fields["data"] else None
        return Told(fields["event"], fields["id"], data, time.monotonic())

    def beat(self) -> Told:
        """The next event, which has to be a beat."""
        told = self.next()
        assert told is not None
        assert told.kind == "beat", told
        return told

    def told(self, seconds: float = 10) -> Told:
        """The next event that is no beat."""
        deadline = time.monotonic() + seconds
        while True:
            told = self.next(max(0.01, deadline - time.monotonic()))
            assert told is not None, "the stream ended"
            if told.kind != "beat":
                return told

    def until_key(self, key_path: str) -> list[Told]:
        """What is told before, and with, the next event of ``key_path``."""
        found: list[Told] = []
        while not found or found[-1].data is None or found[-1].key_path != key_path:
            found.append(self.told())
        return found

    def ends(self, seconds: float = 10) -> float:
        """Read to the end; when it came."""
        deadline = time.monotonic() + seconds
        while self.next(max(0.01, deadline - time.monotonic())) is not None:
            pass
        return time.monotonic()
