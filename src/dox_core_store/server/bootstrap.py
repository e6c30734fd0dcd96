"""The composition root: settings, adapters, use cases, application. Nothing else names an adapter.

`Node` is one server process on one store. Start order: lock, open and check (nothing written yet),
writer and stream, everything in memory, and only then a socket. If any step fails, nothing is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from dox_core_store import wire
from dox_core_store.errors import ConfigurationError, DoxStoreError, StoreUnavailableError
from dox_core_store.server.adapters.clock import LedgerStamp, SystemClock
from dox_core_store.server.adapters.jose import TokenVerifier
from dox_core_store.server.adapters.process import forbid_dumps, settle_memory
from dox_core_store.server.adapters.seals.key_file import make_key_file, read_key_file
from dox_core_store.server.adapters.sqlite.catalog import SqliteCatalog
from dox_core_store.server.adapters.sqlite.checkpointer import Checkpointer
from dox_core_store.server.adapters.sqlite.engine import DATABASE_FILE, ServerLock
from dox_core_store.server.adapters.sqlite.inspection import (
    StoreInspection,
    public_checkpoint_key,
)
from dox_core_store.server.adapters.sqlite.ledger import SqliteLedger
from dox_core_store.server.adapters.sqlite.ledger_reader import SqliteLedgerReader
from dox_core_store.server.adapters.sqlite.store import OpenedStore, create_store, open_store
from dox_core_store.server.adapters.sqlite.writer import SqliteWriter
from dox_core_store.server.adapters.sql.stream import LedgerStream
from dox_core_store.server.adapters.telemetry import (
    NodeMetrics,
    configure_log,
    report_exception,
)
from dox_core_store.server.domain.access import Caller, OperatorRecord, Role
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.environment import Environments
from dox_core_store.server.usecases.furnish import Furnish
from dox_core_store.server.usecases.grant import Grants
from dox_core_store.server.usecases.key import Keys
from dox_core_store.server.usecases.key_import import Imports
from dox_core_store.server.usecases.operator import (
    add_operator,
    disable_operator,
    enter_operator_token,
)
from dox_core_store.server.usecases.refusals import Refusals
from dox_core_store.server.usecases.registry import Feed, Registry
from dox_core_store.server.usecases.reveal import Reveal
from dox_core_store.server.usecases.service import Services
from dox_core_store.server.usecases.token import Authenticator, SigningKeys, Tokens
from dox_core_store.server.usecases.values import ValueCache
from dox_core_store.server.web.application import build_application, errors_page
from dox_core_store.server.web.desk import Desk
from dox_core_store.server.web.door import Door, DoorMetrics, render_key
from dox_core_store.server.web.identity_routes import identity_routes
from dox_core_store.server.web.key_routes import key_routes
from dox_core_store.server.web.ledger_routes import ledger_record, ledger_routes
from dox_core_store.server.web.listener import listen
from dox_core_store.server.web.openapi import openapi_document
from dox_core_store.server.web.request import RequestIds

__all__ = ["LocalStore", "Node", "init_store", "local_caller", "run_node"]

RELEASE = version("dox-core-store")
DEFAULT_KEY_FILE = "root.key"
_INDEX_SECONDS = 10.0
_FOLLOW_SECONDS = 0.5
_SWEEP_SECONDS = 60.0


def local_caller() -> Caller:
    """Whoever runs this process, as the ledger names them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no passwd entry, as in small containers
        user = "unknown"
    return Caller(f"local:{user}", (), f"req_{secrets.token_hex(8)}", "", "doxstore")


def key_file_of(settings: Settings) -> Path:
    return Path(settings.key_file or Path(settings.data) / DEFAULT_KEY_FILE)


def init_store(settings: Settings, *, operator: str, roles: Sequence[str]) -> None:
    """Make a store and its key file. A key file that exists is used, never overwritten."""
    path, folder = key_file_of(settings), Path(settings.data)
    if (folder / DATABASE_FILE).exists():  # asked before a key file is made for nothing
        raise ConfigurationError("store_exists", f"{folder} holds a store already.")
    create_store(
        folder,
        slot_key=read_key_file(path) if path.exists() else make_key_file(path),
        default_environment=settings.default_environment,
        operator=operator,
        roles=roles,
        caller=local_caller(),
        clock=SystemClock(),
    )


