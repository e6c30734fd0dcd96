"""Followers of the ledger, a thread each, and what a node does about those that are behind.

What is required and behind holds every read back, on the event loop, until it has caught up;
nothing else waits for a destination. At the end of a node each follower has a moment to ship what
is left, the stream's last checkpoint with it; whoever hangs is left behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from dox_core_store import wire
from dox_core_store.errors import ConfigurationError, StoreUnavailableError
from dox_core_store.server.adapters.sinks.address import Trust, sink_at
from dox_core_store.server.adapters.sql.shipping import (
    CURSOR_PREFIX,
    ShippedUpTo,
    SqlShippingSource,
)
from dox_core_store.server.bootstrap.backing import Backing
from dox_core_store.server.ports import Clock, StoredEntry, Work
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.registry import Registry
from dox_core_store.server.usecases.shipping import Follower, FollowerState, Sink
from dox_core_store.server.web.ledger_routes import ledger_record

__all__ = [
    "WATCH_SECONDS",
    "Destination",
    "ShippedUpTo",
    "Shipping",
    "destination_names",
    "destinations",
]

WATCH_SECONDS = 1.0
_WRITE_SECONDS = 10.0
_WAIT_SECONDS = 0.2
_GRACE_SECONDS = 30.0
"""What a required destination has after a start before it holds reads back: what is behind then is
mostly what was written while nothing ran."""

_FAREWELL_SECONDS = 2.0


class Destination(NamedTuple):
    """A place that the settings name."""

    name: str
    number: int
    required: bool
    sink: Sink


def destinations(settings: Settings) -> list[Destination]:
    """What the settings ship to. Raises `ConfigurationError` ``bad_setting``."""
    trust = Trust(settings.ship_token_file, settings.ship_ca_file)
    named = [(each, False) for each in settings.ship_to]
    named += [(each, True) for each in settings.ship_required]
    found = []
    for number, (address, required) in enumerate(named, 1):
        sink = sink_at(address, trust, required=required)
        found.append(Destination(_cursor_name(address, sink), number, required, sink))
    if len({each.name for each in found}) < len(found):
        raise ConfigurationError(
            "bad_setting", "ship_to and ship_required name the same destination twice."
        )
    return found


def destination_names(settings: Settings) -> list[str]:
    """How cursors name what the settings ship to. Raises ``bad_setting``."""
    return [each.name.removeprefix(CURSOR_PREFIX) for each in destinations(settings)]


def _cursor_name(address: str, sink: Sink) -> str:
    """The name of a destination's cursor: its address, without what may be a secret in it."""
    if address == sink.shown:
        return f"{CURSOR_PREFIX}{address}"
    return f"{CURSOR_PREFIX}{sink.shown}#{hashlib.sha256(address.encode()).hexdigest()[:16]}"


class Shipping:
    """Made on the running event loop, over an open store: `start` it, `look` every second, and
    `finish` it, in a thread, once the store's stream is closed."""

    def __init__(
        self,
        found: Sequence[Destination],
        *,
        settings: Settings,
        backing: Backing,
        registry: Registry,
        clock: Clock,
        log: Any,
        report: Callable[[BaseException, str], None],
    ) -> None:
        self._lag = settings.ship_lag_seconds
        self._backing = backing
        self._registry = registry
        self._clock = clock
        self._log = log
        self._report = report
        self._ending = threading.Event()
        self._holds = False
        self._numbers: dict[int, int] = {}
        """Of the lease by which each destination is this node's to ship to."""
        self._strict_at = clock.monotonic() + min(_GRACE_SECONDS, self._lag)
        source = SqlShippingSource(
            engine=backing.store.engine,
            store_id=backing.store.store_id,
            encode=_line,
            write=self._write,
            lost=backing.lost,
        )
        self._followers = [
            Follower(
                name=each.name,
                number=each.number,
                required=each.required,
                sink=each.sink,
                source=source,
                clock=clock,
                notice=self._notice,
            )
            for each in found
        ]
        self._threads = [
            threading.Thread(
                target=self._run, args=(each,), name=f"ship-{each.number}", daemon=True
            )
            for each in self._followers
        ]

    def start(self) -> None:
        """Begin to ship."""
        for thread in self._threads:
            thread.start()

    def look(self) -> None:
        """Hold reads back while what is required is behind, and let them go on after it."""
        now = self._clock.seconds()
        late = []
        for each in self._followers:
            each.watch()
            if each.required and each.behind(now) > self._lag:
                late.append(each.sink.shown)
        if late and self._clock.monotonic() < self._strict_at:
            return
        detail = f"Not shipped for over {self._lag} s: {', '.join(late)}." if late else None
        self._registry.hold("sink_behind", detail)
        if late and not self._holds:
            self._log.error("sink_behind", sinks=late)
        elif self._holds and not late:
            self._log.info("sink_caught_up")
        self._holds = bool(late)

    def check(self) -> str:
        """For readiness, which everybody may ask: no addresses."""
        now = self._clock.seconds()
        late = [
            f"{each.sink.kind} {each.number}"
            for each in self._followers
            if each.behind(now) > self._lag
        ]
        if late:
            return f"behind: {', '.join(late)}"
        return "ok" if self._followers else "none"

    def states(self) -> list[FollowerState]:
        """For the metrics."""
        return [each.state() for each in self._followers]

    def finish(self) -> None:
        """Ship what is left, for a moment. The store's writer has stopped."""
        self._ending.set()
        until = time.monotonic() + _FAREWELL_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))

    def _run(self, follower: Follower) -> None:
        while not self._ending.wait(self._step(follower)):
            pass
        until = time.monotonic() + _FAREWELL_SECONDS
        while self._step(follower) == 0.0 and time.monotonic() < until:
            pass

    def _step(self, follower: Follower) -> float:
        number = self._backing.leases.hold(follower.name)
        if number is None:
            return follower.stand_by()
        if self._numbers.get(follower.number) != number:
            self._numbers[follower.number] = number
            follower.begin_anew()
        try:
            return follower.step()
        except Exception as error:  # noqa: BLE001 - reported; the destination is behind meanwhile
            self._report(error, "shipping")
            return _GRACE_SECONDS

    def _write(self, work: Work[None]) -> None:
        """Through the store's writer, and in its place once it has stopped."""
        if self._ending.is_set():
            return self._backing.store.write(work, self._clock)
        done: Future[None] = Future()

        def told(_result: object, error: BaseException | None) -> None:
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self._backing.writer.submit(work, told)
        until = time.monotonic() + _WRITE_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                return done.result(_WAIT_SECONDS)
            if self._ending.is_set():  # the writer has stopped in between, and will not do it
                return self._backing.store.write(work, self._clock)
        raise StoreUnavailableError("ledger_unavailable", "The store cannot be written now.")

    def _notice(self, event: str, follower: Follower, detail: str) -> None:
        """Called on whichever thread it happened on."""
        to = follower.sink.shown
        if event == "ship_failed":
            self._log.error("ship_failed", to=to, number=follower.number, reason=detail)
        elif event == "ship_recovered":
            self._log.info("ship_recovered", to=to, number=follower.number)
        elif event == "ship_restarted":
            self._log.warning("ship_restarted", to=to, number=follower.number, reason=detail)


def _line(stored: StoredEntry) -> bytes:
    """As `ledger export` has it, without the newline."""
    return wire.encode_line(ledger_record(stored))
