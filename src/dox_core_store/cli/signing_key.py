"""`doxstore token signing-keys` and `rotate-signing-key`: the keys that sign tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command
from dox_core_store.cli.option import Json, RequiredReason, Yes
from dox_core_store.cli.output import note, show_facts, show_json, show_table
from dox_core_store.cli.session import ask, confirm
from dox_core_store.errors import NotFoundError

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["LIST_SIGNING_KEYS", "ROTATE_SIGNING_KEY"]

_WAY_BACK = (
    "Your own token may be among them. On the store's machine this prints a new one:"
    " doxstore operator token NAME --data DIR"
)


def list_signing_keys(as_json: Json = False) -> None:
    """List the keys that sign or signed tokens, the newest first.

    A retired key verifies until its last token has expired; a compromised one verifies nothing.
    """
    found = ask(_listed)
    if as_json:
        show_json(found)
        return
    show_table(
        ("KEY", "STATUS", "CREATED", "RETIRED", "COMPROMISED", "VERIFIES UNTIL", "LIVE TOKENS"),
        (
            (
                each.kid,
                each.status,
                each.created_at,
                each.retired_at,
                each.compromised_at,
                each.verifies_until,
                each.live_tokens,
            )
            for each in found
        ),
    )


def rotate_signing_key(
    *,
    reason: RequiredReason,
    compromised: Annotated[
        bool,
        typer.Option("--compromised", help="Someone else has the old key: what it signed dies."),
    ] = False,
    kid: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The compromised key, if it is not the current one."),
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Sign tokens with a new key from now on.

    Tokens signed with the old key work until they expire, unless it is --compromised: then every
    one of them is dead at once, operators' tokens too.
    """
    if kid is not None and not compromised:
        raise typer.BadParameter("--kid names a compromised key: say --compromised too.")
    if compromised:
        if not yes:
            named = _the_one(ask(_listed), kid)
            note(f"{named.live_tokens} live tokens were signed by {named.kid}. {_WAY_BACK}")
        confirm("Kill every token that it signed?", yes=yes)
    done = ask(
        lambda client: client.rotate_signing_key(compromised=compromised, kid=kid, reason=reason)
    )
    if as_json:
        show_json(done)
    else:
        facts = [("signs from now on", done.kid)]
        if done.retired is not None:
            facts.append(("verifies until its last token expires", done.retired))
        if done.compromised is not None:
            facts.append(("verifies nothing any more", done.compromised))
            facts.append(("tokens that died with it", str(done.tokens_ended)))
        show_facts(facts)
    if done.compromised is not None:
        note(_WAY_BACK)
        note("Then issue new tokens to the services: doxstore token issue SERVICE")


async def _listed(client: KeyService) -> list[wire.SigningKey]:
    return [each async for each in client.list_signing_keys()]


def _the_one(found: list[wire.SigningKey], kid: str | None) -> wire.SigningKey:
    for each in found:
        if each.kid == kid or (kid is None and each.status == "signing"):
            return each
    raise NotFoundError("signing_key_not_found", f"There is no signing key {(kid or '')[:80]!a}.")


LIST_SIGNING_KEYS = Command(
    "signing-keys", list_signing_keys, "doxstore token signing-keys", "permission `list keys`"
)
ROTATE_SIGNING_KEY = Command(
    "rotate-signing-key",
    rotate_signing_key,
    "doxstore token rotate-signing-key --reason 'once a year'\n"
    "doxstore token rotate-signing-key --compromised --reason 'backup and key file lost'",
    "permission `rotate signing keys` (and `list keys` to say what dies)",
)
