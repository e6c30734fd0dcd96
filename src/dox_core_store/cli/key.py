"""`doxstore key`: storing, proposing, reading and listing keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.import_file import KEY_IMPORT
from dox_core_store.cli.key_description import DESCRIPTION_COMMANDS
from dox_core_store.cli.key_limit import KEY_LIMIT
from dox_core_store.cli.key_version import VERSION_COMMANDS, KeyPath, Version, show_written
from dox_core_store.cli.moment import moment
from dox_core_store.cli.option import EnvironmentName, Json, Reason
from dox_core_store.cli.output import note, show_json, show_table
from dox_core_store.cli.session import ask
from dox_core_store.cli.value import print_value, read_value, refuse_terminal

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["KEY"]

IfVersion = Annotated[
    int | None,
    typer.Option(metavar="N", help="Only if the current version is N (0: there is none)."),
]
FromFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Read the value from FILE.")]
FromStdin = Annotated[bool, typer.Option("--stdin", help="Read the value from stdin.")]
StripNewline = Annotated[
    bool, typer.Option("--strip-newline", help="Leave out one newline at the end.")
]
ExpiresAt = Annotated[
    str | None, typer.Option(metavar="TIME", help="End of its life. [default: the store's]")
]


def put_key(
    key: KeyPath,
    *,
    environment: EnvironmentName = None,
    from_file: FromFile = None,
    stdin: FromStdin = False,
    strip_newline: StripNewline = False,
    if_version: IfVersion = None,
    owner: Annotated[str | None, typer.Option(metavar="TEXT", help="Who answers for it.")] = None,
    usage: Annotated[str | None, typer.Option(metavar="TEXT", help="What it is for.")] = None,
    expires_at: ExpiresAt = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Store a new current version of a key.

    The value is read from a hidden prompt, --stdin or --from-file, and never from the command
    line. Without --strip-newline a newline at its end is kept.
    """
    until = None if expires_at is None else moment(expires_at)
    value = read_value(from_file=from_file, stdin=stdin, strip_newline=strip_newline)
    written = ask(
        lambda service: service.store_key(
            key,
            value,
            environment,
            if_version=if_version,
            owner=owner,
            usage=usage,
            expires_at=until,
            reason=reason,
        )
    )
    show_written("stored", written, as_json=as_json)


def propose(
    key: KeyPath,
    *,
    environment: EnvironmentName = None,
    from_file: FromFile = None,
    stdin: FromStdin = False,
    strip_newline: StripNewline = False,
    expires_at: ExpiresAt = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Store a version of a key that nobody is handed before it is promoted.

    The value is read as by `key put`. To discard it again, destroy it by its number.
    """
    until = None if expires_at is None else moment(expires_at)
    value = read_value(from_file=from_file, stdin=stdin, strip_newline=strip_newline)
    written = ask(
        lambda service: service.propose(key, value, environment, expires_at=until, reason=reason)
    )
    show_written("proposed", written, as_json=as_json)


def promote(
    key: KeyPath,
    *,
    environment: EnvironmentName = None,
    version: Annotated[
        int | None,
        typer.Option("--version", metavar="N", help="Version. [default: the only pending one]"),
    ] = None,
    if_version: IfVersion = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Make a pending version current.

    The current one becomes previous and is still read by number. One that was proposed before the
    current version became so is refused.
    """
    written = ask(lambda service: service.promote(key, version, environment, if_version, reason))
    show_written("promoted", written, as_json=as_json)


def get_key(
    key: KeyPath,
    environment: EnvironmentName = None,
    version: Version = None,
    show: Annotated[bool, typer.Option("--show", help="Show it on a terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Print a key's value: to a pipe exactly, on a terminal only with --show.

    The read is on record before the value arrives.
    """
    refuse_terminal(show=show)
    spelling = key if environment is None else f"{key}.{environment}"
    found = ask(lambda service: service.get_key(spelling, version))
    if as_json:
        show_json(found)
        return
    if sys.stdout.isatty():
        note(f"{found.key_path}.{found.environment} version {found.version} ({found.state}):")
    print_value(found.value)


def list_keys(
    prefix: Annotated[
        str | None, typer.Option(metavar="PATH", help="Only PATH and what is below it.")
    ] = None,
    environment: EnvironmentName = None,
    as_json: Json = False,
) -> None:
    """List keys, without values."""

    async def listed(service: KeyService) -> list[wire.KeySummary]:
        return [each async for each in service.list_keys(prefix, environment, 500)]

    found = ask(listed)
    if as_json:
        show_json(found)
        return
    show_table(
        ("KEY", "ENVIRONMENT", "VERSION", "STATE", "EXPIRES", "LAST READ", "OWNER"),
        (
            (
                each.key_path,
                each.environment,
                each.version,
                each.state,
                each.expires_at,
                each.last_read_at,
                each.owner,
            )
            for each in found
        ),
    )


def roll_back(
    key: KeyPath,
    *,
    environment: EnvironmentName = None,
    to_version: Annotated[
        int | None,
        typer.Option(metavar="N", help="Version to copy. [default: the one before the current]"),
    ] = None,
    if_version: IfVersion = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Make a new version with an earlier version's value."""
    written = ask(
        lambda service: service.rollback(key, to_version, environment, if_version, reason)
    )
    show_written("rolled back", written, as_json=as_json)


KEY = Group(
    "key",
    "Keys and their versions.",
    (
        Command(
            "put",
            put_key,
            "pass show jules | doxstore key put service_keys.jules_api --stdin --strip-newline",
            "permission `write keys`",
        ),
        Command(
            "propose",
            propose,
            "doxstore key propose service_keys.jules_api --from-file new.key --strip-newline",
            "permission `write keys`",
        ),
        Command(
            "promote",
            promote,
            "doxstore key promote service_keys.jules_api --version 4 --if-version 3",
            "permission `write keys`",
        ),
        Command(
            "get",
            get_key,
            "doxstore key get service_keys.jules_api.staging | wc -c",
            "permission `read values`",
        ),
        Command(
            "list",
            list_keys,
            "doxstore key list --prefix service_keys --environment production",
            "permission `list keys`",
        ),
        Command(
            "rollback",
            roll_back,
            "doxstore key rollback service_keys.jules_api --reason 'version 4 is refused'",
            "permission `write keys`",
        ),
        *DESCRIPTION_COMMANDS,
        KEY_LIMIT,
        *VERSION_COMMANDS,
        KEY_IMPORT,
    ),
)
