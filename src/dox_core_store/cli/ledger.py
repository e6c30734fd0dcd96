"""`doxstore ledger`: who asked for what, and whether the record of it is whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.ledger_export import EXPORT
from dox_core_store.cli.ledger_since import SINCE
from dox_core_store.cli.ledger_verify import VERIFY
from dox_core_store.cli.moment import since as time_since
from dox_core_store.cli.option import Json
from dox_core_store.cli.output import note, show_json, show_table
from dox_core_store.cli.progress import counting
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
        str | None, typer.Option(metavar="STATUS", help="Such as GRANTED, DENIED, REPORTED.")
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
    """Search the ledger, newest first. The search is itself on record.

    Where little matches, the search goes on page by page until it is through; a bar counts them.
    Ctrl-C ends it.
    """
    now = datetime.now(UTC)
    first = None if since is None else time_since(since, now=now)
    last = None if until is None else time_since(until, now=now)

    async def found(client: KeyService) -> list[wire.LedgerRecord]:
        with counting("pages of the ledger read") as step:
            return await _taken(pages(client, lambda: step(1)), None if all_ else limit)

    def pages(client: KeyService, on_page: Callable[[], None]) -> AsyncIterator[wire.LedgerRecord]:
        return client.search_ledger(
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
            on_page=on_page,
        )

    records = ask(found)
    if as_json:
        show_json(records)
        return
    if not records:
        note("Nothing matches.")
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
        SINCE,
        EXPORT,
        VERIFY,
    ),
)
