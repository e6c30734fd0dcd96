"""`doxstore seal slots`: the ways in which the store opens, any one of which is enough.

What a slot stores is public, so `list` opens nothing. The others open the store first by what there
is already. Shares are shown once, or written to a folder, and are kept nowhere: who is to hold one
takes it away. Removing a slot says what it cannot do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.new_slot import (
    KmsKey,
    ShareCount,
    SharesFolder,
    StdinPassphrase,
    Threshold,
    TransitKey,
    check_outside,
    keep_shares,
    new_holder,
    print_shares,
    slot_kind,
)
from dox_core_store.cli.option import (
    ConfigFile,
    DatabaseUrl,
    DataFolder,
    Json,
    KeyFile,
    UnsealWith,
    Yes,
)
from dox_core_store.cli.output import note, show_facts, show_json, show_table
from dox_core_store.cli.progress import counting
from dox_core_store.cli.session import confirm, local_settings, local_store, needs_server_extra

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap import LocalStore
    from dox_core_store.server.domain.seal import Slot

__all__ = ["SLOTS"]

_OPENS = {
    "key-file": "by itself: key_file",
    "passphrase": "a person",
    "shares": "several people",
    "transit": "by itself: transit_address, transit_token_file",
    "kms": "by itself: AWS credentials",
}
_TAKES_NOTHING_BACK = (
    "Whoever kept its file, passphrase or shares, and an older copy of the database, can still open"
    " that copy."
)


def list_slots(
    data: DataFolder = None,
    database: DatabaseUrl = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List what opens the store. The store is not opened for it.

    OPENS says whether a server opens by itself, and with which settings.
    """
    settings = local_settings("seal slots list", config=config, data=data, database=database)
    with needs_server_extra("seal slots list"):
        from dox_core_store.server.bootstrap.local import list_slots as stored

    found = stored(settings)
    if as_json:
        show_json([_told(each) for each in found])
        return
    show_table(
        ("SLOT", "KIND", "LABEL", "CREATED", "OPENS"),
        ((s.slot_id, s.kind, s.label, s.created_at, _how(s)) for s in found),
    )


def add(
    kind: Annotated[
        str,
        typer.Argument(metavar="KIND", help="key-file, passphrase, shares, transit or kms."),
    ],
    *,
    label: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What people call it. Public.")
    ] = None,
    new_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="key-file: the new file; one that exists is used as it is."
        ),
    ] = None,
    stdin: StdinPassphrase = False,
    threshold: Threshold = 2,
    shares: ShareCount = 3,
    shares_dir: SharesFolder = None,
    transit_key: TransitKey = "doxstore",
    kms_key: KmsKey = "",
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    unseal_with: UnsealWith = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Add a way to open the store, beside those that there are.

    The store is opened first, by what it has. Shares are printed this once and kept nowhere.
    """
    command = "seal slots add"
    settings = local_settings(
        command,
        config=config,
        data=data,
        database=database,
        key_file=key_file,
        unseal_with=unseal_with,
    )
    with needs_server_extra(command):
        wanted = slot_kind(kind)
    if wanted == "key-file":
        if new_key_file is None:
            raise typer.BadParameter("Name the new file: --new-key-file FILE.")
        check_outside(Path(settings.data), new_key_file)
    store = local_store(command, settings)
    new = new_holder(
        key_file=new_key_file,
        stdin=stdin,
        threshold=threshold,
        shares=shares,
        transit_key=transit_key,
        kms_key=kms_key,
    )
    made = store.make_slot(wanted, new, label)
    files = keep_shares(made.shares, shares_dir) if shares_dir and made.shares else []
    try:
        slot = store.add_slot(made)
    except BaseException:
        for path in files:  # of a slot that there is not
            path.unlink(missing_ok=True)
        raise
    told = _told(slot)
    if as_json:
        show_json(told if files or not made.shares else {**told, "shares": made.shares})
        return
    show_facts(told.items())
    if files:
        note(f"Wrote {len(files)} shares to {shares_dir}: give each to another person.")
    elif made.shares:
        print_shares(made.shares, threshold)


def remove(
    slot_id: Annotated[str, typer.Argument(metavar="SLOT", help="Id of the slot: slot_….")],
    *,
    rekey: Annotated[
        bool,
        typer.Option(
            "--rekey",
            help="Then make a new root key and a new key-encryption key. Open by another slot.",
        ),
    ] = False,
    yes: Yes = False,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    unseal_with: UnsealWith = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Remove a way to open the store. The last one stays.

    This takes nothing back: whoever kept the file, the passphrase or the shares, and an older copy
    of the database, can still open that copy, and with the keys in it any later copy too. --rekey
    ends the latter: no later copy opens by old keys. The values in the older one stay readable, so
    change those at their source.
    """
    command = "seal slots remove"
    settings = local_settings(
        command,
        config=config,
        data=data,
        database=database,
        key_file=key_file,
        unseal_with=unseal_with,
    )
    store = local_store(command, settings)
    if rekey and store.opened_by.slot_id == slot_id:
        raise typer.BadParameter(
            "For --rekey open the store by another slot than the one to remove: --unseal-with."
        )
    confirm(f"{_TAKES_NOTHING_BACK} Remove {slot_id}?", yes=yes)
    told = _told(store.remove_slot(slot_id))
    if rekey:
        told["new_keys"], remark = _renew(store, shown=not as_json)
    else:
        remark = "New keys shut later copies to them: `doxstore seal rotate-root`, then `rekey`."
    if as_json:
        show_json(told)
    else:
        show_facts(told.items())
    note(f"Removed. {_TAKES_NOTHING_BACK} {remark}")


