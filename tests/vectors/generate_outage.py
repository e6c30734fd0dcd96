"""Writes ``outage.json``: two sealed outage files (``docs/spec/outage-file.md``).

Origin: this program and nothing else. Salt, secrets and nonces are SHA-256 of their names; a
second run writes the same bytes. Made with the client's own functions;
``tests/unit/test_outage_vectors.py`` opens them with the code of the specification, which shares
nothing with the client::

    .venv/bin/python -m tests.vectors.generate_outage
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dox_core_store.client.outage_seal import Namer, OutageRecord, seal_record
from dox_core_store.client.outage_secret import Principal
from dox_core_store.key_path import KeyAddress
from dox_core_store.sensitive import Sensitive
from dox_core_store.wire import KeyValue

PRINCIPAL = Principal("store_000102030405060708090a0b0c0d0e0f", "jules-mcp", "production")
TRUE_AT, WRITTEN_AT = 1_900_000_000.25, 1_900_000_001.5

SECRETS = {
    "service key": hashlib.sha256(b"dox-core-store vector: service key").digest(),
    "service token": b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJqdWxlcy1tY3AifQ.c2lnbmF0dXJl",
}
KEYS = {
    "service key": KeyValue(
        key_path="service_keys.jules_api",
        environment="production",
        version=3,
        version_id="0f" * 16,
        state="current",
        value=Sensitive('a "value" with an ä and a line\n'),
        expires_at=datetime(2030, 6, 1, tzinfo=UTC),
        cache_ttl_ceiling_seconds=3600,
        outage_grace_seconds=3600,
    ),
    "service token": KeyValue(
        key_path="database_connections.postgres_main",
        environment="staging",
        version=1,
        version_id="a0" * 16,
        state="current",
        value=Sensitive("x" * 1000),
        expires_at=None,
        cache_ttl_ceiling_seconds=60,
        outage_grace_seconds=900,
    ),
}


def fixed(name: str, size: int) -> bytes:
    return hashlib.sha256(f"dox-core-store vector: {name}".encode()).digest()[:size]


def outage_vectors() -> dict[str, Any]:
    """``outage.json`` as plain data."""
    salt = fixed("salt", 32)
    namer = Namer(salt, PRINCIPAL)
    files = []
    for kind, secret in SECRETS.items():
        key = KEYS[kind]
        name = namer.name(KeyAddress(key.key_path, key.environment))
        record = OutageRecord(key=key, true_at=TRUE_AT, written_at=WRITTEN_AT)
        content = seal_record(secret, PRINCIPAL, name, record, nonce=fixed(f"nonce of {kind}", 12))
        assert content is not None
        files.append(
            {
                "secret_is": kind,
                "secret": secret.hex(),
                "key_path": key.key_path,
                "environment": key.environment,
                "value": key.value.reveal(),
                "name": name,
                "ends_at": record.ends_at,
                "content": content.hex(),
            }
        )
    return {
        "about": "Made by generate_outage.py here; specified in docs/spec/outage-file.md.",
        "salt": salt.hex(),
        **PRINCIPAL._asdict(),
        "true_at": TRUE_AT,
        "written_at": WRITTEN_AT,
        "files": files,
    }


def render() -> str:
    return json.dumps(outage_vectors(), indent=1) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("outage.json").write_text(render())
