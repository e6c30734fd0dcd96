"""Tokens: believing one, issuing one, revoking one.

A token is verified in full once, then found by its SHA-256 in a bounded cache of verified claims;
expiry, revocation and generation are checked at each use. Final failures have a cache of their own,
so a flood of bad tokens can neither make us verify again nor push good ones out.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

import msgspec
from msgspec.structs import replace

from dox_core_store.errors import (
    AuthenticationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
)
from dox_core_store.key_path import KeyAddress, check_service_name
from dox_core_store.server.domain.access import (
    Caller,
    OperatorRecord,
    Permission,
    ServiceRecord,
    TokenRecord,
    require,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.token import Claims, Kind, new_token_id, parse_duration
from dox_core_store.server.ports import Catalog, Clock, Transaction
from dox_core_store.server.usecases.registry import Feed, KnownService, Registry, subject

__all__ = [
    "Authenticator",
    "Issued",
    "Principal",
    "SigningKeys",
    "Tokens",
    "Verifier",
    "enter_token",
]

_MAX_PRINCIPALS = 20_000
_MAX_FAILURES = 20_000
_MAX_ROUTES = 10_000
_FAILURE_SECONDS = 60.0
"""How long a refused token is refused unread: a node whose clock was behind must recover."""


class Verifier(Protocol):
    """Verifies signatures against a fixed set of keys."""

    def verify(self, raw: str, now: int) -> Claims: ...

    def jwks(self) -> Mapping[str, object]: ...


class Signer(Protocol):
    """Signs claims with the current signing key."""

    def sign(self, claims: Claims, store_id: str) -> str: ...


class SigningKeys:
    """The keys that verify now; a registry's `KeySet`. ``replace`` takes effect at once."""

    def __init__(self, make: Callable[[Mapping[str, Mapping[str, str]]], Verifier]) -> None:
        self._make = make
        self._verifier = make({})
        self.revision = 0

    def replace(self, keys: Mapping[str, str]) -> None:
        """From now on exactly these: public JWK (JSON) by ``kid``."""
        self._verifier = self._make({kid: msgspec.json.decode(jwk) for kid, jwk in keys.items()})
        self.revision += 1

    def verify(self, raw: str, now: int) -> Claims:
        return self._verifier.verify(raw, now)

    def jwks(self) -> Mapping[str, object]:
        return self._verifier.jwks()


class Principal:
    """Who a verified token speaks for, with what the door remembers about it."""

    __slots__ = ("claims", "known", "name", "reader", "revision", "routes", "token_id")

    def __init__(self, claims: Claims, known: KnownService | OperatorRecord) -> None:
        self.claims = claims
        self.known = known
        self.token_id = claims.token_id
        is_service = claims.kind is Kind.SERVICE
        self.name = claims.name if is_service else f"operator:{claims.name}"
        self.reader = "service" if is_service else "maintainer"
        self.routes: dict[str, KeyAddress] = {}
        self.revision = -1

    def forget_routes(self, revision: int) -> None:
        self.routes.clear()
        self.revision = revision

    def remember_route(self, path: str, address: KeyAddress) -> None:
        if len(self.routes) >= _MAX_ROUTES:
            self.routes.clear()
        self.routes[path] = address


class Authenticator:
    """Finds the principal of a token. Lives on the event loop."""

    def __init__(self, *, keys: SigningKeys, registry: Registry, clock: Clock) -> None:
        self._keys = keys
        self._registry = registry
        self._clock = clock
        self._principals: OrderedDict[bytes, Principal] = OrderedDict()
        self._failures: OrderedDict[bytes, tuple[float, str, str]] = OrderedDict()
        self._revision = keys.revision

    def authenticate(self, raw: bytes) -> Principal:
        """The principal of token ``raw``. Raises `AuthenticationError`."""
        if self._revision != self._keys.revision:  # a key may be compromised: verify all anew
            self._principals.clear()
            self._failures.clear()
            self._revision = self._keys.revision
        digest = hashlib.sha256(raw).digest()
        principal = self._principals.get(digest)
        if principal is None:
            principal = self._verify(raw, digest)
        principal.known = self._registry.check(principal.claims, self._clock.seconds())
        return principal

    def _verify(self, raw: bytes, digest: bytes) -> Principal:
        now = self._clock.seconds()
        failure = self._failures.get(digest)
        if failure is not None and abs(now - failure[0]) < _FAILURE_SECONDS:
            raise AuthenticationError(failure[1], failure[2])
        try:
            claims = self._keys.verify(raw.decode("latin-1"), int(now))
        except AuthenticationError as error:
            self._failures[digest] = (now, error.code, error.detail)
            if len(self._failures) > _MAX_FAILURES:
                self._failures.popitem(last=False)
            raise
        principal = Principal(claims, self._registry.check(claims, now))
        self._principals[digest] = principal
        if len(self._principals) > _MAX_PRINCIPALS:
            self._principals.popitem(last=False)
        return principal


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
                    "unknown_environment", f"Environment {chosen!a} is not declared."
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
                raise NotFoundError("token_not_found", f"There is no token {token_id!a}.")
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

        await self._catalog.write(work)
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
