"""Who is told what, in which order, and when a stream is over: without sockets and without time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec.structs import replace

from dox_core_store import wire
from dox_core_store.errors import (
    AuthenticationError,
    RateLimitError,
    StoreUnavailableError,
)
from dox_core_store.key_path import KeyAddress
from dox_core_store.server.domain.access import (
    Effect,
    GrantRecord,
    ServiceRecord,
    TokenRecord,
    grants_digest,
)
from dox_core_store.server.domain.event import EventKind, Place, kind_of
from dox_core_store.server.domain.key import KeyRecord, State, VersionRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.signing_key import SigningKeyRecord
from dox_core_store.server.domain.token import LEEWAY_SECONDS, Claims, Kind
from dox_core_store.server.ports import Found
from dox_core_store.server.usecases import events as events_module
from dox_core_store.server.usecases.event_queue import Stream
from dox_core_store.server.usecases.events import REMEMBERED, TURNS, Events
from dox_core_store.server.usecases.feed import Feed
from dox_core_store.server.usecases.registry import Registry
from dox_core_store.server.web.event_stream import frame
from dox_core_store.testing.catalog import MemoryCatalog
from dox_core_store.testing.clock import FixedClock

LIFETIME_SECONDS = 3_600


class Told(NamedTuple):
    kind: str
    place: str
    change: wire.ChangeEvent | None


class NoKeys:
    def replace(self, keys: Any) -> None:
        pass


class SlowCatalog(MemoryCatalog):
    """Looks up no version while ``gate`` is closed, and none at all while it is ``away``."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False

    async def version(self, address: KeyAddress, number: int | None) -> Found | None:
        await self.gate.wait()
        if self.away:
            raise StoreUnavailableError("ledger_unavailable", "away")
        return await super().version(address, number)


