"""`doxstore vault setup`: what has to be done in a vault before values can lie there."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer

from dox_core_store.cli.command import Command
from dox_core_store.cli.option import ConfigFile, Json
from dox_core_store.cli.output import note, show_json
from dox_core_store.cli.session import local_settings, needs_server_extra
from dox_core_store.errors import ConfigurationError

__all__ = ["VAULT_SETUP"]


class _Kind(StrEnum):
    OPENBAO = "openbao"
    AWS = "aws"


def setup(
    kind: Annotated[_Kind, typer.Argument(help="Also openbao for HashiCorp Vault.")],
    address: Annotated[
        str | None,
        typer.Argument(metavar="ADDRESS", help="Address of the vault. [DOXSTORE_VAULT]"),
    ] = None,
    apply: Annotated[
        bool,
        typer.Option(
            "--apply", help="Do it, with the administrator's token in BAO_TOKEN or VAULT_TOKEN."
        ),
    ] = False,
    policy: Annotated[
        str, typer.Option(metavar="NAME", help="What the policy is called in OpenBao.")
    ] = "doxstore",
    account: Annotated[
        str, typer.Option(metavar="NUMBER", help="Number of the AWS account; * is any.")
    ] = "*",
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Say what a vault needs before values of keys can lie there: engine, policy, login.

    The policies allow what the store does below its prefix and nothing else. With --apply engine
    and policy are made in OpenBao; done again, that changes nothing. Who may log in with the policy
    remains to be said.
    """
    if apply and kind is _Kind.AWS:
        raise typer.BadParameter("--apply is for OpenBao: in AWS, who keeps IAM does it.")
    text = address or local_settings("vault setup", config=config).vault
    if not text:
        raise typer.BadParameter("Say the address of the vault, or set DOXSTORE_VAULT.")
    with needs_server_extra("vault setup"):
        from dox_core_store.server.bootstrap.vault_setup import apply_setup, setup_steps

    name, steps = setup_steps(kind, text, policy_name=policy, account=account)
    if apply:
        done = []
        for line in apply_setup(text, token=_token(), policy_name=policy):
            done.append(line)
            if not as_json:
                typer.echo(line)
        if as_json:
            show_json({"vault": name, "done": done})
        else:
            note("What remains, a login and the setting, is printed without --apply.")
        return
    if as_json:
        show_json({"vault": name, "steps": [each._asdict() for each in steps]})
        return
    for each in steps:
        typer.echo(f"# {each.what}\n{each.text}")


def _token() -> str:
    for name in ("BAO_TOKEN", "VAULT_TOKEN"):
        if token := os.environ.get(name):
            return token
    raise ConfigurationError(
        "bad_setting", "--apply takes an administrator's token from BAO_TOKEN or VAULT_TOKEN."
    )


VAULT_SETUP = Command(
    "setup",
    setup,
    "doxstore vault setup openbao openbao+https://bao.example.com:8200/kv/doxstore --apply\n"
    "doxstore vault setup aws aws://eu-central-1/doxstore",
    "`dox-core-store[server,cli]` and the extra for the vault; no store",
)
