"""What a node serves while its store is sealed: what it is, and where shares are entered."""

from __future__ import annotations

from collections.abc import Callable

from dox_core_store.server.adapters.telemetry import NodeMetrics
from dox_core_store.server.bootstrap.pages import Readiness, node_pages
from dox_core_store.server.bootstrap.sealing import Sealing
from dox_core_store.server.bootstrap.watch import Watch
from dox_core_store.server.web.client_address import ClientAddress
from dox_core_store.server.web.door_metrics import DoorMetrics
from dox_core_store.server.web.sealed import SealDesk, SealedApplication

__all__ = ["sealed_application"]


def sealed_application(
    sealing: Sealing,
    *,
    store_id: str,
    watch: Watch,
    clients: ClientAddress,
    alarms: Callable[[], int],
    report: Callable[[BaseException, str], None],
) -> SealedApplication:
    """The application behind the socket until the store is open."""
    metrics = NodeMetrics(
        door=DoorMetrics(),
        waiting=lambda: 0,
        feed=lambda: 0,
        alarms=alarms,
        condition=watch.condition,
        sealed=True,
    )
    desk = SealDesk(
        status=sealing.status,
        enter=sealing.enter,
        store_id=store_id,
        report=report,
        address_of=clients.of,
    )
    pages = node_pages(
        store_id=store_id,
        health="sealed",
        readiness=lambda: Readiness("sealed", {"seal": sealing.awaits}),
        metrics=metrics.render,
    )
    return SealedApplication(desk=desk, pages=pages)
