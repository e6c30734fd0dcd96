"""Who a token speaks for.

A token is verified in full once, then found by its SHA-256 in a bounded cache of verified claims;
expiry, revocation and generation are checked at each use. Final failures have a cache of their
own, so a flood of bad tokens can neither make us verify again nor push good ones out; and an
address that sends ever new bad ones is refused unread for a while.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import msgspec

from dox_core_store.errors import AuthenticationError, RateLimitError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import OperatorRecord
from dox_core_store.server.domain.limit import Bucket, Rate
from dox_core_store.server.domain.token import Claims, Kind
from dox_core_store.server.ports import Clock
from dox_core_store.server.usecases.registry import KnownService, Registry

__all__ = ["Authenticator", "Principal", "SigningKeys", "Verifier"]

Key = TypeVar("Key")
Value = TypeVar("Value")

_MAX_PRINCIPALS = 20_000
_MAX_FAILURES = 20_000
_MAX_ROUTES = 10_000
_FAILURE_SECONDS = 60.0
"""How long a refused token is refused unread: a node whose clock was behind must recover."""

_FAILED_RATE = Rate(600, 60, 600)
"""How many bad tokens of an address are read: far above what mistakes make, far below a flood."""

_MAX_ADDRESSES = 10_000


class Verifier(Protocol):
    """Verifies signatures against a fixed set of keys."""

    def verify(self, raw: str, now: int) -> Claims: ...

    def jwks(self) -> Mapping[str, object]: ...


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

    def __init__(
        self,
        *,
        keys: SigningKeys,
        registry: Registry,
        clock: Clock,
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._keys = keys
        self._registry = registry
        self._clock = clock
        self._seconds = clock.seconds
        self._catch_up = catch_up
        self._principals: OrderedDict[bytes, Principal] = OrderedDict()
        self._failures: OrderedDict[bytes, tuple[float, str, str]] = OrderedDict()
        self._addresses: OrderedDict[str, Bucket] = OrderedDict()
        self._revision = keys.revision

    def at_hand(self, raw: bytes) -> Principal | None:
        """What `authenticate` would find, where the token was verified before and still holds."""
        principal = self._principals.get(hashlib.sha256(raw).digest())
        if principal is None or self._revision != self._keys.revision:
            return None
        try:
            principal.known = self._registry.check(principal.claims, self._seconds())
        except AuthenticationError:
            return None
        return principal

    async def authenticate(self, raw: bytes, address: str) -> Principal:
        """The principal of token ``raw``, sent from ``address``.

        Raises `AuthenticationError`; `RateLimitError` where that address sent too many bad ones.
        """
        if self._revision != self._keys.revision:  # a key may be compromised: verify all anew
            self._principals.clear()
            self._failures.clear()
            self._revision = self._keys.revision
        digest = hashlib.sha256(raw).digest()
        principal = self._principals.get(digest)
        if principal is not None:
            principal.known = await self._check(principal.claims)
            return principal
        claims = self._verify(raw, digest, address)
        principal = Principal(claims, await self._check(claims))
        _keep(self._principals, digest, principal, _MAX_PRINCIPALS)
        return principal

    async def _check(self, claims: Claims) -> KnownService | OperatorRecord:
        """`Registry.check`, with a second look: a token may be younger than what we applied."""
        try:
            return self._registry.check(claims, self._seconds())
        except AuthenticationError as error:
            if error.code == "token_expired":
                raise
        await self._catch_up()
        return self._registry.check(claims, self._seconds())

    def _verify(self, raw: bytes, digest: bytes, address: str) -> Claims:
        now = self._seconds()
        failure = self._failures.get(digest)
        if failure is not None and abs(now - failure[0]) < _FAILURE_SECONDS:
            raise AuthenticationError(failure[1], failure[2])
        bucket = self._addresses.get(address)
        if bucket is not None and (wait := bucket.wait(self._clock.monotonic())) > 0:
            raise RateLimitError(
                "rate_limited", "Too many bad tokens from this address.", retry_after_seconds=wait
            )
        try:
            return self._keys.verify(raw.decode("latin-1"), int(now))
        except AuthenticationError as error:
            _keep(self._failures, digest, (now, error.code, error.detail), _MAX_FAILURES)
            if bucket is None:
                bucket = Bucket(_FAILED_RATE)
                _keep(self._addresses, address, bucket, _MAX_ADDRESSES)
            bucket.take(self._clock.monotonic())
            raise


def _keep(kept: OrderedDict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Keep ``value``; the oldest leaves where there are more than ``most``."""
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)
