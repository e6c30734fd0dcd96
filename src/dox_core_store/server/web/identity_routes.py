"""Routes on services, grants and environments."""

from __future__ import annotations

from dox_core_store import wire
from dox_core_store.server.domain.access import GrantRecord, ServiceRecord
from dox_core_store.server.domain.ledger import Action
from dox_core_store.server.domain.limit import rate_of
from dox_core_store.server.usecases.environment import Environments
from dox_core_store.server.usecases.grant import Grants
from dox_core_store.server.usecases.service import Services
from dox_core_store.server.web.desk import Call, Reply, Route
from dox_core_store.server.web.key_routes import page_limit

__all__ = ["grant_answer", "identity_routes"]


def identity_routes(
    *,
    services: Services,
    grants: Grants,
    environments: Environments,
    default_environment: str,
) -> list[Route]:
    """The rows for who may do what."""

    async def register(call: Call) -> Reply:
        body: wire.ServiceRequest = call.body
        done = await services.register(
            call.caller,
            body.service_name,
            description=body.description,
            required_keys=body.required_keys,
            environment=body.environment,
            reason=body.reason,
        )
        return Reply(_service(done.record, done.granted), 201 if done.created else 200)

    async def limit(call: Call) -> Reply:
        body: wire.LimitRequest = call.body
        name = call.path["service_name"]
        record = await services.limit(call.caller, name, body.limit, body.burst, body.reason)
        return Reply(_service(record))

    async def revoke_tokens(call: Call) -> Reply:
        name = call.path["service_name"]
        return Reply(_service(await services.revoke_tokens(call.caller, name, call.body.reason)))

    async def decommission(call: Call) -> Reply:
        name = call.path["service_name"]
        return Reply(_service(await services.decommission(call.caller, name, call.body.reason)))

    async def list_services(call: Call) -> Reply:
        size = page_limit(call)
        found = await services.page(call.caller, call.query.get("cursor"), size)
        more = found[-1].name if len(found) == size else None
        return Reply(wire.Page(items=[_service(record) for record in found], next_cursor=more))

    async def grant(call: Call) -> Reply:
        body: wire.GrantRequest = call.body
        record = await grants.add(
            call.caller,
            body.service_name,
            body.pattern,
            environment=body.environment,
            effect=body.effect,
            reason=body.reason,
        )
        return Reply(grant_answer(record))

    async def ungrant(call: Call) -> Reply:
        await grants.remove(call.caller, call.path["grant_id"], call.query.get("reason"))
        return Reply(None)

    async def list_grants(call: Call) -> Reply:
        size = page_limit(call)
        service, cursor = call.query.get("service_name"), call.query.get("cursor")
        found = await grants.page(call.caller, service, cursor, size)
        more = found[-1].grant_id if len(found) == size else None
        return Reply(wire.Page(items=[grant_answer(record) for record in found], next_cursor=more))

    async def add_environment(call: Call) -> Reply:
        body: wire.EnvironmentRequest = call.body
        await environments.add(call.caller, body.name, body.reason)
        return Reply(wire.Environment(name=body.name, is_default=False))

    async def list_environments(call: Call) -> Reply:
        names = await environments.all(call.caller)
        return Reply(
            wire.Page(
                items=[
                    wire.Environment(name=name, is_default=name == default_environment)
                    for name in names
                ]
            )
        )

    service, reason = "/v1/services/{service_name:str}", wire.ReasonRequest
    pages = ("cursor", "limit")
    return [
        Route("GET", "/v1/services", Action.LIST, "List services", list_services,
              answer=wire.Page[wire.Service], parameters=pages, is_read=True),
        Route("POST", "/v1/services", Action.REGISTER, "Register a service, or update it",
              register, body=wire.ServiceRequest, answer=wire.Service, statuses=(200, 201)),
        Route("PUT", f"{service}/limit", Action.LIMIT, "Change how fast a service may ask", limit,
              body=wire.LimitRequest, answer=wire.Service),
        Route("POST", f"{service}/revoke-tokens", Action.REVOKE_SERVICE_TOKENS,
              "Kill all tokens of a service", revoke_tokens, body=reason, answer=wire.Service),
        Route("POST", f"{service}/decommission", Action.DECOMMISSION,
              "End a service: its tokens and grants", decommission, body=reason,
              answer=wire.Service),
        Route("GET", "/v1/grants", Action.LIST, "List grants", list_grants,
              answer=wire.Page[wire.Grant], parameters=("service_name", *pages), is_read=True),
        Route("POST", "/v1/grants", Action.GRANT, "Allow or deny keys to a service", grant,
              body=wire.GrantRequest, answer=wire.Grant, statuses=(201,)),
        Route("DELETE", "/v1/grants/{grant_id:str}", Action.UNGRANT, "Take a grant back", ungrant,
              parameters=("reason",), statuses=(204,)),
        Route("GET", "/v1/environments", Action.LIST, "List the environments",
              list_environments, answer=wire.Page[wire.Environment], is_read=True),
        Route("POST", "/v1/environments", Action.ADD_ENVIRONMENT, "Declare an environment",
              add_environment, body=wire.EnvironmentRequest, answer=wire.Environment,
              statuses=(201,)),
    ]  # fmt: skip


def _service(record: ServiceRecord, granted: list[str] | None = None) -> wire.Service:
    rate = rate_of(record)
    return wire.Service(
        service_name=record.name,
        description=record.description,
        environment=record.environment,
        status="active" if record.decommissioned_at is None else "decommissioned",
        limit=str(rate),
        burst=rate.burst,
        generation=record.generation,
        created_at=record.created_at,
        granted=granted or [],
        requested=record.requested,
    )


def grant_answer(record: GrantRecord) -> wire.Grant:
    """A grant as the API tells it."""
    return wire.Grant(
        grant_id=record.grant_id,
        service_name=record.service,
        pattern=record.pattern,
        environment=record.environment,
        effect=record.effect,
        created_at=record.created_at,
        created_by=record.created_by,
    )
