"""What happened after a backup was made, as shipped or exported ledger entries prove it.

Given in stored order: entries as `ledger export` prints them, of which only those of the `changes`
streams and the checkpoints are looked at. The backup's own `changes` has to go on where the backup
ends; a later epoch's has to begin at its beginning. Each entry is hashed and has to follow from the
one before it. A checkpoint has to be signed with the backup's checkpoint key, and what it signs has
to be there: so nothing before the last checkpoint can be missing, changed or made up.

What is shipped has no reads, so only `changes` streams are without gaps, and it may have entries
twice, a whole ledger too: what comes again has to be what was there, and is passed over.

What stands behind the last checkpoint may lack its end. What it takes away is taken away all the
same; `Since.until` says up to when nothing can be missing.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dox_core_store import wire
from dox_core_store.errors import ConfigurationError
from dox_core_store.server.domain.ledger import (
    FORMAT,
    Action,
    Entry,
    Status,
    canonical,
    changes_stream,
    checkpoint_message,
    genesis,
    is_changes,
    link,
)

__all__ = ["TAKES_AWAY", "Since", "SinceBackup"]

TAKES_AWAY = frozenset(
    {
        Action.REVOKE,
        Action.DESTROY,
        Action.EXPIRE,
        Action.GRANT,  # a deny takes away
        Action.UNGRANT,
        Action.REVOKE_TOKEN,
        Action.REVOKE_SERVICE_TOKENS,
        Action.DECOMMISSION,
        Action.ADD_OPERATOR,  # also how roles are taken away
        Action.DISABLE_OPERATOR,
        Action.DISABLE_ISSUER,
        Action.UNTRUST,
        Action.REMOVE_SLOT,
        Action.ROTATE_SIGNING_KEY,  # one that was compromised takes its tokens with it
    }
)
"""What may have taken something away since. Everything else that is known added something, or
changed what a restored store has its own of."""

_KNOWN = frozenset(Action)
_RESEALS = frozenset({Action.REKEY, Action.ROTATE_ROOT})
_REMEMBERED = 100_000
"""How far back, in entries of one stream, a checkpoint may point."""


class _Statement(msgspec.Struct):
    heads: dict[str, tuple[int, str]]
    signature: str


class Since(NamedTuple):
    """What is known. ``taken`` are granted entries that may have taken something away;
    ``resealed`` tells of sealing keys that were changed, and are again those of the backup;
    ``unknown`` actions are those of a later release. ``unsigned`` entries stand behind the last
    checkpoint."""

    entries: int
    taken: Sequence[Entry]
    resealed: Sequence[str]
    unknown: Sequence[str]
    until: str
    unsigned: int
    last_epoch: int


class SinceBackup:
    """`take` every entry, then `finish`. Both raise `ConfigurationError` ``bad_checkpoints``."""

    def __init__(
        self,
        *,
        store_id: str,
        epoch: int,
        seq: int,
        head: bytes,
        checkpoint_keys: Sequence[Ed25519PublicKey],
    ) -> None:
        self._store_id = store_id
        self._epoch = epoch
        self._stream = changes_stream(epoch)
        self._seq = seq
        self._head = head
        self._keys = checkpoint_keys
        self._ends: dict[str, tuple[int, bytes]] = {}
        self._seen: dict[str, dict[int, str]] = {}
        self._signed: dict[str, int] = {}
        self._taken: list[Entry] = []
        self._resealed: list[str] = []
        self._unknown: dict[str, None] = {}
        self._entries = 0
        self._until = ""
        self._last_epoch = epoch

    def take_line(self, line: bytes) -> None:
        """`take` what stands in a line of a file. The last one may have been cut off while it was
        written. Raises ``msgspec.DecodeError``, ``UnicodeDecodeError`` for what is no entry."""
        if line == b"\n":
            return
        try:
            record = wire.decode(wire.LedgerRecord, line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            if line.endswith(b"\n"):
                raise
            return
        self.take(record)

    def take(self, record: wire.LedgerRecord) -> None:
        """Check the next entry, and note what it took away."""
        if is_changes(record.stream):
            if _epoch_of(record.stream) >= self._epoch:
                self._follow(record)
        elif record.action == Action.CHECKPOINT:
            self._check_statement(record)

    def finish(self) -> Since:
        """What was found."""
        reached, _ = self._ends.get(self._stream, (self._seq, b""))
        if reached < self._seq:
            raise _bad(f"they end at {self._stream} #{reached}, the backup at #{self._seq}")
        if self._signed.get(self._stream, 0) < self._seq:
            raise _bad("no checkpoint among them signs what followed the backup")
        unsigned = sum(
            max(0, end - max(self._signed.get(stream, 0), self._first(stream)))
            for stream, (end, _) in self._ends.items()
        )
        return Since(
            entries=self._entries,
            taken=self._taken,
            resealed=self._resealed,
            unknown=list(self._unknown),
            until=self._until,
            unsigned=unsigned,
            last_epoch=self._last_epoch,
        )

    def _first(self, stream: str) -> int:
        return self._seq if stream == self._stream else 0

    def _follow(self, record: wire.LedgerRecord) -> None:
        stream, seq, prev = record.stream, record.seq, _hash(record.prev)
        hashed = _checked(record)
        before = self._ends.get(stream)
        if before is not None and seq <= before[0]:
            self._pass_over(record)
            return
        if before is not None:
            if (seq, prev) != (before[0] + 1, before[1]):
                raise _bad(f"{stream} #{seq} does not follow from #{before[0]}")
        elif stream != self._stream:
            if seq != 1 or prev != genesis(self._store_id, stream):
                raise _bad(f"{stream} does not begin where this store's streams do")
        elif seq > self._seq + 1:
            raise _bad(f"{stream} begins at #{seq}, but the backup ends at #{self._seq}")
        if stream == self._stream and (
            (seq == self._seq and not hmac.compare_digest(hashed, self._head))
            or (seq == self._seq + 1 and not hmac.compare_digest(prev, self._head))
        ):
            raise _bad(f"{stream} #{seq} does not go on from what the backup holds")
        self._ends[stream] = (seq, hashed)
        seen = self._seen.setdefault(stream, {})
        seen[seq] = record.hash
        seen.pop(seq - _REMEMBERED, None)
        self._last_epoch = max(self._last_epoch, _epoch_of(stream))
        if stream != self._stream or seq > self._seq:
            self._note(record)

    def _pass_over(self, record: wire.LedgerRecord) -> None:
        """An entry that came before. Of those too far back to be remembered nothing is used."""
        if self._seen[record.stream].get(record.seq, record.hash) != record.hash:
            raise _bad(f"{record.stream} #{record.seq} is there twice, and not the same")

    def _note(self, record: wire.LedgerRecord) -> None:
        self._entries += 1
        if record.action not in _KNOWN:
            self._unknown[record.action] = None
        elif record.action in TAKES_AWAY and record.status == Status.GRANTED:
            self._taken.append(_entry(record))
        elif record.action in _RESEALS:
            self._resealed.append(f"{record.action} at {record.timestamp}")

    def _check_statement(self, record: wire.LedgerRecord) -> None:
        _checked(record)
        where = f"the checkpoint {record.stream} #{record.seq}"
        try:
            statement = msgspec.json.decode(record.reason or "", type=_Statement)
            signature = base64.b64decode(statement.signature, validate=True)
        except (msgspec.DecodeError, binascii.Error) as error:
            raise _bad(f"{where} is unreadable") from error
        message = checkpoint_message(self._store_id, record.timestamp, statement.heads)
        if not any(_signs(key, signature, message) for key in self._keys):
            raise _bad(f"{where} is not signed by this store")
        for stream, (seq, head) in statement.heads.items():
            if not is_changes(stream) or _epoch_of(stream) < self._epoch:
                continue
            if stream == self._stream and seq <= self._seq:
                if seq == self._seq and head != self._head.hex():
                    raise _bad(f"{where} signs another history than the backup's")
            elif seq <= self._ends.get(stream, (0, b""))[0] - _REMEMBERED:
                continue  # signed once more, after all that it signs
            elif self._seen.get(stream, {}).get(seq) != head:
                raise _bad(f"{where} signs {stream} #{seq}, which is not there")
            self._signed[stream] = max(seq, self._signed.get(stream, 0))
            self._until = max(record.timestamp, self._until)


def _checked(record: wire.LedgerRecord) -> bytes:
    line = canonical(_entry(record), record.seq, record.stream)
    hashed = link(_hash(record.prev), line)
    if record.format != FORMAT or hashed.hex() != record.hash:
        raise _bad(f"{record.stream} #{record.seq} was changed: its content is not its hash's")
    return hashed


def _signs(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _hash(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise _bad("a hash is unreadable") from error


def _epoch_of(stream: str) -> int:
    return int(stream.partition("-")[2] or 1)


def _entry(record: wire.LedgerRecord) -> Entry:
    return Entry(*(getattr(record, name) for name in Entry._fields))


def _bad(why: str) -> ConfigurationError:
    return ConfigurationError("bad_checkpoints", f"The entries cannot be used: {why}.")
