"""The systemd unit: taken by systemd, rated by it, and not too narrow for the program.

The last is measured: the program is run under strace from start to stop, and each system call that
it makes has to be one that the unit lets through, with memory that is never both written and run.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest
from tests.functional.running import DOXSTORE, clean_environment, free_port

from dox_core_store.server.settings import load_settings

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "doxstore.service"
CONFIG = FOLDER / "doxstore.toml"
CALLS_OF_ROOT = {"fchown"}
"""SQLite gives files it makes to the database's owner, and does so as root alone (os_unix.c,
robustFchown). These tests may run as root; the unit never does."""
CALL = re.compile(r"^\d+ +(\w+)\((.*)", re.MULTILINE)


def values(name: str) -> list[str]:
    """Of each line of the unit that sets ``name``."""
    text = UNIT.read_text(encoding="utf-8")
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False
    )


def expand(names: list[str]) -> set[str]:
    """The system calls of these names and sets."""
    calls: set[str] = set()
    for name in names:
        if not name.startswith("@"):
            calls.add(name)
            continue
        listed = analyze("syscall-filter", name).stdout.splitlines()[1:]
        calls |= expand([each.strip() for each in listed if each.strip()[:1] not in {"", "#"}])
    return calls


def allowed() -> set[str]:
    first, *others = values("SystemCallFilter")
    calls = expand(first.split())
    for other in others:
        assert other.startswith("~")
        calls -= expand(other.removeprefix("~").split())
    return calls


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    # It looks for the program too; here that lies elsewhere.
    unit = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8").replace("/opt/doxstore/bin/doxstore", str(DOXSTORE))
    unit.write_text(text, encoding="utf-8")
    verified = analyze("verify", unit)
    # It looks at what the unit comes after as well, which may be wrong on this machine.
    ours = [line for line in verified.stderr.splitlines() if "doxstore" in line]
    assert ours == []
    unit.write_text(text.replace("LimitCORE=", "LimitCORES="), encoding="utf-8")
    assert "LimitCORES" in analyze("verify", unit).stderr  # it does look


def test_systemd_rates_its_exposure_as_small() -> None:
    rated = analyze("security", "--offline=yes", "--no-pager", UNIT)
    level = re.search(r"Overall exposure level for doxstore.service: ([\d.]+)", rated.stdout)
    assert level
    assert float(level[1]) <= 2.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("User", "doxstore"),
        ("CapabilityBoundingSet", ""),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("MemoryDenyWriteExecute", "yes"),
        ("LimitCORE", "0"),
        ("Restart", "on-failure"),
        ("StartLimitIntervalSec", "0"),  # a database that comes back late is waited for
    ],
)
def test_the_unit_says(name: str, value: str) -> None:
    assert values(name) == [value]


def test_connections_and_the_end_have_what_they_need() -> None:
    settings = load_settings({}, {}, CONFIG)
    assert int(values("LimitNOFILE")[0]) >= settings.max_connections + 1_000
    assert int(values("TimeoutStopSec")[0].removesuffix("s")) >= settings.shutdown_seconds + 10


def test_the_configuration_is_taken_with_what_it_proposes() -> None:
    settings = load_settings({}, {}, CONFIG)
    text = CONFIG.read_text(encoding="utf-8")
    proposed = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert {"database", "trusted_proxies"} < tomllib.loads(proposed).keys()
    # Secrets come by files, never from here.
    assert not [
        each for each in tomllib.loads(proposed) if "password" in each and "file" not in each
    ]
    assert settings.key_file == f"/run/{values('RuntimeDirectory')[0]}/root.key"
    assert settings.data == f"/var/lib/{values('StateDirectory')[0]}"


def test_the_proposed_settings_are_settings(tmp_path: Path) -> None:
    text = CONFIG.read_text(encoding="utf-8")
    config = tmp_path / "all.toml"
    config.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE), encoding="utf-8")
    settings = load_settings({}, {}, config)
    folder, name = settings.database_password_file.rsplit("/", 1)
    assert folder == "/run/credentials/doxstore.service"
    drop_in = (FOLDER / "database-password.conf").read_text(encoding="utf-8")
    assert f"LoadCredential={name}:" in drop_in


def test_the_users_and_folders_are_those_of_the_unit() -> None:
    users = (FOLDER / "doxstore.sysusers").read_text(encoding="utf-8")
    assert re.search(rf"^u {values('User')[0]} ", users, re.MULTILINE)
    folders = (FOLDER / "doxstore.tmpfiles").read_text(encoding="utf-8")
    mode = values("StateDirectoryMode")[0]
    assert re.search(rf"^d /var/lib/doxstore {mode} doxstore doxstore ", folders, re.MULTILINE)


def test_the_program_makes_no_call_that_the_unit_forbids(tmp_path: Path) -> None:
    data, key, copy = tmp_path / "data", tmp_path / "root.key", tmp_path / "copy.key"
    made = subprocess.run(
        [DOXSTORE, "init", "--json", "--data", data, "--key-file", key],
        env=clean_environment(),
        capture_output=True,
        check=True,
    )
    token = json.loads(made.stdout)["operator_token"]
    trace, port = tmp_path / "trace", free_port()
    traced = ["strace", "-f", "-qq", "-s", "0", "-e", "signal=none", "-o", trace, "--"]
    subprocess.run([*traced, "install", "-m", "0400", key, copy], check=True)
    calls = CALL.findall(trace.read_text(encoding="utf-8"))
    process = subprocess.Popen(
        [*traced, DOXSTORE, "serve", "--data", data, "--key-file", copy, "--port", str(port)],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        assert "serves" in process.stdout.readline()
        for path in ("/v1/ready", "/metrics", "/v1/keys"):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"}
            )
            with urllib.request.urlopen(request, timeout=30) as response:
                assert response.status == 200
        time.sleep(1.5)  # the work that is done every second is part of it
    finally:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        (server,) = children.read_text(encoding="ascii").split()
        subprocess.run(["kill", "-TERM", server], check=True)
        assert process.wait(30) == 0
        process.stdout.close()
    calls += CALL.findall(trace.read_text(encoding="utf-8", errors="replace"))
    names = {name for name, _ in calls}
    assert {"accept4", "fdatasync", "futex"} <= names  # it was watched while it served
    assert sorted(names - allowed() - CALLS_OF_ROOT) == []
    protections = [rest for name, rest in calls if name in {"mmap", "mprotect", "pkey_mprotect"}]
    assert [rest for rest in protections if "PROT_WRITE" in rest and "PROT_EXEC" in rest] == []
    assert [rest for name, rest in calls if name == "mprotect" and "PROT_EXEC" in rest] == []
    families = {rest.split(",")[0] for name, rest in calls if name in {"socket", "socketpair"}}
    assert families <= set(values("RestrictAddressFamilies")[0].split())
