"""The chain: whatever is changed, taken out, put in or moved is found at its place."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dox_core_store.server.domain.ledger import (
    BrokenChainError,
    Chain,
    ChainVerifier,
    Entry,
    canonical,
    checkpoint_message,
    genesis,
    parse_canonical,
)

STORE, STREAM = "store_1", "str_1"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
optional = st.none() | texts
made = st.builds(
    Entry,
    timestamp=texts,
    service_name=texts,
    key_path=texts,
    action=texts,
    status=texts,
    request_id=texts,
    ip_address=texts,
    user_agent=texts,
    environment=optional,
    version=st.none() | st.integers(0, 2**63),
    token_id=optional,
    correlation_id=optional,
    reason=optional,
    count=st.integers(1, 2**31),
)
streams = st.lists(st.lists(made, min_size=1, max_size=3), min_size=1, max_size=4)


class Stored(NamedTuple):
    prev: bytes
    body: bytes


def written(bodies: list[list[Entry]]) -> list[Stored]:
    """``bodies`` as a writer leaves them, block by block."""
    chain, blocks = Chain(STREAM, genesis(STORE, STREAM)), []
    for entries in bodies:
        body, after = chain.extend(entries)
        blocks.append(Stored(chain.head, body))
        chain = after
    return blocks


def check(blocks: list[Stored], store: str = STORE) -> ChainVerifier:
    verifier = ChainVerifier(store)
    for block in blocks:
        for _ in verifier.check_body(STREAM, block.prev, block.body):
            pass
    return verifier


def first_bad(blocks: list[Stored]) -> BrokenChainError | None:
    try:
        check(blocks)
    except BrokenChainError as broken:
        return broken
    return None


@given(made, st.integers(1, 2**62), texts)
def test_the_canonical_form_reads_back(entry: Entry, seq: int, stream: str) -> None:
    line = canonical(entry, seq, stream)
    assert parse_canonical(line) == (entry, seq, stream)
    assert b"\n" not in line  # which is what separates the lines of a body


@given(made, made)
def test_two_entries_have_one_form_only_if_they_are_one(one: Entry, other: Entry) -> None:
    assert (canonical(one, 1, STREAM) == canonical(other, 1, STREAM)) == (one == other)


@settings(max_examples=40)
@given(streams)
def test_what_was_written_verifies(bodies: list[list[Entry]]) -> None:
    blocks = written(bodies)
    verifier = check(blocks)
    assert verifier.entries == sum(map(len, bodies))
    assert not verifier.partial
    seq, head = verifier.heads[STREAM]
    assert seq == verifier.entries
    prev = genesis(STORE, STREAM)
    for block in blocks:
        for line in block.body.split(b"\n"):
            prev = hashlib.sha256(prev + b"\x01" + line).digest()
    assert head == prev


@settings(max_examples=40)
@given(streams, st.data())
def test_any_changed_byte_shows_in_the_head_if_not_before(
    bodies: list[list[Entry]], data: st.DataObject
) -> None:
    blocks = written(bodies)
    head = check(blocks).heads[STREAM]
    place = data.draw(st.integers(0, len(blocks) - 1))
    body = bytearray(blocks[place].body)
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    blocks[place] = Stored(blocks[place].prev, bytes(body))
    broken = first_bad(blocks)
    if broken is None:
        assert place == len(blocks) - 1  # a change further up breaks the next block
        assert check(blocks).heads[STREAM] != head
    else:
        assert broken.stream == STREAM
        first = sum(len(each) for each in bodies[:place]) + 1
        assert first <= broken.seq <= first + len(bodies[place])


@settings(max_examples=40)
@given(streams, st.data())
def test_a_missing_entry_is_named(bodies: list[list[Entry]], data: st.DataObject) -> None:
    blocks = written([[entry] for body in bodies for entry in body])
    assume(len(blocks) > 2)
    gone = data.draw(st.integers(1, len(blocks) - 2))
    with pytest.raises(BrokenChainError) as caught:
        check(blocks[:gone] + blocks[gone + 1 :])
    assert caught.value.seq == gone + 2


@settings(max_examples=40)
@given(streams, st.data())
def test_swapped_entries_are_found(bodies: list[list[Entry]], data: st.DataObject) -> None:
    blocks = written([[entry] for body in bodies for entry in body])
    assume(len(blocks) > 1)
    one = data.draw(st.integers(0, len(blocks) - 2))
    blocks[one], blocks[one + 1] = blocks[one + 1], blocks[one]
    with pytest.raises(BrokenChainError):
        check(blocks)


@settings(max_examples=40)
@given(streams, made, st.data())
def test_a_forged_entry_is_found(
    bodies: list[list[Entry]], forged: Entry, data: st.DataObject
) -> None:
    blocks = written(bodies)
    place = data.draw(st.integers(0, len(blocks) - 1))
    prev, seq = blocks[place].prev, parse_canonical(blocks[place].body.split(b"\n")[0])[1]
    inserted = Stored(prev, canonical(forged, seq, STREAM))
    with pytest.raises(BrokenChainError):
        check([*blocks[:place], inserted, *blocks[place:]])


@settings(max_examples=40)
@given(streams)
def test_a_repeated_block_is_found(bodies: list[list[Entry]]) -> None:
    blocks = written(bodies)
    with pytest.raises(BrokenChainError):
        check([*blocks, blocks[-1]])


@settings(max_examples=40)
@given(streams)
def test_another_stores_or_streams_entries_do_not_begin_here(bodies: list[list[Entry]]) -> None:
    blocks = written(bodies)
    with pytest.raises(BrokenChainError, match="does not begin"):
        check(blocks, "store_2")
    with pytest.raises(BrokenChainError, match="another stream"):
        list(ChainVerifier(STORE).check_body("str_2", blocks[0].prev, blocks[0].body))


@settings(max_examples=40)
@given(streams)
def test_a_stream_cut_at_its_beginning_is_told_as_partial(bodies: list[list[Entry]]) -> None:
    blocks = written([[entry] for body in bodies for entry in body])
    assume(len(blocks) > 1)
    assert check(blocks[1:]).partial == {STREAM}


@settings(max_examples=40)
@given(streams)
def test_a_chain_stays_where_it_is_until_its_body_was_written(bodies: list[list[Entry]]) -> None:
    chain = Chain(STREAM, genesis(STORE, STREAM))
    first, _lost = chain.extend(bodies[0])
    again, _kept = chain.extend(bodies[0])
    assert first == again
    assert (chain.seq, chain.head) == (0, genesis(STORE, STREAM))


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"[1]", b"null", b"x", b"[" * 2_000, b'["\xff"]']
)
def test_what_is_no_entry_is_refused(line: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parse_canonical(line)
    with pytest.raises(BrokenChainError):
        list(ChainVerifier(STORE).check_body(STREAM, b"", line))


def test_streams_are_told_apart_from_their_first_hash_on() -> None:
    names = [(store, stream) for store in ("s", "s\n", "") for stream in ("t", "", "\nt")]
    assert len({genesis(*name) for name in names}) >= 8


def test_a_checkpoint_says_store_time_and_heads_in_one_order() -> None:
    heads = {"b": (2, "bb"), "a": (1, "aa")}
    message = checkpoint_message(STORE, "t", heads)
    assert message == checkpoint_message(STORE, "t", dict(reversed(heads.items())))
    assert message == b'doxstore/checkpoint/1\n["store_1","t",[["a",1,"aa"],["b",2,"bb"]]]'
    assert message != checkpoint_message("store_2", "t", heads)
    assert message != checkpoint_message(STORE, "u", heads)
