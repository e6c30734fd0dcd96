"""`ExchangedCredential`: a token of the store that is got by exchange, and got again in time.

At the first call, and again when four fifths of its life are over, the platform's token is taken to
the store (`POST /v1/token/exchange`, RFC 8693) and exchanged. Callers of one event loop share one
exchange. One that fails while the token in hand still lives changes nothing, and is tried again
some seconds later; with no token, whoever asked gets its error.

It stands where a `Credential` stands. Nothing is sent when it is made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from dox_core_store import wire
from dox_core_store.client.credential import Token, claims_of
from dox_core_store.client.identity import Identity
from dox_core_store.client.protocol import Call, Reply, not_the_store, read_answer
from dox_core_store.errors import ConfigurationError, DoxStoreError

__all__ = ["ExchangedCredential", "Post", "to_exchange"]

_log = logging.getLogger("dox_core_store.client")

Post = Callable[[Call], Awaitable[Reply]]
"""Sends a call that needs no token."""

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
_RENEW_AT = 0.8
_RETRY_SECONDS = 5.0


def to_exchange(subject_token: str, kind: str, service_name: str | None = None) -> Call:
    """The call that exchanges a token of ``kind`` (``jwt`` of a workload, ``id_token`` of a
    person)."""
    fields = {
        "grant_type": GRANT_TYPE,
        "subject_token": subject_token,
        "subject_token_type": f"urn:ietf:params:oauth:token-type:{kind}",
    }
    if service_name is not None:
        fields["service_name"] = service_name
    return Call(
        method="POST",
        path="/v1/token/exchange",
        body=urlencode(fields).encode(),
        content_type="application/x-www-form-urlencoded",
        repeatable=True,
    )


class ExchangedCredential:
    """See the module. ``wall`` is the time of day, ``monotonic`` never goes back: both seconds."""

    def __init__(
        self,
        identity: Identity,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        service_name: str,
        on_new_principal: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._wall = wall
        self._monotonic = monotonic
        self._service_name = service_name
        self._on_new_principal = on_new_principal
        self._token: Token | None = None
        self._tried_at = float("-inf")
        self._flight: asyncio.Task[Token] | None = None

    @property
    def store_id(self) -> str | None:
        """The store whose tokens these are; None before the first."""
        return None if self._token is None else self._token.claims.iss

    @property
    def in_hand(self) -> Token | None:
        """The token that was got last, without getting one."""
        return self._token

    async def fresh(self, post: Post) -> Token:
        """The token to send now."""
        token = self._token
        if token is not None and not self._is_due(token):
            return token
        lives = token is not None and self._left(token) > 0
        if token is not None and lives and self._monotonic() - self._tried_at < _RETRY_SECONDS:
            return token
        try:
            return await self._shared(post)
        except DoxStoreError as error:
            if token is None or not lives or error.code == "service_mismatch":
                raise
            _log.warning(
                "The token could not be renewed (%s); the old one still holds.", error.code
            )
        return token

    async def after_refusal(self, refused: Token, post: Post) -> Token | None:
        """Another token than ``refused``: one just got by somebody else, or a new one."""
        if self._token is refused:
            self._token = None
            return await self._shared(post)
        return self._token

    async def _shared(self, post: Post) -> Token:
        loop = asyncio.get_running_loop()
        flight = self._flight
        if flight is None or flight.done() or flight.get_loop() is not loop:
            self._tried_at = self._monotonic()
            flight = self._flight = loop.create_task(self._exchange(post))
            flight.add_done_callback(_seen)
        return await asyncio.shield(flight)

    async def _exchange(self, post: Post) -> Token:
        subject = await self._identity.token()
        reply = await post(to_exchange(subject.reveal(), "jwt", self._service_name))
        answer = read_answer(wire.TokenExchanged, reply, store_id=self.store_id)
        claims = claims_of(answer.access_token)
        if claims is None:
            raise not_the_store(reply, "What was given in exchange is no token of a store.")
        if claims.sub != self._service_name:
            raise ConfigurationError(
                "service_mismatch",
                f"The platform's token stands for {ascii(claims.sub)[:80]}, "
                f"but service_name is {ascii(self._service_name)[:80]}.",
            )
        old, self._token = self._token, Token(answer.access_token, claims)
        if old is not None and (old.claims.iss, old.claims.env) != (claims.iss, claims.env):
            self._on_new_principal()
        return self._token

    def _is_due(self, token: Token) -> bool:
        issued_at, expires_at = token.claims.iat, token.claims.exp
        if issued_at is None or expires_at is None:
            return False
        return self._left(token) <= (1 - _RENEW_AT) * (expires_at - issued_at)

    def _left(self, token: Token) -> float:
        return float("inf") if token.claims.exp is None else token.claims.exp - self._wall()


def _seen(flight: asyncio.Task[Token]) -> None:
    """Its failure is told to whoever waits; if nobody does any more, to nobody."""
    if not flight.cancelled():
        flight.exception()
