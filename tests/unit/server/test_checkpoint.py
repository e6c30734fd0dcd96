from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dox_core_store import wire
from dox_core_store.server.domain.checkpoint import LedgerVerifier, Verified
from dox_core_store.server.domain.ledger import (
    CHANGES,
    FORMAT,
    Action,
    BrokenChainError,
    Entry,
    Status,
    canonical,
    checkpoint_message,
    genesis,
    link,
)

STORE = "store_00000000000000000000000000000001"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
STREAM = "str_0000000000000001"


class Ledger:
    """Writes records as a store would, into a list that a test may then damage."""

    def __init__(self) -> None:
        self.records: list[wire.LedgerRecord] = []
        self.heads: dict[str, tuple[int, bytes]] = {}

    def write(self, stream: str, action: Action = Action.GET, reason: str | None = None) -> None:
        seq, prev = self.heads.get(stream, (0, genesis(STORE, stream)))
        entry = Entry(
            timestamp=f"2026-01-01T00:00:{len(self.records):02d}.000Z",
            service_name="jules-mcp",
            key_path="service_keys.jules_api.production",
            action=action,
            status=Status.GRANTED,
            request_id="req_1",
            ip_address="127.0.0.1",
            user_agent="",
            reason=reason,
        )
        head = link(prev, canonical(entry, seq + 1, stream))
        self.heads[stream] = (seq + 1, head)
        self.records.append(
            wire.LedgerRecord(
                **entry._asdict(),
                seq=seq + 1,
                stream=stream,
                prev=prev.hex(),
                hash=head.hex(),
                format=FORMAT,
            )
        )

    def checkpoint(self, key: Ed25519PrivateKey = KEY) -> None:
        heads = {name: (seq, head.hex()) for name, (seq, head) in self.heads.items()}
        at = f"2026-01-01T00:00:{len(self.records):02d}.000Z"
        signature = base64.b64encode(key.sign(checkpoint_message(STORE, at, heads))).decode()
        reason = msgspec.json.encode({"heads": heads, "signature": signature}).decode()
        self.write(STREAM, Action.CHECKPOINT, reason)


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger()
    made.write(CHANGES, Action.INIT)
    made.write(STREAM, Action.OPEN)
    made.write(STREAM)
    made.write(CHANGES, Action.PUT)
    made.checkpoint()
    made.write(STREAM)
    made.write(STREAM, Action.CLOSE)
    return made


def verify(records: Sequence[wire.LedgerRecord], *, may_be_cut: bool = False) -> Verified:
    verifier = LedgerVerifier(
        store_id=STORE, checkpoint_key=KEY.public_key(), may_be_cut=may_be_cut
    )
    for record in records:
        verifier.check(record)
    return verifier.finish()


def test_a_whole_ledger_is_counted(ledger: Ledger) -> None:
    assert verify(ledger.records) == Verified(
        entries=7,
        streams=2,
        checkpoints=1,
        last_checkpoint="2026-01-01T00:00:04.000Z",
        newest="2026-01-01T00:00:06.000Z",
        unsigned=2,
        cut=[],
    )


@pytest.mark.parametrize("field", ["service_name", "key_path", "status", "timestamp", "reason"])
def test_a_changed_entry_is_named(ledger: Ledger, field: str) -> None:
    setattr(ledger.records[2], field, "x")
    with pytest.raises(BrokenChainError) as caught:
        verify(ledger.records)
    assert (caught.value.stream, caught.value.seq) == (STREAM, 2)


def redo(ledger: Ledger, at: int) -> None:
    """Compute the hashes from the entry ``at`` on anew, as a forger would."""
    heads: dict[str, str] = {}
    for record in ledger.records[at:]:
        record.prev = heads.get(record.stream, record.prev)
        entry = Entry(**{name: getattr(record, name) for name in Entry._fields})
        line = canonical(entry, record.seq, record.stream)
        record.hash = heads[record.stream] = link(bytes.fromhex(record.prev), line).hex()


def changed(ledger: Ledger) -> None:
    ledger.records[2].service_name = "somebody-else"
    redo(ledger, 2)


