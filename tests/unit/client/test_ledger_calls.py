"""The ledger over the operators' client: pages are put together, and each is told of."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import pytest
from scripted_store import Request, Response, ScriptedStore, token

from dox_core_store import InvalidRequestError, KeyService
from dox_core_store.wire import HandedPage, LedgerRecord

NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def service(store: ScriptedStore) -> KeyService:
    return KeyService(store.url, token("operator:alice"))


def handed(name: str, first: int, last: int, **changed: Any) -> dict[str, Any]:
    def at(day: int) -> str:
        return f"2027-01-{day:02d}T00:00:00Z"

    return {
        "service_name": name,
        "token_id": "tok_1",
        "ip_address": "10.0.0.1",
        "environment": "production",
        "versions": [1],
        "first_handed_at": at(first),
        "last_handed_at": at(last),
        "count": 1,
        "reasons": {"call": 1},
        "may_serve_until": at(last + 1),
        "token_lives": True,
        **changed,
    }


def pages(store: ScriptedStore, target: str, *bodies: dict[str, Any]) -> None:
    def page(request: Request) -> Response:
        number = int(dict(parse_qsl(request.target.partition("?")[2])).get("cursor", "0"))
        following = str(number + 1) if number + 1 < len(bodies) else None
        return Response(200, {**bodies[number], "next_cursor": following})

    store.on("GET", target, page)


def page_of(*items: dict[str, Any], reported: int = 0) -> dict[str, Any]:
    return {
        "key_path": "a.b",
        "environment": None,
        "since": "2027-01-01T00:00:00Z",
        "items": list(items),
        "reported": reported,
        "cache_ttl_ceiling_seconds": 3600,
        "outage_grace_seconds": 3600,
    }


def test_who_was_handed_a_key_is_added_up_over_all_pages(
    store: ScriptedStore, service: KeyService
) -> None:
    pages(
        store,
        "/v1/ledger/since",
        page_of(handed("jules", 8, 9, versions=[3], reasons={"refresh": 1}), reported=1),
        page_of(handed("jules", 2, 7, count=4), handed("other", 6, 6), reported=2),
        page_of(handed("jules", 1, 1, ip_address="10.0.0.2"), handed("other", 3, 3)),
    )
    told: list[int] = []

    async def asked() -> HandedPage:
        return await service.who_was_handed("a.b", NEW_YEAR, on_page=lambda: told.append(1))

    found = asyncio.run(asked())
    assert len(told) == 3
    assert (found.reported, found.next_cursor) == (3, None)
    jules, other, elsewhere = found.items
    assert (jules.service_name, jules.count, jules.versions) == ("jules", 5, [1, 3])
    assert (jules.first_handed_at.day, jules.last_handed_at.day) == (2, 9)
    assert (jules.reasons, jules.may_serve_until.day) == ({"refresh": 1, "call": 1}, 10)
    assert (other.count, other.first_handed_at.day, other.last_handed_at.day) == (2, 3, 6)
    assert (elsewhere.ip_address, elsewhere.count) == ("10.0.0.2", 1)


def test_a_page_of_a_search_without_a_match_is_gone_past(
    store: ScriptedStore, service: KeyService
) -> None:
    record = {
        **dict.fromkeys(LedgerRecord.__struct_fields__, ""),
        **dict.fromkeys(("environment", "version", "token_id", "correlation_id", "reason")),
        **dict.fromkeys(("seq", "count", "format"), 1),
    }
    pages(store, "/v1/ledger", {"items": []}, {"items": []}, {"items": [record]})
    told: list[int] = []

    async def found() -> list[LedgerRecord]:
        search = service.search_ledger(status="LIMITED", on_page=lambda: told.append(1))
        return [each async for each in search]

    assert len(asyncio.run(found())) == 1
    assert len(told) == 3


def test_a_path_that_no_store_knows_is_not_asked_for(
    store: ScriptedStore, service: KeyService
) -> None:
    with pytest.raises(InvalidRequestError):
        asyncio.run(service.who_was_handed("../a", NEW_YEAR))
    assert store.requests == []
