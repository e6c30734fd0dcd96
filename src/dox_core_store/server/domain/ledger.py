"""The ledger's entries, their canonical form, and the chain over them.

An entry has the eight fields of the product page, then ours. Its canonical form is a JSON array in
a fixed order (strings as in RFC 8785), so anyone can check an export without a key of ours::

    hash = SHA-256(prev || 0x01 || canonical)

``prev`` is the hash before it in the same stream; a stream's first ``prev`` names store and
stream. A checkpoint is an entry whose ``reason`` holds an Ed25519 signature over the heads of all
open streams. Bytes and vectors: ``docs/spec/ledger.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

__all__ = [
    "CHANGES",
    "FORMAT",
    "Action",
    "BrokenChainError",
    "Chain",
    "ChainVerifier",
    "Entry",
    "Status",
    "canonical",
    "changes_stream",
    "checkpoint_message",
    "genesis",
    "is_changes",
    "link",
    "parse_canonical",
]

FORMAT = 1
CHANGES = "changes"
"""The store-wide stream of every mutation: the change feed. Of the first epoch; see
`changes_stream`."""

_FORMAT_BYTE = bytes([FORMAT])
_encode = msgspec.json.Encoder().encode
_FIELDS: list[Any] = [
    *[str] * 8,  # the product page's fields
    int,  # seq
    str,  # stream
    str | None,  # environment
    int | None,  # version
    *[str | None] * 3,  # token_id, correlation_id, reason
    int,  # count
]
_decode: Callable[[bytes], tuple[Any, ...]] = msgspec.json.Decoder(
    type=tuple.__class_getitem__(tuple(_FIELDS))
).decode


class Action(StrEnum):
    """What was attempted."""

    GET = "GET"
    PUT = "PUT"
    PROPOSE = "PROPOSE"
    PROMOTE = "PROMOTE"
    ROLLBACK = "ROLLBACK"
    RETIRE = "RETIRE"
    REVOKE = "REVOKE"
    DESTROY = "DESTROY"
    EXPIRE = "EXPIRE"
    EXTEND = "EXTEND"
    DESCRIBE = "DESCRIBE"
    REJECT = "REJECT"
    FOLLOW = "FOLLOW"
    LIST = "LIST"
    IMPORT = "IMPORT"
    ADOPT = "ADOPT"
    MOVE = "MOVE"
    REGISTER = "REGISTER"
    LIMIT = "LIMIT"
    DECOMMISSION = "DECOMMISSION"
    GRANT = "GRANT"
    UNGRANT = "UNGRANT"
    ISSUE_TOKEN = "ISSUE_TOKEN"  # noqa: S105 - a name, not a secret
    REVOKE_TOKEN = "REVOKE_TOKEN"  # noqa: S105 - a name, not a secret
    REVOKE_SERVICE_TOKENS = "REVOKE_SERVICE_TOKENS"
    ROTATE_SIGNING_KEY = "ROTATE_SIGNING_KEY"
    ADD_OPERATOR = "ADD_OPERATOR"
    DISABLE_OPERATOR = "DISABLE_OPERATOR"
    ADD_ISSUER = "ADD_ISSUER"
    DISABLE_ISSUER = "DISABLE_ISSUER"
    TRUST = "TRUST"
    UNTRUST = "UNTRUST"
    ADD_ENVIRONMENT = "ADD_ENVIRONMENT"
    READ_LEDGER = "READ_LEDGER"
    AUTHENTICATE = "AUTHENTICATE"
    ADD_SLOT = "ADD_SLOT"
    REMOVE_SLOT = "REMOVE_SLOT"
    REKEY = "REKEY"
    ROTATE_ROOT = "ROTATE_ROOT"
    UNSEAL = "UNSEAL"
    BACKUP = "BACKUP"
    DRILL = "DRILL"
    RESTORE = "RESTORE"
    REVIEW = "REVIEW"
    HISTORY_LOST = "HISTORY_LOST"
    INIT = "INIT"
    PRUNE = "PRUNE"
    OPEN = "OPEN"
    CLOSE = "CLOSE"
    CHECKPOINT = "CHECKPOINT"


class Status(StrEnum):
    """How it ended."""

    GRANTED = "GRANTED"
    DENIED = "DENIED"
    LIMITED = "LIMITED"
    INVALID = "INVALID"
    NOT_FOUND = "NOT_FOUND"
    FAILED = "FAILED"
    ABORTED = "ABORTED"
    REPORTED = "REPORTED"


class Entry(NamedTuple):
    """One entry before it has a place in a stream.

    ``key_path`` is written out with its environment, as on the product page
    (``service_keys.jules_api.production``), or as asked where it could not be parsed; what is not a
    key is named under ``_store``. Absent facts are None.
    """

    timestamp: str
    service_name: str
    key_path: str
    action: str
    status: str
    request_id: str
    ip_address: str
    user_agent: str
    environment: str | None = None
    version: int | None = None
    token_id: str | None = None
    correlation_id: str | None = None
    reason: str | None = None
    count: int = 1  # type: ignore[assignment]  # hides tuple.count, which nobody needs


def changes_stream(epoch: int) -> str:
    """The name of an epoch's `changes` stream: a restored store goes on in a new one, so that two
    histories never share a place."""
    return CHANGES if epoch == 1 else f"{CHANGES}-{epoch}"


def is_changes(stream: str) -> bool:
    """Whether ``stream`` is a `changes` stream, of whatever epoch."""
    name, _, epoch = stream.partition("-")
    return name == CHANGES and (not epoch or epoch.isdigit())


def canonical(entry: Entry, seq: int, stream: str) -> bytes:
    """The bytes that are hashed and stored."""
    return _encode((*entry[:8], seq, stream, *entry[8:]))


def parse_canonical(line: bytes) -> tuple[Entry, int, str]:
    """The inverse of `canonical`. Raises ``ValueError`` on anything else."""
    fields = _decode(line)
    return Entry(*fields[:8], *fields[10:]), fields[8], fields[9]


def genesis(store_id: str, stream: str) -> bytes:
    """The ``prev`` of a stream's first entry."""
    return hashlib.sha256(f"doxstore/ledger/1\n{store_id}\n{stream}".encode()).digest()


