"""The backup's lines: written from one snapshot of a database, checked, read back.

Writing never holds more than some rows, and neither does reading. Reading is done twice: `check`
goes through all of it and says what it is, whether it is whole (the digest) and what opens it (the
tables of the head); only then `records` hands out rows, and notices if what it reads is not what
was checked. The MAC over the digest needs the ring: `check_origin`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple

import msgspec
import sqlalchemy as sa

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.backup.rows import HEAD, TABLES, Rows, damaged
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.migrate import current_revision
from dox_core_store.server.adapters.sql.transaction import timestamp
from dox_core_store.server.domain.backup import (
    FORMAT,
    MAC_TABLE,
    VERSION,
    BackupHeader,
    Ending,
)
from dox_core_store.server.domain.envelope import Ring

__all__ = ["ArchiveWriter", "Checked", "check", "check_origin", "records"]

_MAX_LINE_BYTES = 64 * 1024 * 1024
"""Of one record: the ledger's largest block is some megabytes."""

_MAX_HEAD_RECORDS = 10_000
_MAGIC = b'{"format":"' + FORMAT.encode() + b'"'

_encode = msgspec.json.Encoder().encode
_decode_record = msgspec.json.Decoder(tuple[str, dict[str, Any]]).decode


class _LastLine(msgspec.Struct, forbid_unknown_fields=True):
    end: Ending


class Checked(NamedTuple):
    """A backup whose digest holds. ``head`` are the rows of what opens it."""

    header: BackupHeader
    ending: Ending
    head: dict[str, list[dict[str, Any]]]


class ArchiveWriter:
    """One backup of what ``connection`` sees, which is a snapshot; `ending` once it is written.

    ``pause`` is called after some rows each, for whoever shares the interpreter with a server.
    """

    def __init__(
        self,
        connection: sa.Connection,
        *,
        ring: Ring,
        now: datetime,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._ring = ring
        self.step: Callable[[int], None] = lambda _count: None
        """Told how many records were written."""
        self._pause = pause
        self._rows = [Rows(name) for name in TABLES]
        store = connection.execute(sa.select(tables.store.c.store_id, tables.store.c.epoch)).one()
        self.header = BackupHeader(
            format=FORMAT,
            version=VERSION,
            store_id=store.store_id,
            epoch=store.epoch,
            schema=current_revision(connection) or "",
            created_at=timestamp(now),
            counts={rows.name: rows.count(connection) for rows in self._rows},
        )
        self.ending: Ending | None = None

    def chunks(self) -> Iterator[bytes]:
        """The backup's bytes, in pieces."""
        digest, count = hashlib.sha256(), 0
        first = _encode(self.header) + b"\n"
        digest.update(first)
        yield first
        for rows in self._rows:
            for part in rows.read(self._connection):
                lines = b"".join([_encode((rows.name, row)) + b"\n" for row in part])
                digest.update(lines)
                count += len(part)
                self.step(len(part))
                yield lines
                self._pause()
        self.ending = Ending(
            records=count,
            sha256=digest.hexdigest(),
            mac=base64.b64encode(self._snapshot_ring().mac(MAC_TABLE, digest.digest())).decode(),
        )
        yield _encode(_LastLine(self.ending)) + b"\n"

    def _snapshot_ring(self) -> Ring:
        """The keys that are in the backup, for whoever opens it has no others."""
        query = sa.select(tables.seal_ring.c.number)
        return self._ring.only(self._connection.execute(query).scalars().all())


def check(stream: BinaryIO) -> Checked:
    """Read a backup from its first byte to its last.

    Raises `ConfigurationError` ``backup_damaged``, and ``store_newer`` for a format or schema of a
    later release.
    """
    digest, count = hashlib.sha256(), 0
    lines = _lines(stream)
    first = next(lines, b"")
    header = _header(first)
    digest.update(first)
    head: dict[str, list[dict[str, Any]]] = {name: [] for name in HEAD}
    beginnings = tuple(b'["' + name.encode() + b'",' for name in HEAD)
    waiting = next(lines, None)
    for line in lines:
        if waiting is None:  # pragma: no cover - `lines` has ended then
            break
        digest.update(waiting)
        if count < _MAX_HEAD_RECORDS and waiting.startswith(beginnings):
            name, row = _record(waiting)
            head[name].append(Rows(name).decoded(row))
        count += 1
        waiting = line
    ending = _ending(waiting)
    if not hmac.compare_digest(ending.sha256, digest.hexdigest()) or ending.records != count:
        raise damaged("its digest does not match what it holds")
    if count != sum(header.counts.values()) or len(head["store"]) != 1:
        raise damaged("it has another number of records than it says")
    return Checked(header, ending, head)


def check_origin(checked: Checked, ring: Ring) -> None:
    """Raise ``backup_damaged`` unless this store wrote the backup, as it is."""
    try:
        mac = base64.b64decode(checked.ending.mac, validate=True)
    except binascii.Error as error:
        raise damaged("its MAC is not readable") from error
    if not ring.mac_holds(MAC_TABLE, bytes.fromhex(checked.ending.sha256), mac):
        raise damaged("its MAC does not hold, so this store did not write it as it is")


def records(stream: BinaryIO, checked: Checked) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every record of a backup that was checked. Raises ``backup_damaged`` at its end if it is
    another one by now: whoever takes rows has to reach the end before they count."""
    digest = hashlib.sha256()
    lines = _lines(stream)
    digest.update(next(lines, b""))
    for line, _ in zip(lines, range(checked.ending.records), strict=False):
        digest.update(line)
        yield _record(line)
    if digest.hexdigest() != checked.ending.sha256:
        raise damaged("it was changed while it was read")


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline(_MAX_LINE_BYTES):
        if not line.endswith(b"\n"):
            raise damaged("it ends, or a line of it is too long, in the middle of a record")
        yield line


def _header(line: bytes) -> BackupHeader:
    if not line.startswith(_MAGIC):
        raise damaged("it does not begin as a backup does")
    try:
        header = msgspec.json.decode(line, type=BackupHeader)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged("its first line is unreadable") from error
    if header.version != VERSION:
        raise ConfigurationError("store_newer", f"The backup is of format {header.version}.")
    if header.schema not in tables.SCHEMAS:
        raise ConfigurationError(
            "store_newer", f"The backup's schema is {header.schema[:40]!a}, which is not known here"
            " by this release."
        )  # fmt: skip
    return header


def _record(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        name, row = _decode_record(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged("a record is unreadable") from error
    if name not in TABLES:
        raise damaged(f"there is no table {name[:40]!a}")
    return name, row


def _ending(line: bytes | None) -> Ending:
    try:
        last = msgspec.json.decode(line or b"", type=_LastLine)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged("its last line is missing") from error
    if _encode(last) + b"\n" != line:  # one way to write it, so that every byte counts
        raise damaged("its last line is not as it was written")
    return last.end
