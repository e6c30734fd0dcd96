"""What a command is, and how its help is made: the same for all, and the same as ``docs/cli.md``.

A command's function does the work and its docstring's first line says what; its example and what
it needs stand beside it in a table, so that none can be without.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import typer

__all__ = ["Command", "Group", "add_command", "add_group", "every_command"]


class Command(NamedTuple):
    """``needs`` is the permission (``docs/roles.md``), or what else must be at hand."""

    name: str
    run: Callable[..., Any]
    example: str
    needs: str

    @property
    def summary(self) -> str:
        """The first paragraph of the function's docstring, as one line."""
        return " ".join((inspect.getdoc(self.run) or "").split("\n\n", 1)[0].split())

    @property
    def more(self) -> str:
        """The rest of the docstring."""
        return (inspect.getdoc(self.run) or "").partition("\n\n")[2]

    @property
    def help(self) -> str:
        """What ``--help`` prints above the options."""
        parts = [self.summary]
        if self.more:
            parts.append(self.more)
        # "\b" keeps the lines of a paragraph as they are.
        example = "\n".join(f"  {line}" for line in self.example.splitlines())
        parts += [f"\b\nExample:\n{example}", f"Needs: {self.needs}."]
        return "\n\n".join(parts)


class Group(NamedTuple):
    """The commands on one noun; a part of it may be a group again."""

    name: str
    summary: str
    commands: tuple[Command | Group, ...]


def add_command(app: typer.Typer, command: Command) -> None:
    """Register ``command`` with ``app``."""
    app.command(command.name, help=command.help, short_help=command.summary)(command.run)


def add_group(app: typer.Typer, group: Group) -> None:
    """Register ``group`` with ``app``."""
    inner = typer.Typer(
        help=group.summary,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for each in group.commands:
        if isinstance(each, Group):
            add_group(inner, each)
        else:
            add_command(inner, each)
    app.add_typer(inner, name=group.name)


def every_command(
    rows: Iterable[Command | Group], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, Command]]:
    """Every command of a table by its full name: ``key put``, ``seal slots list``."""
    for row in rows:
        name = (*above, row.name)
        if isinstance(row, Group):
            yield from every_command(row.commands, name)
        else:
            yield " ".join(name), row
