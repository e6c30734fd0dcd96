"""`doxstore ledger since`: who was handed a key, and until when could they serve it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command
from dox_core_store.cli.key_version import KeyPath
from dox_core_store.cli.moment import since as time_since
from dox_core_store.cli.option import Json
from dox_core_store.cli.output import note, show_json, show_table
from dox_core_store.cli.progress import counting
from dox_core_store.cli.session import ask

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["SINCE"]


def since(
    key: KeyPath,
    *,
    from_: Annotated[
        str, typer.Option("--from", metavar="TIME", help="Since a time, or 24h, 7d ago.")
    ],
    environment: Annotated[
        str | None,
        typer.Option("--environment", "-e", metavar="NAME", help="[default: all of them]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Who was handed a key since a time, and until when each of them could serve it.

    One line for each service, token and address, the last one first. MAY SERVE UNTIL is the last
    time it was handed the key, and then the longest that a client may keep it: the ceiling of
    cache_ttl, and the grace of an outage. What a service does with a value beyond our client, the
    ledger cannot know. A read that was answered 304 counts: the reader holds that version.
    TOKEN says whether the token would still be believed now; `token revoke --id` ends one.
    """
    moment = time_since(from_, now=datetime.now(UTC))

    async def asked(client: KeyService) -> wire.HandedPage:
        with counting("pages of the ledger read") as step:
            return await client.who_was_handed(key, moment, environment, on_page=lambda: step(1))

    found = ask(asked)
    if as_json:
        show_json(found)
        return
    now = datetime.now(UTC)
    show_table(
        ("MAY SERVE UNTIL", "NOW", "SERVICE", "TOKEN", "IS", "ADDRESS", "ENVIRONMENT", "LAST", "N",
         "VERSIONS", "FIRST", "WHY"),
        (
            (
                each.may_serve_until,
                "over" if each.may_serve_until < now else "STILL",
                each.service_name,
                each.token_id,
                "LIVE" if each.token_lives else "dead",
                each.ip_address or "-",
                each.environment,
                each.last_handed_at,
                each.count,
                ",".join(str(number) for number in each.versions),
                each.first_handed_at,
                " ".join(f"{reason}:{count}" for reason, count in each.reasons.items()),
            )
            for each in found.items
        ),
    )  # fmt: skip
    _sum_up(found, now)


def _sum_up(found: wire.HandedPage, now: datetime) -> None:
    if not found.items:
        note("Nobody was handed it in that time.")
    else:
        services = {each.service_name for each in found.items}
        still = {each.service_name for each in found.items if each.may_serve_until >= now}
        live = {each.token_id for each in found.items if each.token_lives}
        note(
            f"{len(services)} handed it; {len(still)} may still serve it from a cache;"
            f" {len(live)} of their tokens are live."
        )
    if found.reported:
        note(f"Clients also reported {found.reported} reads from their caches.")
    note(
        f"A client may keep a value {found.cache_ttl_ceiling_seconds} s, and"
        f" {found.outage_grace_seconds} s longer while the store is out of reach."
    )


SINCE = Command(
    "since",
    since,
    "doxstore ledger since service_keys.jules_api --from 2026-01-31T12:00:00Z",
    "permission `read the ledger`",
)
