"""Routes that say who may read what, and why. They change nothing; each is on record as a list."""

from __future__ import annotations

from msgspec.structs import asdict

from dox_core_store import wire
from dox_core_store.errors import InvalidRequestError
from dox_core_store.server.domain.access import GrantRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.remedy import removal
from dox_core_store.server.usecases.access import Access, Explanation
from dox_core_store.server.usecases.access_readers import AccessReaders, Reader
from dox_core_store.server.usecases.grant_preview import GrantPreview, Proposed
from dox_core_store.server.usecases.grant_use import MAX_DAYS, GrantUses, Unused
from dox_core_store.server.web.desk import Call, Reply, Route
from dox_core_store.server.web.identity_routes import grant_answer
from dox_core_store.server.web.key_routes import page_limit

__all__ = ["access_routes"]

_DEFAULT_DAYS = "90"


def access_routes(
    *, access: Access, readers: AccessReaders, uses: GrantUses, preview: GrantPreview
) -> list[Route]:
    """The rows for questions about access."""

    async def explain(call: Call) -> Reply:
        path, service = call.path["key_path"], call.path["service_name"]
        told = await access.explain(call.caller, service, path, call.query.get("environment"))
        return Reply(_explanation(told))

    async def who_can(call: Call) -> Reply:
        found = await readers.of(
            call.caller,
            call.path["key_path"],
            call.query.get("environment"),
            call.query.get("cursor"),
            page_limit(call),
        )
        return Reply(
            wire.KeyReaders(
                key_path=found.address.path,
                environment=found.address.environment,
                services=[_reader(each) for each in found.allowed],
                denied=[_reader(each) for each in found.denied],
                operators=[
                    wire.ValueOperator(operator_name=each.name, roles=sorted(each.roles))
                    for each in found.operators
                ],
                next_cursor=found.after,
            )
        )

    async def unused(call: Call) -> Reply:
        found, more = await uses.unused(
            call.caller,
            _days(call.query.get("days", _DEFAULT_DAYS)),
            call.query.get("service_name"),
            call.query.get("cursor"),
            page_limit(call),
        )
        return Reply(wire.Page(items=[_unused(each) for each in found], next_cursor=more))

    async def dry_run(call: Call) -> Reply:
        body: wire.DryRunRequest = call.body
        add = [
            Proposed(each.service_name, each.pattern, each.environment, each.effect)
            for each in body.add
        ]
        found = await preview.of(call.caller, add, body.remove, body.cursor)
        return Reply(
            wire.DryRun(
                shifts=[
                    wire.AccessShift(
                        service_name=each.service,
                        key_path=each.address.path,
                        environment=each.address.environment,
                        gains=each.gains,
                    )
                    for each in found.shifts
                ],
                keys_looked_at=found.looked_at,
                next_cursor=found.cursor,
            )
        )

    pages = ("cursor", "limit")
    return [
        Route("GET", "/v1/access/services/{service_name:str}/keys/{key_path:str}", Action.LIST,
              "Whether a service gets a key's value now, and why", explain,
              answer=wire.AccessExplanation, parameters=("environment",), is_read=True),
        Route("GET", "/v1/access/keys/{key_path:str}", Action.LIST, "Who may read a key", who_can,
              answer=wire.KeyReaders, parameters=("environment", *pages), is_read=True),
        Route("GET", "/v1/access/unused", Action.LIST, "Grants that no call used", unused,
              answer=wire.Page[wire.UnusedGrant], parameters=("days", "service_name", *pages),
              is_read=True),
        Route("POST", "/v1/access/dry-run", Action.LIST,
              "Who would gain and lose which keys by a change of grants", dry_run,
              body=wire.DryRunRequest, answer=wire.DryRun, is_read=True),
    ]  # fmt: skip


def _explanation(told: Explanation) -> wire.AccessExplanation:
    return wire.AccessExplanation(
        service_name=told.service,
        key_path=told.address.path,
        environment=told.address.environment,
        allowed=told.code is None,
        code=told.code,
        version=told.version,
        steps=[
            wire.AccessStep(step=each.name, detail=each.detail, code=each.code)
            for each in told.steps
        ],
        grants=[grant_answer(each) for each in told.ruling.matching],
        near_misses=[_near_miss(each.grant, each.why) for each in told.near_misses],
        remedies=[
            wire.AccessRemedy(command=each.command, effect=each.effect) for each in told.remedies
        ],
    )


def _near_miss(grant: GrantRecord, why: str) -> wire.NearMiss:
    return wire.NearMiss(**asdict(grant_answer(grant)), why=why)


def _reader(reader: Reader) -> wire.KeyReader:
    return wire.KeyReader(
        service_name=reader.service,
        grant=grant_answer(reader.grant),
        live_tokens=reader.live_tokens,
        last_called_at=reader.last_called_at,
    )


def _unused(found: Unused) -> wire.UnusedGrant:
    return wire.UnusedGrant(
        grant=grant_answer(found.grant),
        since=found.since,
        too_young=found.is_too_young,
        command=None if found.is_too_young else removal(found.grant),
    )


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_DAYS))):
        raise InvalidRequestError("invalid_parameter", f"days takes 1 to {MAX_DAYS}.")
    return int(text)
