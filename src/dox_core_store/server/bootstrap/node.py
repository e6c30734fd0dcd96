"""One server process on one store: its start, its background work, its health, its end.

Start order: the store's adapters, everything in memory, and only then a socket. If any step fails,
nothing is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from dox_core_store import wire
from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.process import forbid_dumps, settle_memory
from dox_core_store.server.adapters.telemetry import (
    NodeMetrics,
    configure_log,
    report_exception,
)
from dox_core_store.server.bootstrap.compose import Composed
from dox_core_store.server.bootstrap.embedded import Embedded
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.furnish import Furnish
from dox_core_store.server.web.listener import listen, refuse_taken_port

__all__ = ["Node", "run_node"]

RELEASE = version("dox-core-store")
_INDEX_SECONDS = 10.0
_FOLLOW_SECONDS = 0.5
_SIGN_SECONDS = 1.0
_SWEEP_SECONDS = 60.0
_EXIT_SOFTWARE = 70
"""EX_SOFTWARE of sysexits(3)."""


class Node:
    """Made on the running event loop: `start` it, serve `application`, `stop` it."""

    application: Any
    furnish: Furnish
    store_id: str

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._log = configure_log(settings.log_level)
        self._report = report_exception(self._log)
        self._embedded = Embedded(
            settings, clock=self._clock, alarm=self._alarm, on_death=self._writer_died
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = False
        self._alarms = 0

    async def start(self) -> None:
        """Everything but the socket. Raises `ConfigurationError`; nothing is then held."""
        await self._embedded.start()
        try:
            await self._compose()
        except BaseException:
            await self._embedded.stop()
            raise

    async def drain(self) -> None:
        """From now on not ready: a load balancer sends new requests elsewhere."""
        self._ready = False
        self._log.info("stopping")

    def reloaded(self, outcome: str) -> None:
        self._log.info("certificates_reloaded", outcome=outcome)

    async def stop(self) -> None:
        """Flush what waits, close the stream, release the lock."""
        self._ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._composed.refusals.flush()
        await self._embedded.stop()

    async def _compose(self) -> None:
        embedded = self._embedded
        self.store_id = embedded.store.store_id
        self._composed = composed = Composed(
            embedded,
            self._settings,
            release=RELEASE,
            clock=self._clock,
            pages={
                "/v1/health": self._health,
                "/v1/ready": self._readiness,
                "/metrics": self._show,
            },
            report=self._report,
            alarm=self._alarm,
        )
        self._metrics = NodeMetrics(
            door=composed.metrics,
            waiting=lambda: embedded.ledger.waiting,
            feed=lambda: composed.feed.applied,
            alarms=lambda: self._alarms,
        )
        await composed.feed.start()
        self.application, self.furnish = composed.door, composed.furnish
        self._every(_INDEX_SECONDS, embedded.writer.index)
        self._every(_SIGN_SECONDS, embedded.writer.sign)
        self._every(_FOLLOW_SECONDS, composed.feed.catch_up)
        self._every(0.0, self._sweep_imports)
        self._ready = True

    def _every(self, seconds: float, step: Callable[[], Awaitable[None] | None]) -> None:
        task = asyncio.create_task(self._repeat(seconds, step))
        self._tasks.add(task)

    async def _repeat(self, seconds: float, step: Callable[[], Awaitable[None] | None]) -> None:
        """Run ``step`` again and again. What it refuses is told by readiness and by every read; a
        fault of ours is reported, and the next round comes all the same."""
        while True:
            await asyncio.sleep(seconds)
            try:
                waited = step()
                if waited is not None:
                    await waited
            except DoxStoreError as error:
                self._log.warning("background_refused", code=error.code)
            except Exception as error:  # noqa: BLE001 - reported, and tried again
                self._report(error, "background")

    async def _sweep_imports(self) -> None:
        soon = self._composed.sweep_soon
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(soon.wait(), _SWEEP_SECONDS)
        soon.clear()
        await self._composed.imports.sweep()

    async def _health(self) -> tuple[int, str, bytes]:
        return self._told(200, "ok", {})

    async def _readiness(self) -> tuple[int, str, bytes]:
        checks = {"ledger": "ok", "feed": f"applied {self._composed.feed.applied}"}
        try:
            self._embedded.ledger.check()
        except DoxStoreError as error:
            checks["ledger"] = error.code
        ok = self._ready and checks["ledger"] == "ok"
        return self._told(200 if ok else 503, "ready" if ok else "not_ready", checks)

    async def _show(self) -> tuple[int, str, bytes]:
        return 200, "text/plain; version=0.0.4", self._metrics.render()

    def _told(self, code: int, status: str, checks: dict[str, str]) -> tuple[int, str, bytes]:
        health = wire.Health(status=status, store_id=self.store_id, version=RELEASE, checks=checks)
        return code, "application/json", wire.encode(health)

    def _alarm(self, table: str, identity: str) -> None:
        """A row or a value was changed behind the store."""
        self._log.error("integrity_alarm", table=table, row=identity)
        self._alarms += 1

    def _writer_died(self, error: BaseException) -> None:
        """Nothing can be recorded any more, so nothing may be served: end as a crash would."""
        self._report(error, "writer")
        os._exit(_EXIT_SOFTWARE)


def run_node(
    settings: Settings,
    on_ready: Callable[[Node], None],
    prepare: Callable[[Node], Awaitable[None]] | None = None,
) -> None:
    """Serve until told to stop; ``on_ready`` is called when everything but the socket stands.

    Before it ``prepare`` is awaited: what has to be in the store before anybody can ask.

    Raises `ConfigurationError`.
    """
    forbid_dumps()
    uvloop.run(_serve(settings, on_ready, prepare))


async def _serve(
    settings: Settings,
    on_ready: Callable[[Node], None],
    prepare: Callable[[Node], Awaitable[None]] | None,
) -> None:
    refuse_taken_port(settings.host, settings.port)  # before the store is touched
    node = Node(settings)
    await node.start()
    try:
        if prepare is not None:
            await prepare(node)
        on_ready(node)
        settle_memory()
        await listen(
            node.application,
            host=settings.host,
            port=settings.port,
            certificate=_path(settings.tls_certificate_file),
            key=_path(settings.tls_key_file),
            max_connections=settings.max_connections,
            shutdown_seconds=settings.shutdown_seconds,
            on_reload=node.reloaded,
            before_stop=node.drain,
        )
    finally:
        await node.stop()


def _path(text: str) -> Path | None:
    return Path(text) if text else None
