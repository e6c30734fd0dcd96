"""`doxstore init`: a new store, its first slot, and the first operator.

The first slot is a key file unless ``--slot`` says otherwise. A key file must lie outside the
store's folder: whoever copies the folder (a backup, a snapshot) must not thereby have the values.
Only ``doxstore dev`` keeps it beside the data.
"""

from __future__ import annotations

import getpass
import re
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dox_core_store.cli.command import Command
from dox_core_store.cli.new_slot import (
    KmsKey,
    ShareCount,
    SharesFolder,
    StdinPassphrase,
    Threshold,
    TransitKey,
    check_outside,
    keep_shares,
    new_holder,
    print_shares,
    slot_kind,
)
from dox_core_store.cli.option import ConfigFile, DatabaseUrl, DataFolder, Json, KeyFile
from dox_core_store.cli.output import note, show_facts, show_json
from dox_core_store.cli.session import local_settings, needs_server_extra
from dox_core_store.errors import ConfigurationError

__all__ = ["INIT"]

_TOKEN_LIFETIME = "24h"  # noqa: S105 - how long, not a token
_ALL_ROLES = ["admin", "maintainer", "security_team_lead", "auditor"]
_OPERATOR = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


def init(
    *,
    data: DataFolder = None,
    database: DatabaseUrl = None,
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
    slot: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="What opens the store: key-file, passphrase, shares, transit or kms.",
        ),
    ] = "key-file",
    stdin: StdinPassphrase = False,
    threshold: Threshold = 2,
    shares: ShareCount = 3,
    shares_dir: SharesFolder = None,
    transit_key: TransitKey = "doxstore",
    kms_key: KmsKey = "",
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make a store and what opens it, and print a token (24 h) for its first operator.

    With --database in PostgreSQL, in an empty database of its own, for one node or many. The folder
    is then what this machine remembers of it.

    A key file that exists is used, never overwritten. Keep a copy of it apart from the data:
    without it, the store opens for nobody. `doxstore seal slots add` adds other ways to open it.
    """
    settings = local_settings(
        "init",
        config=config,
        data=data,
        database=database,
        key_file=key_file,
        default_environment=default_environment,
    )
    folder = Path(settings.data)
    with needs_server_extra("init"):
        from dox_core_store.server.bootstrap import LocalStore, init_store

        kind = slot_kind(slot)
    if kind == "key-file":
        _check_key_file(folder, settings.key_file)
    new = new_holder(
        stdin=stdin,
        threshold=threshold,
        shares=shares,
        transit_key=transit_key,
        kms_key=kms_key,
    )
    name = operator or _this_user()
    made = init_store(
        settings,
        operator=name,
        roles=role or _ALL_ROLES,
        kind=kind,
        new=new,
        keep=None if shares_dir is None else partial(keep_shares, folder=shares_dir),
    )
    store = LocalStore(settings, made=made)
    told = {
        "store_id": store.store_id,
        "operator": name,
        "operator_token": store.operator_token(name, _TOKEN_LIFETIME),
        "data": str(folder.resolve()),
    }
    if settings.database:
        told["database"] = settings.database
    if kind == "key-file":
        told["key_file"] = str(Path(settings.key_file).resolve())
    else:
        told["slot"] = made.new.slot_id
    if as_json:
        show_json({**told, "shares": made.shares} if made.shares and not shares_dir else told)
        return
    show_facts(told.items())
    note(
        f"Operator {name} has the roles {', '.join(role or _ALL_ROLES)}."
        " The token lives 24 h; `doxstore operator token` makes another.\n".strip()
    )
    if made.shares and not shares_dir:
        print_shares(made.shares, threshold)
    opened = f"--key-file {told['key_file']}" if kind == "key-file" else f"--unseal-with {kind}"
    there = f"--database '{settings.database}' " if settings.database else ""
    rest = f"--config {config.resolve()} " if config else ""
    note(f"Serve it: doxstore serve {rest}{there}--data {told['data']} {opened}")


def _check_key_file(folder: Path, key_file: str) -> None:
    if not key_file:
        raise ConfigurationError(
            "key_file_missing",
            "A new store needs a key file outside its folder: say --key-file or DOXSTORE_KEY_FILE."
            " It is made if it does not exist. (Only `doxstore dev` keeps one beside the data.)",
        )
    check_outside(folder, Path(key_file))


def _this_user() -> str:
    try:
        user = getpass.getuser().lower()
    except (KeyError, OSError):  # no passwd entry, as in small containers
        return "admin"
    return user if _OPERATOR.fullmatch(user) and user != "root" else "admin"


INIT = Command(
    "init",
    init,
    "doxstore init --data /var/lib/doxstore --key-file /etc/doxstore/root.key\n"
    "doxstore init --database postgresql://doxstore@db.example/doxstore"
    " --data /var/lib/doxstore --key-file /etc/doxstore/root.key",
    "the `server` extra; write access to both places; with --database the `postgres` extra",
)
