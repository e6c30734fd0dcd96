"""Makes ``backup_1.backup`` and ``backup_1.json``: a small store's backup, and what is in it.

Run once for each format of the backup (``python -m tests.vectors.generate_backup``). A store's keys
are random, so this writes another file each time; the one that is committed stays. It protects
nothing.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path

from tests.functional.running import RunningStore, run_doxstore

HERE = Path(__file__).parent
VALUES = {
    "service_keys.jules_api": ["first", "second – ü"],
    "database_connections.main": ["postgresql://user:pass@host/db"],
    "service_keys.empty": [""],
}


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        store = RunningStore(Path(folder) / "store")
        store.init()
        store.start()
        try:
            for path, values in VALUES.items():
                for value in values:
                    store.put(path, value)
            store.issue("jules-mcp", "service_keys.*")
            answer = store.request(
                "POST", "/v1/keys/service_keys.jules_api/revoke", json={"version": 1}
            )
            assert answer.status == 200, answer.body
        finally:
            store.stop()
        made = run_doxstore(
            *("backup", "create", HERE / "backup_1.backup", "--force", "--json"),
            *("--data", store.data, "--key-file", store.key_file),
        )
        if made.returncode:
            sys.stderr.write(made.stderr)
            return 1
        lines = (HERE / "backup_1.backup").read_bytes().splitlines()
        slot = next(row for name, row in map(json.loads, lines[1:-1]) if name == "seal_slot")
        key = base64.b64decode(store.key_file.read_text().split()[1])
        told = {
            "about": "Made by generate_backup.py in this folder; specified in docs/spec/backup.md.",
            "store_id": json.loads(made.stdout)["store_id"],
            "slot_id": slot["slot_id"],
            "slot_key": key.hex(),
            "sha256": json.loads(made.stdout)["sha256"],
            "values": [
                [path, "production", number, value]
                for path, values in VALUES.items()
                for number, value in enumerate(values, 1)
            ],
        }
        (HERE / "backup_1.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        (HERE / "backup_1.backup").chmod(0o644)
    return 0


if __name__ == "__main__":
    sys.exit(main())
