"""The command table of `doxstore`, and what all commands have in common: how errors end."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Annotated

import typer

from dox_core_store.cli.access import ACCESS
from dox_core_store.cli.backup import BACKUP
from dox_core_store.cli.command import Command, Group, add_command, add_group
from dox_core_store.cli.dev import DEV
from dox_core_store.cli.doctor import DOCTOR
from dox_core_store.cli.env import ENV
from dox_core_store.cli.grant import GRANT
from dox_core_store.cli.init import INIT
from dox_core_store.cli.issuer import ISSUER
from dox_core_store.cli.key import KEY
from dox_core_store.cli.ledger import LEDGER
from dox_core_store.cli.login import LOGIN, LOGOUT
from dox_core_store.cli.operator import OPERATOR
from dox_core_store.cli.output import ExitCode, exit_code_of, show_error
from dox_core_store.cli.seal import SEAL
from dox_core_store.cli.serve import SERVE
from dox_core_store.cli.service import SERVICE
from dox_core_store.cli.token import TOKEN
from dox_core_store.errors import DoxStoreError

__all__ = ["TABLE", "build", "run"]

TABLE: tuple[Command | Group, ...] = (
    DEV,
    INIT,
    SERVE,
    DOCTOR,
    KEY,
    SERVICE,
    GRANT,
    ACCESS,
    TOKEN,
    OPERATOR,
    ISSUER,
    LOGIN,
    LOGOUT,
    ENV,
    LEDGER,
    SEAL,
    BACKUP,
)


def build() -> typer.Typer:
    """`doxstore` as one application."""
    app = typer.Typer(
        name="doxstore",
        help="One place for a platform's keys, and one audited door to them.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_doxstore)
    for row in TABLE:
        if isinstance(row, Group):
            add_group(app, row)
        else:
            add_command(app, row)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. Raises nothing that a user can cause."""
    # Also where the command line itself is wrong, so that a program always gets what it asked for.
    as_json = "--json" in arguments
    try:
        code = build()(args=list(arguments), prog_name="doxstore", standalone_mode=False)
    except DoxStoreError as error:
        detail = error.detail
        if error.request_id:
            detail = f"{detail} (request {error.request_id})"
        show_error(error.code, detail, as_json=as_json)
        return exit_code_of(error)
    except typer.TyperException as error:
        return _usage(error, as_json=as_json)
    except typer.Abort:
        show_error("aborted", "Nothing was done.", as_json=as_json)
        return ExitCode.REFUSED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again at its own exit.
        _silence_stdout()
        return ExitCode.REFUSED
    return code if isinstance(code, int) else ExitCode.OK


def _usage(error: typer.TyperException, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    path = "doxstore" if context is None else context.command_path
    # Without a parameter it is a rule of ours, which needs no "Invalid value".
    message = error.format_message() if getattr(error, "param", None) else error.message
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message, err=True)
    else:
        remedy = f"See `{path} --help`."
        show_error("usage", message, remedy=remedy, as_json=as_json)
    return ExitCode.USAGE


def _silence_stdout() -> None:
    import os
    import sys

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(importlib.metadata.version("dox-core-store"))
        raise typer.Exit


def _doxstore(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass
