"""Tokens: issuing, listing and revoking. Whether one is believed is decided in ``principal``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

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
    TokenBindingRecord,
    TokenRecord,
    require,
)
from dox_core_store.server.domain.address import Networks
from dox_core_store.server.domain.duration import parse_duration
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.proof import is_thumbprint
from dox_core_store.server.domain.signing_key import SigningKeyRecord, signed_by
from dox_core_store.server.domain.token import (
    Claims,
    Kind,
    bound_to,
    new_token_id,
)
from dox_core_store.server.ports import Catalog, Clock, TokenFilter, TokenRow, Transaction
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.registered import check_registered
from dox_core_store.server.usecases.registry import subject
from dox_core_store.server.usecases.signing_key import Signing
from dox_core_store.server.usecases.token_alarm import Notice

__all__ = ["Issued", "ListedToken", "Tokens", "end_tokens", "enter_token"]

_MOST_AT_ONCE = 500
"""Tokens whose rows are marked in one transaction: some milliseconds."""

_MOST_KEYS = 1_000


class Issued(msgspec.Struct, frozen=True):
    """A token just issued. The only time that the store says it."""

    token: str
    claims: Claims

    def __repr__(self) -> str:
        return f"Issued({self.claims.token_id})"


class ListedToken(NamedTuple):
    """A token as lists show it. ``status`` is ``live``, ``revoked``, ``expired`` or, where the key
    that signed it was, ``compromised``."""

    row: TokenRow
    status: str
    kid: str | None


class Tokens:
    """Issuing, listing and revoking."""

    def __init__(
        self,
        *,
        store_id: str,
        default_environment: str,
        catalog: Catalog,
        feed: Feed,
        clock: Clock,
        signing: Signing,
        notice: Notice,
    ) -> None:
        self._store_id = store_id
        self._default_environment = default_environment
        self._catalog = catalog
        self._feed = feed
        self._clock = clock
        self._signing = signing
        self._notice = notice

    async def issue(
        self,
        caller: Caller,
        service_name: str,
        *,
        expires_in: str = "90d",
        environment: str | None = None,
        addresses: Sequence[str] = (),
        key_thumbprint: str | None = None,
        reason: str | None = None,
        told: bool = True,
    ) -> Issued:
        """A token for a registered service, to be used from ``addresses`` alone, if there are any,
        and only by who holds the key of ``key_thumbprint``, if that is given.
        Whoever may issue one can read its keys: that it was issued is told in the log too, unless
        not ``told``.

        Raises ``role_required``, ``invalid_field``, ``unknown_environment``,
        ``service_not_found``, ``service_decommissioned``.
        """
        require(caller.roles, Permission.ISSUE_TOKENS)
        check_service_name(service_name)
        seconds, bound = parse_duration(expires_in), bound_to(addresses)
        if key_thumbprint is not None and not is_thumbprint(key_thumbprint):
            raise InvalidRequestError(
                "invalid_field", "key_thumbprint is a SHA-256 thumbprint (RFC 7638), base64url."
            )

        def work(tx: Transaction) -> Issued:
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
                signing=self._signing,
                kind=Kind.SERVICE,
                name=service_name,
                environment=chosen,
                generation=service.generation,
                seconds=seconds,
                addresses=bound,
                key_thumbprint=key_thumbprint,
                reason=reason,
            )

        issued = await self._catalog.write(work)
        await self._feed.catch_up()
        if told:
            self._notice(
                "token_issued",
                token_id=issued.claims.token_id,
                kind=str(Kind.SERVICE),
                name=service_name,
                environment=issued.claims.environment,
                by=caller.name,
                expires_at=datetime.fromtimestamp(issued.claims.expires_at, UTC).isoformat(),
            )
        return issued

    async def page(
        self,
        caller: Caller,
        *,
        service_name: str | None = None,
        expiring_within: str | None = None,
        unused_for: str | None = None,
        ended: bool = False,
        after: str | None = None,
        limit: int,
    ) -> list[ListedToken]:
        """A page of tokens, by id: of a service, that expire within or were not used for some time
        (``90d``). Expired ones only where ``ended``.

        Raises ``role_required``, ``invalid_parameter``, ``service_not_found``.
        """
        require(caller.roles, Permission.LIST_KEYS)
        if service_name is not None:
            await check_registered(self._catalog, service_name)
        now = self._clock.now()
        wanted = TokenFilter(
            kind=None if service_name is None else str(Kind.SERVICE),
            name=service_name,
            expires_after=None if ended else now,
            expires_before=None if expiring_within is None else now + _span(expiring_within),
            unused_since=None if unused_for is None else now - _span(unused_for),
        )
        return await self._listed(await self._catalog.tokens(wanted, after, limit))

    async def one(self, caller: Caller, token_id: str) -> ListedToken:
        """One token, whether it lives or not. Raises ``role_required``, ``token_not_found``."""
        require(caller.roles, Permission.LIST_KEYS)
        rows = await self._catalog.tokens(TokenFilter(token_id=token_id), None, 1)
        if not rows:
            raise NotFoundError("token_not_found", f"There is no token {token_id[:80]!a}.")
        return (await self._listed(rows))[0]

    async def _listed(self, rows: Sequence[TokenRow]) -> list[ListedToken]:
        keys = await self._catalog.records(SigningKeyRecord, None, _MOST_KEYS)
        now = self._clock.now()
        listed = []
        for row in rows:
            key = signed_by(row.token.issued_at, keys)
            status = "live"
            if row.token.revoked_at is not None:
                status = "revoked"
            elif row.token.expires_at <= now:
                status = "expired"
            elif key is None or key.compromised_at is not None:
                status = "compromised"
            listed.append(ListedToken(row, status, None if key is None else key.kid))
        return listed

    async def revoke(self, caller: Caller, token_id: str, reason: str | None) -> None:
        """Kill one token at once; its own anybody may. Repeating it changes nothing. Raises
        ``role_required``, ``token_not_found``."""
        if caller.token_id != token_id:
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


def end_tokens(tx: Transaction, kind: Kind, name: str, until: datetime) -> bool:
    """Note in their rows that the tokens of a service or operator which were issued ``until`` then
    are dead, some of them at a time; whether there are more. A generation that was raised kills
    them all the same: this is for lists, and for a database in which an older one was put back."""
    found = tx.find(TokenRecord, limit=_MOST_AT_ONCE, name=name, revoked_at=None)
    ended = [
        replace(each, revoked_at=tx.now)
        for each in found
        if each.kind == kind and each.issued_at <= until
    ]
    tx.put_all(ended)
    return bool(ended) and len(found) == _MOST_AT_ONCE


def enter_token(
    tx: Transaction,
    caller: Caller,
    *,
    signing: Signing,
    kind: Kind,
    name: str,
    environment: str | None,
    generation: int,
    seconds: int,
    addresses: Networks | None,
    reason: str | None,
    key_thumbprint: str | None = None,
    signed_in: bool = False,
) -> Issued:
    """Enter a token, put it on record, and sign it with the key that signs in ``tx``."""
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
        addresses=addresses,
        key_thumbprint=key_thumbprint,
        signed_in=signed_in,
    )
    signer = signing.signer(tx)
    tx.put(
        TokenRecord(
            token_id=claims.token_id,
            kind=kind,
            name=name,
            environment=environment,
            issued_at=signing.moment(tx),
            expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
            issued_by=caller.name,
            revoked_at=None,
        )
    )
    if addresses is not None or key_thumbprint is not None:
        tx.put(
            TokenBindingRecord(
                token_id=claims.token_id,
                addresses=[] if addresses is None else list(addresses.texts),
                key_thumbprint=key_thumbprint,
            )
        )
    tx.record(
        caller,
        {
            "action": Action.ISSUE_TOKEN,
            "key_path": subject("tokens", claims.token_id),
            "environment": environment,
            "reason": f"for {kind} {name}" + (f": {reason}" if reason else ""),
        },
    )
    return Issued(signer.sign(claims, signing.store_id), claims)


def _span(text: str) -> timedelta:
    try:
        return timedelta(seconds=parse_duration(text))
    except InvalidRequestError:
        raise InvalidRequestError(
            "invalid_parameter", "A time span is written like 12h or 30d, and has 400 days at most."
        ) from None
