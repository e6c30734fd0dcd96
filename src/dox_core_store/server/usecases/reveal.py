"""Handing out values: the read path, and the order of its steps is the security argument.

1. *authenticate* (`Authenticator`), 2. *authorize*, 3. *limit*, 4. *look up*, 5. *record*: the
entry is on stable storage, 6. *reveal*. The commit of step 5 is also the lease: it returns the
head of the change feed, and if that is ahead of what this node had applied when it decided, the
node applies the difference and decides again before it reveals. So no value leaves after its
revocation committed, however slow this node is. A decision that changed gets the new answer and an
ABORTED entry.

Unknown and forbidden keys are alike to whoever has no grant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from dox_core_store.errors import (
    AuthenticationError,
    DoxStoreError,
    InvalidRequestError,
    NotFoundError,
    RateLimitError,
    StoreUnavailableError,
    UnauthorizedError,
)
from dox_core_store.key_path import RESERVED_PREFIX, KeyAddress, parse_address
from dox_core_store.server.domain.access import Permission, require
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.key import VersionRecord, refusal
from dox_core_store.server.domain.ledger import Action, Entry, Status
from dox_core_store.server.domain.limit import Verdict
from dox_core_store.server.ports import Catalog, Clock, Ledger, Vault
from dox_core_store.server.usecases.principal import Principal
from dox_core_store.server.usecases.refusals import Refusals, status_of
from dox_core_store.server.usecases.registry import Feed, KnownService, Registry
from dox_core_store.server.usecases.values import Prepared, ValueCache

__all__ = ["Asked", "Reveal", "Revealed"]

_SHOWN_CHARACTERS = 256
_entry = tuple.__new__  # an Entry from its fields, without a named tuple's argument handling
_GET, _GRANTED = str(Action.GET), str(Status.GRANTED)

Render = Callable[[KeyAddress, VersionRecord, bytes], bytes]


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What the ledger wants to know of the request around a read."""

    request_id: str
    ip_address: str
    user_agent: str
    correlation_id: str | None
    reason: str


class Revealed(msgspec.Struct, frozen=True, gc=False):
    """One value on its way out: the rendered body, and the entity tag made of its version's id."""

    body: bytes
    etag: bytes


