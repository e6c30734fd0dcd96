"""Grants: which service may read what, where."""

from __future__ import annotations

import secrets
from collections.abc import Collection

from msgspec.structs import replace

from dox_core_store.errors import ConflictError, InvalidRequestError, NotFoundError
from dox_core_store.key_path import parse_pattern
from dox_core_store.server.domain.access import (
    Caller,
    Effect,
    GrantRecord,
    Permission,
    ServiceRecord,
    grants_digest,
    require,
)
from dox_core_store.server.domain.key import BATCH
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.ports import Catalog, Transaction
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.registered import check_registered
from dox_core_store.server.usecases.registry import subject

__all__ = ["Grants", "bind_grants", "enter_grant", "where_granted"]


class Grants:
    """See the module."""

    def __init__(self, *, default_environment: str, catalog: Catalog, feed: Feed) -> None:
        self._default = default_environment
        self._catalog = catalog
        self._feed = feed

    async def add(
        self,
        caller: Caller,
        service: str,
        pattern: str,
        *,
        environment: str | None = None,
        effect: str = "allow",
        reason: str | None = None,
    ) -> GrantRecord:
        """Allow or deny ``pattern`` to a service in one environment. Repeating it changes nothing.

        The environment is the pattern's suffix, else ``environment``, else the service's, else the
        store's default.
        """
        require(caller.roles, Permission.GRANT)
        if effect not in set(Effect):
            raise InvalidRequestError("invalid_field", "effect is allow or deny.")

        def work(tx: Transaction) -> GrantRecord:
            record = tx.get(ServiceRecord, name=service)
            if record is None:
                raise NotFoundError("service_not_found", f"There is no service {service[:80]!a}.")
            if record.decommissioned_at is not None:  # it would come to life with the service
                raise ConflictError(
                    "service_decommissioned", f"Service {service} was decommissioned."
                )
            parsed, chosen = where_granted(
                pattern,
                environment,
                declared=tx.environments(),
                default=record.environment or self._default,
            )
            return enter_grant(
                tx, caller, service, parsed, chosen, effect=Effect(effect), reason=reason
            )

        grant = await self._catalog.write(work)
        await self._feed.catch_up()
        return grant

    async def remove(self, caller: Caller, grant_id: str, reason: str | None) -> None:
        """Take a grant back. It takes effect with the commit."""
        require(caller.roles, Permission.GRANT)

        def work(tx: Transaction) -> None:
            grant = tx.get(GrantRecord, grant_id=grant_id)
            if grant is None:
                raise NotFoundError("grant_not_found", f"There is no grant {grant_id[:80]!a}.")
            tx.remove(GrantRecord, grant_id=grant_id)
            bind_grants(tx, grant.service)
            tx.record(caller, _entry(Action.UNGRANT, grant, reason))

        await self._catalog.write(work, urgent=True)
        await self._feed.catch_up()

    async def page(
        self, caller: Caller, service: str | None, after: str | None, limit: int
    ) -> list[GrantRecord]:
        """A page of grants, by id; of one service, or of all. Raises ``service_not_found``."""
        require(caller.roles, Permission.LIST_KEYS)
        where = (
            {} if service is None else {"service": await check_registered(self._catalog, service)}
        )
        return await self._catalog.records(GrantRecord, after, limit, **where)


def enter_grant(
    tx: Transaction,
    caller: Caller,
    service: str,
    pattern: str,
    environment: str,
    *,
    effect: Effect = Effect.ALLOW,
    reason: str | None = None,
) -> GrantRecord:
    """Enter a grant and put it on record; one that is there already is returned as it is."""
    found = tx.get(
        GrantRecord, service=service, pattern=pattern, environment=environment, effect=effect
    )
    if found is not None:
        return found
    grant = GrantRecord(
        grant_id=f"gra_{secrets.token_hex(8)}",
        service=service,
        effect=effect,
        pattern=pattern,
        environment=environment,
        created_at=tx.now,
        created_by=caller.name,
    )
    tx.put(grant)
    bind_grants(tx, service)
    tx.record(caller, _entry(Action.GRANT, grant, reason))
    return grant


def where_granted(
    pattern: str, environment: str | None, *, declared: Collection[str], default: str
) -> tuple[str, str]:
    """What ``pattern`` names, and in which environment: its suffix, else ``environment``, else
    ``default``. A pattern that can name no key is refused.

    Raises ``malformed_pattern``, ``reserved_path``, ``unknown_environment``,
    ``environment_conflict``.
    """
    parsed, suffix = parse_pattern(pattern, declared)
    if parsed == BATCH:
        raise InvalidRequestError("reserved_path", f"{BATCH} is an address of the door, no key.")
    if environment is not None and environment not in declared:
        raise InvalidRequestError(
            "unknown_environment", f"Environment {environment[:80]!a} is not declared."
        )
    if suffix is not None and environment is not None and suffix != environment:
        raise InvalidRequestError(
            "environment_conflict",
            f"The pattern ends in {suffix}, but the request says {environment}.",
        )
    return parsed, suffix or environment or default


def bind_grants(tx: Transaction, service: str) -> None:
    """Bind the service's row to the grants that it has now."""
    record = tx.get(ServiceRecord, name=service)
    if record is not None:
        digest = grants_digest(tx.find(GrantRecord, service=service))
        tx.put(replace(record, grants_digest=digest))


def _entry(action: Action, grant: GrantRecord, reason: str | None) -> dict[str, object]:
    what = f"{grant.effect} {grant.pattern} in {grant.environment}"
    return {
        "action": action,
        "key_path": subject("services", grant.service),
        "environment": grant.environment,
        "reason": f"{what}: {reason}" if reason else what,
    }
