"""`KeyService`: each method is the call that the HTTP interface documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import pytest
from scripted_store import Request, Response, ScriptedStore, token

from dox_core_store import (
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    DoxStoreError,
    InvalidRequestError,
    KeyService,
)
from dox_core_store.sensitive import Sensitive
from dox_core_store.wire import ImportEntry

T = TypeVar("T")
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)

WRITTEN = {
    "key_path": "a.b",
    "environment": "production",
    "version": 2,
    "version_id": "0" * 32,
    "state": "current",
    "expires_at": None,
}
DESCRIBED = {
    "key_path": "a.b",
    "environment": "production",
    "version": None,
    "state": "pending",
    "owner": None,
    "usage": None,
    "created_at": "2026-01-01T00:00:00Z",
    "rotated_at": None,
    "last_read_at": None,
    "expires_at": None,
    "keep_versions": None,
    "unverified_since": None,
    "versions": [],
}
SERVICE = {
    "service_name": "jules-mcp",
    "description": "",
    "environment": None,
    "status": "active",
    "limit": "600/min",
    "burst": 600,
    "generation": 1,
    "created_at": "2026-01-01T00:00:00Z",
}
GRANT = {
    "grant_id": "g1",
    "service_name": "jules-mcp",
    "pattern": "a.*",
    "environment": "production",
    "effect": "allow",
    "created_at": "2026-01-01T00:00:00Z",
    "created_by": "operator:alice",
}
ISSUED = {
    "token": "the-new-token",
    "token_type": "Bearer",
    "token_id": "t1",
    "service_name": "jules-mcp",
    "environment": "production",
    "expires_at": "2027-01-01T00:00:00Z",
}
TOKEN = {
    "token_id": "tok_1",
    "kind": "service",
    "name": "jules-mcp",
    "environment": "production",
    "status": "live",
    "issued_by": "operator:alice",
    "issued_at": "2026-01-01T00:00:00Z",
    "expires_at": "2027-01-01T00:00:00Z",
    "revoked_at": None,
    "last_used_at": None,
    "addresses": [],
    "key_thumbprint": None,
    "signing_key": "k1",
}
IMPORTED = {"import_id": "i1", "status": "open", "created": 0, "replaced": 0, "unchanged": 0}
ENVIRONMENT = {"name": "qa", "is_default": False}


@pytest.fixture
def service(store: ScriptedStore) -> KeyService:
    return KeyService(store.url, token("operator:alice"))


CALLS: list[tuple[Callable[[KeyService], Awaitable[object]], str, str, Any, int, Any]] = [
    (lambda s: s.issue_token("jules-mcp", expires_in="1y"), "POST", "/tokens",
     {"service_name": "jules-mcp", "expires_in": "1y", "environment": None, "addresses": [],
      "key_thumbprint": None, "reason": None}, 201, ISSUED),
    (lambda s: s.issue_token("jules-mcp", addresses=["10.0.0.0/8"], key_thumbprint="k" * 43,
                             reason="new"), "POST",
     "/tokens", {"service_name": "jules-mcp", "expires_in": "90d", "environment": None,
      "addresses": ["10.0.0.0/8"], "key_thumbprint": "k" * 43, "reason": "new"}, 201, ISSUED),
    (lambda s: s.describe_token("tok_1"), "GET", "/v1/tokens/tok_1", None, 200, TOKEN),
    (lambda s: s.rotate_signing_key(compromised=True, kid="k1", reason="leak"), "POST",
     "/v1/signing-keys/rotate", {"compromised": True, "kid": "k1", "reason": "leak"}, 200,
     {"kid": "k2", "retired": None, "compromised": "k1", "tokens_ended": 3}),
    (lambda s: s.revoke_token("t1", "lost"), "POST", "/v1/tokens/t1/revoke",
     {"reason": "lost"}, 204, None),
    (lambda s: s.set_limit("jules-mcp", "1000000/s"), "PUT", "/v1/services/jules-mcp/limit",
     {"limit": "1000000/s", "burst": None, "reason": None}, 200, SERVICE),
    (lambda s: s.decommission_service("jules-mcp"), "POST", "/v1/services/jules-mcp/decommission",
     {"reason": None}, 200, SERVICE),
    (lambda s: s.revoke_service_tokens("jules-mcp"), "POST",
     "/v1/services/jules-mcp/revoke-tokens", {"reason": None}, 200, SERVICE),
    (lambda s: s.add_grant("jules-mcp", "a.*"), "POST", "/v1/grants",
     {"service_name": "jules-mcp", "pattern": "a.*", "environment": None, "effect": "allow",
      "reason": None}, 201, GRANT),
    (lambda s: s.remove_grant("../g 1", "not used"), "DELETE",
     "/v1/grants/..%2Fg%201?reason=not+used", None, 204, None),
    (lambda s: s.add_environment("qa"), "POST", "/v1/environments",
     {"name": "qa", "reason": None}, 201, ENVIRONMENT),
    (lambda s: s.store_key("a.b", "v", if_version=1, expires_at=NEW_YEAR), "PUT", "/v1/keys/a.b",
     {"value": "v", "environment": None, "if_version": 1, "owner": None, "usage": None,
      "expires_at": "2027-01-01T00:00:00Z", "reason": None}, 200, WRITTEN),
    (lambda s: s.propose("a.b", "v", expires_at=NEW_YEAR), "POST", "/v1/keys/a.b/propose",
     {"value": "v", "environment": None, "expires_at": "2027-01-01T00:00:00Z", "reason": None},
     200, WRITTEN),
    (lambda s: s.promote("a.b", 2, if_version=1), "POST", "/v1/keys/a.b/promote",
     {"version": 2, "environment": None, "if_version": 1, "reason": None}, 200, WRITTEN),
    (lambda s: s.retire("a.b", reason="over"), "POST", "/v1/keys/a.b/retire",
     {"version": None, "environment": None, "reason": "over"}, 200, WRITTEN),
    (lambda s: s.expire("a.b", "staging"), "POST", "/v1/keys/a.b/expire",
     {"environment": "staging", "reason": None}, 200, WRITTEN),
    (lambda s: s.describe("a.b", owner="ada", keep_versions="default", verified=True), "POST",
     "/v1/keys/a.b/describe",
     {"environment": None, "owner": "ada", "usage": None, "keep_versions": "default",
      "verified": True, "reason": None}, 200, DESCRIBED),
    (lambda s: s.set_key_limit("a.b", "60/min", 5, reason="slow"), "PUT", "/v1/keys/a.b/limit",
     {"limit": "60/min", "burst": 5, "environment": None, "reason": "slow"}, 200, DESCRIBED),
    (lambda s: s.remove_key_limit("a.b", "staging", "enough"), "DELETE",
     "/v1/keys/a.b/limit?environment=staging&reason=enough", None, 200, DESCRIBED),
    (lambda s: s.description("a.b", "staging"), "GET",
     "/v1/keys/a.b/description?environment=staging", None, 200, DESCRIBED),
    (lambda s: s.rollback("a.b", to_version=1), "POST", "/v1/keys/a.b/rollback",
     {"to_version": 1, "environment": None, "if_version": None, "reason": None}, 200, WRITTEN),
    (lambda s: s.revoke("a.b", reason="leaked"), "POST", "/v1/keys/a.b/revoke",
     {"version": None, "environment": None, "reason": "leaked"}, 200, WRITTEN),
    (lambda s: s.destroy("a.b.staging", version=1), "POST", "/v1/keys/a.b.staging/destroy",
     {"version": 1, "environment": None, "reason": None}, 200, WRITTEN),
    (lambda s: s.extend("a.b", NEW_YEAR), "POST", "/v1/keys/a.b/extend",
     {"expires_at": "2027-01-01T00:00:00Z", "environment": None, "reason": None}, 200, WRITTEN),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "method", "target", "body", "status", "answer"),
    CALLS,
    ids=[f"{method} {target}" for _, method, target, *_ in CALLS],
)
def test_a_method_is_one_documented_call(
    *,
    store: ScriptedStore,
    service: KeyService,
    make: Callable[[KeyService], Awaitable[object]],
    method: str,
    target: str,
    body: object,
    status: int,
    answer: object,
) -> None:
    store.then(Response(status, b"" if answer is None else answer))

    async def scenario() -> object:
        return await make(service)

    result = asyncio.run(scenario())
    (request,) = store.requests
    assert (request.method, request.target) == (method, target)
    assert (request.json if request.body else None) == body
    assert (result is None) == (answer is None)


def test_a_new_token_does_not_show_itself(store: ScriptedStore, service: KeyService) -> None:
    store.then(Response(201, ISSUED))
    issued = asyncio.run(service.issue_token("jules-mcp"))
    assert "the-new-token" not in repr(issued)
    assert issued.token.reveal() == "the-new-token"


def test_a_key_is_read_by_number(store: ScriptedStore, service: KeyService) -> None:
    store.values["a.b", "production"] = (2, "v")
    found = asyncio.run(service.get_key("a.b", version=2))
    assert store.requests[0].target == "/v1/keys/a.b?version=2"
    assert found.value == Sensitive("v")


async def _all(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


def test_lists_follow_their_pages(store: ScriptedStore, service: KeyService) -> None:
    summary = {
        "key_path": "a.b",
        "environment": "staging",
        "version": 1,
        "state": "current",
        "owner": None,
        "usage": None,
        "created_at": "2026-01-01T00:00:00Z",
        "rotated_at": None,
        "last_read_at": None,
        "expires_at": None,
    }

    def page(request: Request) -> Response:
        cursor = dict(parse_qsl(request.target.partition("?")[2])).get("cursor", "0")
        following = str(int(cursor) + 1) if cursor != "2" else None
        items = [{**summary, "key_path": f"a.k{cursor}_{number}"} for number in range(2)]
        return Response(200, {"items": items, "next_cursor": following})

    store.on("GET", "/v1/keys", page)
    found = asyncio.run(_all(service.list_keys("a", "staging", page_size=2)))
    assert [item.key_path for item in found] == [
        f"a.k{cursor}_{number}" for cursor in range(3) for number in range(2)
    ]
    assert [request.target for request in store.requests] == [
        "/v1/keys?prefix=a&environment=staging&limit=2",
        "/v1/keys?prefix=a&environment=staging&limit=2&cursor=1",
        "/v1/keys?prefix=a&environment=staging&limit=2&cursor=2",
    ]


@pytest.mark.parametrize(
    ("make", "target"),
    [
        (lambda s: s.list_services(), "/v1/services"),
        (lambda s: s.list_grants("jules-mcp"), "/v1/grants?service_name=jules-mcp"),
        (lambda s: s.list_environments(), "/v1/environments"),
        (lambda s: s.versions("a.b", "staging"), "/v1/keys/a.b/versions?environment=staging"),
        (
            lambda s: s.search_ledger(status="DENIED", since=NEW_YEAR, page_size=5),
            "/v1/ledger?status=DENIED&since=2027-01-01T00%3A00%3A00%2B00%3A00&limit=5",
        ),
    ],
    ids=["services", "grants", "environments", "versions", "ledger"],
)
def test_a_list_asks_where_it_is_documented(
    store: ScriptedStore,
    service: KeyService,
    make: Callable[[KeyService], AsyncIterator[object]],
    target: str,
) -> None:
    store.then(Response(200, {"items": [], "next_cursor": None}))
    assert asyncio.run(_all(make(service))) == []
    assert store.requests[0].target == target


def test_an_export_is_handed_on_byte_for_byte(store: ScriptedStore, service: KeyService) -> None:
    lines = [b'{"seq":1,  "hash":"aa"}', b'{"seq":2}']
    store.then(Response(200, b"\n".join(lines) + b"\n", "application/x-ndjson"))
    assert asyncio.run(_all(service.export_ledger())) == lines
    store.then(
        store.problem(403, "role_required"),
        Response(404, b"", "text/html"),
        Response(200, b"\x1f\x8b", headers={"Content-Encoding": "gzip"}),
    )
    for code in ("role_required", "not_the_store", "not_the_store"):
        with pytest.raises(DoxStoreError) as refused:
            asyncio.run(_all(service.export_ledger()))
        assert refused.value.code == code


def test_an_export_that_is_cut_off_says_so(store: ScriptedStore, service: KeyService) -> None:
    store.then(Response(200, b'{"seq":1}\n', headers={"Content-Length": "99"}), Response(None))

    async def scenario() -> list[bytes]:
        async with service:
            lines = service.export_ledger()
            seen = [await anext(lines)]
            store.stop_serving()
            with pytest.raises(ConnectionFailedError):
                await anext(lines)
            return seen

    assert asyncio.run(scenario()) == [b'{"seq":1}']


def test_a_conflict_tells_the_actual_version(store: ScriptedStore, service: KeyService) -> None:
    store.then(store.problem(409, "version_conflict", actual_version=7))
    with pytest.raises(ConflictError) as conflict:
        asyncio.run(service.store_key("a.b", "v", if_version=6))
    assert conflict.value.extra["actual_version"] == 7


def test_a_write_whose_connection_broke_is_not_repeated(
    store: ScriptedStore, service: KeyService
) -> None:
    store.then(Response(None))
    with pytest.raises(ConnectionFailedError):
        asyncio.run(service.store_key("a.b", "v"))
    assert len(store.requests) == 1


def test_a_value_arrives_byte_for_byte(store: ScriptedStore, service: KeyService) -> None:
    value = ' "quoted"\\ \n\t\x00 ключ \U0001f511\n'
    store.then(Response(200, WRITTEN), Response(200, WRITTEN))
    asyncio.run(service.store_key("a.b", value))
    asyncio.run(service.store_key("a.b", Sensitive("")))
    assert [request.json["value"] for request in store.requests] == [value, ""]


def test_what_cannot_be_sent_is_refused_without_showing_it(service: KeyService) -> None:
    with pytest.raises(InvalidRequestError, match="UTF-8") as refused:
        asyncio.run(service.store_key("a.b", "canary-\ud800"))
    assert refused.value.__context__ is None
    with pytest.raises(InvalidRequestError, match="zone"):
        asyncio.run(service.extend("a.b", datetime(2027, 1, 1)))  # noqa: DTZ001
    with pytest.raises(InvalidRequestError, match="names nothing"):
        asyncio.run(service.remove_grant(".."))


def test_an_import_is_committed_or_aborted(store: ScriptedStore, service: KeyService) -> None:
    store.on("POST", "/v1/imports", Response(201, IMPORTED))
    for step in ("entries", "commit", "abort"):
        store.on("POST", f"/v1/imports/i1/{step}", Response(200, IMPORTED))
    entry = ImportEntry(key_path="a.b", environment="production", value=Sensitive("v"))

    async def scenario() -> None:
        async with await service.open_import() as opened:
            await opened.add([entry])
            await opened.add([entry])
            await opened.commit("moved")

    async def failing_scenario() -> None:
        async with await service.open_import() as opened:
            await opened.add([entry])
            raise KeyError

    asyncio.run(scenario())
    with pytest.raises(KeyError):
        asyncio.run(failing_scenario())
    steps = [request.path.rpartition("/")[2] for request in store.requests]
    assert steps == ["imports", "entries", "entries", "commit", "imports", "entries", "abort"]
    assert [r.json["sequence"] for r in store.requests if r.path.endswith("entries")] == [0, 1, 0]


def test_a_slice_is_repeated_under_its_number(store: ScriptedStore, service: KeyService) -> None:
    store.on("POST", "/v1/imports", Response(201, IMPORTED))
    store.on("POST", "/v1/imports/i1/entries", Response(200, IMPORTED))

    async def scenario() -> None:
        opened = await service.open_import()
        store.then(Response(None))
        with pytest.raises(ConnectionFailedError):
            await opened.add([])
        await opened.add([])

    asyncio.run(scenario())
    assert [request.json["sequence"] for request in store.requests[1:]] == [0, 0]


def test_the_operators_token_comes_from_the_environment(
    store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="set ADMIN_TOKEN"):
        KeyService(store.url)
    text = token("operator:alice")
    monkeypatch.setenv("ADMIN_TOKEN", text)
    monkeypatch.setenv("KEY_SERVICE_URL", store.url)
    store.then(Response(200, {"items": []}))
    asyncio.run(_all(KeyService().list_services()))
    assert store.requests[0].headers["authorization"] == f"Bearer {text}"
