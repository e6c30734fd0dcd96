"""The product page's code, verbatim; around it only the imports and the event loop it omits."""

from __future__ import annotations

import ast
import asyncio
import os
from typing import Any

import pytest
from scripted_store import Response, ScriptedStore, token

from dox_core_store import KeyClient, KeyService

JULES_MCP_SERVICE = '''
# Example: jules-mcp service accessing Jules API key
from dox_core_store import KeyClient

class JulesMCPService:
    def __init__(self):
        # Authenticate service with JWT
        self.key_client = KeyClient(
            service_name="jules-mcp",
            service_token=os.getenv("SERVICE_TOKEN")
        )

    async def get_jules_api_key(self):
        """Get Jules API key with automatic caching"""
        key = await self.key_client.get_key(
            key_path="service_keys.jules_api.production",
            cache_ttl=3600  # Cache for 1 hour
        )
        return key.value

# Usage
jules_service = JulesMCPService()
jules_api_key = await jules_service.get_jules_api_key()
'''

NEW_SERVICE = """
# In your service code
class NewService:
    def __init__(self):
        self.key_client = KeyClient(
            service_name="new-service-name",
            service_token=os.getenv("SERVICE_TOKEN")
        )

    async def initialize(self):
        # Get all required keys
        self.db_url = await self.key_client.get_key("database_connections.postgres_main")
        self.google_key = await self.key_client.get_key("external_apis.google_services.maps_api")
"""

API_REFERENCE = """
# Get single key
key = await key_client.get_key("service_keys.jules_api.production")

# Get multiple keys
keys = await key_client.get_keys([
    "service_keys.jules_api.production",
    "database_connections.postgres_main"
])

# Get with caching
key = await key_client.get_key(
    "service_keys.jules_api.production",
    cache_ttl=3600  # Cache for 1 hour
)

# Clear cache
await key_client.clear_cache("service_keys.jules_api.production")

# Verify key service is accessible
health = await key_client.health_check()
if not health.is_healthy:
    # Handle key service outage
    pass
"""

REGISTRATION = """
# Register service with key management
await key_service.register_service(
    service_name="new-service-name",
    description="Service for X functionality",
    required_keys=[
        "database_connections.postgres_main",
        "external_apis.google_services.maps_api"
    ]
)
"""

MIGRATION = """
# Script to migrate keys to central storage
async def migrate_service_keys(service_name: str):
    keys_found = extract_keys_from_env_files()

    for key_name, key_value in keys_found.items():
        await key_service.store_key(
            key_path=f"{service_name}.{key_name}",
            value=key_value,
            environment="production"
        )
"""


async def _run(source: str, **names: Any) -> dict[str, Any]:
    code = compile(source, "product page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, names)  # noqa: S307  # this file's own text
    if running is not None:
        await running
    return names


@pytest.fixture
def _deployed(store: ScriptedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_SERVICE_URL", store.url)
    monkeypatch.setenv("KEY_SERVICE_TIMEOUT", "5000")
    monkeypatch.setenv("ADMIN_TOKEN", token("operator:alice"))


@pytest.mark.usefixtures("_deployed")
def test_the_page_of_jules_mcp_prints_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", token("jules-mcp"))
    names = asyncio.run(_run(JULES_MCP_SERVICE, os=os))
    assert names["jules_api_key"] == "value-of-jules-in-production"


@pytest.mark.usefixtures("_deployed")
def test_a_new_service_initializes_as_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", token("new-service-name"))
    source = NEW_SERVICE + "service = NewService()\nawait service.initialize()\n"
    service = asyncio.run(_run(source, os=os, KeyClient=KeyClient))["service"]
    assert service.db_url.value == "value-of-postgres"
    assert service.google_key.value == "value-of-maps"


@pytest.mark.usefixtures("_deployed")
def test_the_api_reference_of_the_page_works(store: ScriptedStore) -> None:
    ready = {"status": "ok", "store_id": "st_scripted", "version": "1", "checks": {}}
    store.on("GET", "/v1/ready", Response(200, ready))
    client = KeyClient("jules-mcp", token())
    names = asyncio.run(_run(API_REFERENCE, key_client=client))
    assert names["key"].value == "value-of-jules-in-production"
    assert {path: key.value for path, key in names["keys"].items()} == {
        "service_keys.jules_api.production": "value-of-jules-in-production",
        "database_connections.postgres_main": "value-of-postgres",
    }
    assert names["health"].is_healthy


@pytest.mark.usefixtures("_deployed")
def test_registration_sends_what_the_page_says(store: ScriptedStore) -> None:
    made = {
        "service_name": "new-service-name",
        "description": "Service for X functionality",
        "environment": None,
        "status": "active",
        "limit": "600/min",
        "burst": 600,
        "generation": 1,
        "created_at": "2025-11-04T13:30:00Z",
    }
    store.on("POST", "/v1/services", Response(201, made))
    asyncio.run(_run(REGISTRATION, key_service=KeyService()))
    (request,) = store.requests
    assert request.json == {
        "service_name": "new-service-name",
        "description": "Service for X functionality",
        "required_keys": [
            "database_connections.postgres_main",
            "external_apis.google_services.maps_api",
        ],
        "environment": None,
        "reason": None,
    }
    assert request.headers["authorization"].startswith("Bearer ey")


@pytest.mark.usefixtures("_deployed")
def test_migration_stores_every_key_it_found(store: ScriptedStore) -> None:
    written = {
        "key_path": "new-service.API_KEY",
        "environment": "production",
        "version": 1,
        "version_id": "0" * 32,
        "state": "current",
        "expires_at": None,
    }
    store.on("PUT", "/v1/keys/new-service.API_KEY", Response(201, written))
    found = {"API_KEY": 'line one\nline "two"\n'}
    source = MIGRATION + 'await migrate_service_keys("new-service")\n'
    asyncio.run(_run(source, key_service=KeyService(), extract_keys_from_env_files=lambda: found))
    (request,) = store.requests
    assert request.json["value"] == found["API_KEY"]
    assert request.json["environment"] == "production"