class Reveal:
    """See the module. One per node."""

    def __init__(
        self,
        *,
        store_id: str,
        default_environment: str,
        registry: Registry,
        feed: Feed,
        catalog: Catalog,
        vault: Vault,
        ledger: Ledger,
        refusals: Refusals,
        values: ValueCache,
        clock: Clock,
        stamp: Callable[[], str],
        render: Render,
    ) -> None:
        self._store_id = store_id
        self._default_environment = default_environment
        self._registry = registry
        self._feed = feed
        self._catalog = catalog
        self._vault = vault
        self._ledger = ledger
        self._refusals = refusals
        self._values = values
        self._clock = clock
        self._seconds = clock.seconds
        self._monotonic = clock.monotonic
        self._stamp = stamp
        self._render = render

    def limit(self, principal: Principal, cost: int = 1) -> Verdict | None:
        """Take ``cost`` requests from the service's limit; operators have none."""
        known = principal.known
        if not isinstance(known, KnownService):
            return None
        return known.bucket.take(self._monotonic(), cost)

    async def one(
        self,
        principal: Principal,
        path: str,
        number: int | None,
        asked: Asked,
        verdict: Verdict | None,
    ) -> Revealed:
        """The value at ``path``; raises the `DoxStoreError` that refuses it, once on record."""
        applied = self._feed.applied
        if verdict is not None and not verdict.allowed:
            found: Prepared | DoxStoreError = _limited(verdict)
        else:
            at_hand = self._at_hand(principal, path) if number is None else None
            found = at_hand or await self._decide(principal, path, number)
        if isinstance(found, Prepared):
            granted = (self._entry(principal, asked, found),)
            head = await self._ledger.commit(granted)
            if head != applied or self._feed.applied != applied:
                (found,) = await self._decide_again(
                    principal, (path,), [found], number, asked, granted
                )
        if isinstance(found, DoxStoreError):
            await self._refuse(principal, path, asked, found)
            raise found
        return Revealed(self._values.open(found), found.etag)

    async def many(
        self, principal: Principal, paths: Sequence[str], asked: Asked, verdict: Verdict | None
    ) -> list[Revealed | DoxStoreError]:
        """All ``paths`` from one revision of the store, after one commit; raises only what refuses
        the request as a whole."""
        if verdict is not None and not verdict.allowed:
            limited = _limited(verdict)
            await self._refuse(principal, paths[0], asked, limited)
            raise limited
        applied = self._feed.applied
        found = [await self._decide(principal, path, None) for path in paths]
        granted = [
            self._entry(principal, asked, each) for each in found if isinstance(each, Prepared)
        ]
        head = await self._ledger.commit(granted) if granted else applied
        if head != applied or self._feed.applied != applied:
            found = await self._decide_again(principal, paths, found, None, asked, granted)
        for path, each in zip(paths, found, strict=True):
            if isinstance(each, DoxStoreError):
                await self._refuse(principal, path, asked, each)
        return [
            Revealed(self._values.open(each), each.etag) if isinstance(each, Prepared) else each
            for each in found
        ]

    async def _decide_again(
        self,
        principal: Principal,
        paths: Sequence[str],
        found: list[Prepared | DoxStoreError],
        number: int | None,
        asked: Asked,
        granted: Sequence[Entry],
    ) -> list[Prepared | DoxStoreError]:
        """Apply what was committed since ``found`` was decided, until a commit finds us current.

        ``granted`` is on record. Whatever does not leave in the end is followed by ABORTED.
        """
        while True:
            try:
                await self._feed.catch_up()
                applied = self._feed.applied
                again = await self._decide_as_now(principal, paths, number)
            except BaseException:
                self._ledger.abort(granted)
                raise
            if not _differs(found, again):
                if self._feed.applied == applied:
                    return found
                continue
            self._ledger.abort(granted)
            found = again
            granted = [
                self._entry(principal, asked, each) for each in found if isinstance(each, Prepared)
            ]
            if not granted or await self._ledger.commit(granted) == applied == self._feed.applied:
                return found

    async def _decide_as_now(
        self, principal: Principal, paths: Sequence[str], number: int | None
    ) -> list[Prepared | DoxStoreError]:
        """`_decide` for each path, if the token still speaks for its bearer at all."""
        try:
            principal.known = self._registry.check(principal.claims, self._seconds())
        except AuthenticationError as error:
            return [error for _ in paths]
        return [await self._decide(principal, path, number) for path in paths]

    def _at_hand(self, principal: Principal, path: str) -> Prepared | None:
        """What `_decide` would find, where it was found before and nothing changed since."""
        if principal.revision != self._registry.revision:
            return None
        address = principal.routes.get(path)
        prepared = None if address is None else self._values.get(address)
        if prepared is None or prepared.expires_seconds <= self._seconds():
            return None
        return prepared

    async def _decide(
        self, principal: Principal, path: str, number: int | None
    ) -> Prepared | DoxStoreError:
        """Steps 2 and 4 on what this node knows now. Without I/O where the value is at hand."""
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
        found = await self._catalog.version(address, number)
        if found is None:
            code = "key_not_found" if number is None else "version_not_found"
            raise NotFoundError(code, f"There is no {_named(address, number)}.")
        version = found.version
        now = self._clock.now()
        refused = refusal(version.state, version.expires_at, now, principal.reader)
        if refused is not None:
            raise refused
        if version.sealed is None:
            raise NotFoundError("version_not_found", f"There is no {_named(address, number)}.")
        binding = Binding(self._store_id, *address, version.version_id)
        body = self._render(address, version, self._vault.open(binding, version.sealed))
        nonce, sealed = self._values.seal(body, version.version_id)
        prepared = Prepared(
            address=address,
            version_id=version.version_id,
            number=version.number,
            expires_at=version.expires_at,
            nonce=nonce,
            sealed=sealed,
        )
        if number is None:
            self._values.keep(prepared, generation)
        return prepared

    def _entry(self, principal: Principal, asked: Asked, prepared: Prepared) -> Entry:
        return _entry(
            Entry,
            (
                self._stamp(),
                principal.name,
                prepared.ledger_path,
                _GET,
                _GRANTED,
                asked.request_id,
                asked.ip_address,
                asked.user_agent,
                prepared.environment,
                prepared.number,
                principal.token_id,
                asked.correlation_id,
                asked.reason,
                1,
            ),
        )

    async def _refuse(
        self, principal: Principal, path: str, asked: Asked, error: DoxStoreError
    ) -> None:
        environment = None
        try:
            default = principal.claims.environment or self._default_environment
            address = parse_address(path, self._registry.environments, default=default)
            path, environment = str(address), address.environment
        except InvalidRequestError:
            path = path[:_SHOWN_CHARACTERS]
        await self._refusals.record(
            Entry(
                timestamp=self._stamp(),
                service_name=principal.name,
                key_path=path,
                action=Action.GET,
                status=status_of(error),
                request_id=asked.request_id,
                ip_address=asked.ip_address,
                user_agent=asked.user_agent,
                environment=environment,
                token_id=principal.token_id,
                correlation_id=asked.correlation_id,
                reason=error.code,
            )
        )


def _differs(
    before: Sequence[Prepared | DoxStoreError], after: Sequence[Prepared | DoxStoreError]
) -> bool:
    """Whether any answer changed in a way that its reader would see."""
    return [_answer(each) for each in before] != [_answer(each) for each in after]


def _answer(found: Prepared | DoxStoreError) -> str:
    return found.code if isinstance(found, DoxStoreError) else found.version_id


def _not_authorized(principal: Principal, path: str) -> UnauthorizedError:
    who = principal.claims.name
    return UnauthorizedError("not_authorized", f"Service {who} not authorized for {path}")


def _limited(verdict: Verdict) -> RateLimitError:
    if verdict.retry_after_seconds is None:
        return RateLimitError(
            "rate_limited", "Too many key requests: more keys at once than the limit ever allows."
        )
    return RateLimitError(
        "rate_limited",
        "Too many key requests",
        retry_after_seconds=math.ceil(verdict.retry_after_seconds),
    )


def _named(address: KeyAddress, number: int | None) -> str:
    what = f"{address.path} in {address.environment}"
    return what if number is None else f"version {number} of {what}"
