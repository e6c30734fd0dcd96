"""`doxstore seal rekey` and `doxstore seal rotate-root`: other keys for what the store seals.

Both work on the store's files, beside a running server or without one, and both can be ended
anywhere and run again. Neither reaches a copy of the store that was made before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dox_core_store.cli.command import Command
from dox_core_store.cli.option import ConfigFile, DatabaseUrl, DataFolder, Json, KeyFile, UnsealWith
from dox_core_store.cli.output import ExitCode, note, show_error, show_facts, show_json
from dox_core_store.cli.progress import counting
from dox_core_store.cli.session import local_settings, local_store

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap.rotation import RootRotated
    from dox_core_store.server.domain.seal import Slot

__all__ = ["REKEY", "ROTATE_ROOT"]

_ITS_OWN = {
    "key-file": " --key-file FILE",
    "transit": ", with transit_address and transit_token_file",
    "kms": ", with AWS credentials",
}
"""What a slot takes beside its id, where nobody is asked for it."""


def rekey(
    *,
    despite_damage: Annotated[
        bool,
        typer.Option(
            "--despite-damage",
            help="Give up rows that were altered or damaged, and what could still be read of them.",
        ),
    ] = False,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    unseal_with: UnsealWith = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Seal everything under a new key-encryption key, while the server goes on.

    Ended before its time, it goes on with the same new key when it is run again. Rows that were
    altered or damaged stay as they are and are named; the old key then stays too.
    """
    store = local_store(
        "seal rekey",
        local_settings(
            "seal rekey",
            config=config,
            data=data,
            database=database,
            key_file=key_file,
            unseal_with=unseal_with,
        ),
    )
    done, resumed = store.rekey(
        lambda total: counting("rows", total=total, shown=not as_json), give_up=despite_damage
    )
    told = {
        "kek": done.kek,
        "resumed": resumed,
        "rewrapped": done.rewrapped,
        "remaced": done.remaced,
        "skipped": done.skipped,
        "complete": done.complete,
    }
    if as_json:
        show_json({**told, "rows": done.named})
    else:
        show_facts(
            [
                ("key-encryption key", f"{done.kek}{' (begun before)' if resumed else ''}"),
                ("values rewrapped", done.rewrapped),
                ("rows brought over", done.remaced),
                ("rows left as they are", done.skipped),
                ("old keys", "removed" if done.complete else "kept"),
            ]
        )
        for row in done.named:
            note(f"left: {row}")
    if not done.complete:
        show_error(
            "rekey_blocked",
            f"{done.skipped} rows were altered or damaged and are still under an old key.",
            remedy="Store those keys again, or restore them, and run this once more; or give them"
            " up: --despite-damage. `doxstore doctor` says what is wrong.",
            as_json=as_json,
        )
        raise typer.Exit(ExitCode.REFUSED)


def rotate_root(
    *,
    slot: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Open the store by this slot, and so enrol it."),
    ] = None,
    abort: Annotated[
        bool, typer.Option("--abort", help="Give up the new root key; the old one stays.")
    ] = False,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    unseal_with: UnsealWith = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make a new root key, slot by slot; files, passphrases and shares stay what they are.

    Each call enrols the slot that opened the store, and those that open by themselves. It says
    which are left: run it again with each of them. The last one changes over.
    """
    command = "seal rotate-root"
    store = local_store(
        command,
        local_settings(
            command,
            config=config,
            data=data,
            database=database,
            key_file=key_file,
            unseal_with=unseal_with,
        ),
        only=slot,
    )
    if abort:
        status = "given_up" if store.abort_root_rotation() else "none"
        if as_json:
            show_json({"status": status})
        else:
            note("The new root key was given up." if status == "given_up" else "There was none.")
        return
    _show(store.rotate_root(), as_json=as_json)


def _show(done: RootRotated, *, as_json: bool) -> None:
    if as_json:
        show_json(
            {
                "status": "finished" if done.finished else "enrolling",
                "enrolled": [_told(each) for each in done.enrolled],
                "waiting": [{**_told(each.slot), "why": each.why} for each in done.waiting],
            }
        )
        return
    for each in done.enrolled:
        note(f"enrolled: {_named(each)}")
    if done.finished:
        note("The store has a new root key. What opened it before opens it still.")
        return
    note("The old root key stays until these are enrolled, or removed:")
    for waiting in done.waiting:
        own = _ITS_OWN.get(waiting.slot.kind, "")
        note(f"  {_named(waiting.slot)}: {waiting.why}")
        note(f"    doxstore seal rotate-root --slot {waiting.slot.slot_id}{own}")


def _named(slot: Slot) -> str:
    label = f" ({slot.label})" if slot.label else ""
    return f"{slot.slot_id}, {slot.kind}{label}"


def _told(slot: Slot) -> dict[str, Any]:
    return {"slot_id": slot.slot_id, "kind": slot.kind, "label": slot.label}


_FILES = "the `server` extra; the store's folder or database, and what opens it"

REKEY = Command("rekey", rekey, "doxstore seal rekey --data /var/lib/doxstore", _FILES)

ROTATE_ROOT = Command(
    "rotate-root",
    rotate_root,
    "doxstore seal rotate-root --data /var/lib/doxstore --key-file /etc/doxstore/root.key\n"
    "doxstore seal rotate-root --data /var/lib/doxstore --slot slot_0f3c9a",
    _FILES,
)
