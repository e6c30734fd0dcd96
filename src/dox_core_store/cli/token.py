"""`doxstore token`: what a service proves itself with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.option import EnvironmentName, Json, Reason
from dox_core_store.cli.output import note, show_facts, show_json, when
from dox_core_store.cli.session import ask

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["TOKEN"]


def issue(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="A registered service.")],
    expires_in: Annotated[
        str, typer.Option(metavar="DURATION", help="Such as 12h, 90d or 1y; 400d at most.")
    ] = "90d",
    environment: EnvironmentName = None,
    as_json: Json = False,
) -> None:
    """Issue a service's token and print it, this once.

    The token alone goes to stdout; what it is goes to stderr.
    """
    made = ask(lambda client: client.issue_token(service, expires_in, environment))
    if as_json:
        show_json(made)
        return
    note(
        f"Token {made.token_id} of {made.service_name} in {made.environment},"
        f" until {when(made.expires_at)}:"
    )
    typer.echo(made.token.reveal())


def revoke(
    token_id: Annotated[
        str | None, typer.Option("--id", metavar="TOKEN_ID", help="One token, by its id.")
    ] = None,
    service: Annotated[
        str | None, typer.Option(metavar="SERVICE", help="All tokens issued to a service so far.")
    ] = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Kill a token, or all of a service, at once."""
    if (token_id is None) == (service is None):
        raise typer.BadParameter("Say --id TOKEN_ID or --service SERVICE.")

    async def revoked(client: KeyService) -> None:
        if token_id is not None:
            await client.revoke_token(token_id, reason)
        elif service is not None:
            await client.revoke_service_tokens(service, reason)

    ask(revoked)
    if as_json:
        show_json({"revoked": token_id or service})
        return
    show_facts([("revoked", token_id or f"every token of {service} issued so far")])


TOKEN = Group(
    "token",
    "Tokens of services.",
    (
        Command(
            "issue",
            issue,
            "export SERVICE_TOKEN=$(doxstore token issue jules-mcp --expires-in 90d)",
            "permission `issue tokens`",
        ),
        Command(
            "revoke",
            revoke,
            "doxstore token revoke --service jules-mcp --reason 'laptop lost'",
            "permission `revoke tokens`",
        ),
    ),
)
