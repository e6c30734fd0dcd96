"""What a node does while it asks the others' database: nothing slips through meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.server.test_proof import READ, SECRET, TOKEN, Holder
from tests.unit.server.test_reveal import ASKED, PLENTY, World, limit_key
from tests.unit.server.test_signing_keys import Trusting

from dox_core_store.errors import (
    AuthenticationError,
    DoxStoreError,
    RateLimitError,
    StoreUnavailableError,
)
from dox_core_store.server.domain.access import ServiceRecord
from dox_core_store.server.domain.key import KeyLimitRecord, KeyRecord
from dox_core_store.server.domain.quota import NOT_AT_HAND
from dox_core_store.server.ports import Take, Taken
from dox_core_store.server.usecases.key_limiter import verdict_of_key
from dox_core_store.server.usecases.principal import Authenticator, Principal, Shown, SigningKeys
from dox_core_store.server.usecases.proof import Proofs
from dox_core_store.server.usecases.quota import SharedBuckets
from dox_core_store.server.usecases.token_alarm import TokenAlarm

ADDRESS = "192.0.2.7"


class Database:
    """What all nodes share. ``during`` runs while it is asked."""

    def __init__(self) -> None:
        self.arrivals: dict[str, int] = {}
        self.proofs: set[str] = set()
        self.during: Callable[[], Awaitable[None]] | None = None
        self.asked = 0

    async def take(self, wanted: Take) -> Taken:
        await self._answer()
        after = self.arrivals.get(wanted.name, 0) + wanted.cost
        if after > wanted.tolerance:
            return Taken(granted=False, ahead_seconds=(after - wanted.cost) / 1e6)
        self.arrivals[wanted.name] = after
        return Taken(granted=True, ahead_seconds=after / 1e6)

    async def first(self, proof: str, until: float) -> bool:
        await self._answer()
        is_first = proof not in self.proofs
        self.proofs.add(proof)
        return is_first

    async def _answer(self) -> None:
        self.asked += 1
        if self.during is not None:
            during, self.during = self.during, None
            await during()
        await asyncio.sleep(0)


class Shared(World):
    """A world whose limits are those of all nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.database = Database()
        self.registry._buckets = SharedBuckets(quotas=self.database, monotonic=self.clock.monotonic)

    async def revoke(self) -> None:
        """The service's token, at another node; and this one hears of it."""
        self.catalog.put(self.token(revoked=True))
        self.ledger.head = self.catalog.change("REVOKE_TOKEN", "_store.tokens.tok_1")
        await self.feed.catch_up()


