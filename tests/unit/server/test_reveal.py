"""The read path: the order of its steps, and what happens when the world changes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from dox_core_store.errors import (
    AuthenticationError,
    DoxStoreError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    RateLimitError,
    StoreUnavailableError,
    UnauthorizedError,
)
from dox_core_store.server.domain.access import (
    Caller,
    Effect,
    GrantRecord,
    ServiceRecord,
    TokenRecord,
    grants_digest,
)
from dox_core_store.server.domain.envelope import Binding
from dox_core_store.server.domain.key import KeyLimitRecord, KeyRecord, State, VersionRecord
from dox_core_store.server.domain.limit import DEFAULT_RATE, Policy, Verdict
from dox_core_store.server.domain.signing_key import SigningKeyRecord
from dox_core_store.server.domain.token import Claims, Kind
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.key_limiter import verdict_of_key
from dox_core_store.server.usecases.principal import Principal
from dox_core_store.server.usecases.refusals import Refusals
from dox_core_store.server.usecases.registry import Registry
from dox_core_store.server.usecases.reveal import Asked, Reveal, Revealed
from dox_core_store.server.usecases.stored_value import StoredValues
from dox_core_store.server.usecases.values import Prepared, ValueCache
from dox_core_store.server.usecases.vault import Vaults
from dox_core_store.server.usecases.vault_task import VaultTasks
from dox_core_store.testing.catalog import MemoryCatalog
from dox_core_store.testing.clock import FixedClock
from dox_core_store.testing.ledger import RecordingLedger

SERVER = Caller("local:test", (), "req_0", "", "")
ASKED = Asked("req_1", "127.0.0.1", "test", None, "call")
POLICY = Policy.of("service", DEFAULT_RATE)
PLENTY = Verdict(True, 5, 1.0, None, POLICY)
SPENT = Verdict(False, 0, 1.0, 0.4, POLICY)


class PlainVault:
    """A vault whose seal is a prefix, so that tests can see which binding opened what."""

    def store(self, binding: Binding, value: bytes) -> bytes:
        return binding.version_id.encode() + b":" + value

    def open(self, binding: Binding, kept: bytes) -> bytes:
        version_id, _, value = kept.partition(b":")
        assert version_id.decode() == binding.version_id
        return value


class WatchedCache(ValueCache):
    """Counts how often a value was opened to be sent."""

    opened = 0

    def open(self, prepared: Prepared) -> bytes:
        self.opened += 1
        return super().open(prepared)


class NoKeys:
    def replace(self, keys: Any) -> None:
        pass


class World:
    """A node in memory: one service that may read ``a.*`` in production, and its keys."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.catalog = MemoryCatalog()
        self.ledger = RecordingLedger()
        self.values = WatchedCache()
        self.sealer = PlainVault()
        self.alarms: list[tuple[str, str]] = []
        self.registry = Registry(
            catalog=self.catalog,
            clock=self.clock,
            key_set=NoKeys(),
            alarm=lambda table, row: self.alarms.append((table, row)),
        )
        self.feed = Feed(
            catalog=self.catalog,
            registry=self.registry,
            forget=self.values.forget,
            monotonic=self.clock.monotonic,
        )
        vaults = Vaults(store_id="store_1", sealer=self.sealer, monotonic=self.clock.monotonic)
        decisions = Decisions(
            default_environment="production",
            registry=self.registry,
            catalog=self.catalog,
            stored=StoredValues(
                vaults=vaults,
                catalog=self.catalog,
                tasks=VaultTasks(
                    vaults=vaults,
                    catalog=self.catalog,
                    clock=self.clock,
                    caller=SERVER,
                    notice=lambda _event, **_said: None,
                ),
                noticed=lambda _address: None,
            ),
            values=self.values,
            clock=self.clock,
            render=lambda _address, _version, value: value,
        )
        self.decisions = decisions
        self.reveal = Reveal(
            decisions=decisions,
            feed=self.feed,
            ledger=self.ledger,
            refusals=Refusals(ledger=self.ledger),
            values=self.values,
            stamp=lambda: "t",
            monotonic=self.clock.monotonic,
        )
        self.service = ServiceRecord(
            name="jules",
            description="",
            environment=None,
            generation=1,
            limit_count=600,
            limit_period_seconds=60,
            limit_burst=600,
            decommissioned_at=None,
            created_at=self.clock.now(),
        )
        self.grant = GrantRecord(
            grant_id="g1",
            service="jules",
            effect=Effect.ALLOW,
            pattern="a.*",
            environment="production",
            created_at=self.clock.now(),
            created_by="t",
        )
        now = int(self.clock.seconds())
        self.claims = Claims(
            kind=Kind.SERVICE,
            name="jules",
            token_id="tok_1",
            environment="production",
            generation=1,
            issued_at=now,
            not_before=now,
            expires_at=now + 3_600,
            kid="key_1",
        )
        self.catalog.put(self.signing_key())
        self.catalog.put(replace(self.service, grants_digest=grants_digest([self.grant])))
        self.catalog.put(self.grant)
        self.catalog.put(self.token(revoked=False))
        self.numbers: dict[str, int] = {}

    def signing_key(self, *, compromised: bool = False) -> SigningKeyRecord:
        return SigningKeyRecord(
            kid="key_1",
            public_jwk="{}",
            created_at=self.clock.now(),
            retired_at=None,
            compromised_at=self.clock.now() if compromised else None,
        )

    def token(self, *, revoked: bool) -> TokenRecord:
        return TokenRecord(
            token_id="tok_1",
            kind="service",
            name="jules",
            environment="production",
            issued_at=self.clock.now(),
            expires_at=self.clock.now() + timedelta(days=1),
            issued_by="t",
            revoked_at=self.clock.now() if revoked else None,
        )

    async def start(self) -> World:
        await self.feed.start()
        self.jules = Principal(self.claims, self.registry.services["jules"])
        return self

    def key(self, path: str, value: str, state: State = State.CURRENT, **fields: Any) -> None:
        """Store a version at ``path``, as its head."""
        number = self.numbers[path] = self.numbers.get(path, 0) + 1
        key_id = sorted(self.numbers).index(path) + 100 * len(path)
        version_id = f"{path}#{number}"
        binding = Binding("store_1", path, "production", version_id)
        self.catalog.put(
            KeyRecord(
                key_id=key_id,
                path=path,
                environment="production",
                owner=None,
                usage=None,
                created_at=self.clock.now(),
                rotated_at=None,
                last_number=number,
                head=version_id,
            )
        )
        self.catalog.put(
            VersionRecord(
                version_id=version_id,
                key_id=key_id,
                number=number,
                state=state,
                created_at=self.clock.now(),
                created_by="t",
                rolled_back_from=None,
                sealed=self.sealer.store(binding, value.encode()),
                **{"expires_at": None, **fields},
            )
        )

    def changed(self, path: str, value: str, state: State = State.CURRENT) -> None:
        """What a mutation that was committed elsewhere looks like from here."""
        self.key(path, value, state)
        self.ledger.head = self.catalog.change("PUT", f"{path}.production", "production")

    async def read(self, path: str, number: int | None = None, verdict: Verdict = PLENTY) -> bytes:
        return (await self.reveal.one(self.jules, path, number, ASKED, verdict)).body

    @property
    def told(self) -> list[tuple[str, str]]:
        """What the ledger holds: status and path of each entry, in order."""
        return [(str(entry.status), entry.key_path) for entry in self.ledger.entries]


