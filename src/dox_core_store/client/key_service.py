"""`KeyService`: the operators' client, for people's scripts, pipelines and the command line.

Each method is one call, named as in the HTTP interface; lists are asynchronous iterators that
fetch page after page. Nothing is cached and nothing is repeated: an operator wants to know what
the store says now, and whether a change was made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from dox_core_store import wire
from dox_core_store.client.access_calls import AccessCalls
from dox_core_store.client.key_calls import KeyCalls

__all__ = ["KeyService"]


class KeyService(AccessCalls, KeyCalls):
    """Every operator's call: services and grants, keys and imports, and the ledger.

    ``KeyService(url=None, token=None)``: what is not given comes from ``KEY_SERVICE_URL``,
    ``ADMIN_TOKEN``, ``KEY_SERVICE_TIMEOUT`` and ``KEY_SERVICE_CA_FILE``.
    """

    def search_ledger(
        self,
        *,
        service_name: str | None = None,
        key_path: str | None = None,
        prefix: str | None = None,
        environment: str | None = None,
        action: str | None = None,
        status: str | None = None,
        token_id: str | None = None,
        ip_address: str | None = None,
        request_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int | None = None,
    ) -> AsyncIterator[wire.LedgerRecord]:
        """Ledger entries that match every given filter, newest first. Reading them is on record."""
        return self._pages(
            "/v1/ledger",
            wire.Page[wire.LedgerRecord],
            {
                "service_name": service_name,
                "key_path": key_path,
                "prefix": prefix,
                "environment": environment,
                "action": action,
                "status": status,
                "token_id": token_id,
                "ip_address": ip_address,
                "request_id": request_id,
                "since": since,
                "until": until,
                "limit": page_size,
            },
        )

    async def checkpoint_key(self) -> wire.CheckpointKey:
        """The public key of the ledger's checkpoints. Keep a copy apart from the store."""
        path = "/.well-known/checkpoint-key.json"
        return await self._call("GET", path, None, wire.CheckpointKey)

    def export_ledger(self) -> AsyncIterator[bytes]:
        """The whole ledger as JSON lines, byte for byte as sent, so its hashes can be checked."""
        return self._lines("/v1/ledger/export", {})
