"""`doxstore ledger`: who asked for what, and whether the record of it is whole."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.ledger_verify import VERIFY
from dox_core_store.cli.moment import since as time_since
from dox_core_store.cli.option import Json
from dox_core_store.cli.output import note, show_json, show_table
from dox_core_store.cli.progress import counting
from dox_core_store.cli.replacement import replacing
from dox_core_store.cli.session import ask

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["LEDGER"]

_PAGE = 500


def search(
    *,
    service: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who asked: a service, operator:NAME, …")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="This key.")] = None,
    prefix: Annotated[
        str | None, typer.Option(metavar="PATH", help="PATH and what is below it.")
    ] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", "-e", metavar="NAME", help="This environment.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(metavar="ACTION", help="Such as GET, PUT, REVOKE, GRANT.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Such as GRANTED, DENIED, LIMITED.")
    ] = None,
    token_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Asked with this token.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="IP", help="Asked from this address.")
    ] = None,
    request_id: Annotated[str | None, typer.Option(metavar="ID", help="Of this request.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From a time on, or 24h, 7d ago.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Up to a time, or 1h, 1d ago.")
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="At most so many, the newest.")
    ] = 100,
    all_: Annotated[bool, typer.Option("--all", help="All that match, without a limit.")] = False,
    as_json: Json = False,
) -> None:
    """Search the ledger, newest first. The search is itself on record."""
    now = datetime.now(UTC)
    first = None if since is None else time_since(since, now=now)
    last = None if until is None else time_since(until, now=now)

    async def found(client: KeyService) -> list[wire.LedgerRecord]:
        pages = client.search_ledger(
            service_name=service,
            key_path=key,
            prefix=prefix,
            environment=environment,
            action=None if action is None else action.upper(),
            status=None if status is None else status.upper(),
            token_id=token_id,
            ip_address=address,
            request_id=request_id,
            since=first,
            until=last,
            page_size=_PAGE if all_ else min(limit, _PAGE),
        )
        return await _taken(pages, None if all_ else limit)

    records = ask(found)
    if as_json:
        show_json(records)
        return
    show_table(
        ("TIME", "WHO", "ACTION", "STATUS", "KEY", "N", "ADDRESS", "REQUEST", "REASON"),
        (
            (
                each.timestamp,
                each.service_name,
                each.action,
                each.status,
                each.key_path,
                each.count,
                each.ip_address,
                each.request_id,
                "signed heads" if each.action == "CHECKPOINT" else each.reason,
            )
            for each in records
        ),
    )
    if not all_ and len(records) == limit:
        note(f"The newest {limit}; --limit N or --all shows more.")


def export(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="[default: stdout]")
    ] = None,
) -> None:
    """Write every entry, oldest first, as JSON Lines; `ledger verify --file` checks them.

    FILE is made anew when the export is whole, readable by you alone.
    """

    async def exported(client: KeyService) -> int:
        count = 0
        with counting("entries exported", shown=output is not None) as step:
            if output is None:
                async for line in client.export_ledger():
                    sys.stdout.buffer.write(line + b"\n")
                    count += 1
                sys.stdout.buffer.flush()
                return count
            with replacing(output) as file:
                async for line in client.export_ledger():
                    file.write(line + b"\n")
                    count += 1
                    step(1)
        return count

    count = ask(exported)
    if output is not None:
        note(f"{count} entries in {output}")


async def _taken(
    records: AsyncIterator[wire.LedgerRecord], limit: int | None
) -> list[wire.LedgerRecord]:
    taken = []
    async for each in records:
        taken.append(each)
        if limit is not None and len(taken) == limit:
            break
    return taken


LEDGER = Group(
    "ledger",
    "The ledger: who asked for what, and whether the record is whole.",
    (
        Command(
            "search",
            search,
            "doxstore ledger search --prefix service_keys --status denied --since 24h",
            "permission `read the ledger`",
        ),
        Command(
            "export",
            export,
            "doxstore ledger export --output ledger.jsonl",
            "permission `read the ledger`",
        ),
        VERIFY,
    ),
)
