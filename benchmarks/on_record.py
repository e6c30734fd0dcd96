"""What the ledger of a store has on record after the load.

It is counted in the ledger's own bytes, read from the file or the database, which does not depend
on any counter of the process under test.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.doxstore import DATABASE_FILE, Store
from benchmarks.postgres import ledger_bodies
from benchmarks.process import BenchError

__all__ = ["Recorded", "recorded"]

# Action and status of a reveal as they stand side by side in a canonical entry
# (docs/spec/ledger.md). A quote inside a field is escaped, so nothing else can look like it.
_GRANTED = b',"GET","GRANTED",'


class Recorded(NamedTuple):
    """``entries`` of revealed values are in the ledger of ``store``, after ``answers``."""

    store: str
    answers: int
    entries: int


def recorded(store: Store, answers: int) -> Recorded:
    """What is on record of so many ``answers``. Raises `BenchError` where one is missing."""
    bodies = ledger_bodies(store.database) if store.database else _bodies_in(store.data)
    entries = sum(body.count(_GRANTED) for body in bodies)
    if entries < answers:
        raise BenchError(
            f"{store.target.name}: {answers:,} values left, but only {entries:,} are on record"
        )
    return Recorded(store.target.name, answers, entries)


def _bodies_in(data: Path) -> Iterator[bytes]:
    with contextlib.closing(
        sqlite3.connect(f"file:{data / DATABASE_FILE}?mode=ro", uri=True)
    ) as database:
        for (body,) in database.execute("SELECT body FROM ledger_block"):
            yield bytes(body)
