"""Which tokens expire soon, told in time to replace them.

A client warns on its own before its token ends, in its own process; here those hear of it who run
the store. Each token is told once for each threshold, by this node: the log has its name, the
metrics only how many there are. A threshold is for tokens that were to live longer than it: one for
a job of an hour is expiring from its first moment, and nobody wants to hear of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from dox_core_store.server.domain.signing_key import SigningKeyRecord, signed_by
from dox_core_store.server.ports import Catalog, Clock, TokenFilter, TokenRow
from dox_core_store.server.usecases.token_alarm import Notice

__all__ = ["EXPIRY_DAYS", "TokenExpiry", "days_left", "wanted_by"]

EXPIRY_DAYS = (30, 7)
"""Thresholds, the furthest first."""

_PAGE = 1_000
_LOOK_SECONDS = 86_400.0


class TokenExpiry:
    """See the module. ``counts`` is how many tokens expire within each of `EXPIRY_DAYS`."""

    def __init__(self, *, catalog: Catalog, clock: Clock, notice: Notice) -> None:
        self._catalog = catalog
        self._clock = clock
        self._notice = notice
        self._told: dict[str, int] = {}
        self._looked: float | None = None
        self.counts = dict.fromkeys(EXPIRY_DAYS, 0)

    async def look_daily(self) -> None:
        """`look`, if that was not done for a day."""
        now = self._clock.monotonic()
        if self._looked is None or now - self._looked >= _LOOK_SECONDS:
            await self.look()
            self._looked = now

    async def look(self) -> None:
        """Count, and tell what was not told yet."""
        now = self._clock.now()
        keys = await self._catalog.records(SigningKeyRecord, None, _PAGE)
        told: dict[str, int] = {}
        counts = dict.fromkeys(EXPIRY_DAYS, 0)
        for row in await self._rows(now):
            reached = days_left(row, keys, now)
            for days in reached:
                counts[days] += 1
            if not reached:
                continue
            token, nearest = row.token, min(reached)
            told[token.token_id] = nearest
            if self._told.get(token.token_id) != nearest:
                self._notice(
                    "token_expiring",
                    token_id=token.token_id,
                    kind=token.kind,
                    name=token.name,
                    within_days=nearest,
                    expires_at=token.expires_at.isoformat(),
                    last_used_at=row.last_used_at and row.last_used_at.isoformat(),
                )
        self._told, self.counts = told, counts

    async def _rows(self, now: datetime) -> Iterable[TokenRow]:
        found: list[TokenRow] = []
        after = None
        while page := await self._catalog.tokens(wanted_by(now), after, _PAGE):
            found += page
            after = page[-1].token.token_id
        return found


def wanted_by(now: datetime) -> TokenFilter:
    """The tokens that may be within a threshold at ``now``."""
    return TokenFilter(expires_after=now, expires_before=now + timedelta(days=EXPIRY_DAYS[0]))


def days_left(row: TokenRow, keys: Sequence[SigningKeyRecord], now: datetime) -> list[int]:
    """The thresholds that a token which was not revoked has reached; none if the key that signed
    it was compromised."""
    token = row.token
    key = signed_by(token.issued_at, keys)
    if key is None or key.compromised_at is not None:
        return []
    life, left = token.expires_at - token.issued_at, token.expires_at - now
    return [days for days in EXPIRY_DAYS if left <= timedelta(days=days) < life]
