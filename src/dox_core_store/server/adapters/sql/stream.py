"""The stream of one server process: opened, appended to, checkpointed, closed.

A stream is one process lifetime under a random name. Its first entry is OPEN, its last CLOSE. A
stream whose process died is closed by the next one that starts. At the first commit after each
second of traffic a CHECKPOINT enters: an Ed25519 signature over the heads of all open streams.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.transacting import writing
from dox_core_store.server.adapters.sql.transaction import timestamp
from dox_core_store.server.domain.ledger import (
    Action,
    Chain,
    Entry,
    Status,
    checkpoint_message,
    genesis,
    is_changes,
)
from dox_core_store.server.ports import Clock

__all__ = ["CHECKPOINT_INTERVAL_SECONDS", "LedgerStream", "StreamLostError"]

CHECKPOINT_INTERVAL_SECONDS = 1.0

Insert = Callable[[tuple[Any, ...]], tuple[int, int]]
"""Commits one row of ``ledger_block`` (stream, first and last seq, time, prev, head, body),
and returns its id and the head of the change feed at that commit."""


def _is_alone() -> None:
    """One process writes a file at a time."""


class StreamLostError(Exception):
    """The ledger goes on without this process: its stream was closed, or the database is not the
    one that it was. The node has to begin anew."""


class LedgerStream:
    """Lives in the writer's thread. ``append`` either commits everything or changes nothing."""

    def __init__(
        self,
        *,
        store_id: str,
        changes: str,
        actor: str,
        checkpoint_key: Ed25519PrivateKey,
        clock: Clock,
    ) -> None:
        self._store_id = store_id
        self.changes = changes
        """The stream that takes this epoch's mutations."""
        self._actor = actor
        self._key = checkpoint_key
        self._clock = clock
        self._chain = _fresh(store_id)
        self._checkpoint_at = clock.monotonic() + CHECKPOINT_INTERVAL_SECONDS
        self.unsigned = False
        """Whether anything, here or in ``changes``, was committed since the last checkpoint."""
        self.written_at = 0
        """When the last block was written: microseconds since 1970."""
        self.signed_change = 0
        """How far the last committed checkpoint covers ``changes``."""
        self._signing_change = 0

    @property
    def name(self) -> str:
        return self._chain.stream

    def open(
        self,
        connection: sa.Connection,
        reason: str | None = None,
        *,
        live: Collection[str] = (),
        alone: Callable[[], None] = _is_alone,
    ) -> None:
        """Close what dead processes left open, then open ours, in one transaction. ``reason``
        enters the OPEN entry. ``live`` are the streams of processes that run; ``alone`` is called
        before any is closed, and returns when nobody is adding to it.

        Raises `StreamLostError` if another began an epoch since ``changes`` was read."""
        with writing(connection):
            changes = tables.ledger_stream.c
            closed = sa.select(changes.closed_at).where(changes.stream == self.changes)
            if connection.execute(closed).scalar_one() is not None:
                raise StreamLostError("an epoch was begun elsewhere")
            self.close_orphans(connection, live, alone)
            connection.execute(
                sa.insert(tables.ledger_stream).values(
                    stream=self.name, opened_at=self._clock.now(), last_seq=0, head=self._chain.head
                )
            )
            opening = [self._entry(Action.OPEN, reason)]
            chain = self._write(connection, self._chain, opening)
        self._chain = chain

    def append(
        self, connection: sa.Connection, entries: Sequence[Entry], insert: Insert
    ) -> tuple[int, int, list[Entry]]:
        """Commit ``entries`` (none: a checkpoint alone); returns the block's id, the head of the
        change feed, and what was written."""
        chain = self._chain
        body, after = chain.extend(entries)
        written = list(entries)
        now = self._clock.monotonic()
        signing = now >= self._checkpoint_at or not entries
        if signing:
            checkpoint = self._checkpoint(connection, after)
            line, after = after.extend([checkpoint])
            body = body + b"\n" + line if body else line
            written.append(checkpoint)
        # When it is written, not the time of its first entry: searches bisect by it, and an entry
        # may have been kept for long.
        self.written_at = at = int(self._clock.seconds() * 1e6)
        block_id, feed_head = insert(
            (chain.stream, chain.seq + 1, after.seq, at, chain.head, after.head, body)
        )
        if signing:
            self._checkpoint_at = now + CHECKPOINT_INTERVAL_SECONDS
            self.signed_change = self._signing_change
        self.unsigned = not signing
        self._chain = after
        return block_id, feed_head, written

    def close(self, connection: sa.Connection) -> None:
        """Close our stream, with a last checkpoint."""
        with writing(connection):
            checkpoint = self._checkpoint(connection, self._chain)
            self._chain = self._write(connection, self._chain, [checkpoint])
            self._close(connection, self._chain, None)

    def close_orphans(
        self, connection: sa.Connection, live: Collection[str], alone: Callable[[], None]
    ) -> int:
        """Close the streams of processes that are gone, in the caller's transaction: how many."""
        orphans = self._orphans(connection, live)
        if orphans:
            alone()
            orphans = self._orphans(connection, live)  # as they are now
        for chain in orphans:
            self._close(connection, chain, "the process ended without closing it")
        return len(orphans)

    def adopt(self, seq: int, head: bytes) -> None:
        """The stream has come to ``seq`` after all: a commit of whose end nothing was heard."""
        self._chain = Chain(self.name, head, seq)
        self.unsigned = True

    @property
    def end(self) -> tuple[int, bytes]:
        """Its last ``seq`` and hash."""
        return self._chain.seq, self._chain.head

    def _orphans(self, connection: sa.Connection, live: Collection[str]) -> list[Chain]:
        """Open streams of processes that are gone; `changes` is nobody's."""
        stream, block = tables.ledger_stream, tables.ledger_block
        names = connection.execute(
            sa.select(stream.c.stream, stream.c.head).where(stream.c.closed_at.is_(None))
        ).all()
        chains = []
        for name, first in names:
            if is_changes(name) or name in live or name == self.name:
                continue
            last = connection.execute(
                sa.select(block.c.last_seq, block.c.head)
                .where(block.c.stream == name)
                .order_by(block.c.block_id.desc())
                .limit(1)
            ).first()
            chains.append(Chain(name, last.head, last.last_seq) if last else Chain(name, first))
        return chains

    def _close(self, connection: sa.Connection, chain: Chain, reason: str | None) -> None:
        after = self._write(connection, chain, [self._entry(Action.CLOSE, reason)])
        connection.execute(
            sa.update(tables.ledger_stream)
            .where(tables.ledger_stream.c.stream == chain.stream)
            .values(closed_at=self._clock.now(), last_seq=after.seq, head=after.head)
        )

    def _write(self, connection: sa.Connection, chain: Chain, entries: list[Entry]) -> Chain:
        body, after = chain.extend(entries)
        connection.execute(
            sa.insert(tables.ledger_block).values(
                stream=chain.stream,
                first_seq=chain.seq + 1,
                last_seq=after.seq,
                first_at=tables.Instant.microseconds(self._clock.now()),
                prev=chain.head,
                head=after.head,
                body=body,
            )
        )
        return after

    def _checkpoint(self, connection: sa.Connection, ours: Chain) -> Entry:
        rows = connection.execute(
            sa.select(tables.ledger_stream.c.last_seq, tables.ledger_stream.c.head).where(
                tables.ledger_stream.c.stream == self.changes
            )
        ).one()
        self._signing_change = rows.last_seq
        heads = {
            self.changes: (rows.last_seq, rows.head.hex()),
            ours.stream: (ours.seq, ours.head.hex()),
        }
        entry = self._entry(Action.CHECKPOINT, None)
        signature = self._key.sign(checkpoint_message(self._store_id, entry.timestamp, heads))
        statement = {"heads": heads, "signature": base64.b64encode(signature).decode()}
        return entry._replace(reason=msgspec.json.encode(statement).decode())

    def _entry(self, action: Action, reason: str | None) -> Entry:
        return Entry(
            timestamp=timestamp(self._clock.now()),
            service_name=self._actor,
            key_path="_store.ledger",
            action=action,
            status=Status.GRANTED,
            request_id=f"req_{secrets.token_hex(8)}",
            ip_address="",
            user_agent="",
            reason=reason,
        )


def _fresh(store_id: str) -> Chain:
    name = f"str_{secrets.token_hex(8)}"
    return Chain(name, genesis(store_id, name))
