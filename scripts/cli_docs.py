"""Writes ``docs/cli.md`` from the command table of `doxstore` itself.

``--check`` writes nothing and fails if the committed page is not what would be written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer.main

from dox_core_store.cli.application import TABLE, build
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.output import ExitCode

__all__ = ["PAGE", "render"]

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"

HEAD = """\
# The command line

`doxstore` does everything that an operator does. `pip install 'dox-core-store[cli]'` is enough for
commands that talk to a store; `dev`, `init`, `serve`, `doctor`, `operator`, `seal` and `backup`
work on the store's own files and need `dox-core-store[server,cli]`. Every command explains itself
with `--help`.

<!-- Written by scripts/cli_docs.py from the command table in src/dox_core_store/cli/. -->

## How a command reaches a store

| kind | commands | by |
|---|---|---|
| over HTTP, as an operator | `key` `service` `grant` `access` `token` `env` `ledger` `vault` | \
`KEY_SERVICE_URL` and `ADMIN_TOKEN` from the environment; for a private CA `KEY_SERVICE_CA_FILE`; \
`KEY_SERVICE_TIMEOUT` in milliseconds |
| over HTTP, as a service | `run` `agent` | `KEY_SERVICE_URL`, and `SERVICE_TOKEN` or \
`SERVICE_TOKEN_FILE`: as any [client](client.md#settings) |
| on the store's own files | `init` `serve` `doctor` `operator` `seal` `backup`, \
`ledger verify --data` | \
`--data` or `DOXSTORE_DATA`, `--key-file` or `DOXSTORE_KEY_FILE`; beside a running server too |

Tokens and values are never taken from the command line, where every user of the machine could read
them. A value comes from a hidden prompt, `--stdin` or `--from-file`. A newline at its end is kept,
with a warning; `--strip-newline` leaves it out. On a terminal, a value is printed
only with `--show`.

Times are RFC 3339 (`2026-01-31T12:00:00Z`) or a day (`2026-01-31`); without a zone they are UTC.
Durations are a number with `s`, `m`, `h`, `d`, `w` or `y`.

## Output and exit codes

Results go to stdout: tables for people, and with `--json` one JSON document and nothing else.
Notes, progress and errors go to stderr. An error is one line, `error[code]: what was wrong`, and
one line with what to do; with `--json` it is `{"error": {"code", "detail", "remedy"}}`. The codes
are those of [the list of errors](errors.md), and `usage` and `aborted`. `NO_COLOR` is honoured.
`run` ends [as its command does](run.md#signals-and-exit-codes).

| exit code | meaning |
|---|---|
"""

EXIT_CODES = {
    ExitCode.OK: "done",
    ExitCode.REFUSED: "the store refused, a check failed, or the question was answered with no",
    ExitCode.USAGE: "the command line is wrong; nothing was done",
    ExitCode.UNREACHABLE: "no answer from the store, or not now: try again later",
    ExitCode.NOT_PERMITTED: "not authenticated, or not authorized",
    ExitCode.CONFIGURATION: "a setting, a file, the output or the environment is unusable",
    ExitCode.INTERRUPTED: "ended with Ctrl-C",
}


def render() -> str:
    """The page as it should be."""
    commands = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
    parts = [HEAD, *(f"| {int(code)} | {EXIT_CODES[code]} |\n" for code in ExitCode)]
    parts += _sections(TABLE, commands, "## doxstore")
    return "".join(parts)


def _sections(rows: Iterable[Command | Group], made: Any, above: str) -> Iterator[str]:
    for row in rows:
        title = f"{above} {row.name}"
        if isinstance(row, Group):
            yield f"\n{title}\n\n{row.summary}\n"
            yield from _sections(row.commands, made[row.name].commands, f"#{title}")
        else:
            yield _section(title, row, made[row.name])


def _section(title: str, command: Command, made: Any) -> str:
    paragraphs = [title, command.summary]
    if command.more:
        paragraphs.append(command.more)
    paragraphs.append(f"```bash\n{command.example}\n```")
    paragraphs.append(f"Needs: {command.needs}.")
    rows = "".join(_row(each) for each in made.params if not getattr(each, "hidden", False))
    if rows:
        paragraphs.append(f"| argument or option | |\n|---|---|\n{rows}".rstrip())
    return "\n" + "\n\n".join(paragraphs) + "\n"


def _row(parameter: Any) -> str:
    metavar = parameter.metavar or parameter.name.upper()
    if parameter.param_type_name == "argument":
        name = metavar.strip("[]")
    else:
        names = sorted(parameter.opts, key=len, reverse=True)
        name = ", ".join(names) + ("" if parameter.is_flag else f" {metavar}")
    said = (parameter.help or "").replace("|", "\\|")
    needed = " Required." if parameter.required else ""
    default = parameter.default
    if default not in (None, False, "", ()) and not callable(default) and "[" not in said:
        said += f" [default: {default}]"
    return f"| `{name.replace('|', chr(92) + '|')}` | {said}{needed} |\n"


def main() -> int:
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(render(), encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == render():
        return 0
    print(f"{PAGE.name} does not say what the commands say: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
