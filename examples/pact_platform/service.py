"""A small service of the example platform, written as on the product page.

Start a store with `make run`, then in another terminal:

    . .doxstore/dev.env
    .venv/bin/python examples/pact_platform/service.py

`SERVICE_TOKEN` and `KEY_SERVICE_URL` are all it needs. It never prints a key's value.
"""

from __future__ import annotations

import asyncio
import os
import sys

from dox_core_store import KeyClient
from dox_core_store.errors import DoxStoreError, UnauthorizedError

JULES_KEY = "service_keys.jules_api.production"
SOMEBODY_ELSES_KEY = "database_connections.postgres_main"


class JulesMCPService:
    def __init__(self):
        # Authenticate service with JWT
        self.key_client = KeyClient(
            service_name="jules-mcp",
            service_token=os.getenv("SERVICE_TOKEN"),
        )

    async def get_jules_api_key(self):
        """Get Jules API key with automatic caching."""
        return await self.key_client.get_key(
            key_path=JULES_KEY,
            cache_ttl=3600,  # Cache for 1 hour
        )

    async def generate_code(self):
        """Where a real service would call the Jules API with `key.value`."""
        key = await self.get_jules_api_key()
        print(f"fetched {JULES_KEY} version {key.version} from the {key.source} (value hidden)")


async def main():
    jules_service = JulesMCPService()
    health = await jules_service.key_client.health_check()
    if not health.is_healthy:
        print(f"the key service is not healthy: {health}", file=sys.stderr)
        return 1
    await jules_service.generate_code()
    await jules_service.generate_code()  # no request: the client has it
    try:
        await jules_service.key_client.get_key(SOMEBODY_ELSES_KEY)
    except UnauthorizedError as error:
        print(f"refused, as it should be: {error}")
        return 0
    print(f"{SOMEBODY_ELSES_KEY} was handed out to jules-mcp", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        code = asyncio.run(main())
    except DoxStoreError as error:
        code = f"{error.code}: {error}"
    sys.exit(code)