def link(prev: bytes, line: bytes) -> bytes:
    """The hash of ``line`` after ``prev``."""
    return hashlib.sha256(prev + _FORMAT_BYTE + line).digest()


class Chain:
    """The writing end of one stream: where the next entry goes."""

    __slots__ = ("head", "seq", "stream")

    def __init__(self, stream: str, head: bytes, seq: int = 0) -> None:
        self.stream = stream
        self.head = head
        self.seq = seq

    def extend(self, entries: Iterable[Entry]) -> tuple[bytes, Chain]:
        """The stored body (canonical lines joined by newlines) and the chain after it.

        This chain itself stays where it is: a body that could not be written leaves no gap.
        """
        seq, head, lines = self.seq, self.head, []
        stream, sha256 = self.stream, hashlib.sha256
        for entry in entries:
            seq += 1
            line = _encode((*entry[:8], seq, stream, *entry[8:]))
            head = sha256(head + _FORMAT_BYTE + line).digest()
            lines.append(line)
        return b"\n".join(lines), Chain(stream, head, seq)


def checkpoint_message(store_id: str, timestamp: str, heads: dict[str, tuple[int, str]]) -> bytes:
    """What a checkpoint signs: every open stream's last ``seq`` and ``hash`` (hex)."""
    rows = [[stream, seq, head] for stream, (seq, head) in sorted(heads.items())]
    return b"doxstore/checkpoint/1\n" + _encode([store_id, timestamp, rows])


class BrokenChainError(ValueError):
    """The first entry that does not follow from what stands before it.

    ``first``: where hashes are known of some entries only, the bad one is between it and ``seq``.
    """

    def __init__(self, stream: str, seq: int, why: str, *, first: int | None = None) -> None:
        self.first = seq if first is None else min(first, seq)
        if self.first < seq:
            why = f"{why}; the first bad entry is one of #{self.first} to #{seq}"
        super().__init__(f"{stream} #{seq}: {why}")
        self.stream = stream
        self.seq = seq
        self.why = why


class ChainVerifier:
    """Checks entries in stored order, stream by stream. Raises `BrokenChainError` at the first
    bad one. A stream may begin in the middle (retention): it is then checked from there on."""

    def __init__(self, store_id: str) -> None:
        self._store_id = store_id
        self.heads: dict[str, tuple[int, bytes]] = {}
        self.entries = 0
        self.partial: set[str] = set()

    def check_body(self, stream: str, prev: bytes, body: bytes) -> Iterator[tuple[Entry, int]]:
        """Check every line of one stored body; yields what it holds."""
        for line in body.split(b"\n"):
            try:
                entry, seq, named = parse_canonical(line)
            except ValueError as error:
                at = self.heads.get(stream, (0, b""))[0] + 1
                raise BrokenChainError(stream, at, "not readable as an entry") from error
            prev = self.check(stream, prev, line, seq, named)
            yield entry, seq

    def check(self, stream: str, prev: bytes, line: bytes, seq: int, named: str) -> bytes:
        """Check one line; returns its hash."""
        known = self.heads.get(stream)
        if named != stream:
            raise BrokenChainError(stream, seq, "names another stream")
        if known is None:
            if seq == 1 and prev != genesis(self._store_id, stream):
                raise BrokenChainError(stream, seq, "does not begin where this store's streams do")
            if seq != 1:
                self.partial.add(stream)
        else:
            if seq != known[0] + 1:
                raise BrokenChainError(stream, seq, f"follows #{known[0]}: entries are missing")
            if prev != known[1]:
                raise BrokenChainError(stream, seq, "does not follow from the entry before it")
        head = link(prev, line)
        self.heads[stream] = (seq, head)
        self.entries += 1
        return head
