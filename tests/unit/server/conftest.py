"""A real store for tests that ask one without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.server.asking import Asking, MovedClock

from dox_core_store.server.bootstrap import node


@pytest.fixture
def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    monkeypatch.setattr(node, "SystemClock", MovedClock)
    monkeypatch.setattr(MovedClock, "ahead_minutes", 0)
    with asyncio.Runner() as runner:
        asking = Asking(tmp_path, runner)
        yield asking
        asking.stop()
