"""`doxstore key limit`: how fast a key may be read, by all services together."""

from __future__ import annotations

from typing import Annotated

import typer

from dox_core_store.cli.command import Command
from dox_core_store.cli.key_description import show_description
from dox_core_store.cli.key_version import KeyPath
from dox_core_store.cli.option import EnvironmentName, Json, Reason
from dox_core_store.cli.session import ask

__all__ = ["KEY_LIMIT"]


def limit(
    key: KeyPath,
    rate: Annotated[
        str | None, typer.Argument(metavar="RATE", help="Such as 60/min, 5/s or 1000/h.")
    ] = None,
    *,
    environment: EnvironmentName = None,
    burst: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many at once. [default: one period's worth]"),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Take the key's own limit away.")] = False,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Limit how fast a key may be read, by all services together.

    It comes on top of each service's own limit, holds at once, and does not hold operators back.
    """
    if none:
        if rate is not None or burst is not None:
            raise typer.BadParameter("--none takes the limit away: say no rate and no --burst.")
        found = ask(lambda service: service.remove_key_limit(key, environment, reason))
    elif rate is None:
        raise typer.BadParameter("Say a rate such as 60/min, or --none.")
    else:
        found = ask(lambda service: service.set_key_limit(key, rate, burst, environment, reason))
    show_description(found, as_json=as_json)


KEY_LIMIT = Command(
    "limit",
    limit,
    "doxstore key limit service_keys.jules_api 60/min --burst 10 --reason 'the provider counts'",
    "permission `write keys`",
)