class World:
    """A node in memory: ``jules`` may read ``a.*``, ``other`` may read ``b.*`` and ``a.shared``."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.catalog = SlowCatalog()
        self.registry = Registry(
            catalog=self.catalog, clock=self.clock, key_set=NoKeys(), alarm=lambda *_: None
        )
        self.feed = Feed(
            catalog=self.catalog,
            registry=self.registry,
            forget=lambda _path: None,
            monotonic=self.clock.monotonic,
        )
        self.faults: list[BaseException] = []
        self.events = self.node()
        self.catalog.put(
            SigningKeyRecord(
                kid="key_1",
                public_jwk="{}",
                created_at=self.clock.now(),
                retired_at=None,
                compromised_at=None,
            )
        )
        self.patterns: dict[str, list[str]] = {}
        self.grant("jules", "a.*")
        self.grant("other", "b.*", "a.shared")
        self.numbers: dict[str, int] = {}
        self.interrupted: list[Stream] = []

    def node(self) -> Events:
        return Events(
            epoch=1,
            catalog=self.catalog,
            registry=self.registry,
            feed=self.feed,
            clock=self.clock,
            render=frame,
            report=lambda error, _where: self.faults.append(error),
        )

    async def start(self) -> None:
        await self.feed.start()
        await self.events.start()
        self.feed.tell = self.events.note
        await self.feed.catch_up()

    def grant(self, name: str, *patterns: str, generation: int = 1, denied: str = "") -> None:
        self.patterns[name] = list(patterns)
        grants = [
            GrantRecord(
                grant_id=f"{name}-{pattern}",
                service=name,
                effect=Effect.DENY if pattern == denied else Effect.ALLOW,
                pattern=pattern,
                environment="production",
                created_at=self.clock.now(),
                created_by="t",
            )
            for pattern in (*patterns, *([denied] if denied else []))
        ]
        for each in grants:
            self.catalog.put(each)
        self.catalog.put(
            ServiceRecord(
                name=name,
                description="",
                environment=None,
                generation=generation,
                limit_count=600,
                limit_period_seconds=60,
                limit_burst=600,
                decommissioned_at=None,
                created_at=self.clock.now(),
                grants_digest=grants_digest(grants),
            )
        )

    def lose(self, name: str, pattern: str) -> None:
        """Take the grant back."""
        kept = self.patterns[name] = [each for each in self.patterns[name] if each != pattern]
        del self.catalog._records[GrantRecord][f"{name}-{pattern}"]
        self.grant(name, *kept)
        self.catalog.change(Action.UNGRANT, f"_store.services.{name}")

    def claims(self, name: str, token_id: str) -> Claims:
        now = int(self.clock.seconds())
        return Claims(
            kind=Kind.SERVICE,
            name=name,
            token_id=token_id,
            environment="production",
            generation=1,
            issued_at=now,
            not_before=now,
            expires_at=now + LIFETIME_SECONDS,
            kid="key_1",
        )

    def token(self, name: str, *, revoked: bool = False) -> None:
        self.catalog.put(
            TokenRecord(
                token_id=f"tok_{name}",
                kind="service",
                name=name,
                environment="production",
                issued_at=self.clock.now(),
                expires_at=self.clock.now() + timedelta(days=1),
                issued_by="t",
                revoked_at=self.clock.now() if revoked else None,
            )
        )

    async def admit(self, name: str) -> Stream:
        self.token(name)
        self.catalog.change(Action.ISSUE_TOKEN, f"_store.tokens.tok_{name}")
        await self.feed.catch_up()
        stream = self.events.admit(self.claims(name, f"tok_{name}"))
        stream.interrupt = lambda: self.interrupted.append(stream)
        return stream

    async def follow(self, name: str = "jules", last: str | None = None) -> Stream:
        """A stream that has begun; what it began with is read off."""
        stream = await self.admit(name)
        began = told(await self.events.begin(stream, None if last is None else last.encode()))
        if last is None:
            assert [each.kind for each in began] == ["reset"]
        assert told(await stream.take())[-1].kind == "beat"
        return stream

    def put(self, path: str, action: str = Action.PUT, state: State = State.CURRENT) -> str:
        """Store a version as its key's head; its id."""
        number = self.numbers[path] = self.numbers.get(path, 0) + 1
        version_id = f"{path}#{number}"
        key_id = hash(path)
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
                expires_at=None,
                rolled_back_from=None,
                sealed=b"",
            )
        )
        self.change(path, action, number)
        return version_id

    def change(self, path: str, action: str, version: int | None = None, **more: Any) -> None:
        self.catalog.change(action, f"{path}.production", "production", version=version, **more)

    async def settle(self) -> None:
        """Apply what was changed, and have it told."""
        await self.feed.catch_up()
        await self.rest()

    async def rest(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def beats(self) -> None:
        """A second of beats."""
        for _ in range(TURNS):
            self.events.beat()

    async def heard(self, stream: Stream) -> list[Told]:
        """What is told to ``stream`` by the next beat at the latest, without the beats."""
        await self.beats()
        return [each for each in told(await stream.take()) if each.kind != "beat"]


def told(raw: bytes) -> list[Told]:
    found = []
    for each in raw.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in each.split("\n"))
        assert list(fields) == ["id", "event", "data"]
        change = (
            msgspec.json.decode(fields["data"], type=wire.ChangeEvent) if fields["data"] else None
        )
        found.append(Told(fields["event"], fields["id"], change))
    return found


