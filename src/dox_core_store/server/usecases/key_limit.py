"""How fast a key may be read, by all services together.

For a key whose upstream counts, or whose value is worth watching: however many services may read
it, and whatever each of them may ask for, no more than this leaves the store. It is kept by
environment, and it comes on top of the services' own limits. Where reads are refused by it is in
`reveal`; what it takes away is nothing that was handed out before.
"""

from __future__ import annotations

from collections.abc import Callable

from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import Caller, Permission, require
from dox_core_store.server.domain.key import KeyLimitRecord, KeyRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.limit import parse_rate
from dox_core_store.server.ports import Catalog, Transaction
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.stored_key import KeyShelf

__all__ = ["KeyLimits"]

_NONE = "none"


class KeyLimits:
    """See the module."""

    def __init__(self, *, shelf: KeyShelf, catalog: Catalog, feed: Feed) -> None:
        self._shelf = shelf
        self._catalog = catalog
        self._feed = feed

    async def set(
        self,
        caller: Caller,
        path: str,
        limit: str,
        burst: int | None,
        *,
        environment: str | None = None,
        reason: str | None = None,
    ) -> KeyAddress:
        """Limit a key, such as to ``60/min``. Holds at once; a limit that is as it was before goes
        on counting.

        Raises ``key_not_found``, ``invalid_field``.
        """
        require(caller.roles, Permission.WRITE_KEYS)
        rate = parse_rate(limit, burst)

        def change(tx: Transaction, key: KeyRecord) -> None:
            tx.put(
                KeyLimitRecord(
                    key_id=key.key_id,
                    limit_count=rate.count,
                    limit_period_seconds=rate.period_seconds,
                    limit_burst=rate.burst,
                )
            )

        why = _said(f"{rate}, burst {rate.burst}", reason)
        return await self._change(caller, path, environment, why, change)

    async def remove(
        self,
        caller: Caller,
        path: str,
        *,
        environment: str | None = None,
        reason: str | None = None,
    ) -> KeyAddress:
        """Take a key's own limit away; none is fine. Raises ``key_not_found``."""
        require(caller.roles, Permission.WRITE_KEYS)

        def change(tx: Transaction, key: KeyRecord) -> None:
            tx.remove(KeyLimitRecord, key_id=key.key_id)

        return await self._change(caller, path, environment, _said(_NONE, reason), change)

    async def _change(
        self,
        caller: Caller,
        path: str,
        environment: str | None,
        why: str,
        change: Callable[[Transaction, KeyRecord], None],
    ) -> KeyAddress:
        def work(tx: Transaction) -> KeyAddress:
            key = self._shelf.told_of(tx, caller, path, environment)
            change(tx, key.record)
            key.entry(caller, Action.LIMIT, None, why)
            return key.address

        address = await self._catalog.write(work)
        await self._feed.catch_up()
        return address


def _said(what: str, reason: str | None) -> str:
    return f"{what}: {reason}" if reason else what
