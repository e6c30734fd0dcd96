"""The kernel's own account of one read: written, synced, and only then answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.functional.running import RunningStore

VALUE = "made-up-value-of-the-traced-read"
BATCH_VALUE = "made-up-value-of-the-traced-batch"
CALLS = "fsync,fdatasync,write,writev,pwrite64,sendto,sendmsg"
SYNCS = {"fsync", "fdatasync"}
ANSWERS = {"write", "writev", "sendto", "sendmsg"}

_LINE = re.compile(r"^(?P<thread>\d+) +(?P<text>.*)$")
_BEGUN = re.compile(r"^(?P<name>\w+)\((?P<arguments>.*)$")
_RESUMED = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)$")
_RESULT = re.compile(r"\) += (?P<result>-?\d+)")
UNFINISHED = "<unfinished ...>"


class Call(NamedTuple):
    """One system call. ``begun`` and ``ended`` are line numbers of the trace, so they are ordered
    across threads; ``ended`` is None if it never returned."""

    name: str
    arguments: str
    begun: int
    ended: int | None
    result: int | None


def calls_of(trace: str) -> list[Call]:
    """The calls of a ``strace -f`` log, in the order in which they began."""
    return sorted(_calls(trace), key=lambda call: call.begun)


def _calls(trace: str) -> Iterator[Call]:
    open_calls: dict[str, tuple[str, str, int]] = {}
    for number, line in enumerate(trace.splitlines()):
        found = _LINE.match(line)
        if found is None:
            continue
        thread, text = found["thread"], found["text"]
        if resumed := _RESUMED.match(text):
            name, arguments, begun = open_calls.pop(thread)
            assert name == resumed["name"]
            yield Call(name, arguments, begun, number, _result(resumed["rest"]))
        elif begun_call := _BEGUN.match(text):
            name, arguments = begun_call["name"], begun_call["arguments"]
            if arguments.endswith(UNFINISHED):
                open_calls[thread] = name, arguments, number
            else:
                yield Call(name, arguments, number, number, _result(arguments))
    for name, arguments, begun in open_calls.values():
        yield Call(name, arguments, begun, None, None)


def _result(text: str) -> int | None:
    found = list(_RESULT.finditer(text))
    return int(found[-1]["result"]) if found else None


def check_sync_before_answer(trace: str, request_id: str, value: str) -> None:
    """The entry of ``request_id`` reached the log's file, then a sync of that file began and
    succeeded, and only after that did the first byte with ``value`` go out."""
    calls = calls_of(trace)
    answers = [call for call in calls if call.name in ANSWERS and value in call.arguments]
    assert len(answers) == 1, "the value left once, in one call"
    (answer,) = answers
    assert "TCP" in answer.arguments
    written = [
        call
        for call in calls
        if call.name == "pwrite64"
        and "store.db-wal" in call.arguments
        and request_id in call.arguments
        and call.ended is not None
    ]
    assert written, "the entry never reached the log"
    recorded_at = written[0].ended
    assert recorded_at is not None
    synced = [
        call
        for call in calls
        if call.name in SYNCS
        and "store.db-wal" in call.arguments
        and call.begun > recorded_at
        and call.result == 0
        and call.ended is not None
        and call.ended < answer.begun
    ]
    assert synced, "no sync of the entry ended before the answer began"


@pytest.fixture
def traced(tmp_path: Path, made_store: RunningStore) -> Iterator[tuple[RunningStore, Path]]:
    """A store whose server runs under strace from its first instruction.

    ``-D`` makes strace the grandchild, so the process that the test starts and stops is the server.
    """
    trace = tmp_path / "trace"
    strace = ["strace", "-D", "-f", "-yy", "-s", "8192", "-e", f"trace={CALLS}", "-o", str(trace)]
    store = RunningStore(tmp_path / "store", wrapper=strace)
    store.copy_of(made_store)
    store.start()
    yield store, trace
    store.dispose()


def test_the_entry_is_synced_before_the_first_byte_of_the_answer(
    traced: tuple[RunningStore, Path],
) -> None:
    store, trace = traced
    store.put("traced.one", VALUE)
    store.put("traced.in-batch", BATCH_VALUE)
    token = store.issue("reader", "traced.*")
    one = store.get("traced.one", token)
    assert one.json["value"] == VALUE
    asked = {"key_paths": ["traced.in-batch"]}
    batch = store.request("POST", "/v1/keys/batch-get", token=token, json=asked)
    assert batch.json["keys"][0]["key"]["value"] == BATCH_VALUE
    assert store.stop() == 0
    check_sync_before_answer(trace.read_text(), one.request_id, VALUE)
    check_sync_before_answer(trace.read_text(), batch.request_id, BATCH_VALUE)


# --- the check itself can fail ------------------------------------------------------------------

RECORD = 'pwrite64(5</d/store.db-wal>, "...req_1...", 4096, 56) = 4096'
SYNC_BEGINS = "fdatasync(5</d/store.db-wal> <unfinished ...>"
SYNC_ENDS = "<... fdatasync resumed>) = 0"
SYNC_FAILS = "<... fdatasync resumed>) = -1 EIO (Input/output error)"
SYNC_OF_ANOTHER = "fdatasync(6</d/store.db>) = 0"
REVEAL = 'writev(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, [{iov_base="HTTP/1.1 200 OK v"}], 1) = 200'

WRITER, LOOP = "11", "22"


def as_trace(*steps: tuple[str, str]) -> str:
    return "\n".join(f"{thread} {text}" for thread, text in steps)


def test_the_check_takes_the_right_order() -> None:
    right = as_trace((WRITER, RECORD), (WRITER, SYNC_BEGINS), (WRITER, SYNC_ENDS), (LOOP, REVEAL))
    check_sync_before_answer(right, "req_1", "OK v")


@pytest.mark.parametrize(
    "steps",
    [
        [(LOOP, REVEAL), (WRITER, RECORD), (WRITER, SYNC_BEGINS), (WRITER, SYNC_ENDS)],
        [(WRITER, RECORD), (WRITER, SYNC_BEGINS), (LOOP, REVEAL), (WRITER, SYNC_ENDS)],
        [(WRITER, SYNC_BEGINS), (WRITER, SYNC_ENDS), (WRITER, RECORD), (LOOP, REVEAL)],
        [(WRITER, RECORD), (WRITER, SYNC_BEGINS), (WRITER, SYNC_FAILS), (LOOP, REVEAL)],
        [(WRITER, RECORD), (WRITER, SYNC_OF_ANOTHER), (LOOP, REVEAL)],
        [(WRITER, SYNC_BEGINS), (WRITER, SYNC_ENDS), (LOOP, REVEAL)],
    ],
    ids=["answer first", "answer during the sync", "sync before the entry", "sync that failed",
         "another file synced", "no entry"],
)  # fmt: skip
def test_the_check_refuses_every_wrong_order(steps: list[tuple[str, str]]) -> None:
    with pytest.raises(AssertionError):
        check_sync_before_answer(as_trace(*steps), "req_1", "OK v")
