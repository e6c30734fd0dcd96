"""What operators do with vaults: looked at, adopted from, moved between. Constructor calls."""

from __future__ import annotations

from collections.abc import Callable

from dox_core_store.server.bootstrap.vaults import Fronting
from dox_core_store.server.ports import Catalog
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.key_retention import Retention
from dox_core_store.server.usecases.stored_key import KeyShelf
from dox_core_store.server.usecases.vault_adopt import VaultAdopt
from dox_core_store.server.usecases.vault_leave import VaultLeave
from dox_core_store.server.usecases.vault_move import VaultMove
from dox_core_store.server.usecases.vault_split import VaultSplit
from dox_core_store.server.usecases.vault_status import VaultStatus
from dox_core_store.server.usecases.vault_walk import KeyBatch
from dox_core_store.server.web.desk import Route
from dox_core_store.server.web.vault_routes import vault_routes

__all__ = ["moving_routes"]


def moving_routes(
    fronting: Fronting,
    *,
    catalog: Catalog,
    feed: Feed,
    shelf: KeyShelf,
    retention: Retention,
    expiry_days: int,
    monotonic: Callable[[], float],
) -> list[Route]:
    """The rows for vaults, over what a node has of them."""
    vaults, stored, names = fronting.vaults, fronting.stored, fronting.names
    batch = KeyBatch(catalog=catalog, monotonic=monotonic)
    return vault_routes(
        status=VaultStatus(vaults=vaults, catalog=catalog, names=names),
        adopt=VaultAdopt(
            vaults=vaults,
            catalog=catalog,
            tasks=fronting.tasks,
            feed=feed,
            shelf=shelf,
            names=names,
            expiry_days=expiry_days,
        ),
        split=VaultSplit(shelf=shelf, stored=stored, retention=retention, expiry_days=expiry_days),
        move=VaultMove(
            vaults=vaults,
            catalog=catalog,
            stored=stored,
            tasks=fronting.tasks,
            feed=feed,
            batch=batch,
            names=names,
        ),
        leave=VaultLeave(
            catalog=catalog, stored=stored, copies=fronting.copies, names=names, batch=batch
        ),
    )
