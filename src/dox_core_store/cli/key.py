"""`doxstore key`: storing, reading and listing keys, and ending their versions."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.import_file import KEY_IMPORT
from dox_core_store.cli.moment import ahead, moment
from dox_core_store.cli.option import EnvironmentName, Json, Reason, RequiredReason, Yes
from dox_core_store.cli.output import note, show_facts, show_json, show_table, when
from dox_core_store.cli.session import ask, confirm
from dox_core_store.cli.value import print_value, read_value, refuse_terminal

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["KEY"]

KeyPath = Annotated[
    str,
    typer.Argument(metavar="KEY", help="Path of the key; it may end in an environment."),
]
Version = Annotated[
    int | None, typer.Option("--version", metavar="N", help="Version. [default: the current one]")
]
IfVersion = Annotated[
    int | None,
    typer.Option(metavar="N", help="Only if the current version is N (0: there is none)."),
]


def put_key(
    key: KeyPath,
    *,
    environment: EnvironmentName = None,
    from_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read the value from FILE.")
    ] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the value from stdin.")] = False,
    strip_newline: Annotated[
        bool, typer.Option("--strip-newline", help="Leave out one newline at the end.")
    ] = False,
    if_version: IfVersion = None,
    owner: Annotated[str | None, typer.Option(metavar="TEXT", help="Who answers for it.")] = None,
    usage: Annotated[str | None, typer.Option(metavar="TEXT", help="What it is for.")] = None,
    expires_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="End of its life. [default: the store's]")
    ] = None,
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
    _show_written("stored", written, as_json=as_json)


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


def list_versions(key: KeyPath, environment: EnvironmentName = None, as_json: Json = False) -> None:
    """List a key's versions, without values."""

    async def listed(service: KeyService) -> list[wire.KeyVersion]:
        return [each async for each in service.versions(key, environment)]

    found = ask(listed)
    if as_json:
        show_json(found)
        return
    show_table(
        ("VERSION", "STATE", "CREATED", "BY", "EXPIRES", "ROLLED BACK FROM"),
        (
            (
                each.version,
                each.state,
                each.created_at,
                each.created_by,
                each.expires_at,
                each.rolled_back_from,
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
    _show_written("rolled back", written, as_json=as_json)


def revoke(
    key: KeyPath,
    reason: RequiredReason,
    environment: EnvironmentName = None,
    version: Version = None,
    as_json: Json = False,
) -> None:
    """Hand a version out nowhere any more, at once and for ever.

    For a key that leaked. It never waits for anybody's approval.
    """
    written = ask(lambda service: service.revoke(key, version, environment, reason))
    _show_written("revoked", written, as_json=as_json)


def destroy(
    key: KeyPath,
    *,
    environment: EnvironmentName = None,
    version: Version = None,
    reason: Reason = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Erase a version's value. Nothing brings it back.

    A current version has to be revoked, or followed by another, first.
    """
    what = "the current version" if version is None else f"version {version}"
    confirm(f"Erase the value of {what} of {key} for ever?", yes=yes)
    written = ask(lambda service: service.destroy(key, version, environment, reason))
    _show_written("destroyed", written, as_json=as_json)


def extend(
    key: KeyPath,
    *,
    environment: EnvironmentName = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="From now, such as 90d.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="To a time, such as 2027-01-31.")
    ] = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Let the current version live longer. Value and version number stay as they are."""
    if for_ is not None and until is None:
        expires_at = ahead(for_, now=datetime.now(UTC))
    elif until is not None and for_ is None:
        expires_at = moment(until)
    else:
        raise typer.BadParameter("Say --for DURATION or --until TIME.")
    written = ask(lambda service: service.extend(key, expires_at, environment, reason))
    _show_written("extended", written, as_json=as_json)


def _show_written(done: str, written: wire.KeyWritten, *, as_json: bool) -> None:
    if as_json:
        show_json(written)
        return
    show_facts(
        [
            (done, f"{written.key_path}.{written.environment}"),
            ("version", f"{written.version} ({written.version_id})"),
            ("state", written.state),
            ("expires", when(written.expires_at)),
        ]
    )


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
            "versions",
            list_versions,
            "doxstore key versions service_keys.jules_api",
            "permission `list keys`",
        ),
        Command(
            "rollback",
            roll_back,
            "doxstore key rollback service_keys.jules_api --reason 'version 4 is refused'",
            "permission `write keys`",
        ),
        Command(
            "revoke",
            revoke,
            "doxstore key revoke service_keys.jules_api --version 3 --reason 'seen in a log'",
            "permission `revoke keys`",
        ),
        Command(
            "destroy",
            destroy,
            "doxstore key destroy service_keys.jules_api --version 1 --yes",
            "permission `write keys`",
        ),
        Command(
            "extend",
            extend,
            "doxstore key extend service_keys.jules_api --for 90d",
            "permission `write keys`",
        ),
        KEY_IMPORT,
    ),
)
