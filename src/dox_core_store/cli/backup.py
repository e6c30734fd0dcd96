"""`doxstore backup`: a store in one file, rehearsed, and made into a store again.

On the store itself, beside running servers. A file may be ``s3://bucket/name``; credentials and
AWS_ENDPOINT_URL then come from the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dox_core_store.cli.asking import asking
from dox_core_store.cli.backup_report import show_drilled, show_made, show_restored, show_signed_off
from dox_core_store.cli.command import Command, Group
from dox_core_store.cli.option import (
    ConfigFile,
    DatabaseUrl,
    DataFolder,
    Json,
    KeyFile,
    RequiredReason,
    UnsealWith,
)
from dox_core_store.cli.output import ExitCode
from dox_core_store.cli.progress import counting
from dox_core_store.cli.session import local_settings, needs_server_extra

__all__ = ["BACKUP"]


BackupAddress = Annotated[
    str, typer.Argument(metavar="FILE", help="The backup: a file, or s3://BUCKET/NAME.")
]
Identity = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="age identity that decrypts it; only you may read FILE."),
]


def create(
    file: BackupAddress,
    *,
    recipient: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Encrypt the whole file for this age recipient (age1…)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    unseal_with: UnsealWith = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Write all of the store to FILE, as it is at this moment.

    Values stay sealed, so the backup is of use only to who can open the store. What it tells anyway
    (names of keys and services, the ledger) --recipient hides as well. The server goes on writing
    meanwhile. FILE is there when it is whole, readable by you alone.
    """
    settings = local_settings(
        "backup create",
        config=config,
        data=data,
        database=database,
        key_file=key_file,
        unseal_with=unseal_with,
    )
    with needs_server_extra("backup create"):
        from dox_core_store.server.bootstrap.backups import create_backup

    made = create_backup(
        settings,
        file,
        ask=asking(settings.unseal_with),
        recipient=recipient,
        force=force,
        progress=counting,
    )
    show_made(file, made, as_json=as_json)


def drill(
    file: BackupAddress,
    *,
    identity: Identity = None,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    unseal_with: UnsealWith = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Rehearse a restore: open the backup, every version in it, and compare it with the store.

    The copy is made in a temporary folder and removed. --key-file and --unseal-with open the
    backup. The store in --data, if there is one, gets an entry on its ledger and nothing else. The
    exit code is 1 if anything is wrong with the backup; that the store has moved on is not.
    """
    settings = local_settings(
        "backup drill",
        config=config,
        data=data,
        database=database,
        key_file=key_file,
        unseal_with=unseal_with,
    )
    with needs_server_extra("backup drill"):
        from dox_core_store.server.bootstrap.drills import drill_backup

    drilled = drill_backup(
        settings,
        file,
        identity=identity,
        ask=asking(settings.unseal_with),
        progress=counting,
    )
    show_drilled(file, drilled, as_json=as_json)
    if drilled.looked.faults:
        raise typer.Exit(ExitCode.REFUSED)


def restore(
    file: BackupAddress,
    *,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR", help="Folder for the store; it must not hold one."),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="URL",
            help="PostgreSQL for the store instead, with no table in it:"
            " postgresql://USER@HOST/NAME, without a password (see `serve`).",
        ),
    ] = None,
    identity: Identity = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Ledger entries from after the backup (`ledger export`, or shipped): what was"
            " revoked since is revoked again.",
        ),
    ] = None,
    as_new: Annotated[
        bool,
        typer.Option(
            "--as-new", help="Live beside the original: new signing keys, no token lives."
        ),
    ] = False,
    sign_off: Annotated[
        str | None,
        typer.Option(
            "--sign-off", metavar="REASON", help="Nothing was revoked since, or it is known."
        ),
    ] = None,
    key_file: KeyFile = None,
    unseal_with: UnsealWith = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make the store of a backup in an empty folder or database, in a new epoch.

    Whatever it was made from: a backup is the same of both, so this is also how a store moves from
    a folder to PostgreSQL, or back. A draft is made first (in --data, by default .doxstore), so
    there has to be room for it.

    The backup is looked over as in a drill before the store is there. It hands out nothing until
    somebody has signed off that what was revoked since the backup is revoked: --checkpoints does
    it by the ledger, --sign-off and `backup sign-off` by your word. Passwords of databases may have
    changed since; such keys are listed and marked as unverified.
    """
    if data is None and database is None:
        raise typer.BadParameter("Where to? Say --data DIR, or --database URL.")
    settings = local_settings(
        "backup restore",
        config=config,
        data=data,
        database=database,
        key_file=key_file,
        unseal_with=unseal_with,
    )
    if settings.database and database is None:
        raise typer.BadParameter(
            "The settings name a database as well: say --database URL to restore into it, or"
            " --database '' to restore into the folder."
        )
    with needs_server_extra("backup restore"):
        from dox_core_store.server.bootstrap.restores import Orders, restore_backup

    restored = restore_backup(
        settings,
        file,
        Orders(identity=identity, as_new=as_new, since=checkpoints, sign_off=sign_off),
        ask=asking(settings.unseal_with),
        progress=counting,
    )
    show_restored(
        settings,
        "" if data is None else data,
        key_file or os.environ.get("DOXSTORE_KEY_FILE"),
        restored,
        as_json=as_json,
    )


def sign_off(
    *,
    reason: RequiredReason,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    unseal_with: UnsealWith = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Sign off a restored store: what was revoked since the backup is revoked in it.

    From then on it hands out values, also where its server runs already.
    """
    settings = local_settings(
        "backup sign-off",
        config=config,
        data=data,
        database=database,
        key_file=key_file,
        unseal_with=unseal_with,
    )
    with needs_server_extra("backup sign-off"):
        from dox_core_store.server.bootstrap.restores import sign_off_epoch

    record = sign_off_epoch(settings, ask=asking(settings.unseal_with), reason=reason)
    show_signed_off(record, as_json=as_json)


_FILES = "the `server` extra; the store's folder or database, and what opens it"

BACKUP = Group(
    "backup",
    "Backups: made while the store serves, rehearsed, restored.",
    (
        Command(
            "create",
            create,
            "doxstore backup create /backup/store.backup --data /var/lib/doxstore"
            " --key-file /etc/doxstore/root.key",
            _FILES,
        ),
        Command(
            "drill",
            drill,
            "doxstore backup drill /backup/store.backup --key-file /safe/root.key",
            "the `server` extra; the backup and what opens it",
        ),
        Command(
            "restore",
            restore,
            "doxstore backup restore /backup/store.backup --data /var/lib/doxstore"
            " --key-file /safe/root.key --checkpoints ledger.jsonl\n"
            "doxstore backup restore /backup/store.backup"
            " --database postgresql://doxstore@db.example/doxstore --key-file /safe/root.key"
            " --sign-off 'moved; nothing changed since'",
            "the `server` extra; the backup and what opens it",
        ),
        Command(
            "sign-off",
            sign_off,
            "doxstore backup sign-off --data /var/lib/doxstore --reason 'nothing revoked since'",
            _FILES,
        ),
    ),
)
