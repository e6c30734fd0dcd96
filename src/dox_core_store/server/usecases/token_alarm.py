"""Who is told when a good token is used as it may not be: from elsewhere, or without its key.

Such a token is genuine, so nobody is guessing: it was stolen, or a service has moved. That is an
alarm, and not a bad token of its address. The refusal is on the ledger each time (folded under a
flood); the alarm is raised once for each token and hour, and counted each time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from dox_core_store.server.domain.token import Claims
from dox_core_store.server.ports import Clock

__all__ = ["Notice", "TokenAlarm"]

WINDOW_SECONDS = 3_600.0
_MAX_TOKENS = 10_000


class Notice(Protocol):
    """Told that something happened: an event of the log, with what there is to say of it."""

    def __call__(self, event: str, **said: object) -> object: ...


class TokenAlarm:
    """See the module. ``count`` is how often it happened."""

    def __init__(self, *, clock: Clock, notice: Notice) -> None:
        self._clock = clock
        self._notice = notice
        self._told: OrderedDict[str, float] = OrderedDict()
        self.count = 0

    def elsewhere(self, claims: Claims, address: str) -> None:
        """The token with ``claims`` was sent from ``address``, which it is not bound to."""
        if self._is_due(claims.token_id):
            self._notice("token_from_elsewhere", **_said(claims, address))

    def unproven(self, claims: Claims, address: str) -> None:
        """The token with ``claims``, which is bound to a key, came without a proof."""
        if self._is_due(claims.token_id):
            self._notice("token_without_proof", **_said(claims, address))

    def _is_due(self, token_id: str) -> bool:
        self.count += 1
        now = self._clock.monotonic()
        told = self._told.get(token_id)
        if told is not None and now - told < WINDOW_SECONDS:
            return False
        self._told[token_id] = now
        self._told.move_to_end(token_id)
        if len(self._told) > _MAX_TOKENS:
            self._told.popitem(last=False)
        return True


def _said(claims: Claims, address: str) -> dict[str, str]:
    return {
        "token_id": claims.token_id,
        "kind": str(claims.kind),
        "name": claims.name,
        "address": address,
    }
