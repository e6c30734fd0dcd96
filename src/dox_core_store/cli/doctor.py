"""`doxstore doctor`: whether a store is sound, and kept as it should be.

Looks at one thing after another and says of each what it found; a failure ends nothing but what
depends on it. Reads only (but for the schema, which opening a store brings up to date), and works
beside running servers. Of a store in PostgreSQL it looks at the nodes, and not at a folder.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dox_core_store.cli.command import Command
from dox_core_store.cli.doctor_custody import custody_findings
from dox_core_store.cli.doctor_database import database_findings, node_findings
from dox_core_store.cli.doctor_shipping import shipping_findings
from dox_core_store.cli.doctor_tokens import token_finding
from dox_core_store.cli.finding import FAILURE, OK, WARNING, Finding, shown
from dox_core_store.cli.ledger_verify import verify_local
from dox_core_store.cli.option import ConfigFile, DatabaseUrl, DataFolder, Json, KeyFile, UnsealWith
from dox_core_store.cli.output import ExitCode, show_json, show_table
from dox_core_store.cli.progress import counting
from dox_core_store.cli.serve import answers, url_of
from dox_core_store.cli.session import local_settings, local_store, needs_server_extra
from dox_core_store.errors import DoxStoreError

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap import LocalStore
    from dox_core_store.server.settings import Settings

__all__ = ["DOCTOR"]

_MIB = 1024 * 1024
_LOW_DISK_BYTES = 1024 * _MIB
_NO_DISK_BYTES = 64 * _MIB
"""The log alone may grow to this before it is folded back into the database."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def doctor(
    *,
    data: DataFolder = None,
    database: DatabaseUrl = None,
    key_file: KeyFile = None,
    unseal_with: UnsealWith = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Look a store over: files or nodes, seal, all records and values, ledger, custody, clock.

    What the ledger says was taken away is compared with what the records say. The exit code is 1
    if something failed; a warning alone leaves it 0.
    """
    with needs_server_extra("doctor"):  # or it would count as an illness of the store
        from dox_core_store.server.bootstrap import LocalStore as _  # noqa: F401
    settings = local_settings(
        "doctor",
        config=config,
        data=data,
        database=database,
        key_file=key_file,
        unseal_with=unseal_with,
    )
    nodes: list[dict[str, Any]] = []
    findings = list(_findings(settings, nodes))
    found = {finding.status for finding in findings}
    worst = next(each for each in (FAILURE, WARNING, OK) if each in found)
    if as_json:
        told = {"status": worst, "checks": [finding._asdict() for finding in findings]}
        show_json({**told, "nodes": nodes} if settings.database else told)
    else:
        show_table(("CHECK", "STATUS", "FOUND"), findings)
    if worst == FAILURE:
        raise typer.Exit(ExitCode.REFUSED)


def _findings(settings: Settings, nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    """``nodes`` is filled with what there is to say of each."""
    folder = Path(settings.data)
    if not settings.database:
        yield from _files(folder)
    yield _key_file(folder, settings.key_file)
    if not settings.database:
        yield _disk(folder)
        yield _ballast(folder, settings.ballast_mib)
    try:
        store = local_store("doctor", settings)
    except DoxStoreError as error:
        yield Finding("seal", FAILURE, f"{error.code}: {error.detail} Nothing more was looked at.")
        return
    try:
        yield from _opened(store, settings, nodes)
    except DoxStoreError as error:  # the database went away meanwhile
        told = f"{error.code}: {error.detail} Nothing more was looked at."
        yield Finding("database", FAILURE, told)


def _opened(
    store: LocalStore, settings: Settings, nodes: list[dict[str, Any]]
) -> Iterator[Finding]:
    slot = store.opened_by
    label = f" {slot.label}" if slot.label else ""
    yield Finding("seal", OK, f"slot {slot.slot_id} ({slot.kind}{label}) opens {store.store_id}")
    yield from database_findings(store.inspection.condition())
    if settings.database:
        found = store.inspection.nodes()
        nodes += [node._asdict() for node in found]
        yield from node_findings(found)
    yield _room(store, settings)
    yield _records(store)
    yield _values(store)
    yield _ledger(store)
    yield _account(store)
    yield token_finding(store)
    yield from custody_findings(store.inspection.custody())
    yield from shipping_findings(store.inspection.shipped(), settings)
    if asyncio.run(answers(settings, store.store_id)):
        yield Finding("server", OK, f"answers at {url_of(settings)}")
    else:
        yield Finding("server", OK, f"none of this store answers at {url_of(settings)}")


def _files(folder: Path) -> Iterator[Finding]:
    if not folder.is_dir():
        yield Finding("folder", FAILURE, f"{folder} is not there")
        return
    open_to_others = [
        f"{path} ({stat.filemode(path.stat().st_mode)})"
        for path in (folder, *sorted(folder.glob("*.db*")))
        if path.stat().st_mode & _OTHERS
    ]
    if open_to_others:
        yield Finding(
            "folder", WARNING, f"open to others than its owner: {', '.join(open_to_others)}"
        )
    elif folder.stat().st_uid != os.geteuid():
        yield Finding("folder", WARNING, f"{folder} is not yours, and the server runs as its owner")
    else:
        yield Finding("folder", OK, f"{folder} and the database are its owner's alone")


def _key_file(folder: Path, key_file: str) -> Finding:
    path = Path(key_file) if key_file else folder / "root.key"
    if not key_file and not path.exists():
        return Finding("key file", OK, "none is used")
    if path.resolve().is_relative_to(folder.resolve()):
        return Finding(
            "key file",
            WARNING,
            f"{path} lies beside the data: whoever copies the folder has the values",
        )
    if not path.exists():
        return Finding("key file", WARNING, f"{path} is not there")
    return Finding("key file", OK, f"{path} lies outside the data")


def _disk(folder: Path) -> Finding:
    if not folder.is_dir():
        return Finding("disk", FAILURE, "there is no folder to look at")
    free = shutil.disk_usage(folder).free
    status = FAILURE if free < _NO_DISK_BYTES else WARNING if free < _LOW_DISK_BYTES else OK
    return Finding("disk", status, f"{free // _MIB} MiB free; a full disk ends every read")


def _ballast(folder: Path, mib: int) -> Finding:
    path = folder / "ballast"
    held = path.stat().st_size if path.is_file() else 0
    if not mib:
        return Finding("ballast", WARNING, "none is kept (ballast_mib): a full disk ends revoking")
    if held < mib * _MIB:
        told = f"{held / _MIB:g} of {mib} MiB are kept: a server fills it up where there is room"
        return Finding("ballast", WARNING, told)
    return Finding("ballast", OK, f"{mib} MiB are kept, so that revoking works on a full disk")


def _room(store: LocalStore, settings: Settings) -> Finding:
    room = store.inspection.room(settings.ledger_max_gib)
    known = {"ok": OK, "nearly full": WARNING, "full": FAILURE}
    told = "; reads are refused until it is less" if room.state == "full" else ""
    return Finding("room", known[room.state], f"the store uses {room}{told}")


def _records(store: LocalStore) -> Finding:
    total = store.inspection.count_records()
    read = 0
    with counting("records checked", total=total) as step:
        for count in store.inspection.check_records():
            read += count
            step(count)
    bad = sorted(set(store.alarms))
    if not bad:
        return Finding("records", OK, f"{read}, every one as it was written")
    return Finding(
        "records", FAILURE, f"{len(bad)} of {read} were changed from outside: {shown(bad)}"
    )


def _values(store: LocalStore) -> Finding:
    damaged: list[str] = []
    opened = 0
    with counting("values opened", total=store.inspection.count_values()) as step:
        for count in store.inspection.check_values(damaged):
            opened += count
            step(count)
    if damaged:
        told = f"{len(damaged)} of {opened} do not open: {shown(damaged)}"
        return Finding("values", FAILURE, told)
    return Finding("values", OK, f"{opened}, every one opens")


def _account(store: LocalStore) -> Finding:
    try:
        weaker = store.inspection.contradictions()
    except ValueError:
        return Finding("ledger and records", FAILURE, "the ledger cannot be read to the end")
    if weaker:
        told = f"{len(weaker)} were turned back from outside: {shown(weaker, '; ')}"
        return Finding("ledger and records", FAILURE, told)
    return Finding("ledger and records", OK, "whatever was taken away is away")


def _ledger(store: LocalStore) -> Finding:
    from dox_core_store.server.domain.ledger import BrokenChainError

    try:
        verified = verify_local(store)
    except BrokenChainError as error:
        return Finding("ledger", FAILURE, f"{error}.")
    return Finding(
        "ledger",
        OK,
        f"{verified.entries} entries, {verified.checkpoints} checkpoints, whole;"
        f" {verified.unsigned} not yet signed",
    )


DOCTOR = Command(
    "doctor",
    doctor,
    "doxstore doctor --data /var/lib/doxstore --key-file /etc/doxstore/root.key",
    "the `server` extra; the store's folder or database, and its key file",
)
