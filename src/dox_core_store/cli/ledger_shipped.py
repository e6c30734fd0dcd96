"""What shipped files prove, kept in a temporary database so that memory stays small.

The files are what a sink got: lines as in `ledger export`, the checkpoints of all streams and all
entries of `changes`. Shipping is at-least-once, so lines may come twice; a file may begin late, and
its last line may be torn. What is no entry, or is not signed, is counted and otherwise ignored: it
proves nothing, and must not keep the rest from proving what it does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

from dox_core_store import wire
from dox_core_store.cli.progress import counting
from dox_core_store.errors import ConfigurationError

if TYPE_CHECKING:
    from dox_core_store.server.domain.checkpoint_statement import Signatures
    from dox_core_store.server.domain.shipped import Carried, SignedHead

__all__ = ["ShippedFiles"]

_SCHEMA = """
    CREATE TABLE signed (stream, seq, hash, at, epoch, change, PRIMARY KEY (stream, seq, hash))
        WITHOUT ROWID;
    CREATE TABLE carried (stream, seq, hash, at, epoch, change, prev,
        PRIMARY KEY (stream, seq, hash)) WITHOUT ROWID;
    CREATE TABLE believed (stream, seq, hash, at, epoch, change, PRIMARY KEY (stream, seq, hash))
        WITHOUT ROWID;
"""
_MOST_LINE_BYTES = 1 << 20
"""An entry is a few kilobytes at most."""

_FETCH = 1_000


class ShippedFiles:
    """Made of all the files at once; see `Proof`. Raises ``bad_checkpoints`` if nothing in them is
    signed: whoever gives checkpoints must not believe that they were checked."""

    def __init__(self, paths: Sequence[Path], signatures: Signatures) -> None:
        self._signatures = signatures
        self._database = sqlite3.connect("")  # a file without a name, which goes with us
        self._database.executescript(_SCHEMA)
        self.checkpoints = 0
        """Checkpoints whose signature holds."""
        self.unsigned = 0
        """Checkpoints whose signature does not."""
        self.unreadable = 0
        """Lines that are no entry, or not the one that their hash says."""
        for path in paths:
            self._read(path)
        if not self.checkpoints:
            named = ", ".join(str(path) for path in paths)
            raise ConfigurationError(
                "bad_checkpoints",
                f"{named}: no checkpoint there is signed with the key of this store.",
            )
        for (stream,) in self._database.execute("SELECT DISTINCT stream FROM signed").fetchall():
            self._believe(stream)

    def streams(self) -> Iterable[str]:
        """See `Proof`."""
        rows = self._database.execute("SELECT DISTINCT stream FROM believed").fetchall()
        return [stream for (stream,) in rows]

    def heads(self, stream: str) -> Iterator[SignedHead]:
        """See `Proof`."""
        from dox_core_store.server.domain.shipped import SignedHead

        query = "SELECT * FROM believed WHERE stream = ? ORDER BY seq"
        return map(SignedHead._make, self._database.execute(query, (stream,)))

    def _read(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            with path.open("rb") as file, counting("shipped bytes read", total=size) as step:
                while line := file.readline(_MOST_LINE_BYTES):
                    self._take(line)
                    step(len(line))
        except OSError as error:
            raise typer.BadParameter(f"{path} cannot be read: {error.strerror}.") from None

    def _take(self, line: bytes) -> None:
        from dox_core_store.server.domain.shipped import carried, signed

        try:
            record = wire.decode(wire.LedgerRecord, line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.unreadable += bool(line.strip())
            return
        try:
            found = carried(record)
        except UnicodeEncodeError:  # a lone surrogate: no entry of ours has one
            found = None
        if found is None:
            self.unreadable += 1
            return
        insert = "INSERT OR IGNORE INTO carried VALUES (?, ?, ?, ?, ?, ?, ?)"
        if not self._database.execute(insert, (*found.head, found.prev)).rowcount:
            return  # seen before
        heads = signed(record, self._signatures)
        self._database.executemany("INSERT OR IGNORE INTO signed VALUES (?, ?, ?, ?, ?, ?)", heads)
        if heads:
            self.checkpoints += 1
        elif record.action == "CHECKPOINT":
            self.unsigned += 1

    def _believe(self, stream: str) -> None:
        """What is signed of ``stream``, and whatever that makes believed."""
        from dox_core_store.server.domain.shipped import believed

        keep = "INSERT OR IGNORE INTO believed VALUES (?, ?, ?, ?, ?, ?)"
        self._database.execute(
            "INSERT INTO believed SELECT * FROM signed WHERE stream = ?", (stream,)
        )
        self._database.executemany(keep, believed(self._rows(stream)))

    def _rows(self, stream: str) -> Iterator[SignedHead | Carried]:
        from dox_core_store.server.domain.shipped import Carried, SignedHead

        cursor = self._database.execute(
            "SELECT *, NULL AS prev, 0 AS kind FROM signed WHERE stream = :stream UNION ALL"
            " SELECT *, 1 FROM carried WHERE stream = :stream ORDER BY seq DESC, kind",
            {"stream": stream},
        )
        while rows := cursor.fetchmany(_FETCH):
            for *head, prev, _kind in rows:
                found = SignedHead._make(head)
                yield found if prev is None else Carried(found, prev)
