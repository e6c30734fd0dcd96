"""Writes the vectors of the two formats: ``envelope.json`` and ``ledger.json``.

Origin: this program and nothing else. Keys and nonces are SHA-256 of their names, so that nobody
has to trust a random choice, and a second run writes the same bytes. The vectors are made with the
server's own functions; ``tests/unit/server/test_vectors.py`` opens and checks them with the code
that stands in the specifications, which shares nothing with the server.

``--check`` writes nothing and fails if the committed files are not what would be written.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dox_core_store import wire
from dox_core_store.server.adapters.sql import tables
from dox_core_store.server.adapters.sql.records import RecordReader
from dox_core_store.server.domain import envelope, ledger
from dox_core_store.server.domain.access import Effect, GrantRecord, OperatorRecord, Role
from dox_core_store.server.domain.key import State, VersionRecord
from dox_core_store.server.domain.ledger import Action, Chain, Entry, Status
from dox_core_store.server.domain.vault_task import HomeRecord
from dox_core_store.server.ports import StoredEntry
from dox_core_store.server.web.ledger_routes import ledger_record

__all__ = [
    "CREATED",
    "DENIED",
    "FILES",
    "GRANTED",
    "STREAM",
    "envelope_vectors",
    "ledger_vectors",
    "render",
]

HERE = Path(__file__).parent
STORE_ID = "store_000102030405060708090a0b0c0d0e0f"
SLOT_ID = "slot_0011223344556677"
STREAM = "str_8899aabbccddeeff"
OTHER_STORE_ID = "store_ffffffffffffffffffffffffffffffff"
CREATED = datetime(2025, 11, 4, 13, 30, tzinfo=UTC)
LATER = datetime(2025, 11, 4, 13, 30, 0, 250_000, tzinfo=UTC)


def fixed(name: str, size: int = envelope.KEY_BYTES) -> bytes:
    """The bytes that stand for ``name``."""
    return hashlib.sha256(f"dox-core-store vector: {name}".encode()).digest()[:size]


def nonce(name: str) -> bytes:
    return fixed(f"nonce of {name}", envelope.NONCE_BYTES)


def envelope_vectors() -> dict[str, Any]:
    """``envelope.json`` as plain data."""
    slot_key, root = fixed("key file"), fixed("root key")
    ring_keys = {number: fixed(f"key-encryption key {number}") for number in (1, 2)}
    ring = envelope.Ring(STORE_ID, ring_keys)
    values = [_value(ring_keys, case) for case in _VALUES]
    return {
        "about": "Made by generate.py in this folder; specified in docs/spec/envelope.md.",
        "format": envelope.FORMAT,
        "store_id": STORE_ID,
        "associated_data": [
            {"fields": fields, "encoded": envelope.associated_data(*fields).hex()}
            for fields in (["root", STORE_ID, SLOT_ID], ["value", ""], ["value"], ["ä", "b"])
        ],
        "derived": [
            {"key": root.hex(), "purpose": purpose, "derived": envelope.derive(root, purpose).hex()}
            for purpose in ("key-file-slot", "root-check", "ring", "row-mac")
        ],
        "key_file": {
            "line": f"doxstore-key-file-1 {base64.b64encode(slot_key).decode()}\n",
            "key": slot_key.hex(),
        },
        "slot": {
            "slot_id": SLOT_ID,
            "root": root.hex(),
            "root_check": envelope.root_check(root, STORE_ID).hex(),
            "wrapped_root": envelope.seal_box(
                envelope.derive(slot_key, "key-file-slot"),
                root,
                envelope.associated_data("root", STORE_ID, SLOT_ID),
                nonce("root"),
            ).hex(),
        },
        "ring": [
            {
                "number": number,
                "key": key.hex(),
                "wrapped": envelope.seal_box(
                    envelope.derive(root, "ring"),
                    key,
                    envelope.associated_data("ring", STORE_ID, str(number)),
                    nonce(f"ring {number}"),
                ).hex(),
            }
            for number, key in ring_keys.items()
        ],
        "values": values,
        "rows": [_row(ring, record) for record in _RECORDS],
        "must_not_open": _damaged(values[0]),
    }


_VALUES = (
    # key path, environment, version id, number of the key-encryption key, value
    ("service_keys.jules_api", "production", "00112233445566778899aabbccddeeff", 1, "made-up"),
    ("service_keys.jules_api", "staging", "ffeeddccbbaa99887766554433221100", 2, ""),
    ("a.b", "production", "0f1e2d3c4b5a69788796a5b4c3d2e1f0", 2, 'lines\n"quoted"\tand ünïcode\n'),
)


def _value(ring_keys: dict[int, bytes], case: tuple[str, str, str, int, str]) -> dict[str, Any]:
    path, environment, version_id, number, text = case
    data_key = fixed(f"data key {version_id}")
    binding = (STORE_ID, path, environment, version_id)
    header = struct.pack(">BI", envelope.FORMAT, number)
    wrapped = envelope.seal_box(
        ring_keys[number],
        data_key,
        header + envelope.associated_data("data-key", *binding),
        nonce(f"data key {version_id}"),
    )
    value = envelope.seal_box(
        data_key,
        text.encode(),
        envelope.associated_data("value", *binding),
        nonce(f"value {version_id}"),
    )
    return {
        "key_path": path,
        "environment": environment,
        "version_id": version_id,
        "number": number,
        "data_key": data_key.hex(),
        "value": text,
        "sealed": (header + wrapped + value).hex(),
    }


_RECORDS: tuple[Any, ...] = (
    OperatorRecord(
        name="ada",
        roles=[Role.ADMIN, Role.MAINTAINER],
        generation=1,
        disabled_at=None,
        created_at=CREATED,
    ),
    GrantRecord(
        grant_id="gra_0123456789abcdef",
        service="jules-mcp",
        effect=Effect.ALLOW,
        pattern="service_keys.jules_api",
        environment="production",
        created_at=LATER,
        created_by="operator:ada",
    ),
    VersionRecord(
        version_id="00112233445566778899aabbccddeeff",
        key_id=7,
        number=1,
        state=State.CURRENT,
        created_at=CREATED,
        created_by="operator:ada",
        expires_at=LATER,
        rolled_back_from=None,
        sealed=b"not part of the row",
    ),
    VersionRecord(
        version_id="ffeeddccbbaa99887766554433221100",
        key_id=7,
        number=2,
        state=State.PENDING,
        created_at=CREATED,
        created_by="operator:ada",
        expires_at=None,
        rolled_back_from=1,
        sealed=b"not part of the row",
        vault="openbao+https://bao.example.com:8200/secret/doxstore",
    ),
    HomeRecord(
        key_id=7,
        vault="aws://eu-central-1/platform",
        path="ada/database",
        field="password",
        shared=True,
    ),
)


def _row(ring: envelope.Ring, record: Any) -> dict[str, Any]:
    reader = RecordReader(ring=ring, alarm=lambda _table, _identity: None)
    fields = [
        [name, getattr(record, name)] for name in record.__struct_fields__ if name != "sealed"
    ]
    if fields[-1] == ["vault", None]:  # a later column, which is covered where it says anything
        fields.pop()
    return {
        "table": tables.RECORDS[type(record)].name,
        "row": msgspec.json.encode(fields).decode(),
        "mac": reader.write(record)[-1].hex(),
    }


def _damaged(value: dict[str, Any]) -> list[dict[str, str]]:
    """The first value, moved, renamed and altered: nothing of it may open."""
    asked = {name: value[name] for name in ("key_path", "environment", "version_id")}
    good = {"store_id": STORE_ID, **asked, "sealed": value["sealed"]}
    raw = bytes.fromhex(value["sealed"])
    last_bit = raw[:-1] + bytes([raw[-1] ^ 1])
    wrapped_bit = raw[:20] + bytes([raw[20] ^ 1]) + raw[21:]
    cases = {
        "of another store": {"store_id": OTHER_STORE_ID},
        "under another path": {"key_path": "service_keys.other"},
        "in another environment": {"environment": "staging"},
        "of another version": {"version_id": "00112233445566778899aabbccddeefe"},
        "with a path and environment cut elsewhere": {
            "key_path": "service_keys.jules_ap",
            "environment": "iproduction",
        },
        "in an unknown format": {"sealed": (b"\x02" + raw[1:]).hex()},
        "under another key-encryption key": {"sealed": (raw[:4] + b"\x02" + raw[5:]).hex()},
        "under a key-encryption key that is not there": {
            "sealed": (raw[:4] + b"\x09" + raw[5:]).hex()
        },
        "with an altered data key": {"sealed": wrapped_bit.hex()},
        "with an altered value": {"sealed": last_bit.hex()},
        "cut short": {"sealed": raw[:-1].hex()},
        "without its value": {"sealed": raw[:65].hex()},
        "empty": {"sealed": ""},
    }
    return [{"why": why, **good, **change} for why, change in cases.items()]


def ledger_vectors() -> dict[str, Any]:
    """``ledger.json`` as plain data."""
    key = Ed25519PrivateKey.from_private_bytes(fixed("checkpoint key"))
    chains = {
        stream: Chain(stream, ledger.genesis(STORE_ID, stream))
        for stream in (ledger.CHANGES, STREAM)
    }
    stored: list[StoredEntry] = []
    canonical: list[str] = []

    def append(stream: str, entry: Entry) -> None:
        chain = chains[stream]
        line, after = chain.extend([entry])
        stored.append(StoredEntry(entry, after.seq, stream, chain.head, after.head, ""))
        canonical.append(line.decode())
        chains[stream] = after

    append(ledger.CHANGES, _changed(Action.INIT, f"_store.stores.{STORE_ID}", "local:ada"))
    append(
        ledger.CHANGES, _changed(Action.PUT, "service_keys.jules_api.production", "operator:ada")
    )
    append(STREAM, _own(Action.OPEN, None, "2025-11-04T13:30:00.250Z"))
    append(STREAM, GRANTED)
    append(STREAM, DENIED)
    heads = {name: (chain.seq, chain.head.hex()) for name, chain in chains.items()}
    at = "2025-11-04T13:30:01.251Z"
    message = ledger.checkpoint_message(STORE_ID, at, heads)
    signature = base64.b64encode(key.sign(message)).decode()
    statement = msgspec.json.encode({"heads": heads, "signature": signature}).decode()
    append(STREAM, _own(Action.CHECKPOINT, statement, at))
    append(STREAM, _own(Action.CLOSE, None, "2025-11-04T13:30:02.000Z"))
    export = [wire.encode(ledger_record(each)).decode() for each in stored]
    return {
        "about": "Made by generate.py in this folder; specified in docs/spec/ledger.md.",
        "format": ledger.FORMAT,
        "store_id": STORE_ID,
        "checkpoint_public_key": key.public_key().public_bytes_raw().hex(),
        "genesis": {stream: ledger.genesis(STORE_ID, stream).hex() for stream in chains},
        "canonical": canonical,
        "export": export,
        "checkpoint_message": message.decode(),
        "must_not_verify": _forged(export),
    }


def _changed(action: Action, path: str, who: str) -> Entry:
    return Entry(
        timestamp="2025-11-04T13:30:00.000Z",
        service_name=who,
        key_path=path,
        action=action,
        status=Status.GRANTED,
        request_id="req_0000000000000001",
        ip_address="" if action is Action.INIT else "10.0.1.7",
        user_agent="doxstore",
        environment=None if action is Action.INIT else "production",
        version=None if action is Action.INIT else 1,
    )


def _own(action: Action, reason: str | None, at: str) -> Entry:
    return Entry(
        timestamp=at,
        service_name="local:ada",
        key_path="_store.ledger",
        action=action,
        status=Status.GRANTED,
        request_id="req_0000000000000002",
        ip_address="",
        user_agent="",
        reason=reason,
    )


GRANTED = Entry(
    timestamp="2025-11-04T13:30:00.251Z",
    service_name="jules-mcp",
    key_path="service_keys.jules_api.production",
    action=Action.GET,
    status=Status.GRANTED,
    request_id="req_abc123000001",
    ip_address="10.0.1.100",
    user_agent="dox-core-store/1.0",
    environment="production",
    version=1,
    token_id="tok_AAAAAAAAAAAAAAAAAAAAAA",
    correlation_id="trace-1",
    reason="call",
)
DENIED = GRANTED._replace(
    key_path='strange "path" \\ with\ttab, \x01, \x7f, ü, \u2028 and 🔑',
    status=Status.DENIED,
    request_id="req_abc123000002",
    user_agent="",
    environment=None,
    version=None,
    correlation_id=None,
    reason="not_authorized",
    count=3,
)


def _forged(export: list[str]) -> list[dict[str, Any]]:
    """The export, tampered with in ways that a reader must notice."""

    def altered(place: int, **members: Any) -> list[str]:
        entry = {**json.loads(export[place]), **members}
        lines = list(export)
        lines[place] = json.dumps(entry, separators=(",", ":"), ensure_ascii=False)
        return lines

    statement = json.loads(json.loads(export[5])["reason"])
    signature = bytearray(base64.b64decode(statement["signature"]))
    signature[0] ^= 1
    resigned = {**statement, "signature": base64.b64encode(signature).decode()}
    return [
        {"why": "another service in an entry", "export": altered(3, service_name="dox-gtwy-main")},
        {"why": "another count", "export": altered(4, count=1)},
        {"why": "another format", "export": altered(0, format=2)},
        {"why": "an entry missing", "export": export[:4] + export[5:]},
        {
            "why": "two entries exchanged",
            "export": [*export[:3], export[4], export[3], *export[5:]],
        },
        {"why": "the first entry missing", "export": export[1:]},
        {"why": "an entry in another stream", "export": altered(1, stream=STREAM)},
        {
            "why": "rewritten from the granted read on, with hashes that fit",
            "export": _rehashed(altered(3, service_name="dox-gtwy-main")),
        },
        {
            "why": "a checkpoint with another signature, with hashes that fit",
            "export": _rehashed(altered(5, reason=json.dumps(resigned, separators=(",", ":")))),
        },
    ]


def _rehashed(lines: list[str]) -> list[str]:
    """``lines`` with every hash computed anew, as someone who can write the database would."""
    heads = {stream: ledger.genesis(STORE_ID, stream) for stream in (ledger.CHANGES, STREAM)}
    done = []
    for line in lines:
        entry = json.loads(line)
        facts = {name: entry[name] for name in Entry._fields}
        prev = heads[entry["stream"]]
        text = ledger.canonical(Entry(**facts), entry["seq"], entry["stream"])
        heads[entry["stream"]] = ledger.link(prev, text)
        entry |= {"prev": prev.hex(), "hash": heads[entry["stream"]].hex()}
        done.append(json.dumps(entry, separators=(",", ":"), ensure_ascii=False))
    return done


FILES = {"envelope.json": envelope_vectors, "ledger.json": ledger_vectors}


def render(name: str) -> str:
    """The file ``name`` as it should be."""
    return json.dumps(FILES[name](), indent=2, ensure_ascii=True) + "\n"


def main() -> int:
    wrong = [
        name
        for name in FILES
        if not (HERE / name).is_file() or (HERE / name).read_text(encoding="utf-8") != render(name)
    ]
    if "--check" in sys.argv[1:]:
        for name in wrong:
            print(f"{name} is not what generate.py writes", file=sys.stderr)
        return 1 if wrong else 0
    for name in wrong:
        (HERE / name).write_text(render(name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