def among_nodes(test: Callable[[Shared], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def live() -> None:
            world = Shared()
            world.key("a.b", "value")
            world.key("a.c", "c")
            await world.start()
            await test(world)

        asyncio.run(live())

    run.__name__ = test.__name__
    return run


@among_nodes
async def test_a_service_s_limit_is_fetched_where_it_is_not_at_hand(world: Shared) -> None:
    assert world.decisions.limit(world.jules) is NOT_AT_HAND
    verdict = await world.decisions.fetch_limit(world.jules)
    assert verdict is not None
    assert verdict.allowed
    assert world.database.arrivals.keys() == {"service:jules:600/60/600"}


@among_nodes
async def test_a_token_that_was_revoked_while_its_limit_was_fetched_opens_nothing(
    world: Shared,
) -> None:
    world.database.during = world.revoke
    with pytest.raises(AuthenticationError) as caught:
        await world.decisions.fetch_limit(world.jules)
    assert caught.value.code == "token_revoked"


@among_nodes
async def test_a_key_s_own_limit_is_that_of_all_nodes(world: Shared) -> None:
    await limit_key(world, "a.b", 2)
    assert [await world.read("a.b"), await world.read("a.b")] == [b"value"] * 2
    with pytest.raises(RateLimitError) as caught:
        await world.read("a.b")
    assert verdict_of_key(caught.value) is not None
    assert [status for status, _ in world.told] == ["GRANTED"] * 2 + ["LIMITED"]
    assert world.values.opened == 2


@among_nodes
async def test_a_value_that_was_revoked_while_its_limit_was_fetched_is_not_revealed(
    world: Shared,
) -> None:
    await limit_key(world, "a.b", 5)

    async def supersede() -> None:
        world.changed("a.b", "newer")
        await world.feed.catch_up()

    world.database.during = supersede
    assert await world.read("a.b") == b"newer"
    assert [status for status, _ in world.told] == ["GRANTED", "ABORTED", "GRANTED"]


@among_nodes
async def test_the_limits_of_a_batch_are_fetched_together(world: Shared) -> None:
    await limit_key(world, "a.b", 2)
    await limit_key(world, "a.c", 5)
    asked = world.database.asked
    paths = ["a.b", "a.c", "a.b", "a.b", "a.c"]
    found = await world.reveal.many(world.jules, paths, ASKED, PLENTY)
    bodies = [getattr(each, "body", None) for each in found]
    assert bodies == [b"value", b"c", b"value", None, b"c"]
    refused = found[3]
    assert isinstance(refused, DoxStoreError)
    assert verdict_of_key(refused) is not None
    assert world.database.asked - asked <= 3


@among_nodes
async def test_what_only_appears_when_it_is_decided_again_is_counted_among_all_nodes(
    world: Shared,
) -> None:
    await limit_key(world, "a.b", 1)
    world.catalog.put(world.token(revoked=False))
    world.ledger.during_commit = lambda: world.changed("a.c", "newer c")
    found = await world.reveal.many(world.jules, ["a.c", "a.b"], ASKED, PLENTY)
    assert [getattr(each, "body", None) for each in found] == [b"newer c", b"value"]
    with pytest.raises(RateLimitError):
        await world.read("a.b")


@among_nodes
async def test_a_limit_that_was_set_anew_at_another_node_holds_for_what_was_let_through_before(
    world: Shared,
) -> None:
    """A node that has not heard of it lets a read through by the old limit; the commit tells."""
    verdict = await world.decisions.fetch_limit(world.jules)
    assert verdict is not None

    def limit(count: int) -> Callable[[], None]:
        def change() -> None:
            (record,) = world.catalog._records[ServiceRecord].values()
            world.catalog.put(
                replace(record, limit_count=count, limit_period_seconds=3_600, limit_burst=1)
            )
            world.ledger.head = world.catalog.change("LIMIT", "_store.services.jules")

        return change

    world.ledger.during_commit = limit(1)
    assert await world.read("a.b", verdict=verdict) == b"value"
    world.ledger.during_commit = limit(2)
    assert await world.read("a.b", verdict=verdict) == b"value"
    world.ledger.during_commit = limit(1)  # as it was: used up
    with pytest.raises(RateLimitError):
        await world.read("a.b", verdict=verdict)
    assert [status for status, _ in world.told][-3:] == ["GRANTED", "ABORTED", "LIMITED"]


@among_nodes
async def test_a_limit_that_is_set_anew_while_the_old_one_is_asked_is_asked_too(
    world: Shared,
) -> None:
    async def change() -> None:
        (record,) = world.catalog._records[ServiceRecord].values()
        world.catalog.put(replace(record, limit_count=1, limit_period_seconds=3_600, limit_burst=1))
        world.ledger.head = world.catalog.change("LIMIT", "_store.services.jules")
        await world.feed.catch_up()

    world.database.during = change
    verdict = await world.decisions.fetch_limit(world.jules)
    assert verdict is not None
    assert (verdict.allowed, verdict.policy.item) == (True, b'"service";q=1;w=3600')
    verdict = world.decisions.limit(world.jules)
    assert verdict is not None
    assert not verdict.allowed


@among_nodes
async def test_a_key_that_was_limited_at_another_node_is_counted(world: Shared) -> None:
    assert await world.read("a.b") == b"value"

    def change() -> None:
        (key,) = (each for each in world.catalog._records[KeyRecord].values() if each.path == "a.b")
        world.catalog.put(
            KeyLimitRecord(
                key_id=key.key_id, limit_count=1, limit_period_seconds=3_600, limit_burst=1
            )
        )
        world.ledger.head = world.catalog.change("LIMIT", "a.b.production", "production")

    world.ledger.during_commit = change
    assert await world.read("a.b") == b"value"
    with pytest.raises(RateLimitError):
        await world.read("a.b")


@among_nodes
async def test_nothing_is_revealed_where_a_limit_cannot_be_counted(world: Shared) -> None:
    await limit_key(world, "a.b", 2)

    async def fail() -> None:
        raise StoreUnavailableError("ledger_unavailable", "down")

    world.database.during = fail
    with pytest.raises(StoreUnavailableError):
        await world.read("a.b")
    assert (world.told, world.values.opened) == ([], 0)


class Door:
    """Where a token that is bound to a key comes with its proof."""

    def __init__(self, world: Shared, holder: Holder | None = None) -> None:
        self.holder = holder or Holder()
        claims = replace(world.claims, key_thumbprint=self.holder.thumbprint)
        self.keys = SigningKeys(lambda keys: Trusting(keys, {TOKEN.decode(): claims}))
        self.keys.replace({"key_1": "{}"})
        self.proofs = Proofs(
            seconds=world.clock.seconds,
            monotonic=world.clock.monotonic,
            secret=SECRET,
            uses=world.database,
        )
        self.now = int(world.clock.seconds())
        self.authenticator = Authenticator(
            keys=self.keys,
            registry=world.registry,
            clock=world.clock,
            catch_up=world.feed.catch_up,
            alarm=TokenAlarm(clock=world.clock, notice=lambda _event, **_said: None),
            proofs=self.proofs,
        )

    def proof(self, **changed: Any) -> bytes:
        return self.holder.proof(nonce=self.proofs.nonce(), iat=self.now, **changed)

    async def ask(self, raw: bytes) -> Principal:
        return await self.authenticator.authenticate(TOKEN, ADDRESS, Shown(raw, READ))


@among_nodes
async def test_a_proof_is_on_record_before_its_request_goes_on(world: Shared) -> None:
    door = Door(world)
    assert (await door.ask(door.proof())).name == "jules"
    assert len(world.database.proofs) == 1


@among_nodes
async def test_a_proof_that_another_node_took_is_refused_and_counted(world: Shared) -> None:
    one = Door(world)
    other = Door(world, one.holder)
    await one.ask(raw := one.proof())
    with pytest.raises(AuthenticationError) as caught:
        await other.ask(raw)
    assert caught.value.code == "proof_invalid"
    assert caught.value.bearer.name == "jules"
    (bucket,) = other.authenticator._named.values()
    assert bucket.take(world.clock.monotonic()).remaining == 598


@among_nodes
async def test_a_token_that_was_revoked_while_its_proof_was_put_on_record_is_refused(
    world: Shared,
) -> None:
    door = Door(world)
    world.database.during = world.revoke
    with pytest.raises(AuthenticationError) as caught:
        await door.ask(door.proof())
    assert caught.value.code == "token_revoked"


@among_nodes
async def test_a_signing_key_that_was_compromised_meanwhile_verifies_no_more(
    world: Shared,
) -> None:
    door = Door(world)

    async def compromise() -> None:
        door.keys.replace({})

    world.database.during = compromise
    with pytest.raises(AuthenticationError) as caught:
        await door.ask(door.proof())
    assert caught.value.code == "token_invalid"


@among_nodes
async def test_no_proof_is_taken_unseen(world: Shared) -> None:
    door = Door(world)

    async def fail() -> None:
        raise StoreUnavailableError("ledger_unavailable", "down")

    world.database.during = fail
    with pytest.raises(StoreUnavailableError):
        await door.ask(door.proof())
