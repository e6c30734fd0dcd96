"""The vaults that the settings name, the threads that wait for them, and what is made over them.

A vault that cannot be reached keeps no node from starting: what lies elsewhere is served, and reads
of the rest say why they fail. What can be seen without asking it (an address, a login, a library)
refuses the start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.process import local_caller
from dox_core_store.server.adapters.sql.store import OpenedStore
from dox_core_store.server.adapters.vaults.address import VaultAddress, VaultKind, parse_vault
from dox_core_store.server.ports import Catalog, Clock, Sealer, Vault
from dox_core_store.server.settings import Settings
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.key_retention import Retention
from dox_core_store.server.usecases.stored_value import StoredValues
from dox_core_store.server.usecases.token_alarm import Notice
from dox_core_store.server.usecases.vault import Vaults
from dox_core_store.server.usecases.vault_copy import VaultCopies
from dox_core_store.server.usecases.vault_name import HERE, VaultNames
from dox_core_store.server.usecases.vault_task import VaultTasks
from dox_core_store.server.usecases.vault_warm import VaultWarming
from dox_core_store.server.usecases.vault_watch import VaultWatch

__all__ = ["Fronting", "known_vaults", "open_vault"]

_THREADS = 16
"""Requests to vaults that a node has under way at a time."""

_SWEEP_SECONDS = 5.0
_WATCH_SECONDS = 1.0

Step = Callable[[], Awaitable[None]]


class Fronting:
    """Where the values of a node's keys lie, and what it does about vaults beside its requests."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: OpenedStore,
        catalog: Catalog,
        feed: Feed,
        retention: Retention,
        clock: Clock,
        notice: Notice,
    ) -> None:
        self._catalog, self._clock = catalog, clock
        self.vaults = vaults = known_vaults(
            settings, store_id=store.store_id, sealer=store.sealer, monotonic=clock.monotonic
        )
        self.tasks = VaultTasks(
            vaults=vaults, catalog=catalog, clock=clock, caller=local_caller(), notice=notice
        )
        self.watch = VaultWatch(
            vaults=vaults,
            catalog=catalog,
            feed=feed,
            tasks=self.tasks,
            retention=retention,
            expiry_days=settings.expiry_days,
            monotonic=clock.monotonic,
            notice=notice,
        )
        self.stored = StoredValues(
            vaults=vaults, catalog=catalog, tasks=self.tasks, noticed=self.watch.noticed
        )
        self.copies = VaultCopies(
            vaults=vaults, catalog=catalog, tasks=self.tasks, clock=clock, notice=notice
        )
        self.names = VaultNames(
            known=vaults.names,
            here=not settings.vault or HERE in settings.vault_also,
            name_of=_name_of,
        )

    def begin(
        self,
        every: Callable[[float, Step], None],
        alone: Callable[[str, Step], Step],
        once: Callable[[Step], None],
        decisions: Decisions,
    ) -> None:
        """Have the steps repeated ``every`` so many seconds, and what is for one node ``alone``."""
        if not self.vaults.names:
            return
        warming = VaultWarming(
            vaults=self.vaults, catalog=self._catalog, decisions=decisions, clock=self._clock
        )
        once(warming.run)
        every(0.0, self.tasks.tend)
        every(0.0, self.watch.tend)
        every(_SWEEP_SECONDS, alone("vault-tasks", self.tasks.sweep))
        every(_SWEEP_SECONDS, alone("vault-copies", self.copies.sweep))
        every(_WATCH_SECONDS, alone("vault-watch", self.watch.step))


def open_vault(text: str, *, timeout_seconds: float) -> Vault:
    """The vault at the address ``text``, not asked yet. Raises `ConfigurationError`."""
    address = parse_vault(text)
    try:
        return _adapter(address, timeout_seconds)
    except ImportError as error:
        raise ConfigurationError(
            "bad_setting",
            f"A vault of this kind needs the extra {address.kind}: {error.name} is missing.",
        ) from error


def known_vaults(
    settings: Settings, *, store_id: str, sealer: Sealer, monotonic: Callable[[], float]
) -> Vaults:
    """What ``vault`` and ``vault_also`` name."""
    timeout_seconds = settings.vault_timeout_seconds
    named = [each for each in settings.vault_also if each != HERE]
    return Vaults(
        store_id=store_id,
        sealer=sealer,
        threads=ThreadPoolExecutor(_THREADS, thread_name_prefix="vault"),
        new=open_vault(settings.vault, timeout_seconds=timeout_seconds) if settings.vault else None,
        others=[open_vault(each, timeout_seconds=timeout_seconds) for each in named],
        timeout_seconds=timeout_seconds,
        monotonic=monotonic,
    )


def _name_of(text: str) -> str:
    """The name in an address; a text that is none names nothing but itself."""
    try:
        return parse_vault(text).name
    except ConfigurationError:
        return text


def _adapter(address: VaultAddress, timeout_seconds: float) -> Vault:
    # Only who has such a vault needs its library.
    if address.kind is VaultKind.OPENBAO:
        from dox_core_store.server.adapters.vaults.openbao import OpenBaoVault  # noqa: PLC0415

        return OpenBaoVault(address=address, timeout_seconds=timeout_seconds)
    from dox_core_store.server.adapters.vaults.aws import AwsVault  # noqa: PLC0415

    return AwsVault(address=address, timeout_seconds=timeout_seconds)
