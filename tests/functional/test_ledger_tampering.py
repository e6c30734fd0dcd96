"""Someone who can write the database changes the ledger: each way is found, and the entry named.

One store is run for real over three process lifetimes, one of which is killed. Its database is
copied and forged (`ledger_forgery`), and `doxstore ledger verify` is asked: on the copy, which
nobody can open, and on an export of it; with what was shipped off the machine, and without.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.functional.ledger_forgery import (
    ACTION,
    ACTOR,
    CHANGES,
    SEQ,
    STREAM,
    Block,
    Forgery,
    entry_of,
)
from tests.functional.running import RunningStore, run_doxstore

from dox_core_store import wire
from dox_core_store.cli.application import run as run_command
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.bootstrap.ledger_check import LedgerCopy
from dox_core_store.server.web.ledger_routes import ledger_record

BROKEN = 1
UNUSABLE = 78


class Found(NamedTuple):
    """The first bad entry is one of ``first`` to ``last`` of ``stream``."""

    stream: str
    first: int
    last: int


class Run:
    """A real run: the database at its end and in between, what was shipped, and the public key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database, self.older = folder / "last.db", folder / "older.db"
        self.export, self.shipped = folder / "export.jsonl", folder / "shipped.jsonl"
        self.key = folder / "checkpoint-key.json"
        self.store = store = RunningStore(
            folder / "store", environment={"DOXSTORE_SHIP_TO": f"file://{self.shipped}"}
        )
        store.init()
        self.streams: list[str] = []
        for life in range(3):
            store.start()
            self._live(life)
            if life == 1:
                store.kill()
            else:
                assert store.stop() == 0
            if life == 0:
                self._copy(self.older)
        self._copy(self.database)
        write_export(self.database, self.export)
        lines = self.export.read_bytes().splitlines()
        wanted = {line for line in lines if is_shipped(json.loads(line))}
        assert {line for line in self.shipped.read_bytes().splitlines() if line} == wanted

    def _live(self, life: int) -> None:
        store = self.store
        if life == 0:
            self.key.write_bytes(
                store.request("GET", "/.well-known/checkpoint-key.json", token="").body
            )
        for number in range(3):
            store.put(f"run.k{number}", f"value {life} {number}")
            for _ in range(4):
                assert store.get(f"run.k{number}").status == 200
            signed = self._checkpoints()
            until(lambda signed=signed: self._checkpoints() > signed)  # type: ignore[misc]
        with contextlib.closing(sqlite3.connect(store.data / "store.db")) as database:
            query = "SELECT stream FROM ledger_stream WHERE closed_at IS NULL AND stream != ?"
            ((stream,),) = database.execute(query, (CHANGES,)).fetchall()
        self.streams.append(stream)

    def _checkpoints(self) -> int:
        with contextlib.closing(sqlite3.connect(self.store.data / "store.db")) as database:
            query = "SELECT count(*) FROM ledger_block WHERE instr(body, '\"CHECKPOINT\"')"
            count: int = database.execute(query).fetchone()[0]
        return count

    def _copy(self, target: Path) -> None:
        with (
            contextlib.closing(sqlite3.connect(self.store.data / "store.db")) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def is_shipped(entry: dict[str, Any]) -> bool:
    return entry["action"] == "CHECKPOINT" or entry["stream"].startswith(CHANGES)


def write_export(database: Path, export: Path) -> None:
    """What the server would export of ``database``."""
    with export.open("wb") as file:
        for filed in LedgerCopy(SqlitePlace(database.parent, database.name)).inspection.blocks():
            for each in filed.entries():
                file.write(wire.encode(ledger_record(each)) + b"\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    made = Run(tmp_path_factory.mktemp("run"))
    yield made
    made.store.dispose()


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Verify = Callable[..., Ended]


@pytest.fixture
def verify(run: Run, capfd: pytest.CaptureFixture[str]) -> Verify:
    """The command, in this process: there are many cases, and starting takes longer than they."""

    def verified(*source: str | Path, shipped: bool) -> Ended:
        more = ("--checkpoints", run.shipped) if shipped else ()
        command = ("ledger", "verify", *source, "--checkpoint-key", run.key, *more, "--json")
        capfd.readouterr()
        code = run_command([str(each) for each in command])
        return Ended(code, *capfd.readouterr())

    return verified


def told(done: Ended | subprocess.CompletedProcess[str]) -> Any:
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


# --- what an attacker does ------------------------------------------------------------------------


def forged(fields: list[Any]) -> list[Any]:
    return [*fields[:ACTOR], "operator:nobody", *fields[ACTOR + 1 :]]


def without_checkpoints(fields: list[Any]) -> list[Any] | None:
    return None if fields[ACTION] == "CHECKPOINT" else fields


def in_the_middle(ledger: Forgery, stream: str) -> tuple[Block, int]:
    """A block of no checkpoint with others before and behind it, and its first ``seq``."""
    blocks = ledger.of(stream)
    block = next(
        each
        for each in blocks[len(blocks) // 2 :]
        if not any(b"CHECKPOINT" in x for x in each.lines)
    )
    return block, entry_of(block.lines[0])[SEQ]


def edit(ledger: Forgery, stream: str) -> Found:
    block, seq = in_the_middle(ledger, stream)
    changed = json.dumps(forged(entry_of(block.lines[0])), separators=(",", ":")).encode()
    ledger.put(block._replace(lines=[changed, *block.lines[1:]]))
    return Found(stream, seq, seq)


def delete(ledger: Forgery, stream: str) -> Found:
    block, seq = in_the_middle(ledger, stream)
    ledger.drop(lambda each: each.block_id == block.block_id)
    return Found(stream, seq, seq)


def cut_tail(ledger: Forgery, stream: str) -> Found:
    block, seq = in_the_middle(ledger, stream)
    ledger.drop(lambda each: each.stream == stream and each.block_id >= block.block_id)
    return Found(stream, seq, seq)


def cut_all_tails(ledger: Forgery, stream: str) -> Found:
    """Everything behind a moment, so that what is left agrees with itself."""
    block, _seq = in_the_middle(ledger, stream)
    ledger.drop(lambda each: each.block_id >= block.block_id)
    first = len(ledger.lines(CHANGES)) + 1
    return Found("", first, first)  # of whichever stream the first thing was signed that is gone


def swap(ledger: Forgery, stream: str) -> Found:
    blocks = ledger.of(stream)
    at = blocks.index(in_the_middle(ledger, stream)[0])
    one, other = blocks[at], blocks[at + 1]
    ledger.put(one._replace(prev=other.prev, head=other.head, lines=other.lines))
    ledger.put(other._replace(prev=one.prev, head=one.head, lines=one.lines))
    seq = entry_of(one.lines[0])[SEQ]
    return Found(stream, seq, seq)


def recompute(ledger: Forgery, stream: str) -> Found:
    _block, at = in_the_middle(ledger, stream)
    ledger.rechain(stream, lambda fields: forged(fields) if fields[SEQ] == at else fields)
    return Found(stream, at, at)


def recompute_without(ledger: Forgery, stream: str) -> Found:
    """The same, and no later checkpoint is left that could contradict it."""
    block, at = in_the_middle(ledger, stream)

    def change(fields: list[Any]) -> list[Any] | None:
        if fields[ACTION] == "CHECKPOINT":
            return None
        return forged(fields) if fields[STREAM] == stream and fields[SEQ] == at else fields

    for each in {block.stream for block in ledger.blocks}:
        if stream in (CHANGES, each):
            ledger.rechain(each, change, since=block.block_id)
    return Found(stream, at, at)


def remove_stream(ledger: Forgery, stream: str) -> Found:
    ledger.drop(lambda each: each.stream == stream)
    return Found(stream, 1, 1)


class Case(NamedTuple):
    """``of``: the stream of which life, or the changes. ``alone``: whether it shows without
    anything shipped. ``fix_ends``: whether the rows of streams are made to agree."""

    what: str
    act: Callable[[Forgery, str], Found]
    of: int | None
    alone: bool
    fix_ends: bool = True
    forget: bool = False


CASES = [
    Case("an entry edited", edit, 0, alone=True),
    Case("a change edited", edit, None, alone=True),
    Case("an entry deleted", delete, 0, alone=True),
    Case("a change deleted", delete, None, alone=True),
    Case("a stream's tail cut", cut_tail, 0, alone=False),
    Case("a stream's tail cut, its end left", cut_tail, 0, alone=True, fix_ends=False),
    Case("a killed stream's tail cut", cut_tail, 1, alone=False),
    Case("the newest stream's tail cut", cut_tail, 2, alone=False),
    Case("the tail of the changes cut", cut_tail, None, alone=True),
    Case("all tails cut", cut_all_tails, 2, alone=False),
    Case("two entries swapped", swap, 0, alone=True),
    Case("two changes swapped", swap, None, alone=True),
    Case("a stream recomputed", recompute, 0, alone=True),
    Case("the changes recomputed", recompute, None, alone=True),
    Case("a stream recomputed, without checkpoints", recompute_without, 1, alone=False),
    Case("the changes recomputed, without checkpoints", recompute_without, None, alone=False),
    Case("a stream removed", remove_stream, 0, alone=True, fix_ends=False),
    Case("a stream removed, and its row", remove_stream, 1, alone=False, forget=True),
    Case("the changes removed", remove_stream, None, alone=True, fix_ends=False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
@pytest.mark.parametrize("shipped", [True, False], ids=["with shipped", "alone"])
@pytest.mark.parametrize("export", [False, True], ids=["database", "export"])
def test_a_tampering_is_found_and_its_first_entry_is_named(
    run: Run, verify: Verify, tmp_path: Path, case: Case, *, shipped: bool, export: bool
) -> None:
    copy = tmp_path / "copy.db"
    shutil.copy(run.database, copy)
    ledger = Forgery(copy)
    stream = CHANGES if case.of is None else run.streams[case.of]
    where = case.act(ledger, stream)
    ledger.save(fix_ends=case.fix_ends, forget=stream if case.forget else None)
    source: tuple[str | Path, ...] = ("--data", copy)
    if export:
        write_export(copy, tmp_path / "export.jsonl")
        source = ("--file", tmp_path / "export.jsonl")
    done = verify(*source, shipped=shipped)
    said = told(done)
    # An export does not say where the store thinks that its streams end.
    alone = case.alone and not (export and not case.fix_ends and case.of is not None)
    if not (shipped or alone):
        assert (done.returncode, said["status"]) == (0, "ok"), said
        return
    assert (done.returncode, said["status"]) == (BROKEN, "broken"), said
    if where.stream:
        assert said["stream"] == where.stream, said
        assert said["first"] <= where.first <= said["seq"], said
        if shipped and stream == CHANGES:
            assert said["first"] == said["seq"], said  # every change was shipped
    assert said["why"]


@pytest.mark.parametrize("shipped", [True, False], ids=["with shipped", "alone"])
def test_what_nobody_touched_is_whole(
    run: Run, verify: Verify, tmp_path: Path, *, shipped: bool
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    shutil.copy(run.database, folder / "store.db")
    for source in (("--data", run.database), ("--data", folder), ("--file", run.export)):
        done = verify(*source, shipped=shipped)
        said = told(done)
        assert (done.returncode, said["status"], said["lost"]) == (0, "ok", []), done.stderr
        assert said["entries"] == len(run.export.read_bytes().splitlines())
        assert said["unsigned"] <= 10
        assert (said["shipped"] > 10) == shipped


def test_without_shipped_checkpoints_a_stripped_ledger_says_how_little_is_covered(
    run: Run, verify: Verify, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.db"
    shutil.copy(run.database, copy)
    ledger = Forgery(copy)
    for stream in ledger.ends:
        ledger.rechain(stream, without_checkpoints)
    ledger.save()
    said = told(verify("--data", copy, shipped=False))
    assert (said["checkpoints"], said["unsigned"]) == (0, said["entries"])
    text = run_doxstore("ledger", "verify", "--data", copy, "--checkpoint-key", run.key).stdout
    assert f"no checkpoint covers  {said['entries']} entries" in text


@pytest.mark.parametrize("export", [False, True], ids=["database", "export"])
def test_an_older_copy_is_behind_what_was_shipped(
    run: Run, verify: Verify, tmp_path: Path, *, export: bool
) -> None:
    source: tuple[str | Path, ...] = ("--data", run.older)
    if export:
        write_export(run.older, tmp_path / "export.jsonl")
        source = ("--file", tmp_path / "export.jsonl")
    assert told(verify(*source, shipped=False))["status"] == "ok"
    said = told(verify(*source, shipped=True))
    ends = {CHANGES: len(Forgery(run.older).lines(CHANGES)), run.streams[1]: 0}
    assert said["status"] == "broken"
    assert said["seq"] == ends[said["stream"]] + 1
    assert "a shipped checkpoint of 20" in said["why"]


def edit_line(lines: list[bytes], at: int) -> None:
    lines[at] = lines[at].replace(b'"count":1', b'"count":2')


def delete_line(lines: list[bytes], at: int) -> None:
    del lines[at]


def swap_lines(lines: list[bytes], at: int) -> None:
    lines[at], lines[at + 1] = lines[at + 1], lines[at]


def double_line(lines: list[bytes], at: int) -> None:
    lines.insert(at, lines[at])


@pytest.mark.parametrize("act", [edit_line, delete_line, swap_lines, double_line])
def test_a_line_of_an_export_that_was_tampered_with_is_named_exactly(
    run: Run, verify: Verify, tmp_path: Path, act: Callable[[list[bytes], int], None]
) -> None:
    lines = run.export.read_bytes().splitlines(keepends=True)
    entries = [json.loads(line) for line in lines]
    at = next(
        place
        for place in range(len(lines) // 2, len(lines))
        if entries[place]["stream"] == entries[place + 1]["stream"] and entries[place]["seq"] > 1
    )
    act(lines, at)
    export = tmp_path / "export.jsonl"
    export.write_bytes(b"".join(lines))
    said = told(verify("--file", export, shipped=False))
    assert (said["stream"], said["first"], said["seq"]) == (
        entries[at]["stream"],
        entries[at]["seq"],
        entries[at]["seq"],
    )


# --- what was shipped -----------------------------------------------------------------------------


def test_shipped_lines_may_be_doubled_late_torn_and_in_several_files(
    run: Run, tmp_path: Path
) -> None:
    lines = run.shipped.read_bytes().splitlines(keepends=True)
    half = len(lines) // 2
    first, second, copy = tmp_path / "1.jsonl", tmp_path / "2.jsonl", tmp_path / "copy.db"
    first.write_bytes(b"".join([*lines[:half], *lines[half - 5 : half], lines[half][:40]]))
    second.write_bytes(b"".join([*lines[half - 3 :], lines[-1][:-20]]))
    both = ("--checkpoints", second, "--checkpoints", first)
    common = ("--checkpoint-key", run.key, "--json")
    done = run_doxstore("ledger", "verify", "--data", run.database, *both, *common)
    assert told(done)["status"] == "ok"
    assert "2 lines are no whole entries" in done.stderr
    late = ("--checkpoints", second)  # a sink that was added later knows nothing of before
    done = run_doxstore("ledger", "verify", "--data", run.database, *late, *common)
    assert told(done)["status"] == "ok"
    shutil.copy(run.database, copy)
    ledger = Forgery(copy)
    where = cut_tail(ledger, run.streams[2])
    ledger.save()
    done = run_doxstore("ledger", "verify", "--data", copy, *late, *common)
    assert (told(done)["stream"], told(done)["seq"]) == (where.stream, where.first)


def test_what_is_shipped_is_believed_only_under_the_key_that_is_given(
    run: Run, tmp_path: Path
) -> None:
    forged_line = (
        run.shipped.read_bytes()
        .splitlines()[-1]
        .replace(b'\\"signature\\":\\"', b'\\"signature\\":\\"A')
    )
    shipped = tmp_path / "shipped.jsonl"
    shipped.write_bytes(forged_line + b"\n")
    common = ("--data", run.database, "--checkpoint-key", run.key, "--checkpoints", shipped)
    done = run_doxstore("ledger", "verify", *common)
    assert done.returncode == UNUSABLE
    assert "error[bad_checkpoints]" in done.stderr
    key = json.loads(run.key.read_bytes())
    key["x"] = "A" * 43
    other = tmp_path / "other-key.json"
    other.write_text(json.dumps(key))
    done = run_doxstore(
        *("ledger", "verify", "--data", run.database, "--checkpoint-key", other),
        *("--checkpoints", run.shipped),
    )
    assert done.returncode == UNUSABLE


def test_a_key_from_the_store_itself_is_said_to_prove_less(run: Run, verify: Verify) -> None:
    store = run.store
    own = ("--data", store.data, "--key-file", store.key_file, "--checkpoints", run.shipped)
    done = run_doxstore("ledger", "verify", *own)
    assert done.returncode == 0, done.stderr
    assert "proves less" in done.stderr
    assert "proves less" not in verify("--data", run.database, shipped=True).stderr


def test_an_export_is_verified_without_any_library_of_a_server(run: Run, tmp_path: Path) -> None:
    """On a machine without the store: the client's and the command line's libraries do."""
    blocked = (
        "litestar sqlalchemy alembic granian joserfc argon2 structlog prometheus_client pyrage"
        " uvloop hvac boto3"
    )
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked.split()!r}))\n"
        "from dox_core_store.cli import main\n"
        "main()\n"
    )
    script = tmp_path / "alone.py"
    script.write_text(program)
    command = ("ledger", "verify", "--file", run.export, "--checkpoint-key", run.key)
    done = subprocess.run(
        [sys.executable, script, *command, "--checkpoints", run.shipped, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told(done)["status"] == "ok"


# --- a history that was lost ----------------------------------------------------------------------


def test_a_lost_history_is_told_apart_from_tampering(
    run: Run, verify: Verify, tmp_path: Path
) -> None:
    store = RunningStore(tmp_path / "store")
    store.copy_of(run.store)
    for name in ("store.db-wal", "store.db-shm"):
        (store.data / name).unlink(missing_ok=True)
    shutil.copy(run.older, store.data / "store.db")  # the witness still knows what there was
    store.start()
    try:
        assert store.get("run.k0").json["code"] == "unreviewed"
        assert store.stop() == 0
        source = ("--data", store.data)
        done = verify(*source, shipped=True)
        said = told(done)
        assert (done.returncode, said["status"]) == (BROKEN, "lost"), said
        lost = {each["stream"]: each for each in said["lost"]}
        assert lost.keys() == {CHANGES, *run.streams[1:]}
        kept = len(Forgery(run.older).lines(CHANGES))
        assert (lost[CHANGES]["first"], lost[CHANGES]["epoch"]) == (kept + 1, 2)
        assert lost[CHANGES]["since"] < lost[CHANGES]["until"]
        assert not lost[CHANGES]["reviewed"]

        # What was there before is not excused by it.
        copy = tmp_path / "copy.db"
        shutil.copy(store.data / "store.db", copy)
        ledger = Forgery(copy)
        where = remove_stream(ledger, run.streams[0])
        ledger.save(forget=run.streams[0])
        said = told(verify("--data", copy, shipped=True))
        assert (said["status"], said["stream"], said["seq"]) == ("broken", where.stream, 1)

        signed = run_doxstore(
            *("backup", "sign-off", "--data", store.data, "--key-file", store.key_file),
            *("--reason", "compared with the team"),
        )
        assert signed.returncode == 0, signed.stderr
        store.start()
        store.put("run.later", "value")
        assert store.stop() == 0
        done = verify(*source, shipped=True)
        said = told(done)
        assert (done.returncode, said["status"]) == (0, "ok"), said
        assert all(each["reviewed"] for each in said["lost"])
        text = run_doxstore(
            *("ledger", "verify", *source, "--checkpoint-key", run.key),
            *("--checkpoints", run.shipped),
        ).stdout
        assert "signed off" in text
    finally:
        store.dispose()