class LocalStore:
    """A store opened by a command on its own machine, beside a running server or without one."""

    def __init__(self, settings: Settings) -> None:
        self._clock = SystemClock()
        self.alarms: list[str] = []
        self._store = open_store(
            Path(settings.data),
            slot_key=lambda: read_key_file(key_file_of(settings)),
            alarm=lambda table, identity: self.alarms.append(f"{table} {identity}"),
        )

    @property
    def store_id(self) -> str:
        return self._store.store_id

    @property
    def inspection(self) -> StoreInspection:
        """Looks it over, reading only. Rows whose MAC does not hold are named in `alarms`."""
        return StoreInspection(self._store)

    def ledger(self) -> Iterator[list[wire.LedgerRecord]]:
        """Every entry in stored order, block by block, as the API tells them."""
        return ([ledger_record(each) for each in block] for block in self.inspection.blocks())

    @property
    def checkpoint_key(self) -> wire.CheckpointKey:
        """The public half of the key that signs the ledger's checkpoints."""
        return public_checkpoint_key(self._store)

    def operators(self) -> list[OperatorRecord]:
        """All operators, by name."""
        return self._store.write(lambda tx: tx.find(OperatorRecord), self._clock)

    def add_operator(self, name: str, roles: Sequence[str]) -> OperatorRecord:
        return self._store.write(
            lambda tx: add_operator(tx, local_caller(), name, roles), self._clock
        )

    def disable_operator(self, name: str, reason: str | None) -> OperatorRecord:
        return self._store.write(
            lambda tx: disable_operator(tx, local_caller(), name, reason), self._clock
        )

    def operator_token(self, name: str, expires_in: str) -> str:
        """A new token for an operator; recorded as issued by ``local:<user>``."""
        claims = self._store.write(
            lambda tx: enter_operator_token(tx, local_caller(), name, expires_in), self._clock
        )
        return self._store.signer.sign(claims, self._store.store_id)


