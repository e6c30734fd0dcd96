"""The use cases and the web over a store's adapters: constructor calls, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from dox_core_store.server.adapters.clock import LedgerStamp, SystemClock
from dox_core_store.server.adapters.jose import TokenVerifier, generate_signing_key
from dox_core_store.server.adapters.oidc import OidcKeys
from dox_core_store.server.adapters.sql.ring_follower import RingFollower
from dox_core_store.server.bootstrap.accounting import accounting_routes
from dox_core_store.server.bootstrap.backing import Backing
from dox_core_store.server.bootstrap.local import local_caller
from dox_core_store.server.bootstrap.moving import moving_routes
from dox_core_store.server.bootstrap.published import published_pages
from dox_core_store.server.bootstrap.vaults import Fronting
from dox_core_store.server.domain.access import Role
from dox_core_store.server.domain.envelope import derive
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.environment import Environments
from dox_core_store.server.usecases.events import Events
from dox_core_store.server.usecases.exchange import Exchange
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.furnish import Furnish
from dox_core_store.server.usecases.grant import Grants
from dox_core_store.server.usecases.issuer import Issuers
from dox_core_store.server.usecases.key import Keys
from dox_core_store.server.usecases.key_import import Imports
from dox_core_store.server.usecases.key_limit import KeyLimits
from dox_core_store.server.usecases.key_list import KeyList
from dox_core_store.server.usecases.key_rejected import KeyRejections
from dox_core_store.server.usecases.key_retention import Retention
from dox_core_store.server.usecases.key_upkeep import KeyUpkeep
from dox_core_store.server.usecases.key_version import KeyVersions
from dox_core_store.server.usecases.principal import Authenticator, SigningKeys
from dox_core_store.server.usecases.proof import Proofs
from dox_core_store.server.usecases.quota import SharedBuckets
from dox_core_store.server.usecases.read_report import ReadReports
from dox_core_store.server.usecases.refusals import Refusals
from dox_core_store.server.usecases.registry import Registry, own_bucket
from dox_core_store.server.usecases.reveal import Reveal
from dox_core_store.server.usecases.service import Services
from dox_core_store.server.usecases.signing_key import MadeKey, SigningKeyRing
from dox_core_store.server.usecases.stored_key import KeyShelf
from dox_core_store.server.usecases.token import Tokens
from dox_core_store.server.usecases.token_alarm import Notice, TokenAlarm
from dox_core_store.server.usecases.token_expiry import TokenExpiry
from dox_core_store.server.usecases.values import ValueCache
from dox_core_store.server.web.application import (
    Application,
    Page,
    build_application,
)
from dox_core_store.server.web.client_address import ClientAddress
from dox_core_store.server.web.desk import Desk
from dox_core_store.server.web.door import Door
from dox_core_store.server.web.door_metrics import DoorMetrics
from dox_core_store.server.web.event_stream import EVENTS_ADDRESS, EventDoor, frame
from dox_core_store.server.web.holder import Holders
from dox_core_store.server.web.identity_routes import identity_routes
from dox_core_store.server.web.import_routes import import_routes
from dox_core_store.server.web.issuer_routes import issuer_routes
from dox_core_store.server.web.key_body import render_key
from dox_core_store.server.web.key_routes import key_routes
from dox_core_store.server.web.read_routes import read_routes
from dox_core_store.server.web.request import RequestIds
from dox_core_store.server.web.token_routes import token_routes

__all__ = ["Composed"]

_SWEEP_SECONDS = 60.0


class Composed:
    """Everything that serves, made of a store that was opened."""

    def __init__(
        self,
        backing: Backing,
        settings: Settings,
        *,
        release: str,
        clock: SystemClock,
        pages: Mapping[str, Page],
        others: Mapping[str, Application],
        report: Callable[[BaseException, str], None],
        alarm: Callable[[str, str], None],
        notice: Notice,
        clients: ClientAddress,
    ) -> None:
        store, catalog, ledger = backing.store, backing.catalog, backing.ledger
        store_id, default = store.store_id, store.default_environment
        loop = asyncio.get_running_loop()
        stamp, request_ids = LedgerStamp(clock), RequestIds()
        signing_keys = SigningKeys(lambda keys: TokenVerifier(store_id=store_id, keys=keys))
        self.registry = registry = Registry(
            catalog=catalog,
            clock=clock,
            key_set=signing_keys,
            alarm=alarm,
            epoch=store.epoch,
            buckets=own_bucket
            if backing.quotas is None
            else SharedBuckets(quotas=backing.quotas, monotonic=clock.monotonic),
            follow_seal=RingFollower(
                ring=store.ring, said=backing.say_ring, report=report, loop=loop
            ),
        )
        values = ValueCache()
        self.feed = feed = Feed(
            catalog=catalog,
            registry=registry,
            forget=values.forget,
            monotonic=clock.monotonic,
            lease_seconds=backing.lease_seconds,
        )
        self.refusals = refusals = Refusals(ledger=ledger)
        self.metrics = DoorMetrics()
        self.token_alarm = token_alarm = TokenAlarm(clock=clock, notice=notice)
        proofs = Proofs(
            seconds=clock.seconds,
            monotonic=clock.monotonic,
            uses=backing.proof_uses,
            secret=derive(store.checkpoint_key.private_bytes_raw(), "proof-nonce"),
        )
        authenticator = Authenticator(
            keys=signing_keys,
            registry=registry,
            clock=clock,
            catch_up=feed.catch_up,
            alarm=token_alarm,
            proofs=proofs,
        )
        retention = Retention(keep_versions=settings.keep_versions)
        self.fronting = fronting = Fronting(
            settings,
            store=store,
            catalog=catalog,
            feed=feed,
            retention=retention,
            clock=clock,
            notice=notice,
        )
        stored = fronting.stored
        self.imports = imports = Imports(
            default_environment=default,
            expiry_days=settings.expiry_days,
            catalog=catalog,
            stored=stored,
            feed=feed,
            retention=retention,
        )
        shelf = KeyShelf(
            default_environment=default,
            expiry_days=settings.expiry_days,
            catalog=catalog,
            feed=feed,
            retention=retention,
        )
        tokens = Tokens(
            store_id=store_id,
            default_environment=default,
            catalog=catalog,
            feed=feed,
            clock=clock,
            signing=store.signing,
            notice=notice,
        )
        self.token_expiry = TokenExpiry(catalog=catalog, clock=clock, notice=notice)
        services = Services(default_environment=default, catalog=catalog, feed=feed)
        self.furnish = Furnish(
            caller=local_caller()._replace(roles=tuple(Role)),
            imports=imports,
            services=services,
            tokens=tokens,
            registry=registry,
        )
        routes = [
            *key_routes(
                keys=Keys(shelf=shelf, stored=stored, retention=retention),
                versions=KeyVersions(shelf=shelf, stored=stored),
                upkeep=KeyUpkeep(shelf=shelf, catalog=catalog, retention=retention, feed=feed),
                limits=KeyLimits(shelf=shelf, catalog=catalog, feed=feed),
                lists=KeyList(default_environment=default, catalog=catalog, registry=registry),
            ),
            *import_routes(imports),
            *token_routes(
                tokens=tokens,
                signing_keys=SigningKeyRing(
                    store_id=store_id,
                    sealer=store.sealer,
                    catalog=catalog,
                    feed=feed,
                    clock=clock,
                    make_key=lambda: MadeKey(*generate_signing_key()),
                ),
                default_environment=default,
                clock=clock,
            ),
            *identity_routes(
                services=services,
                grants=Grants(default_environment=default, catalog=catalog, feed=feed),
                environments=Environments(catalog=catalog, feed=feed),
                default_environment=default,
            ),
            *issuer_routes(
                issuers=Issuers(catalog=catalog, feed=feed, clock=clock),
                exchange=Exchange(
                    default_environment=default,
                    catalog=catalog,
                    feed=feed,
                    clock=clock,
                    keys=OidcKeys(ca_file=settings.issuer_ca_file, monotonic=clock.monotonic),
                    signing=store.signing,
                ),
            ),
        ]
        self.decisions = decisions = Decisions(
            default_environment=default,
            registry=registry,
            catalog=catalog,
            stored=stored,
            values=values,
            clock=clock,
            render=render_key(settings.cache_ttl_ceiling_seconds, settings.outage_grace_seconds),
            kept_seconds=settings.cache_ttl_ceiling_seconds,
        )
        self.rejections = KeyRejections(
            decisions=decisions,
            feed=feed,
            catalog=catalog,
            ledger=ledger,
            clock=clock,
            stamp=stamp,
            notice=notice,
        )
        routes += read_routes(
            decisions=decisions,
            rejections=self.rejections,
            reports=ReadReports(
                default_environment=default,
                registry=registry,
                ledger=ledger,
                refusals=refusals,
                clock=clock,
                stamp=stamp,
            ),
        )
        routes += accounting_routes(
            backing,
            settings,
            registry=registry,
            feed=feed,
            decisions=decisions,
            clock=clock,
        )
        routes += moving_routes(
            fronting,
            catalog=catalog,
            feed=feed,
            shelf=shelf,
            retention=retention,
            expiry_days=settings.expiry_days,
            monotonic=clock.monotonic,
        )
        published = published_pages(
            store=store, signing_keys=signing_keys, routes=routes, release=release
        )
        holders = Holders(proofs=proofs, host_of=clients.host)
        self.events = Events(
            epoch=store.epoch,
            catalog=catalog,
            registry=registry,
            feed=feed,
            clock=clock,
            render=frame,
            report=report,
        )
        feed.tell = self.events.note
        event_door = EventDoor(
            events=self.events,
            authenticator=authenticator,
            decisions=decisions,
            ledger=ledger,
            refusals=refusals,
            request_ids=request_ids,
            stamp=stamp,
            store_id=store_id,
            report=report,
            address_of=clients.of,
            holders=holders,
        )
        self.door = Door(
            application=build_application(
                routes=routes,
                desk=Desk(
                    authenticator=authenticator,
                    ledger=ledger,
                    refusals=refusals,
                    request_ids=request_ids,
                    stamp=stamp,
                    store_id=store_id,
                    report=report,
                    address_of=clients.of,
                    holders=holders,
                ),
                pages={**pages, **published},
                others={**others, EVENTS_ADDRESS: event_door},
            ),
            authenticator=authenticator,
            decisions=decisions,
            reveal=Reveal(
                decisions=decisions,
                feed=feed,
                ledger=ledger,
                refusals=refusals,
                values=values,
                stamp=stamp,
                monotonic=clock.monotonic,
            ),
            refusals=refusals,
            request_ids=request_ids,
            metrics=self.metrics,
            stamp=stamp,
            store_id=store_id,
            report=report,
            address_of=clients.of,
            holders=holders,
        )

    async def tend(self) -> None:
        """What time does to tokens, to the keys that signed them, and to what is told late."""
        await self.feed.drop_spent_keys()
        await self.token_expiry.look_daily()
        await self.rejections.tell_due()

    async def sweep_imports(self) -> None:
        """Tidy up after imports: when one ended, and now and then."""
        # Not `wait_for`: on Python 3.11 it loses a cancellation that comes with the event, and the
        # node would never stop.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SWEEP_SECONDS):
                await self.imports.ended.wait()
        self.imports.ended.clear()
        await self.imports.sweep()
