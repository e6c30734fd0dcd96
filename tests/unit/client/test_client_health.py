"""`health_check`: a report in every case, never an exception."""

from __future__ import annotations

import asyncio

import pytest
from scripted_store import Response, ScriptedStore, token

from dox_core_store import KeyClient
from dox_core_store.client.health import HealthReport

READY = {"status": "ok", "store_id": "st_scripted", "version": "1.0", "checks": {"ledger": "ok"}}


def test_a_store_that_may_serve_is_healthy(store: ScriptedStore, client: KeyClient) -> None:
    store.on("GET", "/v1/ready", Response(200, READY))
    report = asyncio.run(client.health_check())
    assert report.is_healthy
    assert report.status == "ok"
    assert report.detail == "ledger: ok"
    assert report.latency_ms > 0
    assert "authorization" not in store.requests[0].headers


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Response(503, {**READY, "status": "not_ready"}), "not_ready"),
        (Response(404, b"<html>", "text/html"), "not_the_store"),
        (Response(200, b"<html>", "text/html"), "not_the_store"),
        (Response(200, {**READY, "store_id": "st_another"}), "not_the_store"),
        (Response(None), "connection_failed"),
    ],
    ids=["not ready", "404 html", "200 html", "another store", "hung up"],
)
def test_what_is_wrong_is_told(
    store: ScriptedStore, client: KeyClient, reply: Response, status: str
) -> None:
    store.on("GET", "/v1/ready", reply)
    report = asyncio.run(client.health_check())
    assert not report.is_healthy
    assert report.status == status


def test_a_problem_document_is_told_by_its_code(store: ScriptedStore, client: KeyClient) -> None:
    store.on("GET", "/v1/ready", store.problem(503, "ledger_unavailable", "The disk is full."))
    report = asyncio.run(client.health_check())
    assert (report.is_healthy, report.status, report.detail) == (
        False,
        "ledger_unavailable",
        "The disk is full.",
    )


def test_silence_and_absence_are_told_too(store: ScriptedStore, client: KeyClient) -> None:
    store.hold()
    assert asyncio.run(client.health_check(timeout=0.05)).status == "connection_failed"
    with ScriptedStore() as gone:
        url = gone.url
    assert not asyncio.run(KeyClient("jules-mcp", token(), url).health_check()).is_healthy


def test_a_cancellation_is_not_swallowed(store: ScriptedStore, client: KeyClient) -> None:
    async def scenario() -> None:
        store.hold()
        check = asyncio.create_task(client.health_check())
        await store.arrived(1)
        check.cancel()
        with pytest.raises(asyncio.CancelledError):
            await check

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        ("ledger: ok", "ledger: ok, no stream of changes: it ended"),
        ("No answer.", "No answer. no stream of changes: it ended"),
        ("", "no stream of changes: it ended"),
    ],
)
def test_why_no_stream_is_heard_stands_beside_what_the_store_says(detail: str, told: str) -> None:
    report = HealthReport(is_healthy=True, status="ready", latency_ms=1.0, detail=detail)
    assert report.following("polling", "it ended").detail == told
