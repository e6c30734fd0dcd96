"""The nodes of a store: who runs, how far each is, and whose streams are nobody's any more.

A node enters itself together with its stream, says every second that it lives, and leaves with the
stream's end. One that was not heard of for `GONE_SECONDS` is gone: any other closes its stream,
and from then on that stream accepts nothing. If it was only stopped, it finds that out at its next
entry and begins anew. All times are the database's.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.stream import LedgerStream
from dox_core_store.server.adapters.sql.transacting import APPENDING, writing

__all__ = ["GONE_SECONDS", "KnownNode", "NodeRegister", "known_nodes"]

GONE_SECONDS = 30.0

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_ENTER = sa.text(
    "INSERT INTO node (node_id, name, stream, release, started_at, seen_at, applied, ring)"  # noqa: S608
    f" VALUES (:stream, :name, :stream, :release, {_NOW}, {_NOW}, 0, :ring)"
)
_BEAT = (
    f"UPDATE node SET seen_at = {_NOW}, applied = %s, ring = %s WHERE node_id = %s"  # noqa: S608
    " RETURNING extract(epoch FROM clock_timestamp())::double precision"
)


class KnownNode(NamedTuple):
    """As the database has it: ``seen_seconds`` ago it said that it lives."""

    name: str
    stream: str
    release: str
    seen_seconds: float
    applied: int
    ring: int


class NodeRegister:
    """One node's part in it."""

    def __init__(self, *, name: str, release: str, ring: int) -> None:
        self._name = name
        self._release = release
        self.ring = ring
        """The newest sealing key that this node has."""

    def enter(self, connection: sa.Connection, stream: LedgerStream, reason: str | None) -> None:
        """Open ``stream``, and say whose it is. Two transactions: a stream without a node is closed
        by the next one that comes by, as one whose node was killed in between has to be."""
        connection.execute(
            _ENTER, {"stream": stream.name, "name": self._name, "release": self._release,
                     "ring": self.ring},
        )  # fmt: skip
        stream.open(
            connection,
            reason,
            live=_live_streams(connection),
            alone=lambda: _have_alone(connection),
        )
        self._forget_the_gone(connection)

    def leave(self, connection: sa.Connection, stream: LedgerStream) -> None:
        """Close ``stream``."""
        stream.close(connection)
        connection.execute(sa.delete(tables.node).where(tables.node.c.node_id == stream.name))

    def beat(self, connection: sa.Connection, stream: str, applied: int) -> float:
        """Say that this node lives; the database's time. Raises `sqlalchemy.exc.DBAPIError`."""
        row = connection.exec_driver_sql(_BEAT, (applied, self.ring, stream)).first()
        return 0.0 if row is None else float(row[0])

    def tidy(self, connection: sa.Connection, stream: LedgerStream) -> int:
        """Close the streams of nodes that are gone; how many."""
        with writing(connection):
            closed = stream.close_orphans(
                connection, _live_streams(connection), lambda: _have_alone(connection)
            )
        self._forget_the_gone(connection)
        return closed

    def _forget_the_gone(self, connection: sa.Connection) -> None:
        """Their streams are closed by now."""
        stream = tables.ledger_stream.c
        is_open = sa.select(stream.stream).where(stream.closed_at.is_(None))
        connection.execute(
            sa.delete(tables.node).where(
                tables.node.c.stream.not_in(is_open),
                sa.text(f"seen_at < {_NOW} - {int(GONE_SECONDS * 1e6)}"),
            )
        )


def known_nodes(connection: sa.Connection) -> list[KnownNode]:
    """All nodes that are not gone, by name."""
    rows = connection.exec_driver_sql(
        f"SELECT name, stream, release, ({_NOW} - seen_at) / 1e6, applied, ring FROM node"  # noqa: S608
        f" WHERE seen_at >= {_NOW} - {int(GONE_SECONDS * 1e6)} ORDER BY name, stream"
    )
    return [KnownNode(row[0], row[1], row[2], float(row[3]), row[4], row[5]) for row in rows]


def _live_streams(connection: sa.Connection) -> set[str]:
    return {each.stream for each in known_nodes(connection)}


def _have_alone(connection: sa.Connection) -> None:
    """Wait until nobody is adding a block: in the caller's transaction, to its end."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({APPENDING})")