def in_a_world(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    """Run the test on a loop of its own, in a world of its own."""

    def run() -> None:
        async def live() -> None:
            world = World()
            world.key("a.b", "value")
            await test(await world.start())

        asyncio.run(live())

    run.__name__ = test.__name__
    return run


async def refusal(reading: Awaitable[Any]) -> DoxStoreError:
    with pytest.raises(DoxStoreError) as caught:
        await reading
    return caught.value


@in_a_world
async def test_a_value_leaves_once_it_is_on_record(world: World) -> None:
    assert await world.read("a.b") == b"value"
    assert world.told == [("GRANTED", "a.b.production")]
    (entry,) = world.ledger.commits[0]
    assert (entry.version, entry.token_id, entry.environment) == (1, "tok_1", "production")
    assert (entry.request_id, entry.reason, entry.count) == ("req_1", "call", 1)


@in_a_world
async def test_nothing_is_opened_when_the_ledger_refuses(world: World) -> None:
    world.ledger.fault = StoreUnavailableError("ledger_unavailable", "full")
    for path in ("a.b", "a.none", "x.y", "a..b"):
        error = await refusal(world.read(path))
        assert isinstance(error, StoreUnavailableError), path
    error = await refusal(world.reveal.many(world.jules, ["a.b", "x.y"], ASKED, PLENTY))
    assert isinstance(error, StoreUnavailableError)
    assert (world.values.opened, world.told) == (0, [])


@in_a_world
async def test_nothing_is_opened_before_the_commit_is_done(world: World) -> None:
    seen: list[int] = []
    world.ledger.during_commit = lambda: seen.append(world.values.opened)
    assert await world.read("a.b") == b"value"
    assert (seen, world.values.opened) == ([0], 1)


@in_a_world
async def test_who_has_no_grant_causes_no_look_up(world: World) -> None:
    error = await refusal(world.read("x.y"))
    assert isinstance(error, UnauthorizedError)
    assert error.detail == "Service jules not authorized for x.y"
    assert (world.catalog.asked, world.ledger.commits) == ([], [])
    assert world.told == [("DENIED", "x.y.production")]


@in_a_world
async def test_who_is_over_the_limit_causes_no_decision(world: World) -> None:
    error = await refusal(world.read("a.b", verdict=SPENT))
    assert isinstance(error, RateLimitError)
    assert (error.detail, error.extra["retry_after_seconds"]) == ("Too many key requests", 1)
    assert world.catalog.asked == []
    assert world.told == [("LIMITED", "a.b.production")]


@in_a_world
async def test_unknown_and_forbidden_are_alike_without_a_grant(world: World) -> None:
    world.key("x.there", "value")
    there, absent = await refusal(world.read("x.there")), await refusal(world.read("x.lost!"[:-1]))
    assert type(there) is type(absent)
    assert there.code == absent.code
    assert there.detail.replace("there", "lost") == absent.detail
    known = await refusal(world.read("a.none"))
    assert isinstance(known, NotFoundError)


@in_a_world
async def test_what_is_malformed_is_refused_and_kept_short_on_record(world: World) -> None:
    error = await refusal(world.read("x" * 5_000))
    assert isinstance(error, InvalidRequestError)
    assert len(world.ledger.entries[0].key_path) <= 256


@in_a_world
async def test_a_second_read_needs_no_look_up(world: World) -> None:
    for _ in range(3):
        assert await world.read("a.b") == b"value"
    assert len(world.catalog.asked) == 1
    assert world.told == [("GRANTED", "a.b.production")] * 3


@in_a_world
async def test_a_value_revoked_before_the_commit_does_not_leave(world: World) -> None:
    assert await world.read("a.b") == b"value"  # at hand from now on
    world.ledger.during_commit = lambda: world.changed("a.b", "value", State.REVOKED)
    error = await refusal(world.read("a.b"))
    assert isinstance(error, GoneError)
    assert world.values.opened == 1
    assert [status for status, _ in world.told] == ["GRANTED", "GRANTED", "ABORTED", "DENIED"]


@in_a_world
async def test_a_commit_that_is_heard_of_too_late_is_worth_nothing(world: World) -> None:
    """Its head is that of its moment: what was revoked since, while this node was stopped, it does
    not tell. So after a time it does not count."""
    assert await world.read("a.b") == b"value"
    before = world.ledger.head

    def revoked_after_the_head_was_read() -> None:
        world.changed("a.b", "value", State.REVOKED)
        world.ledger.head = before
        world.ledger.until = world.clock.monotonic() - 1

    world.ledger.during_commit = revoked_after_the_head_was_read
    assert isinstance(await refusal(world.read("a.b")), GoneError)
    assert world.values.opened == 1
    assert [status for status, _ in world.told] == ["GRANTED", "GRANTED", "ABORTED", "DENIED"]


@in_a_world
async def test_a_value_replaced_before_the_commit_is_the_new_one(world: World) -> None:
    world.ledger.during_commit = lambda: world.changed("a.b", "newer")
    assert await world.read("a.b") == b"newer"
    assert [(each.status, each.version) for each in world.ledger.entries] == [
        ("GRANTED", 1),
        ("ABORTED", 1),
        ("GRANTED", 2),
    ]


@in_a_world
async def test_a_change_elsewhere_changes_nothing_here(world: World) -> None:
    world.ledger.during_commit = lambda: world.changed("a.other", "x")
    assert await world.read("a.b") == b"value"
    assert world.told == [("GRANTED", "a.b.production")]


@in_a_world
async def test_a_grant_taken_back_before_the_commit_counts(world: World) -> None:
    def ungrant() -> None:
        world.catalog.put(replace(world.grant, effect=Effect.DENY))
        world.ledger.head = world.catalog.change("UNGRANT", "_store.services.jules")

    world.ledger.during_commit = ungrant
    assert isinstance(await refusal(world.read("a.b")), UnauthorizedError)
    assert [status for status, _ in world.told] == ["GRANTED", "ABORTED", "DENIED"]
    assert world.values.opened == 0


@in_a_world
async def test_a_token_revoked_before_the_commit_counts(world: World) -> None:
    def revoke() -> None:
        world.catalog.put(world.token(revoked=True))
        world.ledger.head = world.catalog.change("REVOKE_TOKEN", "_store.tokens.tok_1")

    world.ledger.during_commit = revoke
    error = await refusal(world.read("a.b"))
    assert isinstance(error, AuthenticationError)
    assert error.code == "token_revoked"
    assert world.values.opened == 0


@in_a_world
async def test_a_token_whose_signing_key_was_compromised_before_the_commit_gets_nothing(
    world: World,
) -> None:
    def compromise() -> None:
        world.catalog.put(world.signing_key(compromised=True))
        world.ledger.head = world.catalog.change("ROTATE_SIGNING_KEY", "_store.signing_keys.key_1")

    world.ledger.during_commit = compromise
    error = await refusal(world.read("a.b"))
    assert isinstance(error, AuthenticationError)
    assert error.code == "token_invalid"
    assert world.values.opened == 0
    assert [status for status, _ in world.told] == ["GRANTED", "ABORTED", "DENIED"]


@in_a_world
async def test_a_service_ended_before_the_commit_gets_nothing(world: World) -> None:
    def end() -> None:
        world.catalog.put(replace(world.service, generation=2, decommissioned_at=world.clock.now()))
        world.ledger.head = world.catalog.change("DECOMMISSION", "_store.services.jules")

    world.ledger.during_commit = end
    assert isinstance(await refusal(world.read("a.b")), AuthenticationError)
    assert world.values.opened == 0


@in_a_world
async def test_a_ledger_that_fails_on_the_second_commit_reveals_nothing(world: World) -> None:
    def change_then_fail() -> None:
        world.changed("a.b", "newer")
        world.ledger.during_commit = fail

    def fail() -> None:
        world.ledger.fault = StoreUnavailableError("ledger_unavailable", "full")

    world.ledger.during_commit = change_then_fail
    assert isinstance(await refusal(world.read("a.b")), StoreUnavailableError)
    assert world.values.opened == 0
    assert [status for status, _ in world.told][:2] == ["GRANTED", "ABORTED"]


@in_a_world
async def test_a_value_expires_although_it_is_at_hand(world: World) -> None:
    soon = world.clock.now() + timedelta(seconds=10)
    world.key("a.soon", "value", expires_at=soon)
    assert await world.read("a.soon") == b"value"
    world.clock.advance(9.9)
    assert await world.read("a.soon") == b"value"
    world.clock.advance(0.1)
    assert (await refusal(world.read("a.soon"))).code == "key_expired"


@in_a_world
async def test_a_token_that_ran_out_is_noticed_when_a_decision_is_repeated(world: World) -> None:
    def pass_an_hour() -> None:
        world.clock.advance(2 * 3_600)
        world.changed("a.other", "x")

    world.ledger.during_commit = pass_an_hour
    assert (await refusal(world.read("a.b"))).code == "token_expired"


@in_a_world
async def test_a_batch_is_one_commit_and_one_entry_a_path(world: World) -> None:
    world.key("a.c", "other")
    paths = ["a.b", "a.c", "a.b.production", "a.none", "x.y", "a..b"]
    found = await world.reveal.many(world.jules, paths, ASKED, PLENTY)
    assert [each if isinstance(each, DoxStoreError) else each.body for each in found[:3]] == [
        b"value",
        b"other",
        b"value",
    ]
    assert [each.code for each in found[3:] if isinstance(each, DoxStoreError)] == [
        "key_not_found",
        "not_authorized",
        "malformed_path",
    ]
    assert [len(commit) for commit in world.ledger.commits] == [3]
    assert sorted(status for status, _ in world.told) == [
        "DENIED",
        "GRANTED",
        "GRANTED",
        "GRANTED",
        "INVALID",
        "NOT_FOUND",
    ]


@in_a_world
async def test_what_is_held_already_is_on_record_and_not_opened(world: World) -> None:
    world.key("a.c", "other")
    known = {"a.b": "a.b#1", "a.c": "a.c#0", "x.y": "x.y#1"}
    found = await world.reveal.many(world.jules, ["a.b", "a.c", "x.y"], ASKED, PLENTY, known)
    held, sent, refused = found
    assert isinstance(held, Revealed)
    assert (held.unchanged, held.body) == (True, b"")
    assert isinstance(sent, Revealed)
    assert (sent.unchanged, sent.body) == (False, b"other")
    assert isinstance(refused, UnauthorizedError)
    assert world.values.opened == 1
    assert [len(commit) for commit in world.ledger.commits] == [2]
    assert sorted(status for status, _ in world.told) == ["DENIED", "GRANTED", "GRANTED"]


@in_a_world
async def test_what_changes_while_it_is_recorded_is_not_unchanged(world: World) -> None:
    world.ledger.during_commit = lambda: world.changed("a.b", "new")
    (found,) = await world.reveal.many(world.jules, ["a.b"], ASKED, PLENTY, {"a.b": "a.b#1"})
    assert isinstance(found, Revealed)
    assert (found.unchanged, found.body) == (False, b"new")
    world.ledger.during_commit = lambda: world.changed("a.b", "", State.REVOKED)
    (gone,) = await world.reveal.many(world.jules, ["a.b"], ASKED, PLENTY, {"a.b": "a.b#2"})
    assert isinstance(gone, GoneError)


@in_a_world
async def test_a_batch_is_from_one_revision(world: World) -> None:
    world.key("a.c", "old c")

    def change_both() -> None:
        world.changed("a.b", "new b")
        world.changed("a.c", "new c")

    world.ledger.during_commit = change_both
    found = await world.reveal.many(world.jules, ["a.b", "a.c"], ASKED, PLENTY)
    assert [getattr(each, "body", each) for each in found] == [b"new b", b"new c"]
    assert [str(each.status) for each in world.ledger.entries] == (
        ["GRANTED"] * 2 + ["ABORTED"] * 2 + ["GRANTED"] * 2
    )


async def limit_key(world: World, path: str, burst: int) -> None:
    """Limit a key, as the feed brings it."""
    (key,) = await world.catalog.keys(path, None, None, 1)
    world.catalog.put(
        KeyLimitRecord(
            key_id=key.key.key_id, limit_count=1, limit_period_seconds=3_600, limit_burst=burst
        )
    )
    world.ledger.head = world.catalog.change("LIMIT", f"{path}.production", "production")
    await world.feed.catch_up()


@in_a_world
async def test_a_key_s_own_limit_refuses_before_anything_is_granted(world: World) -> None:
    assert await world.read("a.b") == b"value"  # at hand from now on, without a limit
    await limit_key(world, "a.b", 2)
    assert [await world.read("a.b"), await world.read("a.b")] == [b"value"] * 2
    error = await refusal(world.read("a.b"))
    verdict = verdict_of_key(error)
    assert verdict is not None
    assert (verdict.policy.name, error.extra["retry_after_seconds"]) == (b'"key"', 3_600)
    assert world.told == [("GRANTED", "a.b.production")] * 3 + [("LIMITED", "a.b.production")]
    assert world.values.opened == 3


@in_a_world
async def test_who_is_over_its_own_limit_costs_the_key_nothing(world: World) -> None:
    await limit_key(world, "a.b", 1)
    for _ in range(5):
        assert verdict_of_key(await refusal(world.read("a.b", verdict=SPENT))) is None
    assert await world.read("a.b") == b"value"
    assert verdict_of_key(await refusal(world.read("a.b"))) is not None


@in_a_world
async def test_who_is_not_handed_a_key_costs_it_nothing(world: World) -> None:
    world.key("a.gone", "value", State.REVOKED)
    await limit_key(world, "a.gone", 1)
    for _ in range(3):
        assert isinstance(await refusal(world.read("a.gone")), GoneError)
    world.changed("a.gone", "newer")
    await world.feed.catch_up()
    assert await world.read("a.gone") == b"newer"


@in_a_world
async def test_a_read_that_is_decided_again_is_counted_once(world: World) -> None:
    await limit_key(world, "a.b", 2)
    world.ledger.during_commit = lambda: world.changed("a.b", "newer")
    assert await world.read("a.b") == b"newer"
    assert await world.read("a.b") == b"newer"
    assert verdict_of_key(await refusal(world.read("a.b"))) is not None


@in_a_world
async def test_what_the_key_s_limit_refused_in_a_batch_stays_so_when_it_is_decided_again(
    world: World,
) -> None:
    world.key("a.c", "c")
    await limit_key(world, "a.b", 1)
    world.ledger.during_commit = lambda: world.changed("a.c", "newer c")
    found = await world.reveal.many(world.jules, ["a.b", "a.b", "a.c"], ASKED, PLENTY)
    assert getattr(found[0], "body", None) == b"value"
    assert verdict_of_key(found[1]) is not None
    assert getattr(found[2], "body", None) == b"newer c"
    statuses = [status for status, _ in world.told]
    assert statuses.count("GRANTED") - statuses.count("ABORTED") == 2
    assert statuses.count("LIMITED") == 1


@in_a_world
async def test_what_only_appears_when_it_is_decided_again_is_counted_too(world: World) -> None:
    world.key("a.late", "value", State.REVOKED)
    await limit_key(world, "a.late", 1)
    world.ledger.during_commit = lambda: world.changed("a.late", "newer")
    found = await world.reveal.many(world.jules, ["a.b", "a.late", "a.late"], ASKED, PLENTY)
    assert getattr(found[1], "body", None) == b"newer"
    assert verdict_of_key(found[2]) is not None


@in_a_world
async def test_a_limit_that_is_set_again_as_it_was_goes_on_counting(world: World) -> None:
    await limit_key(world, "a.b", 1)
    assert await world.read("a.b") == b"value"
    await limit_key(world, "a.b", 1)
    assert verdict_of_key(await refusal(world.read("a.b"))) is not None
    await limit_key(world, "a.b", 2)
    assert await world.read("a.b") == b"value"


@in_a_world
async def test_a_batch_over_the_limit_is_one_entry_and_no_value(world: World) -> None:
    error = await refusal(world.reveal.many(world.jules, ["a.b", "a.b"], ASKED, SPENT))
    assert isinstance(error, RateLimitError)
    assert world.told == [("LIMITED", "a.b.production")]
    assert world.values.opened == 0


@in_a_world
async def test_a_version_by_number_is_never_taken_from_the_cache(world: World) -> None:
    assert await world.read("a.b") == b"value"
    assert await world.read("a.b", 1) == b"value"
    assert (await refusal(world.read("a.b", 2))).code == "version_not_found"
    assert [number for _, number in world.catalog.asked] == [None, 1, 2]


@in_a_world
async def test_what_belongs_to_the_store_is_refused_to_everyone(world: World) -> None:
    for path in ("_store", "_store.checkpoint_key", "_STORE.x"):
        assert (await refusal(world.read(path))).code == "not_authorized"
    assert world.catalog.asked == []


@in_a_world
async def test_a_service_whose_grants_are_not_those_it_is_bound_to_gets_nothing(
    world: World,
) -> None:
    def take_the_grants_apart() -> None:
        world.catalog.put(replace(world.grant, pattern="a.**"))
        world.ledger.head = world.catalog.change("GRANT", "_store.services.jules")

    assert await world.read("a.b") == b"value"
    take_the_grants_apart()
    assert isinstance(await refusal(world.read("a.b")), UnauthorizedError)
    assert world.alarms == [("access_grant", "jules")]


@in_a_world
async def test_a_token_that_is_not_among_the_live_ones_is_refused(world: World) -> None:
    world.catalog.put(world.token(revoked=True))
    await world.registry.load()
    with pytest.raises(AuthenticationError, match="revoked"):
        world.registry.check(world.claims, world.clock.seconds())


@in_a_world
async def test_a_key_that_is_written_all_the_time_can_be_read(world: World) -> None:
    def write() -> None:
        world.ledger.during_commit = write
        world.key("a.b", "newer")
        world.ledger.head = world.catalog.change("PUT", "a.b.production", "production")

    world.ledger.during_commit = write
    assert await asyncio.wait_for(world.read("a.b"), 5) == b"newer"
    statuses = [status for status, _ in world.told]
    assert statuses.count("GRANTED") - statuses.count("ABORTED") == 1


@in_a_world
async def test_a_batch_whose_refusal_is_not_on_record_reveals_nothing(world: World) -> None:
    looked = iter([None, None])  # the commit of what is granted looks twice; then the disk is full

    def check() -> None:
        if next(looked, "full") == "full":
            raise StoreUnavailableError("ledger_unavailable", "full")

    world.ledger.check = check
    error = await refusal(world.reveal.many(world.jules, ["a.b", "x.y"], ASKED, PLENTY))
    assert error.code == "ledger_unavailable"
    assert world.values.opened == 0
    assert [status for status, _ in world.told] == ["GRANTED", "ABORTED"]
