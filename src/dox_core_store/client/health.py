"""`HealthReport`: whether keys can be had right now, as a value and never as an exception.

``/v1/ready`` is asked and not ``/v1/health``: a process that answers but cannot put an access on
record hands out no key, and to a service that is an outage.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import msgspec

from dox_core_store import wire
from dox_core_store.client.connection import StoreConnection
from dox_core_store.client.protocol import Call, Reply, accept, not_the_store
from dox_core_store.errors import DoxStoreError

__all__ = ["HealthReport", "check_health"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """``status`` is the store's own word when healthy, else the code of what is wrong."""

    is_healthy: bool
    status: str
    latency_ms: float
    detail: str = ""
    changes: str = "off"
    """How changes are heard of: by ``stream``; by ``polling``, where something between here and the
    store breaks streams; ``connecting``; or ``off``, before the first key and where it was asked
    for."""

    def following(self, changes: str, why: str) -> HealthReport:
        """This report, and how changes are heard of."""
        told = f"no stream of changes: {why}" if why else ""
        # What is wrong with the store may be a whole sentence.
        separator = " " if self.detail.endswith(".") else ", "
        detail = separator.join(each for each in (self.detail, told) if each)
        return replace(self, changes=changes, detail=detail)


async def check_health(
    connection: StoreConnection, *, timeout_seconds: float | None
) -> HealthReport:
    """Ask once, without a token. Only a cancellation passes through."""
    started = time.perf_counter()
    try:
        is_healthy, status, detail = await connection.ask_openly(
            Call(method="GET", path="/v1/ready", repeatable=True),
            _read,
            timeout_seconds=timeout_seconds,
        )
    except DoxStoreError as error:
        is_healthy, status, detail = False, error.code, error.detail
    except Exception as error:  # noqa: BLE001  # "never raises" is the promise
        is_healthy, status, detail = False, "internal_error", type(error).__name__
    latency_ms = (time.perf_counter() - started) * 1000
    return HealthReport(is_healthy=is_healthy, status=status, latency_ms=latency_ms, detail=detail)


def _read(reply: Reply, /, *, store_id: str | None) -> tuple[bool, str, str]:
    try:
        health = wire.decode(wire.Health, reply.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        accept(reply, store_id=store_id)  # raises what a problem document says
        raise not_the_store(reply) from None
    if store_id is not None and health.store_id != store_id:
        raise not_the_store(reply, "Another store answered than the one that issued the token.")
    detail = ", ".join(f"{name}: {said}" for name, said in sorted(health.checks.items()))
    return 200 <= reply.status <= 299, health.status, detail
