"""`doxstore vault`: the vaults where values lie, and `vault check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.option import Json
from dox_core_store.cli.output import ExitCode, show_json, show_table
from dox_core_store.cli.session import ask
from dox_core_store.cli.vault_adopt import VAULT_ADOPT
from dox_core_store.cli.vault_move import VAULT_MOVE
from dox_core_store.cli.vault_setup import VAULT_SETUP

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["VAULT"]


def check(as_json: Json = False) -> None:
    """Say of each place where values lie whether the server can use it, and what lies there.

    Tasks are what a vault is still to be told: they are tried again every few seconds.
    """

    async def listed(service: KeyService) -> list[wire.VaultState]:
        return [each async for each in service.list_vaults()]

    found = ask(listed)
    if as_json:
        show_json(found)
    else:
        show_table(
            ("VAULT", "STATUS", "VERSIONS", "COPIES", "TASKS", "NEW VALUES", "DETAIL"),
            (
                (
                    each.vault,
                    each.status,
                    each.versions,
                    each.copies,
                    each.tasks,
                    "yes" if each.takes_new else "-",
                    each.detail,
                )
                for each in found
            ),
        )
    if any(each.status != "ok" for each in found):
        raise typer.Exit(ExitCode.REFUSED)


VAULT = Group(
    "vault",
    "Vaults of others that values of keys lie in: OpenBao, HashiCorp Vault, AWS.",
    (
        VAULT_SETUP,
        Command("check", check, "doxstore vault check", "permission `manage vaults`"),
        VAULT_ADOPT,
        VAULT_MOVE,
    ),
)
