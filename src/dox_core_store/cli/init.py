"""`doxstore init`: a new store, its key file, and the first operator.

A key file is demanded and must lie outside the store's folder: whoever copies the folder (a backup,
a snapshot) must not thereby have the values. Only ``doxstore dev`` keeps it beside the data.
"""

from __future__ import annotations

import getpass
import re
from pathlib import Path
from typing import Annotated

import typer

from dox_core_store.cli.command import Command
from dox_core_store.cli.option import ConfigFile, DataFolder, Json, KeyFile
from dox_core_store.cli.output import note, show_facts, show_json
from dox_core_store.cli.session import local_settings, local_store, needs_server_extra
from dox_core_store.errors import ConfigurationError

__all__ = ["INIT"]

_TOKEN_LIFETIME = "24h"  # noqa: S105 - how long, not a token
_ALL_ROLES = ["admin", "maintainer", "security_team_lead", "auditor"]
_OPERATOR = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


def init(
    *,
    data: DataFolder = None,
    key_file: KeyFile = None,
    operator: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The first operator. [default: you, else admin]"),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE", help="A role of theirs; repeatable. [default: every role]"),
    ] = None,
    default_environment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Environment where nothing names one. [default: production]"
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make a store and its key file, and print a token (24 h) for its first operator.

    A key file that exists is used, never overwritten. Keep a copy of it apart from the data:
    without it, the store opens for nobody.
    """
    settings = local_settings(
        "init", config=config, data=data, key_file=key_file, default_environment=default_environment
    )
    folder = Path(settings.data)
    _check_key_file(folder, settings.key_file)
    with needs_server_extra("init"):
        from dox_core_store.server.bootstrap import init_store

    name = operator or _this_user()
    init_store(settings, operator=name, roles=role or _ALL_ROLES)
    store = local_store("init", settings)
    made = {
        "store_id": store.store_id,
        "operator": name,
        "operator_token": store.operator_token(name, _TOKEN_LIFETIME),
        "data": str(folder.resolve()),
        "key_file": str(Path(settings.key_file).resolve()),
    }
    if as_json:
        show_json(made)
        return
    show_facts(made.items())
    note(
        f"Operator {name} has the roles {', '.join(role or _ALL_ROLES)}."
        " The token lives 24 h; `doxstore operator token` makes another.\n".strip()
    )
    note(f"Serve it: doxstore serve --data {made['data']} --key-file {made['key_file']}")


def _check_key_file(folder: Path, key_file: str) -> None:
    if not key_file:
        raise ConfigurationError(
            "key_file_missing",
            "A new store needs a key file outside its folder: say --key-file or DOXSTORE_KEY_FILE."
            " It is made if it does not exist. (Only `doxstore dev` keeps one beside the data.)",
        )
    if Path(key_file).resolve().is_relative_to(folder.resolve()):
        raise ConfigurationError(
            "bad_setting",
            f"The key file {key_file} lies in the store's folder {folder}: whoever copies the"
            " folder would have the values. Name a file elsewhere with --key-file.",
        )


def _this_user() -> str:
    try:
        user = getpass.getuser().lower()
    except (KeyError, OSError):  # no passwd entry, as in small containers
        return "admin"
    return user if _OPERATOR.fullmatch(user) and user != "root" else "admin"


INIT = Command(
    "init",
    init,
    "doxstore init --data /var/lib/doxstore --key-file /etc/doxstore/root.key",
    "the `server` extra; write access to both places",
)
