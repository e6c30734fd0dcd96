"""The options that many commands share, so that each is spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Addresses",
    "ConfigFile",
    "DataFolder",
    "DatabaseUrl",
    "EnvironmentName",
    "Json",
    "KeyFile",
    "Reason",
    "RequiredReason",
    "UnsealWith",
    "Yes",
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
DataFolder = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="DIR", help="Folder of the store. [DOXSTORE_DATA; default: .doxstore]"
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="PostgreSQL that holds the store, instead of the folder: postgresql://USER@HOST/NAME."
        " Never a password in it: that comes from the file that DOXSTORE_DATABASE_PASSWORD_FILE"
        " names, from PGPASSWORD or from ~/.pgpass. [DOXSTORE_DATABASE]",
    ),
]
KeyFile = Annotated[
    str | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help="File that opens the store, kept outside its folder. [DOXSTORE_KEY_FILE]",
    ),
]
UnsealWith = Annotated[
    str | None,
    typer.Option(
        "--unseal-with",
        metavar="KIND",
        help="Open the store by this kind of slot only: key-file, passphrase, shares, transit or"
        " kms. [DOXSTORE_UNSEAL_WITH; default: whatever opens it]",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings, as TOML. [DOXSTORE_CONFIG]"),
]
EnvironmentName = Annotated[
    str | None,
    typer.Option(
        "--environment",
        "-e",
        metavar="NAME",
        help="Environment, where the path does not end in one.",
    ),
]
Addresses = Annotated[
    list[str] | None,
    typer.Option(
        "--address",
        metavar="CIDR",
        help="From where alone the token may be used, such as 10.2.0.0/16; repeatable.",
    ),
]
Reason = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Why, for the ledger.")
]
RequiredReason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why, for the ledger.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
