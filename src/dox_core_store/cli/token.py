"""`doxstore token`: what a service proves itself with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.option import Addresses, Json, Reason
from dox_core_store.cli.output import (
    note,
    show_facts,
    show_json,
    show_table,
    shown_once,
    when,
)
from dox_core_store.cli.session import ask
from dox_core_store.cli.signing_key import LIST_SIGNING_KEYS, ROTATE_SIGNING_KEY
from dox_core_store.errors import ConfigurationError

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["TOKEN"]


def issue(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="A registered service.")],
    expires_in: Annotated[
        str, typer.Option(metavar="DURATION", help="Such as 12h, 90d or 1y; 400d at most.")
    ] = "90d",
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment",
            "-e",
            metavar="NAME",
            help="Environment. [default: the service's, else the store's]",
        ),
    ] = None,
    address: Addresses = None,
    *,
    bind: Annotated[
        bool,
        typer.Option(
            "--bind",
            help="Good only with the key of SERVICE_KEY_FILE (made if missing) or SERVICE_KEY.",
        ),
    ] = False,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Issue a service's token and print it, this once.

    The token alone goes to stdout; what it is goes to stderr. Without --address it may be used from
    anywhere. With --bind it is useless to whoever lacks the service's key, of which the store only
    learns the thumbprint; KeyClient finds the key by the same variables.
    """
    thumbprint = _bound_key() if bind else None
    made = ask(
        lambda client: client.issue_token(
            service,
            expires_in,
            environment,
            addresses=address or (),
            key_thumbprint=thumbprint,
            reason=reason,
        )
    )
    with shown_once(
        f"The token was not shown; revoke it: `doxstore token revoke --id {made.token_id}`."
    ):
        if as_json:
            show_json(made)
            return
        note(
            f"Token {made.token_id} of {made.service_name} in {made.environment},"
            f" until {when(made.expires_at)}{_from(made.addresses)}"
            + (":" if thumbprint is None else f", only with the key {thumbprint}:")
        )
        typer.echo(made.token.reveal())


def list_tokens(
    service: Annotated[
        str | None, typer.Option(metavar="SERVICE", help="Only this service's.")
    ] = None,
    expiring: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Only those that live, but no longer than this."),
    ] = None,
    unused: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Only those that live and were not used for this."),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that have expired.")] = False,
    as_json: Json = False,
) -> None:
    """List issued tokens, never their text.

    A token's last use is some seconds behind. Operators' tokens are among them.
    """

    async def listed(client: KeyService) -> list[wire.Token]:
        tokens = client.list_tokens(
            service, expiring_within=expiring, unused_for=unused, ended=every
        )
        return [each async for each in tokens]

    found = sorted(ask(listed), key=lambda token: (token.kind, token.name, token.issued_at))
    if as_json:
        show_json(found)
        return
    show_table(
        ("TOKEN", "NAME", "STATUS", "EXPIRES", "LAST USED", "ENVIRONMENT", "FROM", "KIND", "ISSUED",
         "BY"),
        (
            (
                each.token_id,
                each.name,
                each.status,
                each.expires_at,
                each.last_used_at,
                each.environment,
                (", ".join(each.addresses) or "anywhere")
                + (", with its key" if each.key_thumbprint else ""),
                each.kind,
                each.issued_at,
                each.issued_by,
            )
            for each in found
        ),
    )  # fmt: skip


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


def _bound_key() -> str:
    """The thumbprint of the service's key."""
    from dox_core_store.client.proof import service_key_from

    key = service_key_from(os.environ, make=True)
    if key is None:
        raise ConfigurationError(
            "bad_setting",
            "--bind needs the service's key: set SERVICE_KEY_FILE (it is made if it is missing)"
            " or SERVICE_KEY.",
        )
    return key.thumbprint


def _from(addresses: list[str]) -> str:
    return f", from {', '.join(addresses)} alone" if addresses else ""


TOKEN = Group(
    "token",
    "Tokens, and the keys that sign them.",
    (
        Command(
            "issue",
            issue,
            "export SERVICE_TOKEN=$(doxstore token issue jules-mcp --expires-in 90d)\n"
            "doxstore token issue jules-mcp --address 10.2.0.0/16 --reason 'new cluster'",
            "permission `issue tokens`",
        ),
        Command(
            "list",
            list_tokens,
            "doxstore token list --expiring 30d\ndoxstore token list --unused 90d",
            "permission `list keys`",
        ),
        Command(
            "revoke",
            revoke,
            "doxstore token revoke --service jules-mcp --reason 'laptop lost'",
            "permission `revoke tokens`",
        ),
        LIST_SIGNING_KEYS,
        ROTATE_SIGNING_KEY,
    ),
)
