"""`doxstore key import`: a file of keys into the store, all or nothing.

Order: read the file, ask the store which environments there are, plan, print the plan, send slice
by slice, commit. Whatever goes wrong on the way, Ctrl-C included, aborts the import, and the error
says what that left behind. A lost answer is asked for again: the store knows a slice by its number,
and a commit that took effect is confirmed. A dry run sends everything and then aborts, so its
counts are the store's own and not a guess. No value is printed anywhere.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command
from dox_core_store.cli.import_plan import Plan, PlannedKey, parse_renames, plan_import
from dox_core_store.cli.import_tree import MAX_FILE_BYTES, Leaf, read_leaves
from dox_core_store.cli.option import Json, Reason
from dox_core_store.cli.output import note, printable, show_facts, show_json, show_table
from dox_core_store.cli.progress import counting
from dox_core_store.cli.session import ask
from dox_core_store.errors import (
    ConnectionFailedError,
    DoxStoreError,
    InvalidRequestError,
    StoreUnavailableError,
    error_for,
)

if TYPE_CHECKING:
    from dox_core_store.client import KeyService
    from dox_core_store.client.key_import import KeyImport

__all__ = ["KEY_IMPORT", "import_file", "send", "slices"]

_SLICE_KEYS = 200
_SLICE_BYTES = 4 * 1024 * 1024
_SHOWN_ROWS = 50
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.2


def import_file(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="YAML, or JSON by its name; - is stdin (YAML).")
    ],
    *,
    environment: Annotated[
        str,
        typer.Option("--environment", "-e", help="Where leaves go that name no environment."),
    ] = "production",
    rename: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FROM=TO", help="Rename a path or prefix; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would happen and store nothing.")
    ] = False,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Store the keys of a nested file, all of them or none.

    A leaf named as an environment becomes that environment of the path above it; other leaves go to
    --environment. A declared category under service_keys is lifted to the top, and the plan says
    so. Every value is stored as the exact text in the file.
    """
    renames = parse_renames(rename or [])
    leaves = _read(file)

    async def work(service: KeyService) -> None:
        environments = [each.name async for each in service.list_environments()]
        plan = plan_import(
            leaves, environments=environments, environment=environment, renames=renames
        )
        if not as_json:
            _show(plan)
        with counting("keys sent", total=len(plan.keys), shown=not as_json) as sent:
            result = await send(service, plan.keys, commit=not dry_run, reason=reason, sent=sent)
        _report(plan, result, dry_run=dry_run, as_json=as_json)

    ask(work)


async def send(
    service: KeyService,
    keys: Sequence[PlannedKey],
    *,
    commit: bool,
    reason: str | None = None,
    sent: Callable[[int], object] = lambda _count: None,
) -> wire.ImportResult:
    """Send ``keys`` and commit, or for a dry run abort. ``sent`` is told of each slice's keys.

    Any error leaves nothing behind; its detail says so, or what is not known.
    """
    opened = await service.open_import()
    committing = False
    fault: DoxStoreError
    try:
        for entries in slices(keys):
            await _insist(lambda entries=entries: opened.add(entries))  # type: ignore[misc]
            sent(len(entries))
        if not commit:
            return await opened.abort(reason)
        committing = True
        return await _insist(lambda: opened.commit(reason))
    except DoxStoreError as error:
        outcome = await _give_up(opened, committing=committing)
        fault = error_for(
            error.code,
            f"{error.detail} {outcome}",
            status=error.status,
            request_id=error.request_id,
            **error.extra,
        )
    except BaseException:
        note(await _give_up(opened, committing=committing))
        raise
    raise fault


def slices(keys: Iterable[PlannedKey]) -> Iterator[list[wire.ImportEntry]]:
    """``keys`` in pieces of at most 200 entries and 4 MiB on the wire."""
    piece: list[wire.ImportEntry] = []
    size = 0
    for key in keys:
        entry = wire.ImportEntry(
            key_path=key.key_path, environment=key.environment, value=key.value
        )
        length = len(wire.encode(entry))
        if piece and (len(piece) == _SLICE_KEYS or size + length > _SLICE_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(entry)
        size += length
    if piece:
        yield piece


async def _insist(call: Callable[[], Awaitable[wire.ImportResult]]) -> wire.ImportResult:
    """``call``, again if its answer was lost or the store is busy: repeating it does no harm."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return await call()
        except (ConnectionFailedError, StoreUnavailableError):
            await asyncio.sleep(_PAUSE_SECONDS * 2**attempt)
    return await call()


async def _give_up(opened: KeyImport, *, committing: bool) -> str:
    """Abort, and say what is in the store now."""
    try:
        await opened.abort()
    except DoxStoreError:
        if committing:
            return (
                f"Whether import {opened.import_id} took effect is not known; if so, the ledger has"
                f" an IMPORT entry for it."
            )
        return f"Nothing was imported; the store clears import {opened.import_id} within an hour."
    return "Nothing was imported."


def _read(file: Path) -> list[Leaf]:
    try:
        if str(file) == "-":
            raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with file.open("rb") as stream:
                raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidRequestError(
            "malformed_import", f"{file} cannot be read: {error.strerror}."
        ) from error
    return list(read_leaves(raw, is_json=file.suffix.lower() == ".json"))


def _show(plan: Plan) -> None:
    rows = [(key.key_path, key.environment, key.line) for key in plan.keys[:_SHOWN_ROWS]]
    show_table(("KEY", "ENVIRONMENT", "LINE"), rows)
    if len(plan.keys) > _SHOWN_ROWS:
        typer.echo(f"and {len(plan.keys) - _SHOWN_ROWS} more")
    for remark in plan.notes[:_SHOWN_ROWS]:
        typer.echo(printable(f"{remark.kind}: {remark.text}"))
    if len(plan.notes) > _SHOWN_ROWS:
        typer.echo(f"and {len(plan.notes) - _SHOWN_ROWS} more remarks")


def _report(plan: Plan, result: wire.ImportResult, *, dry_run: bool, as_json: bool) -> None:
    counts = {
        "created": result.created,
        "replaced": result.replaced,
        "unchanged": result.unchanged,
    }
    if as_json:
        keys = [
            {"key_path": key.key_path, "environment": key.environment, "line": key.line}
            for key in plan.keys
        ]
        notes = [remark._asdict() for remark in plan.notes]
        show_json(
            {"import_id": result.import_id, "status": result.status, "dry_run": dry_run}
            | counts
            | {"notes": notes, "keys": keys}
        )
        return
    typer.echo()
    show_facts(counts.items())
    typer.echo("Dry run: nothing was stored." if dry_run else f"Imported as {result.import_id}.")


KEY_IMPORT = Command(
    "import",
    import_file,
    "doxstore key import keys.yaml --dry-run\n"
    "doxstore key import keys.yaml --map stripe=external_apis.payment_gateways",
    "permissions `write keys` and `list keys`",
)