def _renew(store: LocalStore, *, shown: bool) -> tuple[str, str]:
    """New keys, as far as the slots at hand allow; how far, and what there is to say."""
    rotated = store.rotate_root()
    if not rotated.finished:
        left = ", ".join(each.slot.slot_id for each in rotated.waiting)
        return "enrolling", (
            f"The new root key waits for {left}: `doxstore seal rotate-root --slot ID` with each,"
            " then `doxstore seal rekey`."
        )
    done, _ = store.rekey(lambda total: counting("rows", total=total, shown=shown))
    if not done.complete:
        return "root", "Some rows do not open and stay under the old key: `doxstore seal rekey`."
    return "complete", "No copy made from now on opens by the old keys."


def try_slot(
    slot_id: Annotated[
        str | None, typer.Argument(metavar="SLOT", help="Id of the slot. [default: any]")
    ] = None,
    *,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    unseal_with: UnsealWith = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Open the store by a slot, and say whether it opened.

    Nothing is changed. Do it now and then with each slot: a file or a share that was lost is found
    while there is another.
    """
    command = "seal slots test"
    settings = local_settings(
        command,
        config=config,
        data=data,
        database=database,
        key_file=key_file,
        unseal_with=unseal_with,
    )
    if slot_id is not None:
        with needs_server_extra(command):
            from dox_core_store.server.bootstrap.local import find_slot

        find_slot(settings, slot_id)
    slot = local_store(command, settings, only=slot_id).opened_by
    if as_json:
        show_json({**_told(slot), "opened": True})
        return
    show_facts([*_told(slot).items(), ("opened", "yes")])


def _how(slot: Slot) -> str:
    return _OPENS[slot.kind]


def _told(slot: Slot) -> dict[str, Any]:
    return {
        "slot_id": slot.slot_id,
        "kind": slot.kind,
        "label": slot.label,
        "created_at": slot.created_at,
        "opens": _how(slot),
    }


_OPENED = "the `server` extra; the store's folder or database, and what opens it"

SLOTS = Group(
    "slots",
    "What opens the store: a key file, a passphrase, shares, Transit or KMS. Any one is enough.",
    (
        Command(
            "list",
            list_slots,
            "doxstore seal slots list --data /var/lib/doxstore",
            "the `server` extra; the store's folder or database",
        ),
        Command(
            "add",
            add,
            "doxstore seal slots add shares --threshold 2 --shares 3 --data /var/lib/doxstore",
            _OPENED,
        ),
        Command(
            "remove",
            remove,
            "doxstore seal slots remove slot_0011223344556677 --data /var/lib/doxstore",
            _OPENED,
        ),
        Command(
            "test",
            try_slot,
            "doxstore seal slots test --unseal-with shares --data /var/lib/doxstore",
            _OPENED,
        ),
    ),
)
