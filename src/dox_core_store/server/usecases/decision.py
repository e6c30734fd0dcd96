"""What a read would get, on what this node knows now: steps 2 to 4 of `reveal`.

A decision reveals nothing and records nothing. It is either `Prepared`, a sealed answer that may be
opened once the read is on record, or the error that refuses it. Unknown and forbidden keys are
alike to whoever has no grant.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from dox_core_store.errors import (
    AuthenticationError,
    DoxStoreError,
    InvalidRequestError,
    NotFoundError,
    StoreUnavailableError,
    UnauthorizedError,
)
from dox_core_store.key_path import RESERVED_PREFIX, KeyAddress, parse_address
from dox_core_store.server.domain.access import Permission, require
from dox_core_store.server.domain.key import VersionRecord, refusal
from dox_core_store.server.domain.limit import Verdict
from dox_core_store.server.ports import Catalog, Clock
from dox_core_store.server.usecases.principal import Principal
from dox_core_store.server.usecases.quota import SharedBucket
from dox_core_store.server.usecases.registry import KnownService, Registry
from dox_core_store.server.usecases.stored_value import StoredValues
from dox_core_store.server.usecases.values import Prepared, ValueCache
from dox_core_store.server.usecases.vault import REFUSALS

__all__ = ["Decisions"]

_SHOWN_CHARACTERS = 256

Render = Callable[[KeyAddress, VersionRecord, bytes], bytes]


class Decisions:
    """See the module. One per node. ``kept_seconds`` is how long a value out of a vault is kept:
    what is changed there behind our back is seen then, if a watcher did not see it before."""

    def __init__(
        self,
        *,
        default_environment: str,
        registry: Registry,
        catalog: Catalog,
        stored: StoredValues,
        values: ValueCache,
        clock: Clock,
        render: Render,
        kept_seconds: float = math.inf,
    ) -> None:
        self._default_environment = default_environment
        self._registry = registry
        self._catalog = catalog
        self._stored = stored
        self._kept_seconds = kept_seconds
        self._values = values
        self._clock = clock
        self._seconds = clock.seconds
        self._monotonic = clock.monotonic
        self._render = render

    def limit(self, principal: Principal, cost: int = 1) -> Verdict | None:
        """Take ``cost`` requests from the service's limit; operators have none. Where it is
        `NOT_AT_HAND`, `fetch_limit` has the verdict."""
        known = principal.known
        if not isinstance(known, KnownService):
            return None
        return known.bucket.take(self._monotonic(), cost)

    def limit_key(self, principal: Principal, prepared: Prepared) -> Verdict | None:
        """Take one read from the limit of the key itself, which all services share. Comes after the
        service's own: a service that is refused costs the key nothing, and a read that the key's
        limit refuses cost the service the one that every denial costs. Operators have none."""
        if prepared.bucket is None or not isinstance(principal.known, KnownService):
            return None
        return prepared.bucket.take(self._monotonic())

    async def fetch_limit(self, principal: Principal, cost: int = 1) -> Verdict | None:
        """`limit`, where nodes share it and it was not at hand. That takes its time: who asks must
        still be who they were, and the limit that answered the one that holds. Raises
        `AuthenticationError`, `StoreUnavailableError`."""
        known = principal.known
        if not isinstance(known, KnownService) or not isinstance(known.bucket, SharedBucket):
            return self.limit(principal, cost)
        verdict: Verdict | None = await known.bucket.fetch(cost)
        while True:
            principal.known = self._registry.check_again(principal.claims, self._seconds())
            before, verdict = verdict, await self.limit_anew(principal, verdict, cost)
            if verdict is before:
                return verdict

    async def limit_anew(
        self, principal: Principal, before: Verdict | None, cost: int
    ) -> Verdict | None:
        """``before``, or what the limit says that took the place of the one that said it."""
        known = principal.known
        if before is None or not isinstance(known, KnownService):
            return before
        if known.bucket.policy is before.policy:
            return before
        if isinstance(known.bucket, SharedBucket):
            return await known.bucket.fetch(cost)
        return self.limit(principal, cost)

    async def fetch_key_limit(self, principal: Principal, prepared: Prepared) -> Verdict | None:
        """`limit_key`, where nodes share it and it was not at hand. Raises
        `StoreUnavailableError`."""
        if not isinstance(prepared.bucket, SharedBucket):
            return self.limit_key(principal, prepared)
        return await prepared.bucket.fetch()

    def at_hand(self, principal: Principal, path: str) -> Prepared | None:
        """What `now` would find, where it was found before and nothing changed since."""
        if principal.revision != self._registry.revision:
            return None
        address = principal.routes.get(path)
        prepared = None if address is None else self._values.get(address)
        if prepared is None or prepared.expires_seconds <= self._seconds():
            return None
        return prepared

    async def now(
        self, principal: Principal, path: str, number: int | None
    ) -> Prepared | DoxStoreError:
        """Steps 2 and 4 on what this node knows now. Without I/O where the value is at hand. What a
        vault refuses is an answer about this key; what holds the store raises."""
        for code, detail in self._registry.held.items():
            raise StoreUnavailableError(code, detail)
        try:
            address = self._authorize(principal, path)
            prepared = self._values.get(address) if number is None else None
            if prepared is None:
                prepared = await self._look_up(principal, address, number)
            elif prepared.expires_seconds <= self._seconds():
                self._values.forget(address.path)
                prepared = await self._look_up(principal, address, number)
        except StoreUnavailableError as error:
            if error.code in REFUSALS:
                return error
            raise
        except DoxStoreError as error:
            return error
        return prepared

    async def each(
        self, principal: Principal, paths: Sequence[str], number: int | None
    ) -> list[Prepared | DoxStoreError]:
        """`now` for each path; values out of vaults are fetched side by side."""
        if self._stored.are_here:
            return [await self.now(principal, path, number) for path in paths]
        return await asyncio.gather(*(self.now(principal, path, number) for path in paths))

    async def judged(self, principal: Principal, path: str) -> VersionRecord | DoxStoreError:
        """`now` without the value: the version that a read would be handed, or what would refuse
        it. Opens nothing and remembers nothing."""
        for code, detail in self._registry.held.items():
            return StoreUnavailableError(code, detail)
        try:
            address = self._authorize(principal, path)
            version = await self._readable(principal, address, None)
        except StoreUnavailableError:
            raise
        except DoxStoreError as error:
            return error
        return version

    async def again(
        self, principal: Principal, paths: Sequence[str], number: int | None
    ) -> list[Prepared | DoxStoreError]:
        """`now` for each path, if the token still speaks for its bearer at all."""
        try:
            principal.known = self._registry.check_again(principal.claims, self._seconds())
        except AuthenticationError as error:
            return [error for _ in paths]
        return await self.each(principal, paths, number)

    def named(self, principal: Principal, path: str) -> tuple[str, str | None]:
        """How the ledger names ``path``, and its environment; as asked where it is no path."""
        default = principal.claims.environment or self._default_environment
        try:
            address = parse_address(path, self._registry.environments, default=default)
        except InvalidRequestError:
            return path[:_SHOWN_CHARACTERS], None
        return str(address), address.environment

    def _authorize(self, principal: Principal, path: str) -> KeyAddress:
        """The address that ``path`` names, if ``principal`` may read it; remembered until the
        registry changes."""
        if principal.revision != self._registry.revision:
            principal.forget_routes(self._registry.revision)
        address = principal.routes.get(path)
        if address is None:
            default = principal.claims.environment or self._default_environment
            address = parse_address(path, self._registry.environments, default=default)
            if address.path.partition(".")[0].lower() == RESERVED_PREFIX:
                raise _not_authorized(principal, path)
            known = principal.known
            if isinstance(known, KnownService):
                if not known.tree.allows(*address):
                    raise _not_authorized(principal, path)
            else:
                require(known.roles, Permission.READ_VALUES)
            principal.remember_route(path, address)
        return address

    async def _look_up(
        self, principal: Principal, address: KeyAddress, number: int | None
    ) -> Prepared:
        generation = self._values.generation
        version = await self._readable(principal, address, number)
        if version.vault is None:
            raw, until = self._stored.open_here(address, version), math.inf
        else:
            until = self._seconds() + self._kept_seconds
            raw = await self._stored.open(address, version)
        prepared = self._prepared(address, version, raw, until)
        if number is None:
            self._values.keep(prepared, generation)
        return prepared

    def warm(self, address: KeyAddress, version: VersionRecord, raw: bytes, before: int) -> None:
        """Keep the value of a current version that lies in a vault and that nobody asked for yet;
        ``before``: `generation` when it was looked up."""
        if self._values.get(address) is None:
            until = self._seconds() + self._kept_seconds
            self._values.keep(self._prepared(address, version, raw, until), before)

    @property
    def generation(self) -> int:
        """Rises whenever what was looked up before must not be kept."""
        return self._values.generation

    def _prepared(
        self, address: KeyAddress, version: VersionRecord, raw: bytes, until: float
    ) -> Prepared:
        body = self._render(address, version, raw)
        nonce, sealed = self._values.seal(body, version.version_id)
        return Prepared(
            address=address,
            version_id=version.version_id,
            number=version.number,
            expires_at=version.expires_at,
            nonce=nonce,
            sealed=sealed,
            bucket=self._registry.key_limits.get(version.key_id),
            kept_until=until,
        )

    async def _readable(
        self, principal: Principal, address: KeyAddress, number: int | None
    ) -> VersionRecord:
        """The version that is asked for, if its value is there and ``principal`` is handed its
        state."""
        found = await self._catalog.version(address, number)
        if found is None:
            code = "key_not_found" if number is None else "version_not_found"
            raise NotFoundError(code, f"There is no {_named(address, number)}.")
        version = found.version
        refused = refusal(
            version.state, version.expires_at, self._clock.now(), principal.reader, address
        )
        if refused is not None:
            raise refused
        if version.sealed is None:
            raise NotFoundError("version_not_found", f"There is no {_named(address, number)}.")
        return version


def _not_authorized(principal: Principal, path: str) -> UnauthorizedError:
    who = f"{principal.claims.kind.capitalize()} {principal.claims.name}"
    return UnauthorizedError("not_authorized", f"{who} not authorized for {path}")


def _named(address: KeyAddress, number: int | None) -> str:
    what = f"{address.path} in {address.environment}"
    return what if number is None else f"version {number} of {what}"
