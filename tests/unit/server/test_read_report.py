"""What clients report: one commit, claims that count as use, and that count once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.unit.server.asking import Asking
from tests.unit.server.test_reveal import World, refusal

from dox_core_store import wire
from dox_core_store.errors import StoreUnavailableError
from dox_core_store.server.adapters.sql.ledger import HandedOver, SqlLedger
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.ledger import Entry
from dox_core_store.server.ports import Committed
from dox_core_store.server.usecases.read_report import ReadReports
from dox_core_store.server.usecases.refusals import Refusals
from dox_core_store.testing.clock import FixedClock

CALLER = Caller("jules", (), "req_7", "192.0.2.7", "test", "tok_1", None)


class Reporting(World):
    def __init__(self) -> None:
        super().__init__()
        self.reports = ReadReports(
            default_environment="production",
            registry=self.registry,
            ledger=self.ledger,
            refusals=Refusals(ledger=self.ledger),
            clock=self.clock,
            stamp=lambda: "t",
        )

    def row(self, **changed: Any) -> wire.ReadCount:
        now = self.clock.now()
        said = {
            "key_path": "a.b",
            "environment": "production",
            "version": 1,
            "source": "cache",
            "count": 3,
            "since": now - timedelta(minutes=1),
            "until": now,
        }
        return wire.ReadCount(**(said | changed))

    async def take(self, reads: Sequence[wire.ReadCount]) -> int:
        return await self.reports.take(self.jules, CALLER, reads)


def test_all_rows_are_one_commit_and_a_bad_one_is_none() -> None:
    async def live() -> None:
        world = Reporting()
        await world.start()
        assert await world.take([world.row(), world.row(source="outage")] * 100) == 200
        assert [len(commit) for commit in world.ledger.commits] == [200]
        bad = world.row(until=world.clock.now() + timedelta(seconds=61))
        assert (await refusal(world.take([world.row(), bad]))).code == "invalid_field"
        world.ledger.fault = StoreUnavailableError("ledger_unavailable", "full")
        assert (await refusal(world.take([world.row()]))).code == "ledger_unavailable"
        assert len(world.ledger.entries) == 200

    asyncio.run(live())


def test_a_detail_names_the_row() -> None:
    async def live() -> None:
        world = Reporting()
        await world.start()
        error = await refusal(world.take([world.row(), world.row(key_path="a..b")]))
        assert error.detail == "reads[1]: 'a..b' is not a key path."

    asyncio.run(live())


# --- on a real store ----------------------------------------------------------------------------


def report(asking: Asking, **changed: Any) -> None:
    row = {
        "key_path": "a.b",
        "environment": "production",
        "version": 1,
        "source": "cache",
        "count": 3,
        "since": "2025-01-01T00:00:00Z",
        "until": "2025-01-01T00:00:00Z",
    }
    told = asking("POST", "/v1/reports", {"reads": [row | changed]}, token=asking.service)
    assert (told.status, told.json) == (200, {"taken": 1})


@pytest.mark.parametrize("source", ["cache", "outage"])
def test_what_a_client_answered_shows_that_the_key_is_needed(asking: Asking, source: str) -> None:
    """Its own requests are refreshes by then, which show nothing."""
    assert asking("PUT", "/v1/keys/a.b", {"value": "x"}).status == 201
    (readers,) = asking("GET", "/v1/access/keys/a.b").json["services"]
    assert readers["last_called_at"] is None
    report(asking, source=source)
    asking.index()
    (readers,) = asking("GET", "/v1/access/keys/a.b").json["services"]
    called = datetime.fromisoformat(readers["last_called_at"])
    assert abs(called - datetime.now(UTC)) < timedelta(minutes=10)  # ours, not what it says
    read = asking("GET", "/v1/keys/a.b/description").json["last_read_at"]
    assert datetime.fromisoformat(read) == called
    unused = asking("GET", "/v1/access/unused?days=1").json
    assert unused["items"] == []


def test_what_was_refused_though_written_is_told_again_and_counts_once(asking: Asking) -> None:
    """The ledger was too slow: the client got 503, and will report the same reads once more."""
    assert asking("PUT", "/v1/keys/a.b", {"value": "x"}).status == 201
    report(asking)
    lost = Entry(
        timestamp="2025-01-01T00:00:00.000Z",
        service_name="model",
        key_path="a.b.production",
        action="GET",
        status="REPORTED",
        request_id="req_lost",
        ip_address="",
        user_agent="",
        environment="production",
        version=1,
        reason="cache",
        count=3,
    )
    asking.record(lost)
    asking.record(lost._replace(status="ABORTED"))
    since = "/v1/ledger/since?key_path=a.b&since=2020-01-01T00:00:00Z"
    assert asking("GET", since).json["reported"] == 3


def test_a_report_that_is_written_too_late_is_taken_back() -> None:
    class Written:
        """A writer that takes its time."""

        def __init__(self) -> None:
            self.entries: list[Entry] = []

        def append(self, waiting: HandedOver) -> None:
            self.entries += waiting.entries

        def wake(self) -> None: ...

    async def live() -> None:
        clock, written = FixedClock(), Written()
        ledger = SqlLedger(clock=clock)
        ledger.attach(written)
        entry = Entry("t", "s", "a.b.production", "GET", "REPORTED", "req_1", "", "", count=3)
        committed = ledger.commit((entry,))
        clock.advance(60)
        ledger._tick()
        assert isinstance(committed.exception(), StoreUnavailableError)
        ledger._settle(1, Committed(0, 0.0), None)
        assert [(each.status, each.count) for each in written.entries] == [
            ("REPORTED", 3),
            ("ABORTED", 3),
        ]

    asyncio.run(live())
