"""A node that begins anew waits for its database; one that was only just started does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.functional.running import free_port

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.bootstrap import serving
from dox_core_store.server.bootstrap.backing import BeginAnewError
from dox_core_store.server.settings import Settings

AWAY = ConfigurationError("database_unreachable", "It does not answer.")
DAMAGED = ConfigurationError("store_damaged", "It is not what it was.")


class Starting:
    """Stands for nodes, the first of which starts as the first of ``outcomes`` says."""

    def __init__(self, *outcomes: Exception) -> None:
        self.left = list(outcomes)

    async def start(self) -> None:
        raise self.left.pop(0)


def serve(monkeypatch: pytest.MonkeyPatch, *outcomes: Exception) -> tuple[str, int]:
    """The code of what it ended with, and how many outcomes were left."""
    monkeypatch.setattr(serving, "_RETRY_SECONDS", 0)
    starting: Any = Starting(*outcomes)
    with pytest.raises(ConfigurationError) as ended:
        asyncio.run(serving._serve(Settings(port=free_port()), lambda: starting))
    return ended.value.code, len(starting.left)


def test_a_first_start_says_that_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serve(monkeypatch, AWAY, DAMAGED) == ("database_unreachable", 1)


def test_a_node_that_begins_anew_waits_for_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    anew = BeginAnewError("its stream was closed")
    assert serve(monkeypatch, anew, AWAY, anew, AWAY, AWAY, DAMAGED) == ("store_damaged", 0)
