"""Issuers and trusts: entered and taken back by admins, on record with who and why.

Disabling an issuer ends what was made of its tokens too: first nothing new can be made, then every
token that lives is revoked, some at a time, because everybody else's writes wait meanwhile. A trust
that is taken back ends nothing: what it gave lives an hour at most, a person's token half a day.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from dox_core_store.errors import ConflictError, InvalidRequestError, NotFoundError
from dox_core_store.server.domain.access import (
    Caller,
    Permission,
    ServiceRecord,
    TokenRecord,
    require,
)
from dox_core_store.server.domain.duration import parse_duration
from dox_core_store.server.domain.issuer import (
    MAX_OPERATOR_SECONDS,
    MAX_SERVICE_SECONDS,
    IssuerRecord,
    TrustKind,
    TrustRecord,
    check_issuer,
    check_trust,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import Catalog, Clock, Transaction, Work
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.operator import parse_roles
from dox_core_store.server.usecases.registry import subject

__all__ = ["Issuers", "KnownIssuer", "issued_by"]

Result = TypeVar("Result")

_MOST = 1_000
_MOST_AT_ONCE = 500
"""Tokens that are revoked in one transaction: some milliseconds."""


class KnownIssuer(NamedTuple):
    """An issuer and what is trusted of it."""

    issuer: IssuerRecord
    trusts: list[TrustRecord]


def issued_by(issuer: str) -> str:
    """How the ledger and a token's row name who made a token in exchange."""
    return f"issuer:{issuer}"


