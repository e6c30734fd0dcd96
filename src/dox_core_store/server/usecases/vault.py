"""How this node reaches the vaults that it knows: in threads, within a time, and not in vain.

A vault that hangs must not take the node with it. So few threads at a time wait for vaults, whoever
waits for one waits no longer than its timeout, and after a vault did not answer a read, further
reads of it are refused at once for a second; then one of them tries whether it is back. What is
asked of a vault beside reads always tries for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import TypeVar

from dox_core_store.errors import DoxStoreError, StoreUnavailableError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.ports import Sealer, Vault

__all__ = ["REFUSALS", "Ask", "Vaults"]

REFUSALS = frozenset({"vault_unavailable", "vault_refused", "vault_not_configured"})
"""Codes that say that a vault does not hand out a value now; it is there all the same."""

_REST_SECONDS = 1.0

Result = TypeVar("Result")
Ask = Callable[[Vault], Result]


class Vaults:
    """See the module. Lives on the event loop.

    ``new`` is where values of keys go (None: sealed, beside the catalog); ``others`` hold some that
    are still read. ``threads`` bounds how many wait for a vault at a time.
    """

    def __init__(
        self,
        *,
        store_id: str,
        sealer: Sealer,
        threads: Executor | None = None,
        new: Vault | None = None,
        others: Iterable[Vault] = (),
        timeout_seconds: float = 5,
        monotonic: Callable[[], float],
    ) -> None:
        self._store_id = store_id
        self.sealer = sealer
        self._threads = threads
        self.new = None if new is None else new.name
        """The name of the vault where new values go."""
        known = [each for each in (new, *others) if each is not None]
        self._vaults = {each.name: each for each in known}
        self._timeout_seconds = timeout_seconds
        self._breakers = {each.name: _Breaker(each.name, monotonic) for each in known}

    @property
    def names(self) -> list[str]:
        """All that are known; none where every value lies beside the catalog."""
        return list(self._vaults)

    def binding(self, address: KeyAddress, version_id: str) -> Binding:
        """What a value and its place are tied to."""
        return Binding(self._store_id, *address, version_id)

    async def ask(self, name: str, ask: Ask[Result]) -> Result:
        """What the vault called ``name`` answers to ``ask``. Raises as the port does,
        ``vault_unavailable`` also when the time is over, and ``vault_not_configured``."""
        vault = self._vaults.get(name)
        if vault is None:
            raise StoreUnavailableError("vault_not_configured", f"No vault here is called {name}.")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await loop.run_in_executor(self._threads, ask, vault)
        except TimeoutError:
            raise StoreUnavailableError(
                "vault_unavailable", f"{name} did not answer within {self._timeout_seconds} s."
            ) from None

    async def read(self, name: str, ask: Ask[Result]) -> Result:
        """`ask`, or ``vault_unavailable`` at once while the vault is known not to answer."""
        breaker = self._breakers.get(name)
        if breaker is None:
            return await self.ask(name, ask)
        breaker.enter()
        try:
            answer = await self.ask(name, ask)
        except DoxStoreError as error:
            breaker.leave(answered=error.code != "vault_unavailable")
            raise
        except BaseException:
            breaker.leave(answered=None)
            raise
        breaker.leave(answered=True)
        return answer

    def close(self) -> None:
        """Wait for no vault any more."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def is_resting(self, name: str) -> bool:
        """Whether the vault called ``name`` did not answer the last read."""
        breaker = self._breakers.get(name)
        return breaker is not None and breaker.is_open


class _Breaker:
    """Lets reads through, until one was not answered: from then on one a second, until one is."""

    def __init__(self, name: str, monotonic: Callable[[], float]) -> None:
        self._name = name
        self._monotonic = monotonic
        self._until = 0.0
        self._is_trying = False
        self.is_open = False

    def enter(self) -> None:
        if not self.is_open:
            return
        if self._is_trying or self._monotonic() < self._until:
            raise StoreUnavailableError(
                "vault_unavailable", f"{self._name} did not answer a moment ago."
            )
        self._is_trying = True

    def leave(self, *, answered: bool | None) -> None:
        """``answered`` is None where nobody waited for the answer any more."""
        self._is_trying = False
        if answered is not None:
            self.is_open = not answered
            self._until = self._monotonic() + _REST_SECONDS