def changed_in_the_other_stream(ledger: Ledger) -> None:
    ledger.records[3].service_name = "somebody-else"
    redo(ledger, 3)


def removed_with_its_stream(ledger: Ledger) -> None:
    ledger.records[:] = [each for each in ledger.records if each.stream != CHANGES]


def removed_at_the_end_of_the_other_stream(ledger: Ledger) -> None:
    del ledger.records[3]


@pytest.mark.parametrize(
    ("forge", "stream", "first", "last"),
    [
        (changed, STREAM, 1, 2),
        (changed_in_the_other_stream, CHANGES, 1, 2),
        (removed_with_its_stream, CHANGES, 1, 1),
        (removed_at_the_end_of_the_other_stream, CHANGES, 2, 2),
    ],
)
def test_a_forger_without_the_key_is_found_at_the_next_checkpoint(
    ledger: Ledger, forge: Callable[[Ledger], None], stream: str, first: int, last: int
) -> None:
    forge(ledger)
    with pytest.raises(BrokenChainError) as caught:
        verify(ledger.records)
    broken = caught.value
    assert (broken.stream, broken.first, broken.seq) == (stream, first, last)


@pytest.mark.parametrize("place", range(6))
def test_a_removed_entry_is_missed(ledger: Ledger, place: int) -> None:
    del ledger.records[place]
    with pytest.raises(BrokenChainError):
        verify(ledger.records)


def test_two_entries_in_the_wrong_order_are_found(ledger: Ledger) -> None:
    ledger.records[1], ledger.records[2] = ledger.records[2], ledger.records[1]
    with pytest.raises(BrokenChainError):
        verify(ledger.records)


def test_another_stores_ledger_is_refused(ledger: Ledger) -> None:
    verifier = LedgerVerifier(store_id="store_2", checkpoint_key=KEY.public_key())
    verifier.check(ledger.records[0])
    with pytest.raises(BrokenChainError, match="does not begin where this store's streams do"):
        verifier.finish()


def test_a_checkpoint_signed_with_another_key_is_refused() -> None:
    ledger = Ledger()
    ledger.write(STREAM, Action.OPEN)
    ledger.checkpoint(Ed25519PrivateKey.generate())
    with pytest.raises(BrokenChainError, match="signature"):
        verify(ledger.records)


@pytest.mark.parametrize("reason", [None, "", "{}", '{"heads":{},"signature":"!"}', "[1]"])
def test_a_checkpoint_that_signs_nothing_is_refused(reason: str | None) -> None:
    ledger = Ledger()
    ledger.write(STREAM, Action.OPEN)
    ledger.write(STREAM, Action.CHECKPOINT, reason)
    with pytest.raises(BrokenChainError):
        verify(ledger.records)


def test_an_entry_of_an_unknown_format_is_not_guessed_at(ledger: Ledger) -> None:
    ledger.records[1].format = FORMAT + 1
    with pytest.raises(BrokenChainError, match="format"):
        verify(ledger.records)


@pytest.mark.parametrize("start", range(1, 6))
def test_a_part_is_whole_from_where_it_begins(ledger: Ledger, start: int) -> None:
    part = ledger.records[start:]
    with pytest.raises(BrokenChainError):
        verify(part)
    assert verify(part, may_be_cut=True).cut


@pytest.mark.parametrize(
    ("entries", "stream", "head", "why"),
    [
        (6, CHANGES, None, None),
        (6, STREAM, None, "ends at #5"),
        (7, STREAM, None, None),
        (7, STREAM, bytes(32), "had last"),
    ],
)
def test_an_end_that_was_cut_off_is_missed(
    ledger: Ledger, entries: int, stream: str, head: bytes | None, why: str | None
) -> None:
    verifier = LedgerVerifier(store_id=STORE, checkpoint_key=KEY.public_key())
    for record in ledger.records[:entries]:
        verifier.check(record)
    seq, known = ledger.heads[stream]
    verifier.check_end(stream, seq, head or known)
    if why is None:
        assert verifier.finish().entries == entries
        return
    with pytest.raises(BrokenChainError, match=why) as caught:
        verifier.finish()
    assert (caught.value.stream, caught.value.seq) == (STREAM, 5)
