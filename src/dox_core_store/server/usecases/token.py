"""Tokens: issuing and revoking. Whether one is believed is decided in ``principal``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

import msgspec
from msgspec.structs import replace

from dox_core_store.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
)
from dox_core_store.key_path import check_service_name
from dox_core_store.server.domain.access import (
    Caller,
    Permission,
    ServiceRecord,
    TokenRecord,
    require,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.token import Claims, Kind, new_token_id, parse_duration
from dox_core_store.server.ports import Catalog, Transaction
from dox_core_store.server.usecases.registry import Feed, subject

__all__ = ["Issued", "Tokens", "enter_token"]


class Signer(Protocol):
    """Signs claims with the current signing key."""

    def sign(self, claims: Claims, store_id: str) -> str: ...


class Issued(msgspec.Struct, frozen=True):
    """A token just issued. The only time that the store says it."""

    token: str
    claims: Claims

    def __repr__(self) -> str:
        return f"Issued({self.claims.token_id})"


class Tokens:
    """Issuing and revoking."""

    def __init__(
        self,
        *,
        store_id: str,
        default_environment: str,
        catalog: Catalog,
        feed: Feed,
        signer: Signer,
    ) -> None:
        self._store_id = store_id
        self._default_environment = default_environment
        self._catalog = catalog
        self._feed = feed
        self._signer = signer

    async def issue(
        self,
        caller: Caller,
        service_name: str,
        *,
        expires_in: str = "90d",
        environment: str | None = None,
    ) -> Issued:
        """A token for a registered service. Whoever may issue one can read its keys.

        Raises ``role_required``, ``invalid_field``, ``unknown_environment``,
        ``service_not_found``, ``service_decommissioned``.
        """
        require(caller.roles, Permission.ISSUE_TOKENS)
        check_service_name(service_name)
        seconds = parse_duration(expires_in)

        def work(tx: Transaction) -> Claims:
            service = tx.get(ServiceRecord, name=service_name)
            if service is None:
                raise NotFoundError(
                    "service_not_found",
                    f"Service {service_name} is not registered. Register it first.",
                )
            if service.decommissioned_at is not None:
                raise ConflictError(
                    "service_decommissioned", f"Service {service_name} was decommissioned."
                )
            chosen = environment or service.environment or self._default_environment
            if chosen not in tx.environments():
                raise InvalidRequestError(
                    "unknown_environment", f"Environment {chosen[:80]!a} is not declared."
                )
            return enter_token(
                tx,
                caller,
                kind=Kind.SERVICE,
                name=service_name,
                environment=chosen,
                generation=service.generation,
                seconds=seconds,
            )

        claims = await self._catalog.write(work)
        await self._feed.catch_up()
        return Issued(self._signer.sign(claims, self._store_id), claims)

    async def revoke(self, caller: Caller, token_id: str, reason: str | None) -> None:
        """Kill one token at once. Repeating it changes nothing. Raises ``token_not_found``."""
        require(caller.roles, Permission.REVOKE_TOKENS)

        def work(tx: Transaction) -> None:
            token = tx.get(TokenRecord, token_id=token_id)
            if token is None:
                raise NotFoundError("token_not_found", f"There is no token {token_id[:80]!a}.")
            if token.revoked_at is None:
                tx.put(replace(token, revoked_at=tx.now))
                tx.record(
                    caller,
                    {
                        "action": Action.REVOKE_TOKEN,
                        "key_path": subject("tokens", token_id),
                        "reason": reason,
                    },
                )

        await self._catalog.write(work, urgent=True)
        await self._feed.catch_up()


def enter_token(
    tx: Transaction,
    caller: Caller,
    *,
    kind: Kind,
    name: str,
    environment: str | None,
    generation: int,
    seconds: int,
) -> Claims:
    """Enter a token to be signed, and put it on record; returns what it shall say."""
    issued_at = int(tx.now.timestamp())
    claims = Claims(
        kind=kind,
        name=name,
        token_id=new_token_id(),
        environment=environment,
        generation=generation,
        issued_at=issued_at,
        not_before=issued_at,
        expires_at=issued_at + seconds,
    )
    tx.put(
        TokenRecord(
            token_id=claims.token_id,
            kind=kind,
            name=name,
            environment=environment,
            issued_at=tx.now,
            expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
            issued_by=caller.name,
            revoked_at=None,
        )
    )
    tx.record(
        caller,
        {
            "action": Action.ISSUE_TOKEN,
            "key_path": subject("tokens", claims.token_id),
            "environment": environment,
            "reason": f"for {kind} {name}",
        },
    )
    return claims
