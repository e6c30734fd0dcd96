"""`doxstore run`: start a command with keys as its variables or files, and stay beside it.

What can be wrong without the store is found before the store is asked: a read that was for nothing
is on record all the same.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

from dox_core_store.cli.command import Command
from dox_core_store.cli.output import ExitCode, show_error
from dox_core_store.cli.run_child import NOT_FOUND, NOT_RUNNABLE, close_memory
from dox_core_store.cli.run_files import remove_leftovers
from dox_core_store.cli.run_map import entries_of_options, read_map, to_map
from dox_core_store.cli.run_supervisor import Plan, Supervisor
from dox_core_store.cli.service_client import ServiceName
from dox_core_store.errors import ConfigurationError

__all__ = ["RUN", "run", "signal_named"]

_CODES: dict[str, int] = {
    "bad_map": ExitCode.USAGE,
    "unsafe_variable": ExitCode.USAGE,
    "command_not_found": NOT_FOUND,
    "command_not_runnable": NOT_RUNNABLE,
}


def run(  # noqa: PLR0917 - options
    command: Annotated[
        list[str], typer.Argument(metavar="CMD", help="The command and its arguments, after --.")
    ],
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=KEY", help="A variable and its key; repeatable."),
    ] = None,
    map_file: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="YAML: `env` and `files`, each NAME: KEY."),
    ] = None,
    service: ServiceName = None,
    files: Annotated[
        bool,
        typer.Option(
            "--files",
            help="Each variable is the path of a file (0600, in memory) that holds the key.",
        ),
    ] = False,
    allow_disk: Annotated[
        bool, typer.Option("--allow-disk", help="Files on a disk where none can be in memory.")
    ] = False,
    pure: Annotated[
        bool, typer.Option("--pure", help="No variables but PATH, HOME, LANG, TERM and the keys.")
    ] = False,
    override: Annotated[
        bool, typer.Option("--override", help="A key wins over a variable that is set already.")
    ] = False,
    mask: Annotated[
        bool, typer.Option("--mask", help="Print *** where the command prints a key's value.")
    ] = False,
    watch: Annotated[
        str | None,
        typer.Option(
            metavar="ACTION",
            help="When a key changes: restart, or signal:NAME (such as signal:HUP) and new files.",
        ),
    ] = None,
    grace: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="From SIGTERM to SIGKILL at a restart."),
    ] = 10.0,
    on_revoke: Annotated[
        Literal["stop", "keep"],
        typer.Option(
            metavar="ACTION",
            help="With --watch, when a key can be had no more: stop the command, or keep it.",
        ),
    ] = "stop",
) -> int:
    """Run a command with keys in its environment, or in files that only it can read.

    It gets our environment without SERVICE_TOKEN, SERVICE_KEY, ADMIN_TOKEN and what goes with
    them. Signals go on to it, and its exit code is ours: 128 + N where signal N ended it.
    Otherwise 2: command line or map are wrong; 75: the store cannot be asked, try again later;
    77: the store does not let us; 1: a key is not there or was revoked; 78: a setting; 126: CMD
    cannot be run; 127: there is no CMD. docs/run.md tells more, and which variables are refused.
    """
    close_memory()
    try:
        entries = list(entries_of_options("env", env or ()))
        if map_file is not None:
            entries += read_map(map_file)
        plan = Plan(
            command=command,
            map=to_map(entries),
            service=service,
            is_pure=pure,
            overrides=override,
            is_masked=mask,
            as_files=files,
            allow_disk=allow_disk,
            is_watched=watch is not None,
            watch_signal=_watch_signal(watch),
            stops_on_revoke=on_revoke == "stop",
            grace_seconds=grace,
        )
        _check(plan)
        plan.check()
        remove_leftovers()
        return asyncio.run(Supervisor(plan).run())
    except ConfigurationError as error:
        if error.code not in _CODES:
            raise
        show_error(error.code, error.detail, as_json=False)
        return _CODES[error.code]


def signal_named(name: str) -> int:
    """``HUP`` or ``SIGHUP``. Raises a usage error."""
    full = name if name.startswith("SIG") else f"SIG{name}"
    if full in ("SIGKILL", "SIGSTOP") or full not in signal.Signals.__members__:
        raise typer.BadParameter(f"{name!a} is no signal to send: HUP, USR1, USR2, TERM, …")
    return signal.Signals[full]


def _watch_signal(watch: str | None) -> int | None:
    if watch in (None, "restart"):
        return None
    action, _, name = str(watch).partition(":")
    if action != "signal" or not name:
        raise typer.BadParameter("--watch takes restart, or signal:NAME such as signal:HUP.")
    return signal_named(name)


def _check(plan: Plan) -> None:
    if not plan.map.key_paths:
        raise typer.BadParameter("Say which keys: --env NAME=KEY, or --map FILE.")
    if not (plan.stops_on_revoke or plan.is_watched):
        raise typer.BadParameter("--on-revoke keep says nothing without --watch.")
    if plan.watch_signal is not None and plan.map.variables and not plan.as_files:
        raise typer.BadParameter(
            "The variables of a running command cannot be changed: with --watch signal:NAME, say"
            " --files too, or --watch restart."
        )


RUN = Command(
    "run",
    run,
    "doxstore run --env STRIPE_KEY=service_keys.stripe -- python worker.py\n"
    "doxstore run --map keys.yaml --watch restart -- gunicorn app:app\n"
    "doxstore run --files --env PGPASSFILE=database.pgpass -- psql",
    "`KEY_SERVICE_URL`, and the token of the service (`SERVICE_TOKEN` or `SERVICE_TOKEN_FILE`)",
)
