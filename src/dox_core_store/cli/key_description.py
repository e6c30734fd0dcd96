"""`doxstore key show` and `describe`: what is told and said of a key beside its value."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command
from dox_core_store.cli.key_version import KeyPath, show_versions
from dox_core_store.cli.option import EnvironmentName, Json, Reason
from dox_core_store.cli.output import show_facts, show_json, when
from dox_core_store.cli.session import ask

__all__ = ["DESCRIPTION_COMMANDS", "show_description"]

_DEFAULT = "default"


def show_key(key: KeyPath, environment: EnvironmentName = None, as_json: Json = False) -> None:
    """Show all about a key but its values."""
    found = ask(lambda service: service.description(key, environment))
    show_description(found, as_json=as_json)


def describe(
    key: KeyPath,
    *,
    environment: EnvironmentName = None,
    owner: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Who answers for it; '' for nobody.")
    ] = None,
    usage: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What it is for; '' for nothing.")
    ] = None,
    keep_versions: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Retired and revoked versions to keep; 0: all, default: the store's."
        ),
    ] = None,
    verified: Annotated[
        bool, typer.Option("--verified", help="It was restored, and still opens what it is for.")
    ] = False,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Say whose a key is, what it is for, and how many old versions it keeps.

    No version changes, but with a smaller --keep-versions the oldest retired and revoked ones are
    destroyed at once.
    """
    if owner is None and usage is None and keep_versions is None and not verified:
        raise typer.BadParameter("Say --owner, --usage, --keep-versions or --verified.")
    kept = _number(keep_versions)
    found = ask(
        lambda service: service.describe(
            key,
            environment,
            owner=owner,
            usage=usage,
            keep_versions=kept,
            verified=verified,
            reason=reason,
        )
    )
    show_description(found, as_json=as_json)


def _number(text: str | None) -> int | Literal["default"] | None:
    if text is None:
        return None
    if text == _DEFAULT:
        return "default"
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter("--keep-versions takes a number from 0 (all), or default.")
    return int(text)


def show_description(found: wire.KeyDescription, *, as_json: bool) -> None:
    """All about a key but its values."""
    if as_json:
        show_json(found)
        return
    version = "none is current" if found.version is None else f"{found.version} ({found.state})"
    kept = {None: "as many as the store's setting says", 0: "all"}
    facts = [
        ("key", f"{found.key_path}.{found.environment}"),
        ("version", version),
        ("owner", found.owner),
        ("usage", found.usage),
        ("created", when(found.created_at)),
        ("last rotated", when(found.rotated_at)),
        ("last read", when(found.last_read_at)),
        ("expires", when(found.expires_at)),
        ("old versions kept", kept.get(found.keep_versions, found.keep_versions)),
    ]
    if found.limit is not None:
        facts.append(("limit, all services", f"{found.limit}, {found.burst} at once"))
    if found.unverified_since is not None:
        facts.append(("unverified since", when(found.unverified_since)))
    show_facts(facts)
    typer.echo()
    show_versions(found.versions)


DESCRIPTION_COMMANDS = (
    Command(
        "show",
        show_key,
        "doxstore key show service_keys.jules_api.production",
        "permission `list keys`",
    ),
    Command(
        "describe",
        describe,
        "doxstore key describe service_keys.jules_api --owner jules-team --keep-versions 5",
        "permission `write keys`",
    ),
)
