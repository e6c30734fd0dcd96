"""Every command of ``docs/run.md`` does what the page says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.functional.running import DOXSTORE, RunningStore, clean_environment

PAGE = Path(__file__).parents[2] / "docs" / "run.md"
SECONDS = 30.0
KEYS = {
    "service_keys.stripe": "STRIPE-VALUE",
    "database_connections.postgres_main": "DATABASE-VALUE",
    "database_connections.pgpass": "PGPASS-VALUE",
    "certificates.web": "PEM-VALUE",
}
SHOW = (
    'echo "${0##*/}" "$@" "$STRIPE_KEY" "$DATABASE_URL";'
    ' cat $PGPASSFILE ${KEY_FILES_DIR:+$KEY_FILES_DIR/*/*} 2>&1 | grep -o "[A-Z]*-VALUE"'
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def site(shared_store: RunningStore, tmp_path: Path) -> Path:
    """A folder with the map of the page, and programs that show what they got."""
    (tmp_path / "keys.yaml").write_text(blocks("yaml")[0])
    (tmp_path / "bin").mkdir()
    for name in ("python", "gunicorn", "psql"):
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/bash\n{SHOW}\n")
        program.chmod(0o755)
    for key, value in KEYS.items():
        shared_store.put(key, value)
    return tmp_path


def shown(line: str, site: Path, environment: dict[str, str]) -> tuple[str, list[str]]:
    """What the command says, and the files that there are afterwards."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {line.replace('/run/keys', str(site / 'keys'))}"],
        cwd=site,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if " is ready: " in said:
                process.terminate()
            said += process.stdout.read()
            assert process.wait(SECONDS) in (0, 1)
        finally:
            process.kill()
    held = sorted(each.name for each in (site / "keys").rglob("[a-z]*") if each.is_file())
    return said.replace(str(site / "keys"), "/run/keys"), held


def test_every_command_of_the_page_runs(site: Path, shared_store: RunningStore) -> None:
    token = shared_store.issue("page-reader", "service_keys.stripe", *list(KEYS)[1:])
    path = f"{site / 'bin'}:{DOXSTORE.parent}:{os.environ['PATH']}"
    environment = clean_environment(
        KEY_SERVICE_URL=shared_store.url, SERVICE_TOKEN=token, PATH=path
    )
    results = [
        shown(line, site, environment) for block in blocks("bash") for line in block.splitlines()
    ]
    assert results == [
        ("python worker.py STRIPE-VALUE \n", []),
        ("gunicorn app:app STRIPE-VALUE DATABASE-VALUE\nPEM-VALUE\n", []),
        ("psql  \nPGPASS-VALUE\n", []),
        ("doxstore agent is ready: 1 file in /run/keys\n", ["db.url"]),
        ("1 file in /run/keys\n", ["server.pem"]),
    ]
