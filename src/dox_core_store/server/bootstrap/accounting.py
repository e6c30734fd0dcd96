"""What operators are told of who may read what, and of who did. Constructor calls."""

from __future__ import annotations

from dox_core_store.server.bootstrap.backing import Backing
from dox_core_store.server.ports import Clock
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.access import Access
from dox_core_store.server.usecases.access_key import KeySteps
from dox_core_store.server.usecases.access_readers import AccessReaders
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.grant_preview import GrantPreview
from dox_core_store.server.usecases.grant_use import GrantUses
from dox_core_store.server.usecases.ledger import HandedOut
from dox_core_store.server.usecases.live_token import LiveTokens
from dox_core_store.server.usecases.registry import Registry
from dox_core_store.server.web.access_routes import access_routes
from dox_core_store.server.web.desk import Route
from dox_core_store.server.web.ledger_routes import ledger_routes

__all__ = ["accounting_routes"]


def accounting_routes(
    backing: Backing,
    settings: Settings,
    *,
    registry: Registry,
    feed: Feed,
    decisions: Decisions,
    clock: Clock,
) -> list[Route]:
    """The rows for the ledger and for access."""
    catalog, reader = backing.catalog, backing.ledger_reader
    default = backing.store.default_environment
    live = LiveTokens(catalog=catalog, ledger=reader, clock=clock)
    handed_out = HandedOut(
        reader=reader,
        catalog=catalog,
        registry=registry,
        tokens=live,
        clock=clock,
        ceiling_seconds=settings.cache_ttl_ceiling_seconds,
        grace_seconds=settings.outage_grace_seconds,
    )
    return [
        *ledger_routes(reader, registry, clock, handed_out),
        *access_routes(
            access=Access(
                default_environment=default,
                registry=registry,
                feed=feed,
                catalog=catalog,
                decisions=decisions,
                keys=KeySteps(registry=registry, catalog=catalog, clock=clock),
                tokens=live,
                clock=clock,
            ),
            readers=AccessReaders(
                default_environment=default,
                registry=registry,
                feed=feed,
                catalog=catalog,
                tokens=live,
            ),
            uses=GrantUses(epoch=backing.store.epoch, catalog=catalog, clock=clock),
            preview=GrantPreview(
                default_environment=default,
                registry=registry,
                feed=feed,
                catalog=catalog,
                clock=clock,
            ),
        ),
    ]
