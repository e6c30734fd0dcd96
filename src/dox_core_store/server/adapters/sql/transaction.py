"""The `Transaction` port over a SQLAlchemy connection.

Generic over the domain's records: see `records` for how they stand in their tables, and `driver`
for how statements run. What many keys need, many records at once have: an import is as fast as its
statements are few.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from dox_core_store.errors import ConflictError
from dox_core_store.key_path import fold, prefixes
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.custody_event import note_event
from dox_core_store.server.adapters.sql.driver import Driver, worded
from dox_core_store.server.adapters.sql.records import RecordReader
from dox_core_store.server.adapters.sql.transacting import APPENDING
from dox_core_store.server.domain.access import Caller
from dox_core_store.server.domain.ledger import Chain, Entry, Status

__all__ = ["CHANNEL", "RecordReader", "SqlTransaction", "timestamp"]

CHANNEL = "doxstore_changes"
"""Where PostgreSQL tells who listens, at a commit, how far the change feed has come."""

_INSERT = (
    "INSERT INTO ledger_block (stream, first_seq, last_seq, first_at, prev, head, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING block_id"
)
_MOVE = "UPDATE ledger_stream SET last_seq = ?, head = ? WHERE stream = ? RETURNING last_seq"
# The lock first: it is shared until the commit (`horizon`). Then all of it goes in one statement.
_SHARE = f"SELECT pg_advisory_xact_lock_shared({APPENDING})"
_ENTER = (
    f"WITH block AS ({_INSERT}), moved AS ({_MOVE})"  # noqa: S608 - ours
    f" SELECT block_id, pg_notify('{CHANNEL}', moved.last_seq::text) FROM block, moved"
)

Record = TypeVar("Record")


def timestamp(instant: datetime) -> str:
    """As the ledger writes times: RFC 3339, UTC, milliseconds."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"


