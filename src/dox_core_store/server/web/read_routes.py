"""Routes of services about what they read, beside the door: a value that was refused where it is
for, and reads that their clients answered by themselves. Each costs one request of the service's
limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from dox_core_store import wire
from dox_core_store.errors import AuthenticationError, DoxStoreError
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.quota import NOT_AT_HAND
from dox_core_store.server.usecases.decision import Decisions
from dox_core_store.server.usecases.key_rejected import KeyRejections
from dox_core_store.server.usecases.principal import Principal
from dox_core_store.server.usecases.read_report import ReadReports
from dox_core_store.server.usecases.reveal import over_limit
from dox_core_store.server.web.desk import Call, Reply, Route
from dox_core_store.server.web.limit_headers import limit_headers

__all__ = ["read_routes"]

_MAX_REJECTED_BYTES = 16 * 1024
"""A reason of a thousand characters, each of them escaped."""

_MAX_REPORT_BYTES = 512 * 1024
"""Twice what a whole report comes to."""


def read_routes(
    *, decisions: Decisions, rejections: KeyRejections, reports: ReadReports
) -> list[Route]:
    """The rows for what services tell."""

    def counted(
        handle: Callable[[Call, Principal], Awaitable[Reply]],
    ) -> Callable[[Call], Awaitable[Reply]]:
        async def handle_counted(call: Call) -> Reply:
            principal = call.principal
            if principal is None:  # these routes are not open
                raise AuthenticationError("token_missing", "Send Authorization: Bearer TOKEN.")
            verdict = decisions.limit(principal)
            if verdict is NOT_AT_HAND:
                verdict = await decisions.fetch_limit(principal)
            limits = limit_headers(verdict)
            try:
                if verdict is not None and not verdict.allowed:
                    raise over_limit(verdict)
                reply = await handle(call, principal)
            except DoxStoreError as error:
                error.limits = limits  # type: ignore[attr-defined]
                raise
            return reply._replace(headers=limits)

        return handle_counted

    async def rejected(call: Call, principal: Principal) -> Reply:
        body: wire.RejectedRequest = call.body
        told = await rejections.reject(
            principal, call.caller, call.path["key_path"], body.version_id, body.reason
        )
        return Reply(
            wire.Rejected(
                key_path=told.address.path,
                environment=told.address.environment,
                rejected_version=told.rejected_version,
                other_version=told.other_version,
            )
        )

    async def report(call: Call, principal: Principal) -> Reply:
        body: wire.ReadReport = call.body
        return Reply(wire.ReportTaken(taken=await reports.take(principal, call.caller, body.reads)))

    return [
        Route("POST", "/v1/keys/{key_path:str}/rejected", Action.REJECT,
              "Say that whoever a key is for refused its value", counted(rejected),
              body=wire.RejectedRequest, answer=wire.Rejected, for_services=True,
              most_bytes=_MAX_REJECTED_BYTES),
        Route("POST", "/v1/reports", Action.GET, "Report reads that were answered from a cache",
              counted(report), body=wire.ReadReport, answer=wire.ReportTaken, for_services=True,
              most_bytes=_MAX_REPORT_BYTES),
    ]  # fmt: skip
