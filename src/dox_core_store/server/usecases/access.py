"""Whether a service gets a key's value now, and why: the door's steps, told one by one.

The answer itself is the door's: `Decisions.judged` is what a read goes through, without opening a
value. What stands around it (service, tokens, limit) and each step's detail are looked up here, in
the order in which the door takes them; every step is judged, also behind one that refuses, so
that whoever mends the first is not surprised by the next. Nothing is taken from a limit.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from dox_core_store.errors import CODES, DoxStoreError
from dox_core_store.key_path import (
    RESERVED_PREFIX,
    KeyAddress,
    check_service_name,
    parse_address,
    split_environment,
)
from dox_core_store.server.domain.access import (
    Caller,
    Effect,
    GrantRecord,
    Permission,
    grants_digest,
    require,
)
from dox_core_store.server.domain.grant import ONLY_CASE, NearMiss, Ruling, near_misses, ruling
from dox_core_store.server.domain.key import VersionRecord
from dox_core_store.server.domain.remedy import Remedies, Remedy
from dox_core_store.server.domain.token import Claims, Kind
from dox_core_store.server.ports import Catalog, Clock
from dox_core_store.server.usecases.access_key import KeySteps, Step
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.live_token import LiveTokens, TokensOf
from dox_core_store.server.usecases.principal import Principal
from dox_core_store.server.usecases.registry import KnownService, Registry

__all__ = ["Access", "Explanation", "grants_of"]

_PAGE = 1_000


class Explanation(NamedTuple):
    """``code`` is the door's answer, None where it hands out ``version``; the first of ``steps``
    that has it decided."""

    service: str
    address: KeyAddress
    code: str | None
    version: int | None
    steps: list[Step]
    ruling: Ruling
    near_misses: list[NearMiss]
    remedies: list[Remedy]


class Access:
    """See the module. Runs on the event loop."""

    def __init__(
        self,
        *,
        default_environment: str,
        registry: Registry,
        feed: Feed,
        catalog: Catalog,
        decisions: Decisions,
        keys: KeySteps,
        tokens: LiveTokens,
        clock: Clock,
    ) -> None:
        self._default = default_environment
        self._registry = registry
        self._feed = feed
        self._catalog = catalog
        self._decisions = decisions
        self._keys = keys
        self._tokens = tokens
        self._clock = clock

    async def explain(
        self, caller: Caller, service: str, path: str, environment: str | None
    ) -> Explanation:
        """Whether ``service`` gets the value at ``path``, asking with a token for ``environment``
        (default: what its live tokens are for, else the service's, else the store's).

        Raises ``role_required``, ``invalid_field``, ``malformed_path``, ``environment_conflict``.
        """
        require(caller.roles, Permission.LIST_KEYS)
        check_service_name(service)
        await self._feed.catch_up()
        known = self._registry.services.get(service)
        live = TokensOf([], None) if known is None else await self._tokens.of(known.record)
        address, environment_step = self._environment(path, environment, known, live)
        remedies = Remedies(service, address)
        steps = self._asking(service, known, live, remedies)
        steps += self._store(remedies)
        steps.append(environment_step)
        if environment_step.code is not None:
            remedies.environment()
        grants = [] if known is None else await grants_of(self._catalog, service)
        ruled = ruling(grants, *address)
        missed = [] if ruled.is_allowed else near_misses(grants, *address, self._environments)
        for miss in missed:
            if miss.why == ONLY_CASE:
                remedies.spell(miss.grant.pattern)
        steps.append(self._grants(known, address, grants, ruled, remedies))
        steps += await self._keys.of(address, remedies)
        answer = await self._answer(known, address)
        refused = [step for step in steps if step.code is not None]
        if isinstance(answer, DoxStoreError) and not refused:
            steps.append(Step("door", answer.detail, answer.code))  # a rule that is not told above
            refused = steps[-1:]
        if not refused:
            remedies.take_away(ruled.matching)
        return Explanation(
            service=service,
            address=address,
            code=refused[0].code if refused else None,
            version=answer.number if isinstance(answer, VersionRecord) and not refused else None,
            steps=steps,
            ruling=ruled,
            near_misses=missed,
            remedies=remedies.all,
        )

    @property
    def _environments(self) -> frozenset[str]:
        return self._registry.environments

    def _environment(
        self, path: str, environment: str | None, known: KnownService | None, live: TokensOf
    ) -> tuple[KeyAddress, Step]:
        """Which key is meant, and what its environment comes from."""
        bare, suffix = split_environment(path, self._environments)
        if suffix is None and environment is not None and environment not in self._environments:
            detail = f"{environment[:80]!a} is not declared: no token can be for it"
            return KeyAddress(bare, environment), Step("environment", detail, "unknown_environment")
        default, origin = self._default, "the store's default"
        tokens = sorted({token.environment or self._default for token in live.tokens})
        if known is not None and known.record.environment is not None:
            default, origin = known.record.environment, "the service's own"
        if len(tokens) == 1:
            default, origin = tokens[0], "what its live tokens are for"
        address = parse_address(path, self._environments, default=default, explicit=environment)
        if suffix is not None:
            origin = "the path ends in it"
        elif environment is not None:
            origin = "as asked"
        others = [each for each in tokens if each != address.environment]
        if suffix is None and others:
            origin += f"; with a token for {' or '.join(others)} only {address} means it"
        return address, Step("environment", f"{address.environment}: {origin}")

    def _asking(
        self, service: str, known: KnownService | None, live: TokensOf, remedies: Remedies
    ) -> list[Step]:
        """What the door looks at before the key: who asks, and how often."""
        if known is None:
            remedies.register()
            remedies.issue()
            return [Step("service", f"{service} is not registered", "token_invalid")]
        record = known.record
        if record.decommissioned_at is not None:
            remedies.register()
            remedies.issue()
            ended = f"decommissioned {record.decommissioned_at:%Y-%m-%d}: its tokens are dead"
            return [Step("service", ended, "token_revoked")]
        steps = [Step("service", f"registered, generation {record.generation}")]
        if live.tokens:
            steps.append(Step("token", _told(live)))
        else:
            remedies.issue()
            steps.append(Step("token", "none of its tokens is live", "token_missing"))
        wait = known.bucket.wait(self._clock.monotonic())
        rate = f"{known.bucket.rate}, {known.bucket.rate.burst} at once"
        if wait > 0:
            remedies.limit(record)
            over = f"{rate}: used up for another {wait:.1f} s"
            return [*steps, Step("limit", over, "rate_limited")]
        return [*steps, Step("limit", rate)]

    def _store(self, remedies: Remedies) -> list[Step]:
        """Why the store hands out nothing to anybody, where it does not."""
        for code in self._registry.held:
            remedies.of_code(code, CODES[code].remedy)
        held = [Step("store", detail, code) for code, detail in self._registry.held.items()]
        return held or [Step("store", "hands out values")]

    def _grants(
        self,
        known: KnownService | None,
        address: KeyAddress,
        grants: list[GrantRecord],
        ruled: Ruling,
        remedies: Remedies,
    ) -> Step:
        if address.path.partition(".")[0].lower() == RESERVED_PREFIX:
            return Step("grants", "what begins with _store is the store's own", "not_authorized")
        if known is not None and grants_digest(grants) != known.record.grants_digest:
            remedies.of_code("", "Find what was changed with `doxstore doctor`.")
            damaged = "its grants are not the ones that its record is bound to: it gets nothing"
            return Step("grants", damaged, "not_authorized")
        # The door's own tree decides; the ruling says by which grant.
        if known is not None and known.tree.allows(*address):
            return Step("grants", f"allowed by {_shown(ruled.deciding)}")
        denies = [each for each in ruled.matching if each.effect is Effect.DENY]
        if denies:
            remedies.remove(denies)
        if len(denies) == len(ruled.matching):
            remedies.grant()
        if denies:
            return Step("grants", f"denied by {_shown(denies[0])}", "not_authorized")
        return Step("grants", f"no grant names {address}", "not_authorized")

    async def _answer(
        self, known: KnownService | None, address: KeyAddress
    ) -> VersionRecord | DoxStoreError | None:
        """What the door would answer to a good token of the service; None where there is none."""
        if known is None:
            return None
        now = int(self._clock.seconds())
        claims = Claims(
            kind=Kind.SERVICE,
            name=known.record.name,
            token_id="",
            environment=address.environment,
            generation=known.generation,
            issued_at=now,
            not_before=now,
            expires_at=now + 1,
        )
        return await self._decisions.judged(Principal(claims, known), address.path)


async def grants_of(catalog: Catalog, service: str) -> list[GrantRecord]:
    """All grants of one service, as far as their MACs hold."""
    found: list[GrantRecord] = []
    after = None
    while True:
        page = await catalog.records(GrantRecord, after, _PAGE, service=service)
        found += page
        if len(page) < _PAGE:
            return found
        after = page[-1].grant_id


def _told(live: TokensOf) -> str:
    bound = []
    if live.need_key:
        bound.append(f"{live.need_key} {_need(live.need_key)} the service's key")
    if live.need_address:
        bound.append(f"{live.need_address} only from named addresses")
    only = f" ({', '.join(bound)})" if bound else ""
    last = max(token.expires_at for token in live.tokens)
    used = live.last_used_at
    use = "no use known yet (some seconds behind)" if used is None else f"last used {_time(used)}"
    return f"{len(live.tokens)} live{only}, until {_time(last)}; {use}"


def _need(number: int) -> str:
    return "needs" if number == 1 else "need"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%MZ}"


def _shown(grant: GrantRecord | None) -> str:
    if grant is None:  # taken back this moment
        return "a grant"
    return f"{grant.grant_id}: {grant.pattern} in {grant.environment}"
