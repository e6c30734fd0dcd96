"""Who a token speaks for.

A token is verified in full once, then found by its SHA-256 in a bounded cache of verified claims;
expiry, revocation and generation are checked at each use. Final failures have a cache of their
own, so a flood of bad tokens can neither make us verify again nor push good ones out; and an
address that sends ever new bad ones is refused unread for a while. A token that is bound to
networks is looked at again at each request, which costs those that are not one comparison.

Behind one address there may be many services, one of them misconfigured, and that one must not shut
the others out. What is in the cache is never judged by its address. What is not, while its address
is over the limit, is verified all the same if it names a live token: ids are random and told to
operators only, so a flood does not hit one. Whoever knows one has `_NAMED_RATE` tries with it. An
IPv6 address is counted with its /64, for whoever has one of those has all of them.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from dox_core_store.errors import AuthenticationError, DoxStoreError, RateLimitError
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import OperatorRecord
from dox_core_store.server.domain.address import counted_as
from dox_core_store.server.domain.limit import Bucket, Rate
from dox_core_store.server.domain.proof import Proven, invalid_proof, token_digest
from dox_core_store.server.domain.token import Claims, Kind
from dox_core_store.server.domain.token_text import claimed_token_id
from dox_core_store.server.ports import Clock
from dox_core_store.server.usecases.proof import Proofs, Use
from dox_core_store.server.usecases.registry import KnownService, Registry
from dox_core_store.server.usecases.token_alarm import TokenAlarm

__all__ = ["Authenticator", "Principal", "Shown", "SigningKeys", "Verifier"]

Key = TypeVar("Key")
Value = TypeVar("Value")

_MAX_PRINCIPALS = 20_000
_MAX_FAILURES = 20_000
_MAX_ROUTES = 10_000
_FAILURE_SECONDS = 60.0
"""How long a refused token is refused unread: a node whose clock was behind must recover."""

_FAILED_RATE = Rate(600, 60, 600)
"""How many bad tokens of an address are read: far above what mistakes make, far below a flood."""

_NAMED_RATE = Rate(10, 60, 10)
"""How often what names one live token is verified all the same: a good token needs it once."""

_MAX_ADDRESSES = 10_000


class Shown(NamedTuple):
    """A proof that came beside a token, and what it has to have been made for."""

    raw: bytes
    asked: Proven


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

    __slots__ = ("bound", "claims", "known", "name", "reader", "revision", "routes", "token_id")

    def __init__(self, claims: Claims, known: KnownService | OperatorRecord) -> None:
        self.claims = claims
        self.known = known
        self.bound = claims.addresses is not None or claims.key_thumbprint is not None
        """Whether it takes more than the token: `Authenticator.at_hand` does not look further."""
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
        alarm: TokenAlarm,
        proofs: Proofs,
    ) -> None:
        self._keys = keys
        self._registry = registry
        self._clock = clock
        self._seconds = clock.seconds
        self._catch_up = catch_up
        self._alarm = alarm
        self._proofs = proofs
        self._principals: OrderedDict[bytes, Principal] = OrderedDict()
        self._failures: OrderedDict[bytes, tuple[float, str, str]] = OrderedDict()
        self._addresses: OrderedDict[str, Bucket] = OrderedDict()
        self._named: OrderedDict[str, Bucket] = OrderedDict()
        self._revision = keys.revision

    def at_hand(self, raw: bytes) -> Principal | None:
        """What `authenticate` would find, where the token was verified before and still holds,
        wherever it comes from."""
        principal = self._principals.get(hashlib.sha256(raw).digest())
        if principal is None or principal.bound or self._revision != self._keys.revision:
            return None
        try:
            principal.known = self._registry.check(principal.claims, self._seconds())
        except AuthenticationError:
            return None
        return principal

    async def authenticate(self, raw: bytes, address: str, proof: Shown | None = None) -> Principal:
        """The principal of token ``raw``, sent from ``address``; ``proof`` if one came with it.

        Raises `AuthenticationError`; `RateLimitError` where that address sent too many bad ones.
        What is refused though the token is good, for its address or its proof, has the principal
        as its ``bearer``.
        """
        digest = hashlib.sha256(raw).digest()
        principal = None
        while principal is None:
            principal = await self._principal(raw, digest, address)
        if principal.bound or proof is not None:
            try:
                use = self._check_bounds(principal.claims, raw, address, proof)
                if use is not None:
                    await self._claim(principal.claims, address, use)
            except DoxStoreError as error:
                error.bearer = principal  # type: ignore[attr-defined]
                raise
            if use is not None:  # that took its time: does the token still hold?
                principal = None
                while principal is None:
                    principal = await self._principal(raw, digest, address)
        return principal

    def _check_bounds(
        self, claims: Claims, raw: bytes, address: str, proof: Shown | None
    ) -> Use | None:
        """What of the proof is still to be claimed, where there are other nodes."""
        if claims.addresses is not None and not claims.addresses.contain(address):
            self._alarm.elsewhere(claims, address)
            raise AuthenticationError(
                "address_not_allowed", "The token may not be used from this address."
            )
        if claims.key_thumbprint is None:
            if proof is not None:
                raise invalid_proof("the token is bound to no key")
            return None
        if proof is None:
            self._alarm.unproven(claims, address)
            raise AuthenticationError(
                "proof_needed", "The token is bound to a key: send it as DPoP, with a proof."
            )
        # Counted for this token from this address: whoever stole it must not shut its service out.
        now = self._clock.monotonic()
        bucket = self._proofs_of(claims, address)
        if (wait := bucket.wait(now)) > 0:
            raise RateLimitError(
                "rate_limited", "Too many bad proofs from this address.", retry_after_seconds=wait
            )
        try:
            return self._proofs.check(
                proof.raw,
                proof.asked,
                thumbprint=claims.key_thumbprint,
                token_digest=token_digest(raw),
            )
        except AuthenticationError as error:
            if error.code == "proof_invalid":
                bucket.take(now)
            raise

    async def _claim(self, claims: Claims, address: str, use: Use) -> None:
        try:
            await self._proofs.claim(use)
        except AuthenticationError:
            self._proofs_of(claims, address).take(self._clock.monotonic())
            raise

    def _proofs_of(self, claims: Claims, address: str) -> Bucket:
        """How many bad proofs of a token from an address are looked at."""
        return self._bucket(self._named, f"{claims.token_id} {counted_as(address)}", _FAILED_RATE)

    async def _principal(self, raw: bytes, digest: bytes, address: str) -> Principal | None:
        """None where the keys were replaced while this waited for the feed: look again."""
        if self._revision != self._keys.revision:  # a key may be compromised: verify all anew
            self._principals.clear()
            self._failures.clear()
            self._revision = self._keys.revision
        revision = self._revision
        principal = self._principals.get(digest)
        if principal is not None:
            principal.known = await self._check(principal.claims)
            return principal if revision == self._keys.revision else None
        claims = await self._verify(raw, digest, address)
        principal = Principal(claims, await self._check(claims))
        if revision != self._keys.revision:
            return None
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

    async def _verify(self, raw: bytes, digest: bytes, address: str) -> Claims:
        now = self._seconds()
        failure = self._failures.get(digest)
        if failure is not None and abs(now - failure[0]) < _FAILURE_SECONDS:
            raise AuthenticationError(failure[1], failure[2])
        counted = counted_as(address)
        bucket = self._addresses.get(counted)
        if bucket is not None and (wait := bucket.wait(self._clock.monotonic())) > 0:
            self._check_named(raw, wait)
        try:
            return await self._read(raw, int(now))
        except AuthenticationError as error:
            _keep(self._failures, digest, (now, error.code, error.detail), _MAX_FAILURES)
            self._bucket(self._addresses, counted, _FAILED_RATE).take(self._clock.monotonic())
            raise

    def _check_named(self, raw: bytes, wait: float) -> None:
        """Raise `RateLimitError` unless ``raw`` names a live token that was not tried too often."""
        token_id = claimed_token_id(raw)
        if token_id is not None and self._registry.is_live(token_id):
            bucket = self._bucket(self._named, token_id, _NAMED_RATE)
            if bucket.take(self._clock.monotonic()).allowed:
                return
        raise RateLimitError(
            "rate_limited", "Too many bad tokens from this address.", retry_after_seconds=wait
        )

    def _bucket(self, buckets: OrderedDict[str, Bucket], name: str, rate: Rate) -> Bucket:
        bucket = buckets.get(name)
        if bucket is None:
            bucket = Bucket(rate)
            _keep(buckets, name, bucket, _MAX_ADDRESSES)
        return bucket

    async def _read(self, raw: bytes, now: int) -> Claims:
        """The claims of ``raw``, with a second look: its key may be younger than what we applied.
        Raises `AuthenticationError`."""
        text, revision = raw.decode("latin-1"), self._keys.revision
        try:
            return self._keys.verify(text, now)
        except AuthenticationError:
            await self._catch_up()
            if self._keys.revision == revision:
                raise
        return self._keys.verify(text, now)


def _keep(kept: OrderedDict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Keep ``value``; the oldest leaves where there are more than ``most``."""
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)
