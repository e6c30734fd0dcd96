"""A node in front of AWS has values at hand before anybody asks: fetched in batches at start."""

from __future__ import annotations

import secrets
import urllib.request
from collections.abc import Iterator

import pytest
from tests.functional.cluster import until
from tests.functional.real_servers import Moto
from tests.functional.running import RunningStore

KEYS = 45
BATCHES = 3


class Recorder:
    """What moto is asked for from now on."""

    def __init__(self, moto: Moto) -> None:
        self._url = f"{moto.url}/moto-api/recorder"

    def act(self, what: str) -> None:
        request = urllib.request.Request(f"{self._url}/{what}-recording", method="POST")
        urllib.request.urlopen(request, timeout=10).close()

    def count(self, action: str) -> int:
        with urllib.request.urlopen(f"{self._url}/download-recording", timeout=10) as answer:
            return int(answer.read().count(f"secretsmanager.{action}".encode()))


@pytest.fixture
def recorder(moto: Moto) -> Iterator[Recorder]:
    made = Recorder(moto)
    made.act("start")
    yield made
    made.act("stop")


def test_values_are_at_hand_before_they_are_asked_for(
    idle_store: RunningStore, moto: Moto, recorder: Recorder
) -> None:
    prefix = f"warm-{secrets.token_hex(4)}"
    idle_store.environment |= {
        **moto.environment,
        "DOXSTORE_VAULT": f"aws://eu-central-1/{prefix}?endpoint={moto.url}",
    }
    idle_store.start()
    for number in range(KEYS):
        idle_store.put(f"warm.key{number}", f"value-{number}")
    idle_store.stop()
    before = recorder.count("BatchGetSecretValue")
    idle_store.start()
    until(
        lambda: recorder.count("BatchGetSecretValue") >= before + BATCHES, "it fetches in batches"
    )
    asked = recorder.count("GetSecretValue")
    for number in range(KEYS):
        assert idle_store.get(f"warm.key{number}").json["value"] == f"value-{number}"
    # The last batch may still have been on its way.
    assert recorder.count("GetSecretValue") - asked <= KEYS // BATCHES + 5