class SqlTransaction:
    """See the port. Lives for one transaction, in the writer's thread."""

    def __init__(
        self,
        *,
        connection: sa.Connection,
        reader: RecordReader,
        now: datetime,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._driver = Driver(connection)
        self._reader = reader
        self._now = now
        self._stamp = timestamp(now)
        self._monotonic = monotonic
        self._began = monotonic()
        self._entries: list[Entry] = []
        self._spelled: dict[str, str] = {}
        self._environments: frozenset[str] | None = None
        self._last_key_id: int | None = None

    @property
    def now(self) -> datetime:
        return self._now

    @property
    def held_seconds(self) -> float:
        return self._monotonic() - self._began

    def get(self, kind: type[Record], **where: Any) -> Record | None:
        found = self.find(kind, limit=1, **where)
        return found[0] if found else None

    def find(self, kind: type[Record], *, limit: int | None = None, **where: Any) -> list[Record]:
        return _as_asked(self._reader.read_all(kind, self._driver.find(kind, where, limit)), where)

    def find_among(
        self, kind: type[Record], name: str, values: Sequence[Any], **where: Any
    ) -> list[Record]:
        found = self._reader.read_all(kind, self._driver.find_among(kind, name, values, where))
        return _as_asked(found, where)

    def latest(
        self, kind: type[Record], by: str, *, limit: int, skip: int = 0, **where: Any
    ) -> list[Record]:
        found = self._reader.read_all(kind, self._driver.latest(kind, by, where, skip, limit))
        return _as_asked(found, where)

    def put(self, record: Any) -> None:
        self._driver.put(type(record), [self._reader.write(record)])

    def put_all(self, records: Sequence[Any]) -> None:
        if records:
            self._driver.put(type(records[0]), [self._reader.write(each) for each in records])

    def remove(self, kind: type[Any], **where: Any) -> None:
        self._driver.remove(kind, where)

    def new_key_id(self) -> int:
        if self._last_key_id is None:
            query = sa.select(sa.func.max(tables.key.c.key_id))
            self._last_key_id = self._connection.execute(query).scalar() or 0
        self._last_key_id += 1
        return self._last_key_id

    def environments(self) -> Collection[str]:
        if self._environments is None:
            rows = self._connection.execute(sa.select(tables.environment.c.name))
            self._environments = frozenset(rows.scalars())
        return self._environments

    def add_environment(self, name: str) -> None:
        ends = f"%.{name}".replace("_", r"\_")
        path = sa.func.lower(tables.key.c.path)
        query = sa.select(tables.key.c.path).where(
            sa.or_(path == name, path.like(ends, escape="\\"))
        )
        if (used := self._connection.execute(query.limit(1)).scalar()) is not None:
            raise ConflictError("environment_in_use", f"The stored path {used} ends in {name}.")
        self._connection.execute(
            sa.insert(tables.environment).values(name=name, created_at=self._now)
        )
        self._environments = None

    def spell(self, names: Sequence[str]) -> None:
        folded = {name: fold(name) for name in names}
        unseen = [each for each in dict.fromkeys(folded.values()) if each not in self._spelled]
        self._spelled.update(self._driver.among(tables.spelling, "folded", unseen))
        fresh = []
        for name, each in folded.items():
            spelled = self._spelled.get(each)
            if spelled is None:
                self._spelled[each] = name
                fresh.append((each, name))
            elif spelled != name:
                raise ConflictError(
                    "case_collision", f"{name} differs from the stored {spelled} only in case."
                )
        self._driver.insert(tables.spelling, fresh)

    def unspell(self, path: str) -> None:
        for name in reversed(prefixes(path)):
            at_or_under = sa.or_(
                tables.key.c.path == name,
                sa.and_(tables.key.c.path > f"{name}.", tables.key.c.path < f"{name}/"),
            )
            if self._connection.execute(sa.select(tables.key.c.path).where(at_or_under)).first():
                return
            self._connection.execute(
                sa.delete(tables.spelling).where(tables.spelling.c.folded == fold(name))
            )
            self._spelled.pop(fold(name), None)

    def note(self, name: str, detail: Mapping[str, Any]) -> None:
        note_event(self._connection, name, self._now, detail)

    def follow(self, name: str, block_id: int, head: str) -> None:
        cursor = tables.ledger_cursor
        self._connection.execute(sa.delete(cursor).where(cursor.c.name == name))
        self._connection.execute(sa.insert(cursor).values(name=name, block_id=block_id))
        self.note(name, {"head": head})

    def keep_up(self) -> None:
        """Seal and make MACs under the newest key from here on: as soon as there is a new one,
        nothing may be written under another. Raises `DoxStoreError` where it cannot be opened."""
        ((newest,),) = self._driver.rows("SELECT max(number) FROM seal_ring", ())
        self._reader.keep_up(newest)

    def record(self, caller: Caller, entry: Mapping[str, Any]) -> None:
        self._entries.append(
            Entry(
                timestamp=self._stamp,
                service_name=caller.name,
                request_id=caller.request_id,
                ip_address=caller.ip_address,
                user_agent=caller.user_agent,
                token_id=caller.token_id,
                **{"status": Status.GRANTED, "correlation_id": caller.correlation_id, **entry},
            )
        )

    def finish(self) -> tuple[int, list[Entry]] | None:
        """Write what was recorded to the ``changes`` stream: the transaction's last statements.

        Returns the block's id and its entries, if there were any.
        """
        if not self._entries:
            return None
        stream, name = tables.ledger_stream, self._reader.changes
        query = sa.select(stream.c.last_seq, stream.c.head).where(stream.c.stream == name)
        seq, head = self._connection.execute(query).one()
        body, after = Chain(name, head, seq).extend(self._entries)
        at = tables.Instant.microseconds(self._now)
        block = (name, seq + 1, after.seq, at, head, after.head, body)
        return self._enter(block, (after.seq, after.head, name)), self._entries

    def _enter(self, block: Sequence[Any], end: Sequence[Any]) -> int:
        """Add ``block``, and say where its stream ends now; the block's id."""
        run, dialect = self._driver.rows, self._driver.dialect
        if dialect.name == "sqlite":
            ((block_id,),) = run(_INSERT, block)
            run(_MOVE, end)
        else:
            run(_SHARE, ())
            ((block_id, _),) = run(worded(dialect, _ENTER), (*block, *end))
        return int(block_id)


def _as_asked(records: list[Record], where: Mapping[str, Any]) -> list[Record]:
    """Without versions that are in another state than was asked for: their rows say so, and their
    tombstones know better."""
    wanted = where.get("state")
    if wanted is None:
        return records
    states = {wanted} if isinstance(wanted, str) else set(wanted)
    return [each for each in records if getattr(each, "state", wanted) in states]