class Node:
    """One server process. Make it on the running event loop, `start` it, serve `application`,
    `stop` it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._log = configure_log(settings.log_level)
        self._lock = ServerLock(Path(settings.data))
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = False
        self._writer: SqliteWriter | None = None
        self._checkpointer: Checkpointer | None = None
        self.application: Callable[..., Any]
        self.store_id = ""

    async def start(self) -> None:
        """Everything but the socket. Raises `ConfigurationError`; nothing is then held."""
        folder = Path(self._settings.data)
        if folder.is_dir():
            self._lock.acquire()
        try:
            store = open_store(
                folder,
                slot_key=lambda: read_key_file(key_file_of(self._settings)),
                alarm=self._alarm,
            )
            self.store_id = store.store_id
            await self._compose(store)
        except BaseException:
            await self._stop_writing()
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
        self._refusals.flush()
        await self._stop_writing()

    async def _stop_writing(self) -> None:
        if self._checkpointer is not None:
            await asyncio.to_thread(self._checkpointer.stop)
        if self._writer is not None:
            await asyncio.to_thread(self._writer.stop)
        self._lock.release()

    async def _compose(self, store: OpenedStore) -> None:
        settings, clock, stamp = self._settings, self._clock, LedgerStamp()
        default = store.default_environment
        ledger = SqliteLedger(clock=clock)
        stream = LedgerStream(
            store_id=store.store_id,
            actor=local_caller().name,
            checkpoint_key=store.checkpoint_key,
            clock=clock,
        )
        writer = SqliteWriter(
            engine=store.engine,
            records=store.records,
            stream=stream,
            clock=clock,
            outcome=ledger.told,
        )
        ledger.attach(writer)
        await asyncio.to_thread(writer.start)
        self._writer = writer
        self._checkpointer = checkpointer = Checkpointer(engine=store.engine, writer=writer)
        checkpointer.start()
        catalog = SqliteCatalog(engine=store.engine, records=store.records, writer=writer)
        signing_keys = SigningKeys(
            lambda keys: TokenVerifier(store_id=store.store_id, keys=keys)
        )
        registry = Registry(catalog=catalog, clock=clock, key_set=signing_keys)
        values = ValueCache()
        feed = Feed(catalog=catalog, registry=registry, forget=values.forget)
        await feed.start()
        self._refusals = refusals = Refusals(ledger=ledger)
        authenticator = Authenticator(keys=signing_keys, registry=registry, clock=clock)
        imports = Imports(
            store_id=store.store_id,
            default_environment=default,
            expiry_days=settings.expiry_days,
            catalog=catalog,
            vault=store.vault,
            feed=feed,
        )
        tokens = Tokens(
            store_id=store.store_id,
            default_environment=default,
            catalog=catalog,
            feed=feed,
            signer=store.signer,
        )
        services = Services(default_environment=default, catalog=catalog, feed=feed)
        self.furnish = Furnish(
            caller=local_caller()._replace(roles=tuple(Role)),
            imports=imports,
            services=services,
            tokens=tokens,
            registry=registry,
        )
        door_metrics = DoorMetrics()
        self._metrics = NodeMetrics(
            door=door_metrics, waiting=lambda: ledger.waiting, feed=lambda: feed.applied
        )
        self._ledger, self._feed, self._imports = ledger, feed, imports
        report, request_ids = report_exception(self._log), RequestIds()
        desk = Desk(
            authenticator=authenticator,
            ledger=ledger,
            refusals=refusals,
            request_ids=request_ids,
            stamp=stamp,
            store_id=store.store_id,
            report=report,
        )
        self._sweep = asyncio.Event()
        routes = [
            *key_routes(
                Keys(
                    store_id=store.store_id,
                    default_environment=default,
                    expiry_days=settings.expiry_days,
                    catalog=catalog,
                    vault=store.vault,
                    feed=feed,
                    registry=registry,
                ),
                imports,
                self._sweep.set,
            ),
            *identity_routes(
                tokens=tokens,
                services=services,
                grants=Grants(default_environment=default, catalog=catalog, feed=feed),
                environments=Environments(catalog=catalog, feed=feed),
                default_environment=default,
            ),
            *ledger_routes(SqliteLedgerReader(engine=store.engine, records=store.records)),
        ]
        document = msgspec.json.encode(openapi_document(routes, RELEASE))

        async def health() -> tuple[int, str, bytes]:
            return self._health(200, "ok", {})

        async def ready() -> tuple[int, str, bytes]:
            return self._readiness()

        async def metrics() -> tuple[int, str, bytes]:
            return 200, "text/plain; version=0.0.4; charset=utf-8", self._metrics.render()

        async def jwks() -> tuple[int, str, bytes]:
            return 200, "application/jwk-set+json", msgspec.json.encode(signing_keys.jwks())

        checkpoint_key = wire.encode(public_checkpoint_key(store))

        async def checkpoints() -> tuple[int, str, bytes]:
            return 200, "application/json", checkpoint_key

        async def openapi() -> tuple[int, str, bytes]:
            return 200, "application/json", document

        async def errors() -> tuple[int, str, bytes]:
            return 200, "text/html; charset=utf-8", errors_page()

        self.application = Door(
            application=build_application(
                routes=routes,
                desk=desk,
                pages={
                    "/v1/health": health,
                    "/v1/ready": ready,
                    "/metrics": metrics,
                    "/.well-known/jwks.json": jwks,
                    "/.well-known/checkpoint-key.json": checkpoints,
                    "/openapi.json": openapi,
                    "/docs/errors": errors,
                },
            ),
            authenticator=authenticator,
            reveal=Reveal(
                store_id=store.store_id,
                default_environment=default,
                registry=registry,
                feed=feed,
                catalog=catalog,
                vault=store.vault,
                ledger=ledger,
                refusals=refusals,
                values=values,
                clock=clock,
                stamp=stamp,
                render=render_key(
                    settings.cache_ttl_ceiling_seconds, settings.outage_grace_seconds
                ),
            ),
            refusals=refusals,
            request_ids=request_ids,
            metrics=door_metrics,
            stamp=stamp,
            store_id=store.store_id,
            report=report,
        )
        self._in_background(self._index_behind(writer))
        self._in_background(self._follow())
        self._in_background(self._sweep_imports())
        self._ready = True

    async def _index_behind(self, writer: SqliteWriter) -> None:
        """Write the ledger's search index, some seconds of entries at a time."""
        while True:
            await asyncio.sleep(_INDEX_SECONDS)
            writer.index()

    async def _follow(self) -> None:
        """Take over changes that operators' commands make beside us, before a read tells."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            with contextlib.suppress(StoreUnavailableError):  # told by /v1/ready and by every read
                await self._feed.catch_up()

    async def _sweep_imports(self) -> None:
        while True:
            with contextlib.suppress(StoreUnavailableError):
                await self._imports.sweep()
            self._sweep.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sweep.wait(), _SWEEP_SECONDS)

    def _readiness(self) -> tuple[int, str, bytes]:
        checks = {"ledger": "ok", "feed": f"applied {self._feed.applied}"}
        try:
            self._ledger.check()
        except DoxStoreError as error:
            checks["ledger"] = error.code
        ok = self._ready and checks["ledger"] == "ok"
        return self._health(200 if ok else 503, "ready" if ok else "not_ready", checks)

    def _health(self, code: int, status: str, checks: dict[str, str]) -> tuple[int, str, bytes]:
        health = wire.Health(
            status=status, store_id=self.store_id, version=RELEASE, checks=checks
        )
        return code, "application/json", wire.encode(health)

    def _alarm(self, table: str, identity: str) -> None:
        self._log.error("integrity_alarm", table=table, row=identity)
        if hasattr(self, "_metrics"):
            self._metrics.alarms += 1

    def _in_background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


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
