"""`LedgerCalls`: the ledger, searched, summed up and exported. Reading it is itself on record."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime

from msgspec.structs import replace

from dox_core_store import wire
from dox_core_store.client.operator_calls import OperatorCalls, as_utc
from dox_core_store.client.protocol import check_spelling

__all__ = ["LedgerCalls"]


class LedgerCalls(OperatorCalls):
    """Calls about the ledger. What takes many pages tells of each by ``on_page``: a page may hold
    nothing, where little matches."""

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
        on_page: Callable[[], None] | None = None,
    ) -> AsyncIterator[wire.LedgerRecord]:
        """Ledger entries that match every given filter, newest first."""
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
            on_page=on_page,
        )

    async def who_was_handed(
        self,
        key_path: str,
        since: datetime,
        environment: str | None = None,
        *,
        on_page: Callable[[], None] | None = None,
    ) -> wire.HandedPage:
        """Who was handed a key since a time, and until when each could serve it; all pages put
        together, who was handed it last first."""
        check_spelling(key_path)
        query = {"key_path": key_path, "environment": environment, "since": as_utc(since)}
        whole: wire.HandedPage | None = None
        while True:
            cursor = None if whole is None else whole.next_cursor
            page = await self._call(
                "GET", "/v1/ledger/since", None, wire.HandedPage, query={**query, "cursor": cursor}
            )
            if on_page is not None:
                on_page()
            whole = page if whole is None else _together(whole, page)
            if whole.next_cursor is None:
                return whole

    async def checkpoint_key(self) -> wire.CheckpointKey:
        """The public key of the ledger's checkpoints. Keep a copy apart from the store."""
        path = "/.well-known/checkpoint-key.json"
        return await self._call("GET", path, None, wire.CheckpointKey)

    def export_ledger(self) -> AsyncIterator[bytes]:
        """The whole ledger as JSON lines, byte for byte as sent, so its hashes can be checked."""
        return self._lines("/v1/ledger/export", {})


def _together(first: wire.HandedPage, second: wire.HandedPage) -> wire.HandedPage:
    """Two pages as one."""
    return replace(
        second,
        items=_folded([*first.items, *second.items]),
        reported=first.reported + second.reported,
    )


def _folded(readers: Iterable[wire.Handed]) -> list[wire.Handed]:
    found: dict[tuple[str, str | None, str, str | None], wire.Handed] = {}
    for each in readers:
        name = (each.service_name, each.token_id, each.ip_address, each.environment)
        known = found.get(name)
        found[name] = each if known is None else _sum(known, each)
    return sorted(found.values(), key=lambda each: each.last_handed_at, reverse=True)


def _sum(one: wire.Handed, other: wire.Handed) -> wire.Handed:
    return replace(
        one,
        versions=sorted({*one.versions, *other.versions}),
        first_handed_at=min(one.first_handed_at, other.first_handed_at),
        last_handed_at=max(one.last_handed_at, other.last_handed_at),
        count=one.count + other.count,
        reasons=dict(Counter(one.reasons) + Counter(other.reasons)),
        may_serve_until=max(one.may_serve_until, other.may_serve_until),
    )
