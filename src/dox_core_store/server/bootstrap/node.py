"""One server process on one store: its start, its background work, its health, its end.

Start order: the store's adapters, everything in memory, and only then a socket. If any step fails,
nothing is served. The one exception is a store that is sound but still sealed: then the socket
comes first, behind it an application that serves nothing, and the rest follows once the store is
open (`sealing`). A fault after that ends the node, as it would have ended its start.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from dox_core_store.errors import DoxStoreError
from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.adapters.process import settle_memory
from dox_core_store.server.adapters.sql.room import Room
from dox_core_store.server.adapters.telemetry import (
    NodeMetrics,
    TokenCounts,
    configure_log,
    report_exception,
)
from dox_core_store.server.bootstrap.background import Background, alone_by
from dox_core_store.server.bootstrap.backing import BeginAnewError
from dox_core_store.server.bootstrap.backing_of import backing_of
from dox_core_store.server.bootstrap.backup_schedule import LOOK_SECONDS, BackupSchedule
from dox_core_store.server.bootstrap.compose import Composed
from dox_core_store.server.bootstrap.local import local_caller
from dox_core_store.server.bootstrap.pages import RELEASE, Readiness, node_pages
from dox_core_store.server.bootstrap.retention import LOOK_SECONDS as RETENTION_SECONDS
from dox_core_store.server.bootstrap.retention import ROOM_SECONDS, LedgerRetention, RoomWatch
from dox_core_store.server.bootstrap.sealed_node import sealed_application
from dox_core_store.server.bootstrap.sealing import Attempt, Sealing, open_status, refuse_entry
from dox_core_store.server.bootstrap.shipping import (
    WATCH_SECONDS,
    Destination,
    Shipping,
    destinations,
)
from dox_core_store.server.bootstrap.watch import Watch
from dox_core_store.server.domain.address import parse_networks
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.seal import Slot
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.events import BEAT_SECONDS, TURNS
from dox_core_store.server.usecases.furnish import Furnish
from dox_core_store.server.usecases.registry import subject
from dox_core_store.server.web.application import Application
from dox_core_store.server.web.client_address import ClientAddress
from dox_core_store.server.web.request import Receive, Scope, Send
from dox_core_store.server.web.sealed import SEAL_ADDRESSES, SealDesk

__all__ = ["Node", "OnSealed"]

OnSealed = Callable[["Node", str | None, str], None]
"""Told that a node is sealed: the id of a ceremony, if people can open it, and why it is a new one
(``start``, ``wrong``, ``idle``)."""

_INDEX_SECONDS = 10.0
_FOLLOW_SECONDS = 0.5
_SIGN_SECONDS = 1.0
_WATCH_SECONDS = 1.0
_TOKENS_SECONDS = 10.0


class Node:
    """Made on the running event loop: `start` it, serve `answer`, `stop` it.

    ``on_ready`` is called when everything stands (but the socket, unless it was sealed before), and
    before it ``prepare`` is awaited. Without ``on_sealed`` a sealed start is refused.
    """

    furnish: Furnish
    store_id: str
    _destinations: list[Destination]
    _shipping: Shipping

    def __init__(
        self,
        settings: Settings,
        *,
        on_ready: Callable[[Node], None],
        on_sealed: OnSealed | None = None,
        prepare: Callable[[Node], Awaitable[None]] | None = None,
        accept_clock: bool = False,
    ) -> None:
        self._settings = settings
        self._on_ready = on_ready
        self._on_sealed = on_sealed
        self._prepare = prepare
        self._clock = SystemClock()
        self._log = configure_log(settings.log_level)
        self._report = report_exception(self._log)
        self._watch = Watch(log=self._log, clock=self._clock, room=Room(settings.ledger_max_gib))
        self._clients = ClientAddress(
            trusted=parse_networks(settings.trusted_proxies),
            monotonic=self._clock.monotonic,
            doubt=lambda why, proxy: self._log.warning(
                "client_address_doubtful", why=why, proxy=proxy
            ),
        )
        loop = asyncio.get_running_loop()

        def lost(why: str) -> None:
            loop.call_soon_threadsafe(self._begin_anew, why)

        self._backing = backing_of(
            settings,
            clock=self._clock,
            alarm=self._alarm,
            on_death=self._writer_died,
            watch=self._watch,
            report=self._report,
            lost=lost,
            accept_clock=accept_clock,
        )
        self._background = Background(log=self._log, report=self._report)
        self._application: Application
        self._composed: Composed | None = None
        self._sealing: Sealing | None = None
        self._ready = False
        self._alarms = 0
        self.failed = asyncio.Event()
        self._failure: BaseException | None = None

    async def start(self) -> None:
        """Everything but the socket. Raises `DoxStoreError`; nothing is then held."""
        self._destinations = destinations(self._settings)
        self._backing.hold()
        try:
            attempt = Attempt.automatic(self._settings)
            try:
                await self._backing.open(attempt)
            except DoxStoreError as error:
                if error is not attempt.refused or self._on_sealed is None:
                    raise
                self._seal(attempt, error, self._on_sealed)
            else:
                await self._compose()
        except BaseException:
            await self.stop()
            raise

    def answer(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI application behind the socket, whichever it is now."""
        return self._application(scope, receive, send)

    def check(self) -> None:
        """Raise what ended the node, if that was a fault."""
        if self._failure is not None:
            raise self._failure

    async def drain(self) -> None:
        """From now on not ready: a load balancer sends new requests elsewhere. What it sends until
        it has noticed is answered still."""
        self._ready = False
        self._log.info("stopping")
        if self._composed is not None:
            self._composed.events.close()  # their clients go to another node, and hold up no end
        if not self.failed.is_set():
            await asyncio.sleep(self._settings.drain_seconds)

    def reloaded(self, outcome: str) -> None:
        self._log.info("certificates_reloaded", outcome=outcome)

    async def stop(self) -> None:
        """Flush what waits, close the stream, release the lock."""
        self._ready = False
        if self._sealing is not None:
            await self._sealing.stop()
        await self._background.stop()
        if self._composed is not None:
            await self._composed.feed.stop()
            self._composed.refusals.flush()
            self._composed.fronting.vaults.close()
        await self._backing.stop()

    def _seal(self, attempt: Attempt, refused: DoxStoreError, on_sealed: OnSealed) -> None:
        """Serve nothing until the store can be opened. Raises ``refused`` if that is never."""
        self.store_id = attempt.store_id

        def announce(ceremony: str | None, why: str) -> None:
            if ceremony is not None:
                self._log.warning("ceremony_opened", ceremony=ceremony, why=why)
            on_sealed(self, ceremony, why)

        self._sealing = sealing = Sealing(
            attempt,
            refused,
            settings=self._settings,
            clock=self._clock,
            log=self._log,
            open_store=self._unseal,
            announce=announce,
            fail=self._fail,
        )
        self._backing.check_writable()
        self._application = sealed_application(
            sealing,
            store_id=self.store_id,
            watch=self._watch,
            clients=self._clients,
            alarms=lambda: self._alarms,
            report=self._report,
        )
        self._log.warning("sealed", reason=refused.code, awaits=sealing.awaits)
        sealing.begin()

    async def _unseal(self, attempt: Attempt, how: str) -> None:
        """Open the store with ``attempt`` and serve. Raises what it was refused with; after that
        point whatever fails ends the node."""
        try:
            await self._backing.open(attempt)
            await self._record_unseal(attempt.opened_by, how)
            await self._compose()
        except BaseException as error:
            if error is not attempt.refused:
                self._fail(error)
            raise
        self._log.info("unsealed", how=how)

    async def _record_unseal(self, slot: Slot | None, how: str) -> None:
        name = "unknown" if slot is None else slot.slot_id
        entry = {"action": Action.UNSEAL, "key_path": subject("slots", name), "reason": how}
        await self._backing.catalog.write(lambda tx: tx.record(local_caller(), entry))

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self.failed.set()

    async def _compose(self) -> None:
        """Everything over the opened store; from its end on the node serves."""
        backing = self._backing
        self.store_id = backing.store.store_id
        self._watch.epoch = backing.store.epoch
        desk = SealDesk(
            status=lambda: open_status(self.store_id),
            enter=refuse_entry,
            store_id=self.store_id,
            report=self._report,
            address_of=self._clients.of,
        )
        composed = Composed(
            backing,
            self._settings,
            release=RELEASE,
            clock=self._clock,
            pages=node_pages(
                store_id=self.store_id,
                health="ok",
                readiness=lambda: self._readiness(composed),
                metrics=lambda: metrics.render(),  # noqa: PLW0108 - made below
            ),
            others=dict.fromkeys(SEAL_ADDRESSES, desk),
            report=self._report,
            alarm=self._alarm,
            notice=self._log.warning,
            clients=self._clients,
        )
        backups = BackupSchedule(
            self._settings,
            store=backing.store,
            catalog=backing.catalog,
            clock=self._clock,
            log=self._log,
            report=self._report,
            keep=lambda: backing.leases.hold("backup"),
        )
        shipping = self._shipping = Shipping(
            self._destinations,
            settings=self._settings,
            backing=backing,
            registry=composed.registry,
            clock=self._clock,
            log=self._log,
            report=self._report,
        )
        backing.farewell = shipping.finish
        metrics = NodeMetrics(
            door=composed.metrics,
            waiting=lambda: backing.ledger.waiting,
            feed=lambda: composed.feed.applied,
            alarms=lambda: self._alarms,
            streams=lambda: composed.events.count,
            condition=self._watch.condition,
            backups=backups.ages,
            sinks=shipping.states,
            tokens=lambda: TokenCounts(composed.token_expiry.counts, composed.token_alarm.count),
            rejections=lambda: composed.rejections.count,
        )
        retention = LedgerRetention(
            settings=self._settings, backing=backing, clock=self._clock, log=self._log
        )
        room = RoomWatch(
            room=self._watch.room, backing=backing, registry=composed.registry, log=self._log
        )
        await composed.feed.start()
        await composed.events.start()
        backing.follow(lambda: composed.feed.applied, composed.feed.wake)
        await room.look()
        self.furnish = composed.furnish
        every, alone = self._background.every, alone_by(backing.leases)
        every(_INDEX_SECONDS, backing.writer.index)
        every(_SIGN_SECONDS, backing.writer.sign)
        every(_FOLLOW_SECONDS, composed.feed.catch_up)
        every(BEAT_SECONDS / TURNS, composed.events.beat)
        every(_WATCH_SECONDS, self._watch.look)
        every(_WATCH_SECONDS, backing.look)
        every(0.0, composed.sweep_imports)
        every(_TOKENS_SECONDS, composed.tend)
        composed.fronting.begin(every, alone, self._background.once, composed.decisions)
        every(LOOK_SECONDS, alone("backup", backups.step))
        every(RETENTION_SECONDS, alone("retention", retention.step))
        every(ROOM_SECONDS, room.look)
        every(WATCH_SECONDS, shipping.look)
        shipping.start()
        if self._prepare is not None:
            await self._prepare(self)
        self._composed, self._application = composed, composed.door
        self._ready = True
        self._on_ready(self)
        settle_memory()

    def _readiness(self, composed: Composed) -> Readiness:
        checks = {"ledger": "ok", "feed": f"applied {composed.feed.applied}"}
        checks |= self._watch.checks()
        checks |= self._backing.checks()
        checks["sinks"] = self._shipping.check()
        try:
            self._backing.ledger.check()
        except DoxStoreError as error:
            checks["ledger"] = error.code
        ok = self._ready and checks["ledger"] == checks.get("database", "ok") == "ok"
        return Readiness("ready" if ok else "not_ready", checks)

    def _begin_anew(self, why: str) -> None:
        self._log.critical("node_begins_anew", reason=why)  # the ledger goes on without this node
        self._fail(BeginAnewError(why))

    def _alarm(self, table: str, identity: str) -> None:
        """A row or a value was changed behind the store."""
        self._log.error("integrity_alarm", table=table, row=identity)
        self._alarms += 1

    def _writer_died(self, error: BaseException) -> None:
        """Nothing can be recorded any more, so nothing may be served: end as a crash would."""
        self._report(error, "writer")
        os._exit(os.EX_SOFTWARE)