def in_a_world(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    """Run the test on a loop of its own, in a world of its own."""

    def run() -> None:
        async def live() -> None:
            world = World()
            await world.start()
            await test(world)
            assert world.faults == []

        asyncio.run(live())

    run.__name__ = test.__name__
    return run


@pytest.mark.parametrize("action", list(Action))
def test_of_a_key_only_what_its_readers_hold_is_told(action: Action) -> None:
    changed = {
        Action.PUT, Action.PROMOTE, Action.ROLLBACK, Action.ADOPT, Action.EXTEND, Action.RETIRE,
    }  # fmt: skip
    revoked = {Action.REVOKE, Action.DESTROY, Action.EXPIRE}
    kind = kind_of(action, "a.b.production", in_effect=True)
    expected = (
        EventKind.CHANGED if action in changed else EventKind.REVOKED if action in revoked else None
    )
    assert kind is expected
    assert kind_of(action, "a.b.production", in_effect=False) is None


@pytest.mark.parametrize(
    ("action", "path", "kind"),
    [
        (Action.GRANT, "_store.services.a", EventKind.ACCESS),
        (Action.UNGRANT, "_store.services.a", EventKind.ACCESS),
        (Action.REGISTER, "_store.services.a", EventKind.ACCESS),
        (Action.LIMIT, "_store.services.a", None),
        (Action.DECOMMISSION, "_store.services.a", None),
        (Action.REVOKE_SERVICE_TOKENS, "_store.services.a", None),
        (Action.ISSUE_TOKEN, "_store.tokens.tok_1", None),
        (Action.REVOKE_TOKEN, "_store.tokens.tok_1", None),
        (Action.ADD_ENVIRONMENT, "_store.environments.qa", EventKind.RESET),
        (Action.REVIEW, "_store.epochs.2", EventKind.RESET),
        (Action.IMPORT, "_store.imports.imp_1", EventKind.RESET),
        (Action.REKEY, "_store.seal.ring", None),
        (Action.ADD_OPERATOR, "_store.operators.ada", None),
        (Action.PUT, "_storeroom.a.production", EventKind.CHANGED),
    ],
)
def test_of_what_is_no_key_this_is_told(action: Action, path: str, kind: EventKind | None) -> None:
    assert kind_of(action, path, in_effect=True) is kind


def test_an_import_that_was_aborted_is_nothing() -> None:
    assert kind_of(Action.IMPORT, "_store.imports.imp_1", in_effect=False) is None


NO_PLACES = [
    "",
    "1",
    "1-",
    "-1",
    "1-1 ",
    "1-01",
    "0-1",
    "01-1",
    "+1-1",
    "1--1",
    "1-1\n",
    "1-\u0661",
]


@pytest.mark.parametrize(
    "text", [None, *(each.encode() for each in NO_PLACES), b"1-" + b"9" * 19, b"9" * 10 + b"-1"]
)
def test_what_is_no_place(text: bytes | None) -> None:
    assert Place.parse(text) is None


def test_a_place_is_read_as_it_was_written() -> None:
    for place in (Place(1, 0), Place(3, 4_711), Place(999_999_999, 10**18 - 1)):
        assert Place.parse(str(place).encode()) == place


@in_a_world
async def test_each_change_is_told_in_order_to_those_who_may_read_it(world: World) -> None:
    jules, other = await world.follow("jules"), await world.follow("other")
    first, second = world.put("a.one"), world.put("a.shared")
    third = world.put("b.one")
    world.put("c.one")
    world.change("a.one", Action.REVOKE, 1)
    await world.settle()
    heard = await world.heard(jules)
    assert [(each.kind, each.change and each.change.version_id) for each in heard] == [
        ("changed", first),
        ("changed", second),
        ("revoked", first),
    ]
    assert [each.change and each.change.version_id for each in await world.heard(other)] == [
        second,
        third,
    ]
    assert [each.change and each.change.key_path for each in heard] == [
        "a.one",
        "a.shared",
        "a.one",
    ]


@in_a_world
async def test_what_was_superseded_meanwhile_is_told_once(world: World) -> None:
    stream = await world.follow()
    world.put("a.one")
    last = world.put("a.one")
    await world.settle()
    assert [each.change and each.change.version_id for each in await world.heard(stream)] == [last]


@in_a_world
async def test_a_deny_holds_for_events_too(world: World) -> None:
    world.grant("jules", "a.*", denied="a.secret")
    world.catalog.change(Action.GRANT, "_store.services.jules")
    await world.settle()
    stream = await world.follow()
    world.put("a.secret")
    world.put("a.open")
    await world.settle()
    heard = await world.heard(stream)
    assert [each.change and each.change.key_path for each in heard] == ["a.open"]


@in_a_world
async def test_who_lost_a_grant_meanwhile_is_not_told(world: World) -> None:
    stream = await world.follow("other")
    world.catalog.gate.clear()
    world.put("a.shared")
    await world.settle()
    world.lose("other", "a.shared")
    await world.settle()
    world.catalog.gate.set()
    await world.rest()
    assert [each.kind for each in await world.heard(stream)] == ["access"]


@in_a_world
async def test_access_is_told_to_its_service_only(world: World) -> None:
    jules, other = await world.follow("jules"), await world.follow("other")
    world.catalog.change(Action.GRANT, "_store.services.other")
    await world.settle()
    assert [each.kind for each in await world.heard(other)] == ["access"]
    assert await world.heard(jules) == []


@in_a_world
async def test_an_import_is_reset_for_everybody(world: World) -> None:
    jules, other = await world.follow("jules"), await world.follow("other")
    world.change("a.one", Action.PUT, 1, in_effect=False)
    world.catalog.change(Action.IMPORT, "_store.imports.imp_1")
    await world.settle()
    assert [each.kind for each in await world.heard(jules)] == ["reset"]
    assert [each.kind for each in await world.heard(other)] == ["reset"]


@in_a_world
async def test_without_the_catalog_a_change_is_told_without_its_version(world: World) -> None:
    stream = await world.follow()
    world.put("a.one")
    world.change("a.one", Action.REVOKE, 1)
    world.catalog.away = True
    await world.settle()
    heard = await world.heard(stream)
    assert [(each.kind, each.change and each.change.version_id) for each in heard] == [
        ("changed", None),
        ("revoked", None),
    ]


@in_a_world
async def test_a_change_that_is_applied_again_is_told_once(world: World) -> None:
    stream = await world.follow()
    world.put("a.one")
    world.put("a.two")
    first, _ = await world.catalog.changes(world.feed.applied, 2)
    await world.settle()
    world.events.note(first)
    await world.rest()
    assert len(await world.heard(stream)) == 2
    await world.beats()
    (beat,) = told(await stream.take())
    assert beat.place == str(Place(1, world.feed.applied))


@in_a_world
async def test_the_version_that_was_revoked_is_named(world: World) -> None:
    stream = await world.follow()
    first = world.put("a.one")
    world.put("a.one")
    world.change("a.one", Action.REVOKE, 1)
    await world.settle()
    assert [
        (each.kind, each.change and each.change.version_id) for each in await world.heard(stream)
    ][-1] == ("revoked", first)


@in_a_world
async def test_what_was_missed_is_told_in_order(world: World) -> None:
    place = str(Place(1, world.feed.applied))
    for path in ("a.one", "a.two", "a.one"):
        world.put(path)
    await world.settle()
    stream = await world.admit("jules")
    began = told(await world.events.begin(stream, place.encode()))
    assert [each.change and each.change.key_path for each in began] == ["a.two", "a.one"]
    assert [each.place for each in began] == sorted(each.place for each in began)


@in_a_world
async def test_who_lost_a_grant_is_not_told_what_was_missed(world: World) -> None:
    place = str(Place(1, world.feed.applied))
    world.put("a.shared")
    await world.settle()
    stream = await world.admit("other")
    world.catalog.gate.clear()
    beginning = asyncio.ensure_future(world.events.begin(stream, place.encode()))
    await world.rest()
    world.lose("other", "a.shared")
    await world.settle()
    world.catalog.gate.set()
    assert told(await beginning) == []
    assert [each.kind for each in await world.heard(stream)] == ["access"]


@in_a_world
async def test_it_goes_on_where_it_was(world: World) -> None:
    stream = await world.follow()
    world.put("a.one")
    await world.settle()
    (first,) = await world.heard(stream)
    world.events.leave(stream)
    world.put("a.two")
    world.put("b.one")
    world.put("a.three")
    await world.settle()
    again = await world.admit("jules")
    began = told(await world.events.begin(again, first.place.encode()))
    assert [each.change and each.change.key_path for each in began] == ["a.two", "a.three"]
    (beat,) = told(await again.take())
    assert beat.kind == "beat"
    assert Place.parse(beat.place.encode()) == (1, world.feed.applied)


@in_a_world
async def test_what_happens_while_it_begins_comes_after_what_it_missed(world: World) -> None:
    place = str(Place(1, world.feed.applied))
    world.put("a.one")
    await world.settle()
    stream = await world.admit("jules")
    world.catalog.gate.clear()
    beginning = asyncio.ensure_future(world.events.begin(stream, place.encode()))
    await world.rest()
    world.put("a.two")
    await world.settle()
    world.catalog.gate.set()
    began = told(await beginning)
    await world.rest()
    assert [each.change and each.change.key_path for each in began] == ["a.one"]
    heard = await world.heard(stream)
    assert [each.change and each.change.key_path for each in heard] == ["a.two"]


@in_a_world
async def test_a_place_that_another_node_told_is_believed_if_it_is_there(world: World) -> None:
    world.put("a.one")
    world.put("a.two")
    head = await world.catalog.feed_head()
    stream = await world.admit("jules")  # applies what is there
    world.put("a.three")
    began = told(await world.events.begin(stream, f"1-{head + 2}".encode()))
    await world.rest()
    assert began == []
    assert await world.heard(stream) == []
    other = await world.admit("jules")
    began = told(await world.events.begin(other, f"1-{head + 100}".encode()))
    assert [each.kind for each in began] == ["reset"]


@pytest.mark.parametrize("last", ["2-1", "1-999999", "x"])
def test_a_place_that_is_not_here_begins_anew(last: str) -> None:
    async def begin(world: World) -> None:
        world.put("a.one")
        await world.settle()
        stream = await world.admit("jules")
        began = told(await world.events.begin(stream, last.encode()))
        assert [each.kind for each in began] == ["reset"]
        assert [each.kind for each in told(await stream.take())] == ["beat"]

    in_a_world(begin)()


@in_a_world
async def test_who_was_away_for_too_long_begins_anew(world: World) -> None:
    for _ in range(REMEMBERED + 1):
        world.change("c.one", Action.DESCRIBE)
    await world.settle()
    for behind, kinds in ((REMEMBERED, []), (REMEMBERED + 1, ["reset"])):
        place = Place(1, world.feed.applied - behind)
        stream = await world.admit("jules")
        place = Place(1, world.feed.applied - behind)
        began = told(await world.events.begin(stream, str(place).encode()))
        assert [each.kind for each in began] == kinds


@in_a_world
async def test_too_much_that_was_missed_begins_anew(world: World) -> None:
    place = Place(1, world.feed.applied)
    for number in range(Stream.MOST_WAITING + 1):
        world.put(f"a.k{number}")
    await world.settle()
    stream = await world.admit("jules")
    began = told(await world.events.begin(stream, str(place).encode()))
    assert [each.kind for each in began] == ["reset"]


@in_a_world
async def test_a_process_that_starts_knows_what_was_missed_meanwhile(world: World) -> None:
    place = Place(1, world.feed.applied)
    world.put("a.one")
    world.put("a.two")
    await world.settle()
    world.events = world.node()
    await world.events.start()
    world.feed.tell = world.events.note
    stream = await world.admit("jules")
    began = told(await world.events.begin(stream, str(place).encode()))
    assert [each.change and each.change.key_path for each in began] == ["a.one", "a.two"]


@in_a_world
async def test_an_import_that_was_missed_begins_anew(world: World) -> None:
    place = Place(1, world.feed.applied)
    world.put("a.one")
    world.catalog.change(Action.IMPORT, "_store.imports.imp_1")
    await world.settle()
    stream = await world.admit("jules")
    began = told(await world.events.begin(stream, str(place).encode()))
    assert [each.kind for each in began] == ["reset"]


@in_a_world
async def test_a_stream_ends_when_its_token_expires(world: World) -> None:
    stream = await world.follow()
    world.clock.advance(LIFETIME_SECONDS + LEEWAY_SECONDS - 1)
    await world.feed.catch_up()
    await world.beats()
    assert not stream.is_over
    world.clock.advance(1)
    await world.beats()
    assert stream.is_over
    assert world.interrupted == [stream]
    assert await stream.take() == b""


@pytest.mark.parametrize("how", ["token", "generation", "key"])
def test_a_stream_ends_with_its_token_before_anything_is_told(how: str) -> None:
    async def end(world: World) -> None:
        stream, other = await world.follow(), await world.follow("other")
        if how == "token":
            world.token("jules", revoked=True)
            world.catalog.change(Action.REVOKE_TOKEN, "_store.tokens.tok_jules")
        elif how == "generation":
            world.grant("jules", "a.*", generation=2)
            world.catalog.change(Action.REVOKE_SERVICE_TOKENS, "_store.services.jules")
        else:
            (key,) = await world.catalog.records(SigningKeyRecord, None, 1)
            world.catalog.put(replace(key, compromised_at=world.clock.now()))
            world.catalog.change(Action.ROTATE_SIGNING_KEY, "_store.signing_keys.key_1")
        world.put("a.shared")
        await world.settle()
        assert stream.is_over
        assert await stream.take() == b""
        assert other.is_over is (how == "key")
        with pytest.raises(AuthenticationError):
            await world.events.begin(world.events.admit(world.claims("jules", "tok_jules")), None)

    in_a_world(end)()


@in_a_world
async def test_nothing_beats_while_this_node_cannot_know(world: World) -> None:
    stream = await world.follow()
    world.clock.advance(2)
    await world.beats()
    world.put("a.one")
    world.catalog.gate.clear()
    await world.settle()  # confirmed, but not told yet
    world.clock.advance(2)
    await world.feed.catch_up()
    await world.beats()
    world.catalog.gate.set()
    await world.rest()
    assert [each.kind for each in told(await stream.take())] == ["changed"]
    await world.beats()
    assert [each.kind for each in told(await stream.take())] == ["beat"]


@in_a_world
async def test_nothing_beats_and_nobody_begins_while_nothing_may_be_handed_out(
    world: World,
) -> None:
    stream = await world.follow()
    world.registry.hold("unreviewed", "why")
    await world.beats()
    with pytest.raises(StoreUnavailableError, match="why"):
        world.events.admit(world.claims("jules", "tok_jules"))
    world.registry.hold("unreviewed", None)
    world.put("a.one")
    await world.settle()
    assert [each.kind for each in told(await stream.take())] == ["changed"]


@in_a_world
async def test_beats_that_wait_are_one(world: World) -> None:
    stream = await world.follow()
    for _ in range(5):
        await world.beats()
    world.put("a.one")
    await world.settle()
    for _ in range(5):
        await world.beats()
    assert [each.kind for each in told(await stream.take())] == ["beat", "changed", "beat"]


@in_a_world
async def test_who_does_not_read_is_cut_off(world: World) -> None:
    slow, quick = await world.follow(), await world.follow("other")
    for number in range(Stream.MOST_WAITING + 1):
        world.put("a.shared")
        await world.settle()
        assert slow.is_over is (number == Stream.MOST_WAITING)
        assert len(told(await quick.take())) == 1
    assert world.interrupted == [slow]


@in_a_world
async def test_who_takes_not_even_beats_is_cut_off(world: World) -> None:
    stream = await world.follow()
    for _ in range(30):
        await world.beats()
        assert not stream.is_over
    await world.beats()
    assert stream.is_over


@in_a_world
async def test_too_many_changes_at_once_are_reset(world: World) -> None:
    stream = await world.follow()
    world.catalog.gate.clear()
    for number in range(3_000):
        world.put(f"a.k{number}")
    await world.settle()
    world.catalog.gate.set()
    for _ in range(10):
        await world.rest()
    heard = await world.heard(stream)
    assert heard[-1].kind == "reset"
    assert heard[-1].place == str(Place(1, world.feed.applied))


@in_a_world
async def test_there_is_room_for_so_many(world: World) -> None:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(events_module, "MOST_STREAMS", 5)
    monkeypatch.setattr(events_module, "MOST_OF_SERVICE", 3)
    try:
        streams = [await world.admit("jules") for _ in range(3)]
        with pytest.raises(RateLimitError) as of_service:
            await world.admit("jules")
        assert of_service.value.code == "rate_limited"
        streams += [await world.admit("other") for _ in range(2)]
        with pytest.raises(StoreUnavailableError) as of_node:
            await world.admit("other")
        assert of_node.value.code == "overloaded"
        assert world.events.count == 5
        for stream in streams:
            world.events.leave(stream)
        assert world.events.count == 0
        assert await world.admit("jules")
    finally:
        monkeypatch.undo()


@in_a_world
async def test_a_node_that_ends_has_no_streams(world: World) -> None:
    streams = [await world.follow(), await world.follow("other")]
    world.events.close()
    assert all(stream.is_over for stream in streams)
    with pytest.raises(StoreUnavailableError):
        await world.admit("jules")


@in_a_world
async def test_a_fault_of_ours_is_reported_and_told_as_reset(world: World) -> None:
    stream = await world.follow()

    async def broken(*_: object) -> None:
        raise ValueError("broken")

    world.catalog.version = broken  # type: ignore[assignment]
    world.put("a.one")
    await world.settle()
    assert [each.kind for each in await world.heard(stream)] == ["reset"]
    assert [type(each) for each in world.faults] == [ValueError]
    world.faults.clear()
