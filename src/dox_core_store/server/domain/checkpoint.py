"""Verifying a whole ledger from outside: hashes, order, and the checkpoints signed over them.

Entries are given in stored order, as exports tell them. Each is hashed anew and has to follow from
the one before it in its stream. A checkpoint's signature has to hold, and every head that it signs
has to be an entry seen before it: so neither can entries be changed or removed and all hashes made
again, nor the end of a stream be cut off before its next checkpoint. What no checkpoint covers yet
rests on its hashes alone; `Verified.unsigned` says how much that is.

Bytes: ``docs/spec/ledger.md``.
"""

from __future__ import annotations

import base64
import binascii
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dox_core_store import wire
from dox_core_store.server.domain.ledger import (
    FORMAT,
    Action,
    BrokenChainError,
    ChainVerifier,
    Entry,
    canonical,
    checkpoint_message,
)

__all__ = ["LedgerVerifier", "Verified"]

_REMEMBERED = 100_000
"""How far back, in entries of one stream, a checkpoint may point."""


class Verified(NamedTuple):
    """What a verified ledger holds. ``cut`` are streams that begin in the middle."""

    entries: int
    streams: int
    checkpoints: int
    last_checkpoint: str | None
    newest: str | None
    unsigned: int
    cut: list[str]


class _Statement(msgspec.Struct):
    heads: dict[str, tuple[int, str]]
    signature: str


class LedgerVerifier:
    """`check` every entry, then `finish`. Both raise `BrokenChainError` at what is wrong.

    Without a ``checkpoint_key`` signatures are not checked, everything else is; ``earlier_keys``
    are as good as it. ``may_be_cut``
    allows streams that begin in the middle, as in a part of an export.
    """

    def __init__(
        self,
        *,
        store_id: str,
        checkpoint_key: Ed25519PublicKey | None,
        earlier_keys: Sequence[Ed25519PublicKey] = (),
        may_be_cut: bool = False,
    ) -> None:
        self._store_id = store_id
        self._keys = [] if checkpoint_key is None else [checkpoint_key, *earlier_keys]
        self._may_be_cut = may_be_cut
        self._chain = ChainVerifier(store_id)
        self._recent: dict[str, deque[tuple[int, str]]] = {}
        self._signed: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._checkpoints = 0
        self._last_checkpoint: str | None = None
        self._newest: str | None = None

    @property
    def entries(self) -> int:
        """How many entries were checked so far."""
        return self._chain.entries

    def check(self, record: wire.LedgerRecord) -> None:
        """Check the next entry."""
        stream, seq = record.stream, record.seq
        if record.format != FORMAT:
            raise BrokenChainError(stream, seq, f"is of format {record.format}, not {FORMAT}")
        if stream not in self._first:
            if seq != 1 and not self._may_be_cut:
                raise BrokenChainError(stream, seq, "is the first of its stream: those before lack")
            self._first[stream] = seq
        try:
            prev = bytes.fromhex(record.prev)
        except ValueError as error:
            raise BrokenChainError(stream, seq, "has no readable hash before it") from error
        head = self._chain.check(stream, prev, canonical(_entry(record), seq, stream), seq, stream)
        if head.hex() != record.hash:
            raise BrokenChainError(stream, seq, "was changed: its content does not give its hash")
        self._newest = max(record.timestamp, self._newest or "")
        if record.action == Action.CHECKPOINT:
            self._check_statement(record)
        if record.action == Action.CLOSE:
            self._recent.pop(stream, None)
        else:
            self._recent.setdefault(stream, deque(maxlen=_REMEMBERED)).append((seq, record.hash))

    def check_end(self, stream: str, seq: int, head: bytes) -> None:
        """Check that ``stream`` reached ``seq`` (and, if no further, with this hash)."""
        seen, hashed = self._chain.heads.get(stream, (0, b""))
        if seen < seq:
            raise BrokenChainError(stream, seen + 1, f"and what follows lacks: it ends at #{seq}")
        if seen == seq and seq and hashed != head:
            raise BrokenChainError(stream, seq, "is not the entry that the store had last")

    def finish(self) -> Verified:
        """What was verified."""
        heads = self._chain.heads
        unsigned = sum(
            seq - max(self._signed.get(stream, 0), self._first[stream] - 1)
            for stream, (seq, _) in heads.items()
        )
        return Verified(
            entries=self._chain.entries,
            streams=len(heads),
            checkpoints=self._checkpoints,
            last_checkpoint=self._last_checkpoint,
            newest=self._newest,
            unsigned=unsigned,
            cut=sorted(self._chain.partial),
        )

    def _check_statement(self, record: wire.LedgerRecord) -> None:
        stream, seq = record.stream, record.seq
        try:
            statement = msgspec.json.decode(record.reason or "", type=_Statement)
            signature = base64.b64decode(statement.signature, validate=True)
        except (msgspec.DecodeError, binascii.Error) as error:
            raise BrokenChainError(stream, seq, "is no readable checkpoint") from error
        message = checkpoint_message(self._store_id, record.timestamp, statement.heads)
        if self._keys and not any(_holds(key, signature, message) for key in self._keys):
            raise BrokenChainError(stream, seq, "has a signature that does not hold")
        if statement.heads.get(stream) != (seq - 1, record.prev):
            raise BrokenChainError(stream, seq, "does not sign the entry before it")
        for named, (at, head) in statement.heads.items():
            if named != stream:
                self._check_signed(record, named, at, head)
            self._signed[named] = max(at, self._signed.get(named, 0))
        self._signed[stream] = seq
        self._checkpoints += 1
        self._last_checkpoint = record.timestamp

    def _check_signed(self, record: wire.LedgerRecord, named: str, at: int, head: str) -> None:
        """A head of another stream: it has to be among the entries seen so far."""
        recent = self._recent.get(named, ())
        if (at, head) in reversed(recent):
            return
        if self._may_be_cut and at < self._first.get(named, at + 1):
            return  # it stands before the part that we were given
        why = f"signs {named} #{at}, which is not the entry seen there"
        raise BrokenChainError(record.stream, record.seq, why)


def _holds(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _entry(record: wire.LedgerRecord) -> Entry:
    return Entry(
        timestamp=record.timestamp,
        service_name=record.service_name,
        key_path=record.key_path,
        action=record.action,
        status=record.status,
        request_id=record.request_id,
        ip_address=record.ip_address,
        user_agent=record.user_agent,
        environment=record.environment,
        version=record.version,
        token_id=record.token_id,
        correlation_id=record.correlation_id,
        reason=record.reason,
        count=record.count,
    )
