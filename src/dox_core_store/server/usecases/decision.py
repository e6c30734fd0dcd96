"""What a read would get, on what this node knows now: steps 2 to 4 of `reveal`.

A decision reveals nothing and records nothing. It is either `Prepared`, a sealed answer that may be
opened once the read is on record, or the error that refuses it. Unknown and forbidden keys are
alike to whoever has no grant.
"""

from __future__ import annotations

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
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.key import VersionRecord, refusal
from dox_core_store.server.domain.limit import Verdict
from dox_core_store.server.ports import Catalog, Clock, Vault
from dox_core_store.server.usecases.principal import Principal
from dox_core_store.server.usecases.registry import KnownService, Registry
from dox_core_store.server.usecases.values import Prepared, ValueCache

__all__ = ["Decisions"]

_SHOWN_CHARACTERS = 256

Render = Callable[[KeyAddress, VersionRecord, bytes], bytes]


class Decisions:
    """See the module. One per node."""

    def __init__(
        self,
        *,
        store_id: str,
        default_environment: str,
        registry: Registry,
        catalog: Catalog,
        vault: Vault,
        values: ValueCache,
        clock: Clock,
        render: Render,
    ) -> None:
        self._store_id = store_id
        self._default_environment = default_environment
        self._registry = registry
        self._catalog = catalog
        self._vault = vault
        self._values = values
        self._clock = clock
        self._seconds = clock.seconds
        self._monotonic = clock.monotonic
        self._render = render

    def limit(self, principal: Principal, cost: int = 1) -> Verdict | None:
        """Take ``cost`` requests from the service's limit; operators have none."""
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
        """Steps 2 and 4 on what this node knows now. Without I/O where the value is at hand."""
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
        except StoreUnavailableError:
            raise
        except DoxStoreError as error:
            return error
        return prepared

    async def judged(self, principal: Principal, path: str) -> VersionRecord | DoxStoreError:
        """`now` without the value: the version that a read would be handed, or what would refuse
        it. Opens nothing and remembers nothing."""
        for code, detail in self._registry.held.items():
            return StoreUnavailableError(code, detail)
        try:
            address = self._authorize(principal, path)
            version, _sealed = await self._readable(principal, address, None)
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
        return [await self.now(principal, path, number) for path in paths]

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
        version, sealed_value = await self._readable(principal, address, number)
        binding = Binding(self._store_id, *address, version.version_id)
        body = self._render(address, version, self._vault.open(binding, sealed_value))
        nonce, sealed = self._values.seal(body, version.version_id)
        prepared = Prepared(
            address=address,
            version_id=version.version_id,
            number=version.number,
            expires_at=version.expires_at,
            nonce=nonce,
            sealed=sealed,
            bucket=self._registry.key_limits.get(version.key_id),
        )
        if number is None:
            self._values.keep(prepared, generation)
        return prepared

    async def _readable(
        self, principal: Principal, address: KeyAddress, number: int | None
    ) -> tuple[VersionRecord, bytes]:
        """The version that is asked for, with its sealed value, if it is there and ``principal`` is
        handed its state."""
        found = await self._catalog.version(address, number)
        if found is None:
            code = "key_not_found" if number is None else "version_not_found"
            raise NotFoundError(code, f"There is no {_named(address, number)}.")
        version = found.version
        refused = refusal(version.state, version.expires_at, self._clock.now(), principal.reader)
        if refused is not None:
            raise refused
        if version.sealed is None:
            raise NotFoundError("version_not_found", f"There is no {_named(address, number)}.")
        return version, version.sealed


def _not_authorized(principal: Principal, path: str) -> UnauthorizedError:
    who = f"{principal.claims.kind.capitalize()} {principal.claims.name}"
    return UnauthorizedError("not_authorized", f"{who} not authorized for {path}")


def _named(address: KeyAddress, number: int | None) -> str:
    what = f"{address.path} in {address.environment}"
    return what if number is None else f"version {number} of {what}"
