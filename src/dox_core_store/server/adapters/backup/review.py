"""Looking a copy over: every version opens, every row is as it was written, the ledger is whole.

And comparing it with the live store, of which nothing but its tables is read: no key is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa

from dox_core_store.errors import DoxStoreError
from dox_core_store.key_path import RESERVED_PREFIX, KeyAddress
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.inspection import StoreInspection
from dox_core_store.server.adapters.sql.store import OpenedStore
from dox_core_store.server.domain.backup import names_database
from dox_core_store.server.domain.envelope import Binding

__all__ = ["Differences", "Progress", "Versions", "check_rows", "compare", "open_versions"]

_ROWS = 500
_SHOWN = 20
"""Of each kind of difference, how many are named."""


class Progress(Protocol):
    """Shows how far long work has come."""

    def __call__(
        self, what: str, *, total: int | None = None
    ) -> AbstractContextManager[Callable[[int], None]]: ...


class Versions(NamedTuple):
    """What opening every version found. ``erased`` have no value; ``damaged`` ones are named;
    ``databases`` are the keys whose head opens a database."""

    opened: int
    erased: int
    damaged: list[str]
    databases: dict[int, str]


class Differences(NamedTuple):
    """How the live store differs from the copy. ``newer``: keys with later versions. Each list
    names some, `counts` says how many there are."""

    counts: dict[str, int]
    named: dict[str, list[str]]


def open_versions(store: OpenedStore, progress: Progress) -> Versions:
    """Open the value of every version there is."""
    opened, erased, damaged = 0, 0, []
    databases: dict[int, str] = {}
    key, version = tables.key.c, tables.version.c
    query = (
        sa.select(
            key.key_id, key.path, key.environment, key.head, key.staged_head,
            version.version_id, version.number, version.sealed,
        )
        .join_from(tables.version, tables.key, key.key_id == version.key_id)
        .execution_options(yield_per=_ROWS)
    )  # fmt: skip
    with store.engine.connect() as connection:
        count = sa.select(sa.func.count()).select_from(tables.version)
        total = int(connection.execute(count).scalar_one())
        with progress("versions opened", total=total) as step:
            for rows in connection.execute(query).partitions():
                for row in rows:
                    if row.sealed is None:
                        erased += 1
                        continue
                    address = KeyAddress(row.path, row.environment)
                    try:
                        raw = store.sealer.open(
                            Binding(store.store_id, *address, row.version_id), row.sealed
                        )
                    except DoxStoreError:
                        damaged.append(f"{address} version {row.number}")
                        continue
                    opened += 1
                    if (
                        row.version_id in (row.head, row.staged_head)
                        and row.path.partition(".")[0] != RESERVED_PREFIX
                        and names_database(row.path, raw.decode("utf-8", "replace"))
                    ):
                        databases[row.key_id] = str(address)
                step(len(rows))
    orphans = total - opened - erased - len(damaged)
    if orphans:
        damaged.append(f"{orphans} versions without their key")
    return Versions(opened, erased, damaged, databases)


def check_rows(store: OpenedStore, progress: Progress) -> int:
    """Read every row that carries a MAC; the store's alarm hears of those that do not hold."""
    inspection, read = StoreInspection(store), 0
    with progress("rows checked", total=inspection.count_records()) as step:
        for count in inspection.check_records():
            read += count
            step(count)
    return read


def compare(live: sa.Connection, copy: sa.Connection) -> Differences:
    """What the live store has that the copy has not, and the other way round."""
    found: dict[str, list[str]] = {
        name: [] for name in ("only_live", "only_backup", "newer", "states", "slots")
    }
    counts = dict.fromkeys(found, 0)

    def note(kind: str, what: str) -> None:
        counts[kind] += 1
        if len(found[kind]) < _SHOWN:
            found[kind].append(what)

    for address, here, there in _side_by_side(_keys(live), _keys(copy)):
        if here is None or there is None:
            note("only_live" if there is None else "only_backup", str(KeyAddress(*address)))
            continue
        known = {number: state for number, (_, state) in there.items()}
        if here.keys() - there.keys():
            note("newer", f"{KeyAddress(*address)}: version {max(here)}, here {max(there)}")
        for number in sorted(here.keys() & there.keys()):
            if here[number][1] != known[number]:
                note(
                    "states",
                    f"{KeyAddress(*address)} version {number}: {here[number][1]}, here"
                    f" {known[number]}",
                )
    slots = [_slots(live), _slots(copy)]
    for slot_id in sorted(slots[0].keys() ^ slots[1].keys()):
        where = "only there" if slot_id in slots[0] else "only here"
        note("slots", f"{slot_id} ({(slots[0] | slots[1])[slot_id]}): {where}")
    return Differences(counts, found)


Versioned = tuple[tuple[str, str], dict[int, tuple[str, str]]]


def _keys(connection: sa.Connection) -> Iterator[Versioned]:
    """Every key with its versions (number -> id and state), in order of path and environment."""
    key, version = tables.key.c, tables.version.c
    query = (
        sa.select(key.path, key.environment, version.number, version.version_id, version.state)
        .join_from(tables.key, tables.version, key.key_id == version.key_id)
        .where(sa.or_(key.path < f"{RESERVED_PREFIX}.", key.path > f"{RESERVED_PREFIX}/"))
        .order_by(key.path, key.environment)
        .execution_options(yield_per=_ROWS)
    )
    at: tuple[str, str] | None = None
    versions: dict[int, tuple[str, str]] = {}
    for path, environment, number, version_id, state in connection.execute(query):
        if at is not None and at != (path, environment):
            yield at, versions
            versions = {}
        at = (path, environment)
        versions[number] = (version_id, state)
    if at is not None:
        yield at, versions


def _side_by_side(
    left: Iterator[Versioned], right: Iterator[Versioned]
) -> Iterator[tuple[tuple[str, str], Any, Any]]:
    """Both in one order; None where one side lacks the key."""
    here, there = next(left, None), next(right, None)
    while here is not None or there is not None:
        if there is None or (here is not None and here[0] < there[0]):
            assert here is not None  # noqa: S101 - for the type checker
            yield here[0], here[1], None
            here = next(left, None)
        elif here is None or there[0] < here[0]:
            yield there[0], None, there[1]
            there = next(right, None)
        else:
            yield here[0], here[1], there[1]
            here, there = next(left, None), next(right, None)


def _slots(connection: sa.Connection) -> dict[str, str]:
    query = sa.select(tables.seal_slot.c.slot_id, tables.seal_slot.c.kind)
    return {row.slot_id: row.kind for row in connection.execute(query)}
