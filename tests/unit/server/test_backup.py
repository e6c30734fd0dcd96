from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from dox_core_store.errors import ConfigurationError
from dox_core_store.server.adapters.backup.archive import check, check_origin, records
from dox_core_store.server.adapters.backup.draft import fill, open_head, same_slot
from dox_core_store.server.adapters.backup.rows import LEFT_OUT, TABLES
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.store import open_store
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.domain.backup import backup_name, names_database, older_backups

REPOSITORY = Path(__file__).parents[3]
VECTORS = REPOSITORY / "tests" / "vectors"
SPECIFICATIONS = REPOSITORY / "docs" / "spec"
BACKUP = (VECTORS / "backup_1.backup").read_bytes()
LINES = BACKUP.splitlines(keepends=True)
STORE = "store_" + "a" * 32
DAMAGE = {"backup_damaged", "store_newer"}


class Told(msgspec.Struct, forbid_unknown_fields=True):
    about: str
    store_id: str
    slot_id: str
    slot_key: str
    sha256: str
    values: list[tuple[str, str, int, str]]


TOLD = msgspec.json.decode((VECTORS / "backup_1.json").read_bytes(), type=Told)
SLOT_KEY = bytes.fromhex(TOLD.slot_key)


def written() -> Any:
    """The Python of the specification, after that of the envelope, whose functions it uses."""
    names: dict[str, Any] = {}
    for page in ("envelope.md", "backup.md"):
        text = (SPECIFICATIONS / page).read_text(encoding="utf-8")
        (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        exec(compile(code, page, "exec"), names)  # noqa: S102 - it is our own page that is on trial
    return SimpleNamespace(**names)


PAGE = written()


def unlock(store_id: str, slots: Any) -> Any:
    yield from ((slot, SLOT_KEY) for slot in slots)
    raise AssertionError("no slot opened")


RING = open_head(check(io.BytesIO(BACKUP)), unlock)[0].ring


def refusal(raw: bytes) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check(io.BytesIO(raw))
    return caught.value.code


def refused_with_its_key(raw: bytes) -> str:
    """The same, where it may take the key to see it: the MAC itself is under no digest."""
    with pytest.raises(ConfigurationError) as caught:
        check_origin(check(io.BytesIO(raw)), RING)
    return caught.value.code


def closed_again(lines: list[bytes]) -> bytes:
    """``lines`` under a digest that holds, as somebody without the ring could write them."""
    end = json.loads(LINES[-1])["end"]
    end |= {"records": len(lines) - 1, "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}
    last = json.dumps({"end": end}, separators=(",", ":")).encode() + b"\n"
    return b"".join(lines) + last


# --- the vector -------------------------------------------------------------------------------


def test_the_page_reads_every_value_of_the_vector() -> None:
    found = {
        (path, environment, number): value.decode()
        for path, environment, number, value in PAGE.values(LINES, TOLD.slot_id, SLOT_KEY)
        if environment != "_store"
    }
    assert found == {(path, where, number): value for path, where, number, value in TOLD.values}


def test_the_code_reads_what_the_page_reads(tmp_path: Path) -> None:
    checked = check(io.BytesIO(BACKUP))
    assert checked.header.store_id == TOLD.store_id
    assert checked.ending.sha256 == TOLD.sha256
    opened, slots = open_head(checked, unlock)
    check_origin(checked, opened.ring)
    assert [slot.slot_id for slot in slots] == [TOLD.slot_id]
    fill(tmp_path, io.BytesIO(BACKUP), checked, lambda _count: None)
    alarms: list[str] = []
    store = open_store(
        SqlitePlace(tmp_path),
        unlock=same_slot(opened.unlocked),
        alarm=lambda table, row: alarms.append(f"{table} {row}"),
    )
    assert store.store_id == TOLD.store_id
    assert alarms == []
    _, kept, _ = PAGE.read(LINES)
    for name, row in records(io.BytesIO(BACKUP), checked):
        assert row in kept[name]


def test_every_table_is_in_a_backup_or_left_out_on_purpose() -> None:
    assert sorted([*TABLES, *LEFT_OUT]) == sorted(tables.metadata.tables)
    page = (SPECIFICATIONS / "backup.md").read_text(encoding="utf-8")
    assert [name for name in (*TABLES, *LEFT_OUT) if f"`{name}`" not in page] == []


# --- damage -----------------------------------------------------------------------------------


def test_a_backup_that_was_cut_anywhere_is_refused() -> None:
    ends = {sum(map(len, LINES[:count])) for count in range(len(LINES))}
    cuts = ends | {end + 1 for end in ends} | set(range(0, len(BACKUP), 211))
    cuts |= set(range(len(BACKUP) - len(LINES[-1]), len(BACKUP)))
    assert {refusal(BACKUP[:cut]) for cut in cuts if cut < len(BACKUP)} == {"backup_damaged"}


def test_a_byte_that_was_changed_anywhere_is_refused() -> None:
    last = range(len(BACKUP) - len(LINES[-1]), len(BACKUP))
    places = [*range(len(LINES[0])), *last, *range(7, len(BACKUP), 43)]
    for place in places:
        for bit in (0x01, 0x20):
            flipped = bytearray(BACKUP)
            flipped[place] ^= bit
            assert refused_with_its_key(bytes(flipped)) in DAMAGE, (place, bit)


@pytest.mark.parametrize("more", [b"\n", b" ", b"{}\n", LINES[-1]])
def test_nothing_may_follow_the_last_line(more: bytes) -> None:
    assert refusal(BACKUP + more) == "backup_damaged"


@pytest.mark.parametrize("leave_out", [b'["version"', b'["token"', b'["ledger_block"'])
def test_records_that_were_left_out_under_a_new_digest_are_noticed(leave_out: bytes) -> None:
    header = json.loads(LINES[0])
    kept = [line for line in LINES[1:-1] if not line.startswith(leave_out)]
    name = json.loads(leave_out + b"]")[0]
    header["counts"][name] = 0
    first = json.dumps(header, separators=(",", ":")).encode() + b"\n"
    checked = check(io.BytesIO(closed_again([first, *kept])))
    opened, _slots = open_head(checked, unlock)
    with pytest.raises(ConfigurationError, match="MAC does not hold"):
        check_origin(checked, opened.ring)


def test_a_backup_that_changes_between_the_two_readings_is_noticed(tmp_path: Path) -> None:
    checked = check(io.BytesIO(BACKUP))
    changed = BACKUP.replace(b'"jules-mcp"', b'"jules-mcq"', 1)
    assert changed != BACKUP
    with pytest.raises(ConfigurationError, match="changed while it was read"):
        fill(tmp_path, io.BytesIO(changed), checked, lambda _count: None)


@pytest.mark.parametrize("header", [{"version": 2}, {"schema": "9999"}])
def test_a_later_format_or_schema_is_refused_as_such(header: dict[str, Any]) -> None:
    first = json.loads(LINES[0]) | header
    line = json.dumps(first, separators=(",", ":")).encode() + b"\n"
    assert refusal(closed_again([line, *LINES[1:-1]])) == "store_newer"


def test_a_record_of_another_shape_is_refused(tmp_path: Path) -> None:
    for before, after in ((b'"last_number":2', b'"last_number":"2"'), (b'"owner"', b'"owned"')):
        raw = closed_again([line.replace(before, after) for line in LINES[:-1]])
        checked = check(io.BytesIO(raw))
        folder = tmp_path / base64.b16encode(before).decode()
        folder.mkdir()
        with pytest.raises(ConfigurationError) as caught:
            fill(folder, io.BytesIO(raw), checked, lambda _count: None)
        assert caught.value.code == "backup_damaged"


# --- retention and databases ------------------------------------------------------------------


def test_retention_takes_our_own_old_files_and_nothing_else() -> None:
    now = datetime(2026, 11, 25, 4, 0, tzinfo=UTC)
    ours = [
        backup_name(STORE, now - timedelta(days=day), encrypted=day % 2 == 1) for day in range(5)
    ]
    partial = f"{ours[0]}.partial"
    others = [
        backup_name("store_" + "b" * 32, now - timedelta(days=900), encrypted=False),
        "doxstore-store.backup",
        f"{ours[4]}.old",
        f"my-{ours[4]}",
        "notes.txt",
    ]
    everything = [*ours, partial, *others]
    everything.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    assert older_backups(everything, STORE, 2) == sorted([*ours[2:], partial])
    assert older_backups(everything, STORE, 14) == [partial]
    assert ours[0] not in older_backups(everything, STORE, 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b", "postgresql://u:p@h/d"),
        ("a.b", "postgresql+asyncpg://u:p@h/d"),
        ("a.b", "mongodb+srv://u:p@h"),
        ("a.b", "REDISS://:p@h"),
        ("a.b", " mysql://h\n"),
        ("database_connections.main", "server=h;password=p"),
    ],
)
def test_what_opens_a_database_is_known(path: str, value: str) -> None:
    assert names_database(path, value)


@pytest.mark.parametrize("value", ["", "https://h", "sk_live_postgres", "see postgres://h"])
def test_what_opens_none_is_left_alone(value: str) -> None:
    assert not names_database("service_keys.database_connections", value)
