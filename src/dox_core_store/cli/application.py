"""The command table of `doxstore`, and what all commands have in common: how errors end."""

from __future__ import annotations

import importlib.metadata
import itertools
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from dox_core_store.cli.access import ACCESS
from dox_core_store.cli.agent import AGENT
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
from dox_core_store.cli.output import (
    ExitCode,
    exit_code_of,
    output_failed,
    show_error,
    silence_stdout,
)
from dox_core_store.cli.run import RUN
from dox_core_store.cli.seal import SEAL
from dox_core_store.cli.serve import SERVE
from dox_core_store.cli.service import SERVICE
from dox_core_store.cli.token import TOKEN
from dox_core_store.cli.vault import VAULT
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
    RUN,
    AGENT,
    LEDGER,
    VAULT,
    SEAL,
    BACKUP,
)

_REMEDIES = {
    "connection_failed": (
        "Check `KEY_SERVICE_URL` and the network; on the store's own machine `doxstore doctor`"
        " tells more."
    ),
    "invalid_field": "See `{command} --help`.",
    "invalid_parameter": "See `{command} --help`.",
}
"""Where somebody at a terminal does something else than a program that uses the client."""


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
    # What stands after -- is another command's.
    as_json = "--json" in itertools.takewhile(lambda each: each != "--", arguments)
    try:
        code = build()(args=list(arguments), prog_name="doxstore", standalone_mode=False)
        sys.stdout.flush()
    except DoxStoreError as error:
        return _refused(error, arguments, as_json=as_json)
    except typer.TyperException as error:
        return _usage(error, as_json=as_json)
    except typer.Abort:
        show_error("aborted", "Nothing was done.", as_json=as_json)
        return ExitCode.REFUSED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        silence_stdout()  # whoever read our output has enough
        return ExitCode.REFUSED
    except OSError as error:
        if error.filename is not None:
            raise  # no output of ours: a fault
        silence_stdout()
        return _refused(output_failed(error), arguments, as_json=as_json)
    return code if isinstance(code, int) else ExitCode.OK


def _refused(error: DoxStoreError, arguments: Sequence[str], *, as_json: bool) -> int:
    detail = error.detail
    if error.request_id:
        detail = f"{detail} (request {error.request_id})"
    remedy = _REMEDIES.get(error.code)
    if remedy is not None:
        remedy = remedy.format(command=_named(arguments))
    show_error(error.code, detail, remedy=remedy, as_json=as_json)
    return exit_code_of(error)


def _named(arguments: Sequence[str]) -> str:
    """The command that ``arguments`` begin with: ``doxstore key put``."""
    named, rows = "doxstore", TABLE
    for word in arguments:
        row = next((each for each in rows if each.name == word), None)
        if row is None:
            break
        named = f"{named} {word}"
        rows = row.commands if isinstance(row, Group) else ()
    return named


def _usage(error: typer.TyperException, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    path = "doxstore" if context is None else context.command_path
    # Without a parameter it is a rule of ours, which needs no "Invalid value".
    message = error.format_message() if getattr(error, "param", None) else error.message
    message = message.replace(": Value error, ", ": ")  # how pydantic begins what a choice says
    if path.endswith(" run") and message.startswith("No such option"):
        message = f"{message}. The command and its own options come after --"
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message, err=True)
    else:
        remedy = f"See `{path} --help`."
        show_error("usage", message, remedy=remedy, as_json=as_json)
    return ExitCode.USAGE


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
