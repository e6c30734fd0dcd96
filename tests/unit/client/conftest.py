"""The other side for the client's tests. Base installation and pytest only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scripted_store import ScriptedStore, token

from dox_core_store import KeyClient

JULES = "service_keys.jules_api"


@pytest.fixture
def store() -> Iterator[ScriptedStore]:
    """A store with the product page's keys that the tests use."""
    with ScriptedStore() as scripted:
        scripted.values = {
            (JULES, "production"): (1, "value-of-jules-in-production"),
            (JULES, "staging"): (1, "value-of-jules-in-staging"),
            ("database_connections.postgres_main", "production"): (3, "value-of-postgres"),
            ("external_apis.google_services.maps_api", "production"): (2, "value-of-maps"),
        }
        yield scripted


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "KEY_SERVICE_URL",
        "KEY_SERVICE_TIMEOUT",
        "KEY_SERVICE_CA_FILE",
        "SERVICE_TOKEN",
        "SERVICE_TOKEN_FILE",
        "SERVICE_KEY",
        "SERVICE_KEY_FILE",
        "KEY_SERVICE_OUTAGE_DIR",
        "ADMIN_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(store: ScriptedStore) -> KeyClient:
    """A client of ``store``, as the service ``jules-mcp``, that asks for nothing by itself."""
    return KeyClient("jules-mcp", token(), store.url, follow=False)
