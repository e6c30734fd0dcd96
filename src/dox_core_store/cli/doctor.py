"""`doxstore doctor`: whether a store is sound, and kept as it should be.

Looks at one thing after another and says of each what it found; a failure ends nothing but what
depends on it. Reads only (but for the schema, which opening a store brings up to date), and works
beside a running server.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from dox_core_store.cli.command import Command
from dox_core_store.cli.ledger_verify import verify_local
from dox_core_store.cli.option import ConfigFile, DataFolder, Json, KeyFile
from dox_core_store.cli.output import ExitCode, show_json, show_table
from dox_core_store.cli.progress import counting
from dox_core_store.cli.serve import answers, url_of
from dox_core_store.cli.session import local_settings, local_store, needs_server_extra
from dox_core_store.errors import DoxStoreError

if TYPE_CHECKING:
    from dox_core_store.server.bootstrap import LocalStore
    from dox_core_store.server.settings import Settings

__all__ = ["DOCTOR"]

_OK, _WARNING, _FAILURE = "ok", "warning", "failure"
_MIB = 1024 * 1024
_LOW_DISK_BYTES = 1024 * _MIB
_NO_DISK_BYTES = 64 * _MIB
"""The log alone may grow to this before it is folded back into the database."""

_CLOCK_SLACK = timedelta(seconds=60)
_FULL_SYNC = 2
_SHOWN = 5
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Finding(NamedTuple):
    """What was looked at, whether it is as it should be, and what there is to say."""

    check: str
    status: str
    detail: str


def doctor(
    *,
    data: DataFolder = None,
    key_file: KeyFile = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Look a store over: files, seal, database, every record, the whole ledger, disk and clock.

    The exit code is 1 if something failed; a warning alone leaves it 0.
    """
    with needs_server_extra("doctor"):  # or it would count as an illness of the store
        from dox_core_store.server.bootstrap import LocalStore as _  # noqa: F401
    settings = local_settings("doctor", config=config, data=data, key_file=key_file)
    findings = list(_findings(settings))
    found = {finding.status for finding in findings}
    worst = next(each for each in (_FAILURE, _WARNING, _OK) if each in found)
    if as_json:
        show_json({"status": worst, "checks": [finding._asdict() for finding in findings]})
    else:
        show_table(("CHECK", "STATUS", "FOUND"), findings)
    if worst == _FAILURE:
        raise typer.Exit(ExitCode.REFUSED)


def _findings(settings: Settings) -> Iterator[Finding]:
    folder = Path(settings.data)
    yield from _files(folder)
    yield _key_file(folder, settings.key_file)
    yield _disk(folder)
    try:
        store = local_store("doctor", settings)
    except DoxStoreError as error:
        yield Finding("seal", _FAILURE, f"{error.code}: {error.detail} Nothing more was looked at.")
        return
    yield Finding("seal", _OK, f"the key file opens {store.store_id}")
    yield from _database(store)
    yield _records(store)
    yield from _ledger(store)
    if asyncio.run(answers(settings, store.store_id)):
        yield Finding("server", _OK, f"answers at {url_of(settings)}")
    else:
        yield Finding("server", _OK, f"none of this store answers at {url_of(settings)}")


def _files(folder: Path) -> Iterator[Finding]:
    if not folder.is_dir():
        yield Finding("folder", _FAILURE, f"{folder} is not there")
        return
    open_to_others = [
        f"{path} ({stat.filemode(path.stat().st_mode)})"
        for path in (folder, *sorted(folder.glob("*.db*")))
        if path.stat().st_mode & _OTHERS
    ]
    if open_to_others:
        shown = ", ".join(open_to_others)
        yield Finding("folder", _WARNING, f"open to others than its owner: {shown}")
    elif folder.stat().st_uid != os.geteuid():
        yield Finding(
            "folder", _WARNING, f"{folder} is not yours, and the server runs as its owner"
        )
    else:
        yield Finding("folder", _OK, f"{folder} and the database are its owner's alone")


def _key_file(folder: Path, key_file: str) -> Finding:
    path = Path(key_file) if key_file else folder / "root.key"
    if path.resolve().is_relative_to(folder.resolve()):
        return Finding(
            "key file",
            _WARNING,
            f"{path} lies beside the data: whoever copies the folder has the values",
        )
    return Finding("key file", _OK, f"{path} lies outside the data")


def _disk(folder: Path) -> Finding:
    if not folder.is_dir():
        return Finding("disk", _FAILURE, "there is no folder to look at")
    free = shutil.disk_usage(folder).free
    status = _FAILURE if free < _NO_DISK_BYTES else _WARNING if free < _LOW_DISK_BYTES else _OK
    return Finding("disk", status, f"{free // _MIB} MiB free; a full disk ends every read")


def _database(store: LocalStore) -> Iterator[Finding]:
    found = store.inspection.condition()
    is_known = found.schema == found.known_schema
    yield Finding("schema", _OK if is_known else _FAILURE, f"revision {found.schema}")
    syncs = (found.journal_mode, found.synchronous) == ("wal", _FULL_SYNC)
    yield Finding(
        "durability",
        _OK if syncs else _FAILURE,
        f"journal {found.journal_mode}, synchronous {'FULL' if syncs else found.synchronous}",
    )
    yield Finding("database", _OK if found.pages == "ok" else _FAILURE, f"pages: {found.pages}")
    yield Finding(
        "slots",
        _OK if found.slots > 1 else _WARNING,
        f"{found.slots} opens the store"
        + ("" if found.slots > 1 else ": keep a copy of its key file, for without it nothing does"),
    )


def _records(store: LocalStore) -> Finding:
    total = store.inspection.count_records()
    read = 0
    with counting("records checked", total=total) as step:
        for count in store.inspection.check_records():
            read += count
            step(count)
    bad = sorted(set(store.alarms))
    if not bad:
        return Finding("records", _OK, f"{read}, every one as it was written")
    shown = ", ".join(bad[:_SHOWN]) + (", …" if len(bad) > _SHOWN else "")
    return Finding("records", _FAILURE, f"{len(bad)} of {read} were changed from outside: {shown}")


def _ledger(store: LocalStore) -> Iterator[Finding]:
    from dox_core_store.server.domain.ledger import BrokenChainError

    try:
        verified = verify_local(store)
    except BrokenChainError as error:
        yield Finding("ledger", _FAILURE, f"{error}.")
        return
    yield Finding(
        "ledger",
        _OK,
        f"{verified.entries} entries, {verified.checkpoints} checkpoints, whole;"
        f" {verified.unsigned} not yet signed",
    )
    now = datetime.now(UTC)
    newest = datetime.fromisoformat(verified.newest) if verified.newest else now
    if newest > now + _CLOCK_SLACK:
        yield Finding("clock", _FAILURE, f"is behind the newest entry, of {verified.newest}")
    else:
        yield Finding("clock", _OK, "is not behind the newest entry")


DOCTOR = Command(
    "doctor",
    doctor,
    "doxstore doctor --data /var/lib/doxstore --key-file /etc/doxstore/root.key",
    "the `server` extra; the store's folder and its key file",
)