class Issuers:
    """See the module."""

    def __init__(self, *, catalog: Catalog, feed: Feed, clock: Clock) -> None:
        self._catalog = catalog
        self._feed = feed
        self._clock = clock

    async def add(
        self, caller: Caller, name: str, url: str, audience: str, reason: str | None
    ) -> IssuerRecord:
        """Enter an issuer; one that was disabled comes back with the trusts it had.

        Raises ``role_required``, ``invalid_field``, ``already_exists``.
        """
        require(caller.roles, Permission.MANAGE_ISSUERS)
        check_issuer(name, url, audience)

        def work(tx: Transaction) -> IssuerRecord:
            for other in tx.find(IssuerRecord):
                same = (other.url, other.audience) == (url, audience)
                # Trusts stay with the issuer that they were meant for: another takes another name.
                taken = other.name == name and not (same and other.disabled_at is not None)
                if taken or (same and other.name != name):
                    raise ConflictError(
                        "already_exists",
                        f"Issuer {other.name} has this {'name' if taken else 'url and audience'}.",
                    )
            record = IssuerRecord(
                name=name,
                url=url,
                audience=audience,
                created_at=tx.now,
                created_by=caller.name,
                disabled_at=None,
            )
            tx.put(record)
            tx.record(
                caller,
                {
                    "action": Action.ADD_ISSUER,
                    "key_path": subject("issuers", name),
                    "reason": _why(f"{url} for {audience}", reason),
                },
            )
            return record

        return await self._write(work)

    async def disable(self, caller: Caller, name: str, reason: str | None) -> int:
        """Take no more tokens of an issuer, and end those made of them; returns how many.

        Raises ``issuer_not_found``. Repeating it ends what is left.
        """
        require(caller.roles, Permission.MANAGE_ISSUERS)

        def work(tx: Transaction) -> None:
            record = _existing(tx, name)
            if record.disabled_at is None:
                tx.put(replace(record, disabled_at=tx.now))
            entry = {"action": Action.DISABLE_ISSUER, "key_path": subject("issuers", name)}
            tx.record(caller, {**entry, "reason": reason})

        await self._catalog.write(work, urgent=True)
        live = sorted(await self._catalog.live_tokens(self._clock.now()))
        ended = 0
        for at in range(0, len(live), _MOST_AT_ONCE):
            part = live[at : at + _MOST_AT_ONCE]
            ended += await self._catalog.write(
                lambda tx, part=part: _end(tx, caller, part, name),  # type: ignore[misc]
                urgent=True,
            )
        await self._feed.catch_up()
        return ended

    async def trust(
        self,
        caller: Caller,
        issuer: str,
        *,
        kind: str,
        name: str,
        claims: Mapping[str, str],
        roles: Sequence[str] = (),
        environment: str | None = None,
        max_lifetime: str | None = None,
        reason: str | None = None,
    ) -> TrustRecord:
        """Say for whom a token of ``issuer`` stands that has these ``claims``.

        Raises ``role_required``, ``invalid_field``, ``issuer_not_found``, ``service_not_found``,
        ``unknown_environment``, ``already_exists``.
        """
        require(caller.roles, Permission.MANAGE_ISSUERS)
        if kind not in set(TrustKind):
            raise InvalidRequestError("invalid_field", "kind is service or operator.")
        whom = TrustKind(kind)
        if whom is TrustKind.SERVICE:
            # Whoever may say who a service is may read what it reads.
            require(caller.roles, Permission.ISSUE_TOKENS)
        most = MAX_SERVICE_SECONDS if whom is TrustKind.SERVICE else MAX_OPERATOR_SECONDS
        seconds = most if max_lifetime is None else parse_duration(max_lifetime)
        given = parse_roles(roles) if roles else []
        check_trust(whom, name, given, claims, seconds)
        if environment is not None and whom is TrustKind.OPERATOR:
            raise InvalidRequestError("invalid_field", "An operator has no environment.")

        def work(tx: Transaction) -> TrustRecord:
            _existing(tx, issuer)
            if whom is TrustKind.SERVICE and tx.get(ServiceRecord, name=name) is None:
                raise NotFoundError("service_not_found", f"There is no service {name}.")
            if environment is not None and environment not in tx.environments():
                raise InvalidRequestError(
                    "unknown_environment", f"Environment {environment[:80]!a} is not declared."
                )
            for other in tx.find(TrustRecord, issuer=issuer):
                if (other.kind, other.name, other.claims) == (whom, name, dict(claims)):
                    raise ConflictError("already_exists", f"Trust {other.trust_id} says so.")
            record = TrustRecord(
                trust_id=f"tru_{secrets.token_hex(8)}",
                issuer=issuer,
                kind=whom,
                name=name,
                environment=environment,
                roles=given,
                claims=dict(sorted(claims.items())),
                max_seconds=seconds,
                created_at=tx.now,
                created_by=caller.name,
            )
            tx.put(record)
            tx.record(caller, _entry(Action.TRUST, record, reason))
            return record

        return await self._write(work)

    async def untrust(self, caller: Caller, trust_id: str, reason: str | None) -> None:
        """Take a trust back. Raises ``trust_not_found``."""
        require(caller.roles, Permission.MANAGE_ISSUERS)

        def work(tx: Transaction) -> None:
            record = tx.get(TrustRecord, trust_id=trust_id)
            if record is None:
                raise NotFoundError("trust_not_found", f"There is no trust {trust_id[:80]!a}.")
            tx.remove(TrustRecord, trust_id=trust_id)
            tx.record(caller, _entry(Action.UNTRUST, record, reason))

        await self._catalog.write(work, urgent=True)
        await self._feed.catch_up()

    async def page(self, caller: Caller, after: str | None, limit: int) -> list[KnownIssuer]:
        """A page of issuers, by name."""
        require(caller.roles, Permission.LIST_KEYS)
        found = await self._catalog.records(IssuerRecord, after, limit)
        trusts = await self._catalog.records(TrustRecord, None, _MOST)
        return [KnownIssuer(each, [t for t in trusts if t.issuer == each.name]) for each in found]

    async def for_people(self) -> list[IssuerRecord]:
        """By whom people may sign in. For everybody: it is what a sign-in page shows."""
        trusts = await self._catalog.records(TrustRecord, None, _MOST)
        named = {trust.issuer for trust in trusts if trust.kind is TrustKind.OPERATOR}
        found = await self._catalog.records(IssuerRecord, None, _MOST)
        return [each for each in found if each.disabled_at is None and each.name in named]

    async def _write(self, work: Work[Result]) -> Result:
        done = await self._catalog.write(work)
        await self._feed.catch_up()
        return done


def _existing(tx: Transaction, name: str) -> IssuerRecord:
    record = tx.get(IssuerRecord, name=name)
    if record is None:
        raise NotFoundError("issuer_not_found", f"There is no issuer {name[:80]!a}.")
    return record


def _end(tx: Transaction, caller: Caller, token_ids: Sequence[str], issuer: str) -> int:
    found = tx.find_among(TokenRecord, "token_id", token_ids, issued_by=issued_by(issuer))
    live = [token for token in found if token.revoked_at is None]
    for token in live:
        tx.put(replace(token, revoked_at=tx.now))
        tx.record(
            caller,
            {
                "action": Action.REVOKE_TOKEN,
                "key_path": subject("tokens", token.token_id),
                "reason": f"issuer {issuer} was disabled",
            },
        )
    return len(live)


def _entry(action: Action, trust: TrustRecord, reason: str | None) -> dict[str, object]:
    claims = ", ".join(f"{claim}={value}" for claim, value in trust.claims.items())
    what = f"{trust.trust_id}: {trust.kind} {trust.name} by {claims}"
    if trust.roles:
        what += f" as {', '.join(trust.roles)}"
    return {
        "action": action,
        "key_path": subject("issuers", trust.issuer),
        "environment": trust.environment,
        "reason": _why(what, reason),
    }


def _why(what: str, reason: str | None) -> str:
    return f"{what}: {reason}" if reason else what
