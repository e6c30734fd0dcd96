"""An issuer's token exchanged for one of ours (RFC 8693); a person's sign-in is the same.

In this order, and the order is the security argument: the address's limit, the token's form, whose
it is (so that nothing is fetched but from issuers that an admin entered), its signature, its times,
what it is trusted with. The decision is made again inside the transaction that enters our token: an
issuer that was disabled meanwhile makes none.

A workload's token may be used again until it expires: the platform hands one token to every
process of a pod, and nobody could tell theirs from a replay. So it is worth as much as what it is
exchanged for, and ours lives no longer than it does (but a minute, for clocks that differ).

Nobody but its callers waits for an issuer that is slow: they are bounded in number and in time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from dox_core_store.errors import (
    AuthenticationError,
    DoxStoreError,
    RateLimitError,
    StoreUnavailableError,
    UnauthorizedError,
)
from dox_core_store.server.domain.access import Caller, OperatorRecord, Role, ServiceRecord
from dox_core_store.server.domain.address import counted_as
from dox_core_store.server.domain.issuer import (
    IssuerRecord,
    PersonRecord,
    TrustRecord,
    operator_name,
    person_trusts,
    service_trust,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.limit import Bucket, Rate
from dox_core_store.server.domain.subject_token import (
    SubjectClaims,
    SubjectToken,
    check_subject_claims,
    invalid_subject_token,
    issuer_of,
    split_subject_token,
)
from dox_core_store.server.domain.token import Kind
from dox_core_store.server.ports import Catalog, Clock, Transaction
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.issuer import issued_by
from dox_core_store.server.usecases.registry import subject
from dox_core_store.server.usecases.signing_key import Signing
from dox_core_store.server.usecases.token import Issued, enter_token

__all__ = ["Exchange", "IssuerKeys", "OnRecord"]

_RATE = Rate(600, 60, 600)
"""Refused exchanges of an address, and successful ones of a subject: a thousand pods that start at
once come through, and nobody fills the disk."""

_MAX_BUCKETS = 10_000
_MOST_WAITING = 500
_MOST = 1_000
_LEAST_SECONDS = 60


class IssuerKeys(Protocol):
    """The keys that issuers publish."""

    async def verify(self, token: SubjectToken, url: str) -> None:
        """Return if ``token`` is signed with a key of the issuer at ``url``, for its algorithm.

        Raises `AuthenticationError` ``subject_token_invalid``; `StoreUnavailableError`
        ``issuer_unreachable`` within seconds where that cannot be told.
        """


class OnRecord(NamedTuple):
    """How the ledger names a caller whose token was verified and who is refused all the same."""

    name: str
    reason: str


class Exchange:
    """See the module. Lives on the event loop."""

    def __init__(
        self,
        *,
        default_environment: str,
        catalog: Catalog,
        feed: Feed,
        clock: Clock,
        keys: IssuerKeys,
        signing: Signing,
    ) -> None:
        self._default_environment = default_environment
        self._catalog = catalog
        self._feed = feed
        self._clock = clock
        self._keys = keys
        self._signing = signing
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._waiting: dict[str, int] = {}

    async def for_service(self, caller: Caller, raw: str, service: str | None) -> Issued:
        """A token of the service that ``raw`` stands for: ``service``, if one is named.

        Raises ``subject_token_invalid``, ``subject_token_expired``, ``no_trust``,
        ``ambiguous_trust``, ``issuer_unreachable``, ``rate_limited``.
        """

        def enter(
            tx: Transaction, caller: Caller, trusts: list[TrustRecord], said: SubjectClaims
        ) -> Issued:
            trust = service_trust(trusts, said.claims, service)
            record = tx.get(ServiceRecord, name=trust.name)
            if record is None or record.decommissioned_at is not None:
                raise UnauthorizedError("no_trust", "The service that this token is for is gone.")
            environment = trust.environment or record.environment or self._default_environment
            left = said.expires_at - int(tx.now.timestamp())
            return enter_token(
                tx,
                caller,
                signing=self._signing,
                kind=Kind.SERVICE,
                name=trust.name,
                environment=environment,
                generation=record.generation,
                seconds=min(trust.max_seconds, max(left, _LEAST_SECONDS)),
                addresses=None,
                reason=f"{trust.trust_id}, sub {said.shown}",
            )

        return await self._exchange(caller, raw, enter, sign_in=False)

    async def for_person(self, caller: Caller, raw: str) -> Issued:
        """A token of the operator that signed in. Their record is made, or its roles are brought
        up to date. Raises the same, and ``operator_disabled``."""

        def enter(
            tx: Transaction, caller: Caller, trusts: list[TrustRecord], said: SubjectClaims
        ) -> Issued:
            value, roles, seconds = person_trusts(trusts, said.claims)
            issuer = trusts[0].issuer
            name = operator_name(value, issuer)
            _check_person(tx, name, issuer, said.subject)
            record = _brought_up_to_date(tx, caller, name, roles)
            return enter_token(
                tx,
                caller,
                signing=self._signing,
                kind=Kind.OPERATOR,
                name=name,
                environment=None,
                generation=record.generation,
                seconds=seconds,
                addresses=None,
                reason=f"signed in, sub {said.shown}",
                signed_in=True,
            )

        return await self._exchange(caller, raw, enter, sign_in=True)

    async def _exchange(
        self,
        caller: Caller,
        raw: str,
        enter: Callable[[Transaction, Caller, list[TrustRecord], SubjectClaims], Issued],
        *,
        sign_in: bool,
    ) -> Issued:
        refused = self._bucket(f"address {counted_as(caller.ip_address)}")
        self._check(refused)
        try:
            return await self._exchanged(caller, raw, enter, sign_in=sign_in)
        except (AuthenticationError, UnauthorizedError):
            refused.take(self._clock.monotonic())
            raise

    async def _exchanged(
        self,
        caller: Caller,
        raw: str,
        enter: Callable[[Transaction, Caller, list[TrustRecord], SubjectClaims], Issued],
        *,
        sign_in: bool,
    ) -> Issued:
        token = split_subject_token(raw)
        issuer = issuer_of(
            token.payload, await self._catalog.records(IssuerRecord, None, _MOST, url=_url(token))
        )
        await self._verify(token, issuer.url)
        caller = caller._replace(name=issued_by(issuer.name))
        said: SubjectClaims | None = None
        try:
            said = check_subject_claims(
                token.payload,
                audience=issuer.audience,
                now=int(self._clock.seconds()),
                sign_in=sign_in,
            )
            bucket = self._bucket(f"subject {issuer.name} {said.subject}")
            self._check(bucket)
            issued = await self._catalog.write(lambda tx: _entered(tx, caller, issuer, said, enter))
        except DoxStoreError as error:
            reason = error.code if said is None else f"{error.code}: sub {said.shown}"
            error.told = OnRecord(caller.name, reason)  # type: ignore[attr-defined]
            raise
        bucket.take(self._clock.monotonic())
        await self._feed.catch_up()
        return issued

    async def _verify(self, token: SubjectToken, url: str) -> None:
        """The signature. A slow issuer's callers are bounded apart from everybody else's."""
        waiting = self._waiting.get(url, 0)
        if waiting >= _MOST_WAITING:
            raise StoreUnavailableError(
                "issuer_unreachable", "Too many wait for this issuer's keys already."
            )
        self._waiting[url] = waiting + 1
        try:
            await self._keys.verify(token, url)
        finally:
            self._waiting[url] -= 1
            if not self._waiting[url]:
                del self._waiting[url]

    def _bucket(self, whose: str) -> Bucket:
        bucket = self._buckets.get(whose)
        if bucket is None:
            bucket = self._buckets[whose] = Bucket(_RATE, "exchange")
            if len(self._buckets) > _MAX_BUCKETS:
                self._buckets.popitem(last=False)
        return bucket

    def _check(self, bucket: Bucket) -> None:
        wait = bucket.wait(self._clock.monotonic())
        if wait > 0:
            raise RateLimitError(
                "rate_limited", "Too many tokens to exchange.", retry_after_seconds=wait
            )


def _url(token: SubjectToken) -> str:
    said = token.payload.get("iss")
    if not isinstance(said, str):
        raise invalid_subject_token("iss is not a text")
    return said


def _entered(
    tx: Transaction,
    caller: Caller,
    issuer: IssuerRecord,
    said: SubjectClaims,
    enter: Callable[[Transaction, Caller, list[TrustRecord], SubjectClaims], Issued],
) -> Issued:
    if tx.get(IssuerRecord, name=issuer.name) != issuer:
        raise invalid_subject_token("the issuer was changed or disabled meanwhile")
    return enter(tx, caller, tx.find(TrustRecord, issuer=issuer.name), said)


def _check_person(tx: Transaction, name: str, issuer: str, subject_: str) -> None:
    """Whoever had the name first keeps it: an address that an issuer gives to another stays with
    the one who acted under it."""
    person = tx.get(PersonRecord, name=name)
    if person is None:
        if tx.get(OperatorRecord, name=name) is not None:
            raise UnauthorizedError("no_trust", f"{name} is no person who signs in.")
        tx.put(PersonRecord(name=name, issuer=issuer, subject=subject_, created_at=tx.now))
    elif (person.issuer, person.subject) != (issuer, subject_):
        raise UnauthorizedError("no_trust", f"{name} is somebody else's name here.")


def _brought_up_to_date(
    tx: Transaction, caller: Caller, name: str, roles: list[Role]
) -> OperatorRecord:
    before = tx.get(OperatorRecord, name=name)
    if before is not None and before.disabled_at is not None:
        raise UnauthorizedError("operator_disabled", f"Operator {name} is disabled.")
    if before is not None and before.roles == roles:
        return before
    if before is None:
        record = OperatorRecord(
            name=name, roles=roles, generation=1, disabled_at=None, created_at=tx.now
        )
    else:
        record = replace(before, roles=roles)
    tx.put(record)
    tx.record(
        caller,
        {
            "action": Action.ADD_OPERATOR,
            "key_path": subject("operators", name),
            "reason": ", ".join(roles),  # read by machines: by `doctor`, and by a restore
        },
    )
    return record
