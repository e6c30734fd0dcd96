"""Which adapters a node is made over, as the settings say: a file of its own, or a database."""

from __future__ import annotations

from collections.abc import Callable

from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.bootstrap.backing import Backing
from dox_core_store.server.bootstrap.embedded import Embedded
from dox_core_store.server.bootstrap.place import check_database
from dox_core_store.server.bootstrap.watch import Watch
from dox_core_store.server.settings import Settings

__all__ = ["backing_of"]


def backing_of(
    settings: Settings,
    *,
    clock: SystemClock,
    alarm: Callable[[str, str], None],
    on_death: Callable[[BaseException], None],
    watch: Watch,
    report: Callable[[BaseException, str], None],
    lost: Callable[[str], None],
    accept_clock: bool,
) -> Backing:
    """Made on the running event loop; nothing is opened yet. ``lost`` hears, on a thread, that the
    ledger goes on without this node. Raises `ConfigurationError` ``bad_setting``."""
    if not settings.database:
        embedded = Embedded(
            settings,
            clock=clock,
            alarm=alarm,
            on_death=on_death,
            notice=watch.notice,
            report=report,
            accept_clock=accept_clock,
        )
        watch.disk, watch.files = embedded.disk, embedded.files
        return embedded
    check_database()
    # Only who has such a store needs the library.
    from dox_core_store.server.bootstrap.scaled import Scaled  # noqa: PLC0415

    return Scaled(
        settings,
        clock=clock,
        alarm=alarm,
        on_death=on_death,
        notice=watch.notice,
        lost=lost,
        accept_clock=accept_clock,
    )
