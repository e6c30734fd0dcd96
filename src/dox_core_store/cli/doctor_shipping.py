"""How far the ledger was shipped off the machine. For `doxstore doctor`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dox_core_store.cli.finding import FAILURE, OK, WARNING, Finding
from dox_core_store.errors import DoxStoreError

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap.shipping import ShippedUpTo
    from dox_core_store.server.settings import Settings

__all__ = ["shipping_findings"]

_CHECK = "shipping"


def shipping_findings(places: Sequence[ShippedUpTo], settings: Settings) -> Iterator[Finding]:
    """What there is to say of each destination: those that are shipped to by ``settings``, and
    those that were once."""
    from dox_core_store.server.bootstrap.shipping import destination_names

    try:
        named = destination_names(settings)
    except DoxStoreError as error:
        yield Finding(_CHECK, FAILURE, f"{error.code}: {error.detail}")
        return
    known = {place.name for place in places}
    for name in named:
        if name not in known:
            yield Finding(_CHECK, WARNING, f"{name}: nothing was shipped to it yet")
    for place in places:
        if named and place.name not in named:
            yield Finding(_CHECK, OK, f"{place.name}: no longer shipped to")
        else:
            yield _place(place, settings.ship_lag_seconds)
    if not named and not places:
        yield Finding(_CHECK, OK, "checkpoints stay on this machine (`ship_to`)")


def _place(place: ShippedUpTo, lag: int) -> Finding:
    if place.oldest is None:
        return Finding(_CHECK, OK, f"{place.name}: has everything, to block {place.block_id}")
    behind = max(0.0, time.time() - place.oldest)
    told = f"{place.name}: to block {place.block_id}, {behind:.0f} s behind"
    return Finding(_CHECK, WARNING if behind > lag else OK, told)
