"""Which tokens of a service would be believed now, for those who ask about it.

The door needs none of this: it is shown a token, which carries its generation and its signing key.
Here only the list of issued tokens is at hand, which has neither. So what the door would find in a
token is told from when it was issued: before the service's generation last rose, which the change
feed says, or while a signing key was in use that is compromised since.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from dox_core_store.server.domain.access import ServiceRecord, TokenRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.signing_key import SigningKeyRecord
from dox_core_store.server.domain.token import LEEWAY_SECONDS, Kind
from dox_core_store.server.ports import (
    Catalog,
    Clock,
    LedgerFilter,
    LedgerReader,
    TokenFilter,
    TokenRow,
)
from dox_core_store.server.usecases.registry import subject

__all__ = ["LiveTokens", "TokensOf"]

_PAGE = 1_000
_RAISING = (Action.REVOKE_SERVICE_TOKENS, Action.DECOMMISSION)
"""What raises a generation. Registering a service anew does too, after the latter."""


class TokensOf(NamedTuple):
    """A service's live tokens, by id; when any of them was last used; how many of them are believed
    only from the holder of a key, or from some addresses."""

    tokens: list[TokenRecord]
    last_used_at: datetime | None
    need_key: int = 0
    need_address: int = 0


class LiveTokens:
    """See the module."""

    def __init__(self, *, catalog: Catalog, ledger: LedgerReader, clock: Clock) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._clock = clock

    async def of(self, service: ServiceRecord) -> TokensOf:
        """The tokens with which ``service`` can ask now."""
        if service.decommissioned_at is not None:
            return TokensOf([], None)
        began = await self._generation_began(service)
        dead = await self._compromised()
        now = self._clock.now()
        rows = [
            row
            for row in await self._issued(service.name, now - timedelta(seconds=LEEWAY_SECONDS))
            if row.token.revoked_at is None
            and (began is None or row.token.issued_at >= began)
            and not any(first <= row.token.issued_at < last for first, last in dead)
        ]
        uses = [row.last_used_at for row in rows if row.last_used_at is not None]
        bindings = [row.binding for row in rows if row.binding is not None]
        return TokensOf(
            [row.token for row in rows],
            max(uses, default=None),
            need_key=sum(each.key_thumbprint is not None for each in bindings),
            need_address=sum(bool(each.addresses) for each in bindings),
        )

    async def _issued(self, name: str, expires_after: datetime) -> list[TokenRow]:
        wanted = TokenFilter(kind=Kind.SERVICE, name=name, expires_after=expires_after)
        found: list[TokenRow] = []
        after = None
        while True:
            page = await self._catalog.tokens(wanted, after, _PAGE)
            found += page
            if len(page) < _PAGE:
                return found
            after = page[-1].token.token_id

    async def _generation_began(self, service: ServiceRecord) -> datetime | None:
        """When tokens of older generations died; None where none did, or the ledger does not say:
        the store was restored since."""
        if service.generation == 1:
            return None
        times = []
        for action in _RAISING:
            wanted = LedgerFilter(
                key_path=subject("services", service.name), action=str(action), status="GRANTED"
            )
            cursor: str | None = None
            while True:
                found, cursor = await self._ledger.search(wanted, cursor, 1)
                times += [datetime.fromisoformat(each.entry.timestamp) for each in found]
                if found or cursor is None:
                    break
        return max(times, default=None)

    async def _compromised(self) -> list[tuple[datetime, datetime]]:
        """From when to when tokens were signed with a key that verifies nothing any more."""
        keys = await self._catalog.records(SigningKeyRecord, None, _PAGE)
        return [
            (key.created_at, key.retired_at or key.compromised_at)
            for key in keys
            if key.compromised_at is not None
        ]
