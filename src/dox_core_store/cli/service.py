"""`doxstore service`: the registered consumers, and how fast each may ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.option import Json, Reason, RequiredReason, Yes
from dox_core_store.cli.output import note, show_facts, show_json, show_table
from dox_core_store.cli.session import ask, confirm

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["SERVICE"]

ServiceName = Annotated[
    str, typer.Argument(metavar="SERVICE", help="Name of the service: a-z, 0-9 and -.")
]


def register(
    service: ServiceName,
    description: Annotated[str, typer.Option(metavar="TEXT", help="What it is.")] = "",
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A key that it needs; repeatable. Granted if you may."),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option("--environment", "-e", metavar="NAME", help="Where it runs."),
    ] = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Register a service, or update it.

    The keys it requires are granted if you have the permission `grant`, else noted as requested.
    """
    made = ask(
        lambda client: client.register_service(
            service, description, require or (), environment, reason
        )
    )
    _show(made, as_json=as_json)
    if not as_json:
        note(f"Issue its token with: doxstore token issue {made.service_name}")


def list_services(as_json: Json = False) -> None:
    """List the registered services."""

    async def listed(client: KeyService) -> list[wire.Service]:
        return [each async for each in client.list_services()]

    found = ask(listed)
    if as_json:
        show_json(found)
        return
    show_table(
        ("SERVICE", "STATUS", "ENVIRONMENT", "LIMIT", "BURST", "CREATED", "DESCRIPTION"),
        (
            (
                each.service_name,
                each.status,
                each.environment,
                each.limit,
                each.burst,
                each.created_at,
                each.description,
            )
            for each in found
        ),
    )


def limit(
    service: ServiceName,
    rate: Annotated[str, typer.Argument(metavar="RATE", help="Such as 600/min, 50/s or 1000/h.")],
    burst: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many at once. [default: one period's worth]"),
    ] = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Change how fast a service may ask. It holds at once, without a restart."""
    _show(ask(lambda client: client.set_limit(service, rate, burst, reason)), as_json=as_json)


def decommission(
    service: ServiceName, reason: RequiredReason, yes: Yes = False, as_json: Json = False
) -> None:
    """End a service: its tokens die and its grants go, at once."""
    confirm(f"End {service}, all its tokens and all its grants?", yes=yes)
    _show(ask(lambda client: client.decommission_service(service, reason)), as_json=as_json)


def _show(service: wire.Service, *, as_json: bool) -> None:
    if as_json:
        show_json(service)
        return
    facts = [
        ("service", service.service_name),
        ("status", service.status),
        ("environment", service.environment),
        ("limit", f"{service.limit}, {service.burst} at once"),
    ]
    facts += [("granted", path) for path in service.granted]
    facts += [("requested", path) for path in service.requested]
    show_facts(facts)


SERVICE = Group(
    "service",
    "Services: who may ask, and how fast.",
    (
        Command(
            "register",
            register,
            "doxstore service register jules-mcp --require service_keys.jules_api",
            "permission `manage services`; `grant` for --require to grant",
        ),
        Command("list", list_services, "doxstore service list", "permission `list keys`"),
        Command(
            "limit",
            limit,
            "doxstore service limit jules-mcp 1000/s --burst 5000",
            "permission `manage services`",
        ),
        Command(
            "decommission",
            decommission,
            "doxstore service decommission jules-mcp --reason 'replaced by jules-2'",
            "permission `manage services`",
        ),
    ),
)
