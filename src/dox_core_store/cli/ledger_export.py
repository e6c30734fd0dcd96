"""`doxstore ledger export`: every entry, as it is chained or as OCSF."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command
from dox_core_store.cli.ocsf import as_ocsf
from dox_core_store.cli.output import counted, note
from dox_core_store.cli.progress import counting
from dox_core_store.cli.replacement import replacing
from dox_core_store.cli.session import ask

if TYPE_CHECKING:
    from dox_core_store.client import KeyService

__all__ = ["EXPORT"]


class Format(StrEnum):
    """How an entry is written."""

    JSONL = "jsonl"
    OCSF = "ocsf"


def export(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="[default: stdout]")
    ] = None,
    *,
    form: Annotated[Format, typer.Option("--format", help="ocsf: for a SIEM.")] = Format.JSONL,
) -> None:
    """Write every entry, oldest first, as JSON Lines; `ledger verify --file` checks them.

    FILE is made anew when the export is whole, readable by you alone; a link, a device or a pipe is
    refused, `> FILE` writes to one. With --format ocsf each
    entry is an event of the Open Cybersecurity Schema Framework (docs/spec/ocsf.md); such a file
    holds the hashes, but `ledger verify` does not read it.
    """
    written = _as_event if form is Format.OCSF else bytes

    async def exported(client: KeyService) -> int:
        with counting("entries exported", shown=output is not None) as step:
            if output is None:
                count = await _copy(client, sys.stdout.buffer, written, step)
                sys.stdout.buffer.flush()
                return count
            with replacing(output) as file:
                return await _copy(client, file, written, step)

    count = ask(exported)
    if output is not None:
        note(f"{counted(count, 'entry', 'entries')} in {output}")


async def _copy(
    client: KeyService,
    file: BinaryIO,
    written: Callable[[bytes], bytes],
    step: Callable[[int], None],
) -> int:
    count = 0
    async for line in client.export_ledger():
        file.write(written(line) + b"\n")
        count += 1
        step(1)
    return count


def _as_event(line: bytes) -> bytes:
    return wire.encode_line(as_ocsf(msgspec.json.decode(line, type=wire.LedgerRecord)))


EXPORT = Command(
    "export",
    export,
    "doxstore ledger export --output ledger.jsonl",
    "permission `read the ledger`",
)
