"""What a node says of itself to whoever asks: health, readiness, metrics. No token is needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

from dox_core_store import wire
from dox_core_store.server.web.application import Page

__all__ = ["RELEASE", "Readiness", "node_pages"]

RELEASE = version("dox-core-store")


class Readiness(NamedTuple):
    """``ready``, or the word for why no requests are to be sent here, and what it follows from."""

    status: str
    checks: dict[str, str]


def node_pages(
    *,
    store_id: str,
    health: str,
    readiness: Callable[[], Readiness],
    metrics: Callable[[], bytes],
) -> dict[str, Page]:
    """The pages by address; ``health`` is the status of a process that answers."""

    def told(code: int, status: str, checks: dict[str, str]) -> tuple[int, str, bytes]:
        body = wire.Health(status=status, store_id=store_id, version=RELEASE, checks=checks)
        return code, "application/json", wire.encode(body)

    async def show_health() -> tuple[int, str, bytes]:
        return told(200, health, {})

    async def show_readiness() -> tuple[int, str, bytes]:
        now = readiness()
        return told(200 if now.status == "ready" else 503, now.status, now.checks)

    async def show_metrics() -> tuple[int, str, bytes]:
        return 200, "text/plain; version=0.0.4", metrics()

    return {"/v1/health": show_health, "/v1/ready": show_readiness, "/metrics": show_metrics}
