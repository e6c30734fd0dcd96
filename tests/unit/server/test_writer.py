"""What was handed to the ledger is written, also by a node that is told to stop."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from dox_core_store.server.adapters.clock import SystemClock
from dox_core_store.server.bootstrap.embedded import Embedded
from dox_core_store.server.bootstrap.local import init_store
from dox_core_store.server.domain.ledger import Entry, parse_canonical
from dox_core_store.server.settings import Settings

MORE_THAN_ONE_COMMIT = 5_000


def test_stopping_writes_all_that_waits_before_the_stream_is_closed(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path / "data"), key_file=str(tmp_path / "root.key"))
    init_store(settings, operator="admin", roles=["admin"])

    async def hand_over_and_stop() -> None:
        embedded = Embedded(
            settings,
            clock=SystemClock(),
            alarm=lambda _table, _row: None,
            on_death=lambda _error: None,
            report=lambda error, _where: pytest.fail(repr(error)),
            notice=lambda _event, _detail: None,
        )
        await embedded.start()
        for number in range(MORE_THAN_ONE_COMMIT):
            embedded.ledger.record(
                Entry(
                    timestamp="2025-11-04T13:30:00.000Z",
                    service_name="flood",
                    key_path="a.b",
                    action="GET",
                    status="DENIED",
                    request_id=f"req_{number}",
                    ip_address="",
                    user_agent="",
                )
            )
        embedded.writer.stop()  # before the loop had a chance to wake it
        await embedded.stop()

    asyncio.run(hand_over_and_stop())
    with sqlite3.connect(tmp_path / "data" / "store.db") as database:
        bodies = [row[0] for row in database.execute("SELECT body FROM ledger_block")]
    entries = [parse_canonical(line)[0] for body in bodies for line in body.split(b"\n")]
    told = [each.request_id for each in entries if each.service_name == "flood"]
    assert told == [f"req_{number}" for number in range(MORE_THAN_ONE_COMMIT)]
    assert entries[-1].action == "CLOSE"
