"""`doxstore operator`: people and pipelines with roles, and their tokens.

On the store itself, beside running servers: whoever reaches the store's files or its database, and
holds its key file, may do this without a token, so it is also the way back in. The ledger names
them ``local:<user>``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.option import (
    Addresses,
    ConfigFile,
    DatabaseUrl,
    DataFolder,
    Json,
    KeyFile,
    Reason,
)
from dox_core_store.cli.output import note, show_facts, show_json, show_table
from dox_core_store.cli.session import local_settings, local_store

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap import LocalStore
    from dox_core_store.server.domain.access import OperatorRecord

__all__ = ["OPERATOR"]

OperatorName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the operator: a-z, 0-9, ., _ and -.")
]


def add(
    name: OperatorName,
    role: Annotated[
        list[str],
        typer.Option(
            metavar="ROLE",
            help="admin, maintainer, security_team_lead or auditor; repeatable.",
        ),
    ],
    reason: Reason = None,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Add an operator, or give one other roles.

    The roles named replace those held before. docs/roles.md says which may do what.
    """
    _show(
        _store(data, database, key_file, config).add_operator(name, role, reason), as_json=as_json
    )


def list_operators(
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List the operators."""
    found = _store(data, database, key_file, config).operators()
    if as_json:
        show_json([_told(each) for each in found])
        return
    show_table(
        ("OPERATOR", "STATUS", "ROLES", "CREATED"),
        ((each.name, _status(each), ", ".join(each.roles), each.created_at) for each in found),
    )


def disable(
    name: OperatorName,
    reason: Reason = None,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """End an operator: every token dies at once."""
    _show(_store(data, database, key_file, config).disable_operator(name, reason), as_json=as_json)


def token(
    name: OperatorName,
    *,
    expires_in: Annotated[
        str, typer.Option(metavar="DURATION", help="Such as 30m, 24h or 90d.")
    ] = "24h",
    address: Addresses = None,
    reason: Reason = None,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print a new token for an operator: the value for ADMIN_TOKEN."""
    text = _store(data, database, key_file, config).operator_token(
        name, expires_in, address or (), reason
    )
    if as_json:
        show_json({"operator": name, "expires_in": expires_in, "token": text})
        return
    note(f"Token of operator {name} for {expires_in}:")
    typer.echo(text)


def _store(
    data: str | None, database: str | None, key_file: str | None, config: Path | None
) -> LocalStore:
    settings = local_settings(
        "operator", config=config, data=data, database=database, key_file=key_file
    )
    return local_store("operator", settings)


def _status(operator: OperatorRecord) -> str:
    return "active" if operator.disabled_at is None else "disabled"


def _told(operator: OperatorRecord) -> dict[str, Any]:
    return {
        "name": operator.name,
        "status": _status(operator),
        "roles": operator.roles,
        "created_at": operator.created_at,
    }


def _show(operator: OperatorRecord, *, as_json: bool) -> None:
    if as_json:
        show_json(_told(operator))
        return
    show_facts(
        [
            ("operator", operator.name),
            ("status", _status(operator)),
            ("roles", ", ".join(operator.roles)),
        ]
    )


_FILES = "the `server` extra; the store's folder or database, and its key file"

OPERATOR = Group(
    "operator",
    "Operators: people and pipelines with roles. Works on the store itself.",
    (
        Command(
            "add",
            add,
            "doxstore operator add lena --role maintainer --role auditor --data /var/lib/doxstore",
            _FILES,
        ),
        Command("list", list_operators, "doxstore operator list --data /var/lib/doxstore", _FILES),
        Command(
            "disable",
            disable,
            "doxstore operator disable lena --reason 'left' --data /var/lib/doxstore",
            _FILES,
        ),
        Command(
            "token",
            token,
            "export ADMIN_TOKEN=$(doxstore operator token lena --data /var/lib/doxstore)",
            _FILES,
        ),
    ),
)
