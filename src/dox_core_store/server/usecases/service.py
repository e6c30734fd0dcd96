"""Services: registering, limiting, killing their tokens, decommissioning.

Registering is idempotent, so a migration may run twice. It also grants ``required_keys`` where the
caller may grant; otherwise what is required is kept as a request for someone who may. Raising the
generation kills every token issued before, and registering again revives none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec.structs import replace

from dox_core_store.errors import InvalidRequestError, NotFoundError, StoreUnavailableError
from dox_core_store.key_path import check_service_name, parse_pattern
from dox_core_store.server.domain.access import (
    EMPTY_GRANTS,
    Caller,
    GrantRecord,
    Permission,
    ServiceRecord,
    permitted,
    require,
)
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.limit import DEFAULT_RATE, parse_rate
from dox_core_store.server.domain.token import Kind
from dox_core_store.server.ports import Catalog, Transaction
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.grant import enter_grant
from dox_core_store.server.usecases.registry import subject
from dox_core_store.server.usecases.token import end_tokens

__all__ = ["Registered", "Services"]

_MAX_DESCRIPTION_CHARACTERS = 1_000
_MAX_REQUIRED = 1_000


class Registered(NamedTuple):
    """A service after registering: what it was granted now, and whether it is new."""

    record: ServiceRecord
    granted: list[str]
    created: bool


class Services:
    """See the module."""

    def __init__(self, *, default_environment: str, catalog: Catalog, feed: Feed) -> None:
        self._default = default_environment
        self._catalog = catalog
        self._feed = feed

    async def register(
        self,
        caller: Caller,
        name: str,
        *,
        description: str = "",
        required_keys: Sequence[str] = (),
        environment: str | None = None,
        reason: str | None = None,
    ) -> Registered:
        """Register ``name``, or bring its registration up to date."""
        require(caller.roles, Permission.MANAGE_SERVICES)
        check_service_name(name)
        if len(description) > _MAX_DESCRIPTION_CHARACTERS or len(required_keys) > _MAX_REQUIRED:
            raise InvalidRequestError(
                "invalid_field",
                f"description has at most {_MAX_DESCRIPTION_CHARACTERS} characters,"
                f" required_keys at most {_MAX_REQUIRED} entries.",
            )
        why = f": {reason}" if reason else ""
        may_grant = permitted(caller.roles, Permission.GRANT)

        def work(tx: Transaction) -> Registered:
            environments = tx.environments()
            if environment is not None and environment not in environments:
                raise InvalidRequestError(
                    "unknown_environment", f"Environment {environment[:80]!a} is not declared."
                )
            before = tx.get(ServiceRecord, name=name)
            record = before or _new(tx, name)
            record = replace(
                record,
                description=description or record.description,
                environment=environment or record.environment,
                decommissioned_at=None,
            )
            if before is not None and before.decommissioned_at is not None:
                record = replace(record, generation=record.generation + 1)
            patterns = [parse_pattern(each, environments) for each in required_keys]
            if not may_grant:
                wanted = [pattern for pattern in required_keys if pattern not in record.requested]
                record = replace(record, requested=[*record.requested, *wanted])
            tx.put(record)
            tx.record(caller, _entry(Action.REGISTER, name, reason))
            granted = []
            if may_grant:
                for pattern, suffix in patterns:
                    chosen = suffix or record.environment or self._default
                    enter_grant(
                        tx, caller, name, pattern, chosen, reason=f"required at registration{why}"
                    )
                    granted.append(f"{pattern}.{chosen}")
            return Registered(record, granted, before is None)

        registered = await self._catalog.write(work)
        await self._feed.catch_up()
        return registered

    async def limit(
        self, caller: Caller, name: str, limit: str, burst: int | None, reason: str | None
    ) -> ServiceRecord:
        """Change how fast a service may ask."""
        require(caller.roles, Permission.MANAGE_SERVICES)
        rate = parse_rate(limit, burst)
        why = f"{rate}, burst {rate.burst}" + (f": {reason}" if reason else "")
        return await self._change(
            caller,
            name,
            Action.LIMIT,
            why,
            lambda _tx, record: replace(
                record,
                limit_count=rate.count,
                limit_period_seconds=rate.period_seconds,
                limit_burst=rate.burst,
            ),
        )

    async def revoke_tokens(self, caller: Caller, name: str, reason: str | None) -> ServiceRecord:
        """Kill every token of a service that was issued until now."""
        require(caller.roles, Permission.REVOKE_TOKENS)
        return await self._change(
            caller,
            name,
            Action.REVOKE_SERVICE_TOKENS,
            reason,
            lambda _tx, record: replace(record, generation=record.generation + 1),
            urgent=True,
            ends_tokens=True,
        )

    async def decommission(self, caller: Caller, name: str, reason: str | None) -> ServiceRecord:
        """End a service: its tokens die, its grants go."""
        require(caller.roles, Permission.MANAGE_SERVICES)

        def end(tx: Transaction, record: ServiceRecord) -> ServiceRecord:
            tx.remove(GrantRecord, service=name)
            return replace(
                record,
                generation=record.generation + 1,
                decommissioned_at=record.decommissioned_at or tx.now,
                grants_digest=EMPTY_GRANTS,
            )

        return await self._change(
            caller, name, Action.DECOMMISSION, reason, end, urgent=True, ends_tokens=True
        )

    async def page(self, caller: Caller, after: str | None, limit: int) -> list[ServiceRecord]:
        """A page of services, by name."""
        require(caller.roles, Permission.LIST_KEYS)
        return await self._catalog.records(ServiceRecord, after, limit)

    async def _change(
        self,
        caller: Caller,
        name: str,
        action: Action,
        reason: str | None,
        change: Callable[[Transaction, ServiceRecord], ServiceRecord],
        *,
        urgent: bool = False,
        ends_tokens: bool = False,
    ) -> ServiceRecord:
        left: datetime | None = None

        def work(tx: Transaction) -> ServiceRecord:
            nonlocal left
            record = tx.get(ServiceRecord, name=name)
            if record is None:
                raise NotFoundError("service_not_found", f"There is no service {name[:80]!a}.")
            record = change(tx, record)
            tx.put(record)
            if ends_tokens and end_tokens(tx, Kind.SERVICE, name, tx.now):
                left = tx.now
            tx.record(caller, _entry(action, name, reason))
            return record

        record = await self._catalog.write(work, urgent=urgent)
        await self._feed.catch_up()
        if left is not None:
            await self._note_ended(name, left)
        return record

    async def _note_ended(self, name: str, until: datetime) -> None:
        """All these tokens are dead already; here their rows follow, as far as there is room."""
        with contextlib.suppress(StoreUnavailableError):
            while await self._catalog.write(lambda tx: end_tokens(tx, Kind.SERVICE, name, until)):
                pass


def _new(tx: Transaction, name: str) -> ServiceRecord:
    return ServiceRecord(
        name=name,
        description="",
        environment=None,
        generation=1,
        limit_count=DEFAULT_RATE.count,
        limit_period_seconds=DEFAULT_RATE.period_seconds,
        limit_burst=DEFAULT_RATE.burst,
        decommissioned_at=None,
        created_at=tx.now,
    )


def _entry(action: Action, name: str, reason: str | None) -> dict[str, object]:
    return {"action": action, "key_path": subject("services", name), "reason": reason}
