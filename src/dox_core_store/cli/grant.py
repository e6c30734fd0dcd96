"""`doxstore grant`: which service may read which keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.grant_preview import AllShifts, DryRun, preview, show_preview
from dox_core_store.cli.option import EnvironmentName, Json, Reason
from dox_core_store.cli.output import show_facts, show_json, show_table
from dox_core_store.cli.session import ask
from dox_core_store.errors import NotFoundError

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["GRANT"]


def add(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Who may read.")],
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN",
            help="A path; * stands for one segment, ** at the end for one or more.",
        ),
    ],
    *,
    environment: EnvironmentName = None,
    deny: Annotated[bool, typer.Option("--deny", help="Forbid instead; deny always wins.")] = False,
    dry_run: DryRun = False,
    all_: AllShifts = False,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Let a service read what a pattern names, in one environment.

    The environment is the pattern's last segment, else --environment, else the service's, else
    the store's default. Repeating a grant changes nothing.
    """
    effect = "deny" if deny else "allow"
    _check(dry_run=dry_run, everything=all_)
    if dry_run:
        proposed = wire.GrantRequest(
            service_name=service, pattern=pattern, environment=environment, effect=effect
        )
        shifts = ask(lambda client: preview(client, add=[proposed]))
        show_preview(shifts, everything=all_, as_json=as_json)
        return
    made = ask(lambda client: client.add_grant(service, pattern, environment, effect, reason))
    if as_json:
        show_json(made)
        return
    show_facts(
        [
            ("grant", made.grant_id),
            ("service", made.service_name),
            (made.effect, f"{made.pattern} in {made.environment}"),
        ]
    )


def remove(
    grant: Annotated[
        str, typer.Argument(metavar="GRANT_ID|SERVICE", help="The grant, or its service.")
    ],
    pattern: Annotated[
        str | None, typer.Argument(metavar="PATTERN", help="The pattern, after a service.")
    ] = None,
    *,
    environment: EnvironmentName = None,
    dry_run: DryRun = False,
    all_: AllShifts = False,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Take a grant back, by its id or by service and pattern. It holds from the next read on."""

    async def meant(client: KeyService) -> str:
        if pattern is None:
            return grant
        grants = [each async for each in client.list_grants(grant)]
        return _the_one(grants, grant, pattern, environment)

    async def previewed(client: KeyService) -> list[wire.AccessShift]:
        return await preview(client, remove=[await meant(client)])

    async def removed(client: KeyService) -> str:
        grant_id = await meant(client)
        await client.remove_grant(grant_id, reason)
        return grant_id

    _check(dry_run=dry_run, everything=all_)
    if dry_run:
        show_preview(ask(previewed), everything=all_, as_json=as_json)
        return
    grant_id = ask(removed)
    if as_json:
        show_json({"removed": grant_id})
        return
    show_facts([("removed", grant_id)])


def list_grants(
    service: Annotated[
        str | None, typer.Argument(metavar="SERVICE", help="Only this service's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List grants, of all services or of one."""

    async def listed(client: KeyService) -> list[wire.Grant]:
        return [each async for each in client.list_grants(service)]

    found = ask(listed)
    if as_json:
        show_json(found)
        return
    show_table(
        ("GRANT", "SERVICE", "EFFECT", "PATTERN", "ENVIRONMENT", "CREATED", "BY"),
        (
            (
                each.grant_id,
                each.service_name,
                each.effect,
                each.pattern,
                each.environment,
                each.created_at,
                each.created_by,
            )
            for each in sorted(found, key=lambda grant: (grant.service_name, grant.pattern))
        ),
    )


def _check(*, dry_run: bool, everything: bool) -> None:
    if everything and not dry_run:
        raise typer.BadParameter("--all goes with --dry-run.")


def _the_one(grants: list[wire.Grant], service: str, pattern: str, environment: str | None) -> str:
    """The id of the only grant that is meant. Raises if none is, or more than one."""
    meant = [
        each
        for each in grants
        if environment in {None, each.environment}
        and pattern in {each.pattern, f"{each.pattern}.{each.environment}"}
    ]
    if not meant:
        raise NotFoundError("grant_not_found", f"{service} has no such grant on {pattern}.")
    if len(meant) > 1:
        which = ", ".join(f"{each.grant_id} ({each.effect}, {each.environment})" for each in meant)
        raise typer.BadParameter(f"More than one grant is meant; name one by its id: {which}.")
    return meant[0].grant_id


GRANT = Group(
    "grant",
    "Grants: which service may read which keys.",
    (
        Command(
            "add",
            add,
            "doxstore grant add jules-mcp 'service_keys.**' --deny --environment staging\n"
            "doxstore grant add jules-mcp service_keys.jules_api.production",
            "permission `grant`; `list keys` for --dry-run",
        ),
        Command(
            "remove",
            remove,
            "doxstore grant remove jules-mcp service_keys.jules_api.production",
            "permission `grant` (and `list keys` without an id); `list keys` for --dry-run",
        ),
        Command("list", list_grants, "doxstore grant list jules-mcp", "permission `list keys`"),
    ),
)
