"""`doxstore env`: the environments that a path may end in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.option import Json, Reason
from dox_core_store.cli.output import show_facts, show_json, show_table
from dox_core_store.cli.session import ask

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["ENV"]


def list_environments(as_json: Json = False) -> None:
    """List the declared environments."""

    async def listed(client: KeyService) -> list[wire.Environment]:
        return [each async for each in client.list_environments()]

    found = ask(listed)
    if as_json:
        show_json(found)
        return
    show_table(
        ("ENVIRONMENT", "DEFAULT"),
        ((each.name, "yes" if each.is_default else "") for each in found),
    )


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a-z, 0-9, _ and -.")],
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Declare an environment. From then on no path may end in its name.

    Refused while a stored path ends in it, for that path would change its meaning.
    """
    made = ask(lambda client: client.add_environment(name, reason))
    if as_json:
        show_json(made)
        return
    show_facts([("environment", made.name)])


ENV = Group(
    "env",
    "Environments.",
    (
        Command("list", list_environments, "doxstore env list", "permission `list keys`"),
        Command("add", add, "doxstore env add preview", "permission `manage environments`"),
    ),
)
