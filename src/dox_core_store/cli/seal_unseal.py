"""`doxstore seal unseal` and `seal status`: what people do for a node whose store is sealed.

Over HTTP, from any machine that reaches the node, and without a token: nobody can be authenticated
while the store is sealed. What an entry needs is the ceremony's id, which the node prints where it
runs. The secret comes from a hidden prompt or from stdin, one for each call; it is sent to where
``KEY_SERVICE_URL`` says, so the rules for that address are those of every client.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from typing import Annotated, TypeVar

import typer

from dox_core_store import wire
from dox_core_store.cli.command import Command
from dox_core_store.cli.option import Json
from dox_core_store.cli.output import show_facts, show_json, show_table
from dox_core_store.sensitive import Sensitive

__all__ = ["STATUS", "UNSEAL"]

_ENTRY_SECONDS = 60.0
"""The last entry opens the store, and is answered once the node serves."""

_MOST_CHARACTERS = 2_000
T = TypeVar("T")


def status(*, as_json: Json = False) -> None:
    """Say whether the node's store is sealed, and what would open it."""
    found = _get_status()
    if as_json:
        show_json(found)
        return
    show_facts(
        [
            ("store", found.store_id),
            ("sealed", "yes" if found.sealed else "no"),
            *([("awaits", found.awaits)] if found.awaits else []),
            *([("wrong entries", found.wrong_entries)] if found.wrong_entries else []),
        ]
    )
    if found.slots:
        show_table(
            ("SLOT", "KIND", "LABEL", "ENTERED"),
            (
                (
                    slot.slot_id,
                    slot.kind,
                    slot.label or "-",
                    "-" if slot.needed is None else f"{slot.entered} of {slot.needed}",
                )
                for slot in found.slots
            ),
        )


def unseal(
    ceremony: Annotated[
        str | None,
        typer.Argument(metavar="CEREMONY", help="The id that the node printed; asked for if not."),
    ] = None,
    *,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Enter a passphrase instead of a share.")
    ] = False,
    slot: Annotated[
        str | None, typer.Option("--slot", metavar="ID", help="Only for this slot.")
    ] = None,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read the entry from one line of stdin.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Enter one share, or a passphrase, to open a node that is sealed.

    Each holder runs this in a terminal of their own; what is typed is not shown. Each entry is
    checked at once. Three wrong ones, mistyped ones included, close the ceremony: the node then
    prints the id of another, and all begin anew.
    """
    found = _get_status()
    if not found.sealed:
        entered = wire.Unsealing(
            store_id=found.store_id,
            sealed=False,
            slot_id="",
            entered=0,
            needed=0,
            detail="The store is open already; nothing was sent.",
        )
    else:
        secret = _secret(ceremony, passphrase=passphrase, stdin=stdin)
        entered = _enter(found.store_id, secret[0], secret[1], slot, passphrase=passphrase)
    if as_json:
        show_json(entered)
        return
    sys.stdout.write(f"{entered.detail}\n")


def _secret(ceremony: str | None, *, passphrase: bool, stdin: bool) -> tuple[str, Sensitive]:
    if not stdin and not sys.stdin.isatty():
        raise typer.BadParameter("Where does the entry come from? Say --stdin, or use a terminal.")
    if ceremony is None:
        if stdin:
            raise typer.BadParameter("With --stdin, name the CEREMONY that the node printed.")
        ceremony = typer.prompt("Ceremony (the node prints it)", err=True)
    if stdin:
        text = sys.stdin.readline(_MOST_CHARACTERS)
        return ceremony, Sensitive(text.rstrip("\r\n"))
    what = "Passphrase (hidden): " if passphrase else "Words of your share (hidden): "
    return ceremony, Sensitive(getpass.getpass(what))


def _get_status() -> wire.SealStatus:
    return asyncio.run(_ask(wire.SealStatus, "GET", "/v1/seal"))


def _enter(
    store_id: str, ceremony: str, secret: Sensitive, slot: str | None, *, passphrase: bool
) -> wire.Unsealing:
    request = wire.UnsealRequest(
        ceremony=ceremony.strip(),
        share=None if passphrase else secret,
        passphrase=secret if passphrase else None,
        slot_id=slot,
    )
    return asyncio.run(
        _ask(wire.Unsealing, "POST", "/v1/seal/unseal", wire.encode(request), store_id)
    )


async def _ask(
    kind: type[T], method: str, path: str, body: bytes | None = None, store_id: str | None = None
) -> T:
    from dox_core_store.client.endpoint import endpoint_from
    from dox_core_store.client.protocol import Call, read_answer
    from dox_core_store.client.transport import HttpTransport

    transport = HttpTransport(endpoint_from(os.environ))
    try:
        reply = await transport.send(
            Call(method=method, path=path, body=body, repeatable=body is None),
            token=None,
            timeout_seconds=_ENTRY_SECONDS,
        )
    finally:
        await transport.aclose()
    return read_answer(kind, reply, store_id=store_id)


STATUS = Command(
    "status",
    status,
    "doxstore seal status",
    "nothing but KEY_SERVICE_URL",
)
UNSEAL = Command(
    "unseal",
    unseal,
    "doxstore seal unseal unseal-0f3c1a77e2b94d0c8a5d6e1f20b3c4d5",
    "KEY_SERVICE_URL, the ceremony's id, and a share or a passphrase",
)
