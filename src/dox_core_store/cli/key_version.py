"""`doxstore key`: listing versions, ending them, and moving their end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command
from dox_core_store.cli.moment import ahead, moment
from dox_core_store.cli.option import EnvironmentName, Json, Reason, RequiredReason, Yes
from dox_core_store.cli.output import show_facts, show_json, show_table, when
from dox_core_store.cli.session import ask, confirm

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["VERSION_COMMANDS", "KeyPath", "Version", "show_versions", "show_written"]

KeyPath = Annotated[
    str,
    typer.Argument(metavar="KEY", help="Path of the key; it may end in an environment."),
]
Version = Annotated[
    int | None, typer.Option("--version", metavar="N", help="Version. [default: the current one]")
]


def list_versions(key: KeyPath, environment: EnvironmentName = None, as_json: Json = False) -> None:
    """List a key's versions, without values."""

    async def listed(service: KeyService) -> list[wire.KeyVersion]:
        return [each async for each in service.versions(key, environment)]

    found = ask(listed)
    if as_json:
        show_json(found)
        return
    show_versions(found)


def show_versions(versions: Sequence[wire.KeyVersion]) -> None:
    """A table of versions."""
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
            for each in versions
        ),
    )


def retire(
    key: KeyPath,
    *,
    environment: EnvironmentName = None,
    version: Annotated[
        int | None,
        typer.Option("--version", metavar="N", help="Version. [default: the previous one]"),
    ] = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """End a previous version's overlap: services are not handed it any more, by number either.

    Maintainers still read it by number, and a rollback can still copy it.
    """
    written = ask(lambda service: service.retire(key, version, environment, reason))
    show_written("retired", written, as_json=as_json)


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
    show_written("revoked", written, as_json=as_json)


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
    show_written("destroyed", written, as_json=as_json)


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
    show_written("extended", written, as_json=as_json)


def expire(
    key: KeyPath,
    *,
    environment: EnvironmentName = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """End the current version's life now. `key extend` brings it back."""
    written = ask(lambda service: service.expire(key, environment, reason))
    show_written("expired", written, as_json=as_json)


def show_written(done: str, written: wire.KeyWritten, *, as_json: bool) -> None:
    """What was done to which version."""
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


VERSION_COMMANDS = (
    Command(
        "versions",
        list_versions,
        "doxstore key versions service_keys.jules_api",
        "permission `list keys`",
    ),
    Command(
        "retire",
        retire,
        "doxstore key retire service_keys.jules_api --reason 'everybody has the new one'",
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
        "expire",
        expire,
        "doxstore key expire service_keys.jules_api --reason 'the trial is over'",
        "permission `write keys`",
    ),
    Command(
        "extend",
        extend,
        "doxstore key extend service_keys.jules_api --for 90d",
        "permission `write keys`",
    ),
)
