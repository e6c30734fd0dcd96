from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tests.vectors import generate

from dox_core_store.server.adapters.seals.key_file import KeyFileHolder, read_key_file
from dox_core_store.server.adapters.seals.unlocking import Unlocking, new_slot
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.custody import new_store_id
from dox_core_store.server.adapters.sql.records import RecordReader
from dox_core_store.server.adapters.sql.search import LedgerSearch
from dox_core_store.server.adapters.sql.store import create_store, open_store
from dox_core_store.server.adapters.sql.stream import LedgerStream
from dox_core_store.server.adapters.sqlite.place import SqlitePlace
from dox_core_store.server.domain import envelope, ledger
from dox_core_store.server.domain.access import Caller, Role
from dox_core_store.server.domain.checkpoint import LedgerVerifier, Verified
from dox_core_store.server.domain.envelope import Binding, DamagedSealError, Ring
from dox_core_store.server.domain.ledger import Action, BrokenChainError, Entry
from dox_core_store.server.web.ledger_routes import ledger_record
from dox_core_store.wire import LedgerRecord, decode, encode

REPOSITORY = Path(__file__).parents[3]
VECTORS = REPOSITORY / "tests" / "vectors"
SPECIFICATIONS = REPOSITORY / "docs" / "spec"


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A vector with a member that no test here looks at does not load."""


class Encoded(Strict):
    fields: list[str]
    encoded: str


class Derived(Strict):
    key: str
    purpose: str
    derived: str


class KeyFile(Strict):
    line: str
    key: str


class Slot(Strict):
    slot_id: str
    root: str
    root_check: str
    wrapped_root: str


class RingKey(Strict):
    number: int
    key: str
    wrapped: str


class Value(Strict):
    key_path: str
    environment: str
    version_id: str
    number: int
    data_key: str
    value: str
    sealed: str


class Row(Strict):
    table: str
    row: str
    mac: str


class Damaged(Strict):
    why: str
    store_id: str
    key_path: str
    environment: str
    version_id: str
    sealed: str


class EnvelopeVectors(Strict):
    about: str
    format: int
    store_id: str
    associated_data: list[Encoded]
    derived: list[Derived]
    key_file: KeyFile
    slot: Slot
    ring: list[RingKey]
    values: list[Value]
    rows: list[Row]
    must_not_open: list[Damaged]


class Forged(Strict):
    why: str
    export: list[str]


class LedgerVectors(Strict):
    about: str
    format: int
    store_id: str
    checkpoint_public_key: str
    genesis: dict[str, str]
    canonical: list[str]
    export: list[str]
    checkpoint_message: str
    must_not_verify: list[Forged]


def load(name: str, kind: type) -> Any:
    return msgspec.json.decode((VECTORS / name).read_bytes(), type=kind)


def written(name: str) -> Any:
    """The Python that stands in a specification: a reader that shares nothing with the server."""
    page = (SPECIFICATIONS / name).read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(code, name, "exec"), names)  # noqa: S102 - it is our own page that is on trial
    return SimpleNamespace(**names)


SEALED: EnvelopeVectors = load("envelope.json", EnvelopeVectors)
CHAINED: LedgerVectors = load("ledger.json", LedgerVectors)
PAGE = written("envelope.md")
LEDGER_PAGE = written("ledger.md")
RING = {each.number: bytes.fromhex(each.key) for each in SEALED.ring}


def public_key() -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(CHAINED.checkpoint_public_key))


@pytest.mark.parametrize("name", generate.FILES)
def test_the_generator_writes_the_committed_vectors(name: str) -> None:
    assert (VECTORS / name).read_text(encoding="utf-8") == generate.render(name)


@pytest.mark.parametrize(
    ("name", "kind"), [("envelope.json", EnvelopeVectors), ("ledger.json", LedgerVectors)]
)
def test_a_vector_with_an_unknown_member_is_refused(name: str, kind: type) -> None:
    data = json.loads((VECTORS / name).read_text(encoding="utf-8"))
    with pytest.raises(msgspec.ValidationError, match="unknown field `colour`"):
        msgspec.convert({**data, "colour": "blue"}, kind)


def test_both_files_are_of_the_format_that_the_server_writes() -> None:
    assert SEALED.format == envelope.FORMAT
    assert CHAINED.format == ledger.FORMAT
    assert "generate.py" in SEALED.about
    assert "generate.py" in CHAINED.about


@pytest.mark.parametrize("case", SEALED.associated_data, ids=lambda case: ".".join(case.fields))
def test_associated_data_is_encoded_as_specified(case: Encoded) -> None:
    assert PAGE.context(*case.fields).hex() == case.encoded
    assert envelope.associated_data(*case.fields).hex() == case.encoded


@pytest.mark.parametrize("case", SEALED.derived, ids=lambda case: case.purpose)
def test_keys_are_derived_as_specified(case: Derived) -> None:
    assert PAGE.derive(bytes.fromhex(case.key), case.purpose).hex() == case.derived
    assert envelope.derive(bytes.fromhex(case.key), case.purpose).hex() == case.derived


def test_the_key_file_holds_the_slot_key(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    path.write_text(SEALED.key_file.line, encoding="ascii")
    path.chmod(0o600)
    assert read_key_file(path).hex() == SEALED.key_file.key


def test_the_slot_opens_the_root_key_and_the_root_key_the_ring() -> None:
    slot, store_id = SEALED.slot, SEALED.store_id
    opened = PAGE.open_root(
        bytes.fromhex(SEALED.key_file.key),
        bytes.fromhex(slot.wrapped_root),
        store_id,
        slot.slot_id,
        bytes.fromhex(slot.root_check),
    )
    assert opened.hex() == slot.root
    assert envelope.root_check(opened, store_id).hex() == slot.root_check
    for each in SEALED.ring:
        key = PAGE.open_ring_key(opened, bytes.fromhex(each.wrapped), store_id, each.number)
        assert key.hex() == each.key


@pytest.mark.parametrize("name", ["wrapped_root", "root_check"])
def test_another_root_is_refused(name: str) -> None:
    slot = msgspec.structs.replace(SEALED.slot, **{name: "00" * (len(SEALED.slot.root) // 2)})
    with pytest.raises((InvalidTag, ValueError)):
        PAGE.open_root(
            bytes.fromhex(SEALED.key_file.key),
            bytes.fromhex(slot.wrapped_root),
            SEALED.store_id,
            slot.slot_id,
            bytes.fromhex(slot.root_check),
        )


@pytest.mark.parametrize("case", SEALED.values, ids=lambda case: case.version_id[:4])
def test_a_sealed_value_opens_as_specified(case: Value) -> None:
    asked = (SEALED.store_id, case.key_path, case.environment, case.version_id)
    sealed = bytes.fromhex(case.sealed)
    assert PAGE.open_value(RING, sealed, *asked) == case.value.encode()
    assert Ring(SEALED.store_id, RING).open(sealed, Binding(*asked)) == case.value.encode()
    header, wrapped = sealed[:5], sealed[5:65]
    assert header == b"\x01" + case.number.to_bytes(4, "big")
    data_key = PAGE.open_box(RING[case.number], wrapped, header + PAGE.context("data-key", *asked))
    assert data_key.hex() == case.data_key
    assert len(sealed) == 93 + len(case.value.encode())


def test_what_the_server_seals_opens_as_specified() -> None:
    binding = Binding(SEALED.store_id, "a.b", "staging", "0f" * 16)
    sealed = Ring(SEALED.store_id, RING).seal(b"made-up", binding)
    assert PAGE.open_value(RING, sealed, *binding) == b"made-up"


@pytest.mark.parametrize("case", SEALED.must_not_open, ids=lambda case: case.why)
def test_a_blob_that_was_moved_or_altered_opens_nowhere(case: Damaged) -> None:
    asked = (case.store_id, case.key_path, case.environment, case.version_id)
    sealed = bytes.fromhex(case.sealed)
    with pytest.raises(DamagedSealError):
        Ring(case.store_id, RING).open(sealed, Binding(*asked))
    with pytest.raises((InvalidTag, ValueError, KeyError, PAGE.struct.error)):
        PAGE.open_value(RING, sealed, *asked)


@pytest.mark.parametrize("case", SEALED.rows, ids=lambda case: case.table)
def test_a_row_is_authenticated_as_specified(case: Row) -> None:
    raw, mac = case.row.encode(), bytes.fromhex(case.mac)
    PAGE.check_row(RING, mac, SEALED.store_id, case.table, raw)
    assert Ring(SEALED.store_id, RING).mac_holds(case.table, raw, mac)
    for store_id, table, row in (
        ("store_" + "f" * 32, case.table, raw),
        (SEALED.store_id, "service", raw),
        (SEALED.store_id, case.table, raw.replace(b"ada", b"eve")),
    ):
        with pytest.raises(ValueError, match="not a row of this store"):
            PAGE.check_row(RING, mac, store_id, table, row)
        assert not Ring(store_id, RING).mac_holds(table, row, mac)


@pytest.mark.parametrize("case", SEALED.rows, ids=lambda case: case.table)
def test_the_server_reads_a_row_as_specified(case: Row) -> None:
    alarms: list[tuple[str, str]] = []
    reader = RecordReader(ring=Ring(SEALED.store_id, RING), alarm=lambda *row: alarms.append(row))
    (kind,) = (kind for kind, table in tables.RECORDS.items() if table.name == case.table)
    sealed = {"sealed": b""} if case.table == "version" else {}
    told = {**dict(json.loads(case.row)), **sealed}
    record = msgspec.convert(told, kind, strict=False)
    row = {name: getattr(record, name) for name in record.__struct_fields__}
    mac = bytes.fromhex(case.mac)
    assert reader.write(record)[-1] == mac
    assert reader.record(kind, {**row, "mac": mac}) == record
    assert alarms == []
    assert reader.record(kind, {**row, "mac": mac[:-1] + b"\x00"}) is None
    assert [table for table, _identity in alarms] == [case.table]


def test_the_specification_names_every_column_of_every_protected_row() -> None:
    page = (SPECIFICATIONS / "envelope.md").read_text(encoding="utf-8")
    listed = {
        table: re.findall(r"`(\w+)`", columns)
        for table, columns in re.findall(r"^\| `(\w+)` \| (`.*) \|$", page, re.MULTILINE)
    }
    assert listed == {
        table.name: [name for name in kind.__struct_fields__ if name != "sealed"]
        for kind, table in tables.RECORDS.items()
    }


def test_an_entry_has_the_specified_fields_in_their_order() -> None:
    page = (SPECIFICATIONS / "ledger.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \d+ \| `(\w+)` \|", page, re.MULTILINE)
    fields = Entry._fields
    assert listed == [*fields[:8], "seq", "stream", *fields[8:]] == LEDGER_PAGE.FIELDS
    assert list(json.loads(CHAINED.export[0])) == [*listed, "prev", "hash", "format"]


def test_the_specification_names_every_action_and_every_status() -> None:
    page = (SPECIFICATIONS / "ledger.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[A-Z].*?) \|", page, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)]
    assert sorted(named) == sorted([*Action, *ledger.Status])


def test_entries_are_chained_as_specified() -> None:
    heads = {stream: bytes.fromhex(prev) for stream, prev in CHAINED.genesis.items()}
    for stream, prev in heads.items():
        assert ledger.genesis(CHAINED.store_id, stream) == prev
    for line, told in zip(CHAINED.canonical, map(json.loads, CHAINED.export), strict=True):
        entry, seq, stream = ledger.parse_canonical(line.encode())
        assert ledger.canonical(entry, seq, stream).decode() == line
        assert LEDGER_PAGE.compact([told[name] for name in LEDGER_PAGE.FIELDS]).decode() == line
        assert heads[stream].hex() == told["prev"]
        heads[stream] = ledger.link(heads[stream], line.encode())
        assert heads[stream].hex() == told["hash"]


def test_an_export_verifies_with_the_code_of_the_specification() -> None:
    heads = LEDGER_PAGE.verify(CHAINED.export, CHAINED.store_id, public_key())
    assert {name: seq for name, (seq, _hash) in heads.items()} == {
        "changes": 2,
        generate.STREAM: 5,
    }
    (signed,) = (json.loads(each) for each in CHAINED.export if '"CHECKPOINT"' in each)
    said = {name: tuple(head) for name, head in json.loads(signed["reason"])["heads"].items()}
    message = ledger.checkpoint_message(CHAINED.store_id, signed["timestamp"], said)
    assert message.decode() == CHAINED.checkpoint_message


def test_an_export_of_another_store_does_not_verify() -> None:
    with pytest.raises(ValueError, match="broken at #1"):
        LEDGER_PAGE.verify(CHAINED.export, "store_" + "f" * 32)


@pytest.mark.parametrize("case", CHAINED.must_not_verify, ids=lambda case: case.why)
def test_a_forged_export_does_not_verify(case: Forged) -> None:
    with pytest.raises((ValueError, InvalidSignature)):
        LEDGER_PAGE.verify(case.export, CHAINED.store_id, public_key())


@pytest.mark.parametrize("case", CHAINED.must_not_verify, ids=lambda case: case.why)
def test_the_server_finds_the_same_forgeries(case: Forged) -> None:
    with pytest.raises(BrokenChainError):
        verify_as_the_server(case.export)


def test_the_server_verifies_the_same_export() -> None:
    verified = verify_as_the_server(CHAINED.export)
    assert (verified.entries, verified.checkpoints, verified.cut) == (7, 1, [])
    assert verified.unsigned == 1  # CLOSE


def verify_as_the_server(export: list[str]) -> Verified:
    verifier = LedgerVerifier(store_id=CHAINED.store_id, checkpoint_key=public_key())
    for line in export:
        verifier.check(decode(LedgerRecord, line.encode()))
    return verifier.finish()


class Standing:
    """A clock that stands."""

    def monotonic(self) -> float:
        return 0.0

    def seconds(self) -> float:
        return generate.CREATED.timestamp()

    def now(self) -> datetime:
        return generate.CREATED


def no_alarm(table: str, row: str) -> None:
    pytest.fail(f"{table} {row}")


def test_what_a_real_store_exports_verifies_with_the_code_of_the_specification(
    tmp_path: Path,
) -> None:
    clock, caller = Standing(), Caller("local:ada", (), "req_1", "", "doxstore")
    key_file = tmp_path / "root.key"
    create_store(
        SqlitePlace(tmp_path),
        store_id=(store_id := new_store_id()),
        slot=new_slot(KeyFileHolder(key_file), store_id, label=None),
        default_environment="production",
        operator="ada",
        roles=[Role.ADMIN],
        caller=caller,
        clock=clock,
    )
    store = open_store(
        SqlitePlace(tmp_path), unlock=Unlocking([KeyFileHolder(key_file)]), alarm=no_alarm
    )
    stream = LedgerStream(
        store_id=store.store_id,
        changes="changes",
        actor=caller.name,
        checkpoint_key=store.checkpoint_key,
        clock=clock,
    )

    with store.engine.connect() as connection:
        stream.open(connection)
        stream.close(connection)
        search = LedgerSearch(connection=connection, environments=frozenset({"production"}))
        stored, _last = search.export(0, 100)
    store.engine.dispose()
    lines = [encode(ledger_record(each)) for each in stored]
    heads = LEDGER_PAGE.verify(lines, store.store_id, store.checkpoint_key.public_key())
    actions = [each.entry.action for each in stored if each.stream == stream.name]
    assert actions == ["OPEN", "CHECKPOINT", "CLOSE"]
    assert heads[stream.name][0] == len(actions)
    assert heads["changes"][0] >= 2
