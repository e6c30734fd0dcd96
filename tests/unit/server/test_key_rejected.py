"""That a value was refused where it is for: who may say so, and how often people are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.server.test_reveal import World, refusal

from dox_core_store.errors import StoreUnavailableError
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.key import State
from dox_core_store.server.usecases.key_rejected import WINDOW_SECONDS, KeyRejections, Rejection

CALLER = Caller("jules", (), "req_7", "192.0.2.7", "test", "tok_1", "mine")


class Rejecting(World):
    """A world with two versions of ``a.b``, and what its log was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told_of: list[dict[str, Any]] = []
        self.key("a.b", "old", State.PREVIOUS)
        self.key("a.b", "new")
        self.rejections = KeyRejections(
            decisions=self.decisions,
            feed=self.feed,
            catalog=self.catalog,
            ledger=self.ledger,
            clock=self.clock,
            stamp=lambda: "t",
            notice=self._notice,
        )

    def _notice(self, event: str, **said: object) -> None:
        assert event == "key_rejected"
        self.told_of.append(said)

    async def reject(
        self, version_id: str = "a.b#2", path: str = "a.b", reason: str | None = None
    ) -> Rejection:
        return await self.rejections.reject(self.jules, CALLER, path, version_id, reason)

    @property
    def counts(self) -> list[object]:
        return [said["count"] for said in self.told_of]


def in_a_world(test: Callable[[Rejecting], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def live() -> None:
            world = Rejecting()
            await world.start()
            await test(world)

        asyncio.run(live())

    run.__name__ = test.__name__
    return run


@in_a_world
async def test_what_was_said_is_on_record_before_it_is_answered(world: Rejecting) -> None:
    told = await world.reject(reason="401")
    assert (*told.address, told.rejected_version, told.other_version) == ("a.b", "production", 2, 1)
    ((entry,),) = world.ledger.commits
    assert (entry.action, entry.status, entry.reason) == ("REJECT", "REPORTED", "401")
    assert (entry.service_name, entry.token_id) == ("jules", "tok_1")
    assert (entry.request_id, entry.correlation_id) == ("req_7", "mine")
    assert (entry.key_path, entry.environment) == ("a.b.production", "production")
    assert entry.version == 2
    assert world.values.opened == 0


@in_a_world
async def test_nothing_is_told_or_counted_when_the_ledger_refuses(world: Rejecting) -> None:
    world.ledger.fault = StoreUnavailableError("ledger_unavailable", "full")
    assert isinstance(await refusal(world.reject()), StoreUnavailableError)
    assert (world.told_of, world.rejections.count) == ([], 0)


@in_a_world
async def test_whoever_may_not_read_is_answered_as_for_a_read(world: Rejecting) -> None:
    world.key("x.y", "value")
    world.key("a.gone", "value", State.REVOKED)
    for path in ("x.y", "x.none", "a.none", "a.gone", "a..b", "_store.x"):
        rejected, read = await refusal(world.reject(path=path)), await refusal(world.read(path))
        assert type(rejected) is type(read), path
        assert (rejected.code, rejected.detail) == (read.code, read.detail)
    assert all(entry.action == "GET" for entry in world.ledger.entries)
    assert world.told_of == []


@pytest.mark.parametrize(
    ("state", "days", "other"),
    [
        (State.PREVIOUS, 1, 1),
        (State.PREVIOUS, None, 1),
        (State.PREVIOUS, -1, None),
        (State.PREVIOUS, 0, None),
        (State.RETIRED, None, None),
        (State.REVOKED, None, None),
        (State.DESTROYED, None, None),
        (State.PENDING, None, None),
    ],
)
def test_the_other_version_is_one_that_can_be_read_by_number(
    state: State, days: int | None, other: int | None
) -> None:
    async def live() -> None:
        world = Rejecting()
        ends = None if days is None else world.clock.now() + timedelta(days=days)
        world.key("a.c", "old", state, expires_at=ends)
        world.key("a.c", "new")
        await world.start()
        told = await world.reject("a.c#2", "a.c")
        assert told.other_version == other
        read = world.read("a.c", 1)
        assert (other is None) == (await readable(read) is None)
        if state is State.PENDING:  # it was handed to nobody
            assert (await refusal(world.reject("a.c#1", "a.c"))).code == "version_not_found"

    asyncio.run(live())


async def readable(reading: Awaitable[bytes]) -> bytes | None:
    try:
        return await reading
    except Exception:  # noqa: BLE001 - whatever refuses it
        return None


@in_a_world
async def test_a_storm_is_a_line_at_once_and_one_each_minute(world: Rejecting) -> None:
    for _ in range(500):
        await world.reject(reason="first")
    await world.rejections.tell_due()
    assert world.counts == [1]
    world.clock.advance(WINDOW_SECONDS)
    await world.reject(reason="latest")
    assert world.counts == [1]
    await world.rejections.tell_due()
    await world.rejections.tell_due()
    assert world.counts == [1, 500]
    assert [said["reason"] for said in world.told_of] == ["first", "latest"]
    world.clock.advance(WINDOW_SECONDS)
    await world.rejections.tell_due()  # nothing since: it is forgotten, and the next is a first one
    assert world.counts == [1, 500]
    await world.reject()
    assert world.counts == [1, 500, 1]
    assert world.rejections.count == 502
    assert len(world.ledger.commits) == 502


@in_a_world
async def test_each_version_is_told_for_itself_and_a_reason_is_cut(world: Rejecting) -> None:
    await world.reject("a.b#2", reason="r" * 1_000)
    await world.reject("a.b#1")
    assert [(said["version"], said["reason"]) for said in world.told_of] == [
        (2, "r" * 200),
        (1, ""),
    ]


@in_a_world
async def test_what_is_remembered_is_bounded_and_nothing_is_lost(
    world: Rejecting,
) -> None:
    limit = "dox_core_store.server.usecases.key_rejected._MAX_FOLDED"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limit, 1)
        for version_id in ("a.b#2", "a.b#2", "a.b#2", "a.b#1"):
            await world.reject(version_id)
    assert [(said["version"], said["count"]) for said in world.told_of] == [(2, 1), (1, 1), (2, 2)]
