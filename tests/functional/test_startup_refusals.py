"""A start-up that fails: one error with its code, exit 78, no socket, and nothing written.

Each case breaks a copy of one store whose last server was killed: its log (``-wal``) holds commits
that are not in the file yet, which is when careless opening does harm.
"""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.functional.running import (
    EXIT_REFUSED,
    RunningStore,
    clean_environment,
    free_port,
    run_doxstore,
)

from dox_core_store.server.adapters.seals.key_file import make_key_file

MAY_CHANGE = {"server.lock", "store.db-shm"}
"""The lock's file has no content; shared memory is rebuilt from the log by every reader."""

# Root writes where it may not, unless it gives that ability up. Others need no such help.
WITHOUT_OVERRIDE = (
    ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
)


class Refused(NamedTuple):
    code: int
    error: str
    was_open: bool


@pytest.fixture(scope="module")
def killed(
    tmp_path_factory: pytest.TempPathFactory, made_store: RunningStore
) -> Iterator[RunningStore]:
    """A store that was written to and whose server was killed."""
    store = RunningStore(tmp_path_factory.mktemp("killed"))
    store.copy_of(made_store)
    store.start()
    store.put("kept.key", "kept")
    store.kill()
    assert (store.data / "store.db-wal").stat().st_size > 0
    yield store
    store.dispose()


@pytest.fixture
def copy(killed: RunningStore, tmp_path: Path) -> Iterator[RunningStore]:
    """A copy of `killed` to break."""
    store = RunningStore(tmp_path / "copy")
    store.copy_of(killed)
    yield store
    store.dispose()
    for path in (store.data, *store.data.iterdir()):
        path.chmod(0o700)


def contents(store: RunningStore) -> dict[str, bytes]:
    """What is in the data folder; an empty log is as good as none."""
    if not store.data.exists():
        return {}
    files = {path.name: path.read_bytes() for path in store.data.iterdir()}
    return {
        name: content
        for name, content in files.items()
        if name not in MAY_CHANGE and not (name == "store.db-wal" and not content)
    }


def is_open(store: RunningStore) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((store.host, store.port)) == 0


def try_to_start(store: RunningStore) -> Refused:
    """Run the server until it gives up, knocking at its port all the while."""
    process = subprocess.Popen(
        store.command(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    was_open = False
    while True:
        was_open = was_open or is_open(store)
        try:
            output, error = process.communicate(timeout=0.05)
        except subprocess.TimeoutExpired:
            if not was_open:
                continue
            process.kill()
            output, error = process.communicate()
        assert output == ""
        return Refused(process.returncode, error, was_open)


def check_refused(refused: Refused, code: str) -> None:
    assert not refused.was_open
    assert refused.code == EXIT_REFUSED, refused.error
    assert "Traceback" not in refused.error
    assert refused.error.count("error[") == 1
    assert refused.error.startswith(f"error[{code}]: ")


def other_key_file(store: RunningStore) -> None:
    store.key_file.unlink()
    make_key_file(store.key_file)


def key_file_gone(store: RunningStore) -> None:
    store.key_file.unlink()


def key_file_open_to_others(store: RunningStore) -> None:
    store.key_file.chmod(0o644)


def key_file_of_garbage(store: RunningStore) -> None:
    store.key_file.write_text("not a key file")


def database_read_only(store: RunningStore) -> None:
    (store.data / "store.db").chmod(0o400)
    store.wrapper = WITHOUT_OVERRIDE


def everything_read_only(store: RunningStore) -> None:
    for path in store.data.iterdir():
        path.chmod(0o400)
    store.data.chmod(0o500)
    store.wrapper = WITHOUT_OVERRIDE


def schema_of_the_future(store: RunningStore) -> None:
    with sqlite3.connect(store.data / "store.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()


def database_cut_short(store: RunningStore) -> None:
    database = store.data / "store.db"
    os.truncate(database, database.stat().st_size // 2)


def database_overwritten(store: RunningStore) -> None:
    (store.data / "store.db").write_bytes(b"this is not a database" * 1000)


def database_emptied(store: RunningStore) -> None:
    os.truncate(store.data / "store.db", 0)


def database_gone(store: RunningStore) -> None:
    for path in store.data.iterdir():
        path.unlink()


def folder_gone(store: RunningStore) -> None:
    shutil.rmtree(store.data)
    store.data = store.folder / "nowhere" / "data"


@pytest.mark.parametrize(
    ("ruin", "code"),
    [
        (other_key_file, "wrong_key_file"),
        (key_file_of_garbage, "wrong_key_file"),
        (key_file_gone, "key_file_missing"),
        (key_file_open_to_others, "key_file_missing"),
        (database_read_only, "store_read_only"),
        (everything_read_only, "store_read_only"),
        (schema_of_the_future, "store_newer"),
        (database_cut_short, "store_damaged"),
        (database_overwritten, "store_damaged"),
        (database_emptied, "store_damaged"),
        (database_gone, "store_missing"),
    ],
)
def test_a_refused_start_says_why_opens_no_port_and_writes_nothing(
    copy: RunningStore, ruin: Callable[[RunningStore], None], code: str
) -> None:
    ruin(copy)
    before = contents(copy)
    check_refused(try_to_start(copy), code)
    assert contents(copy) == before


def test_a_missing_folder_is_not_made(copy: RunningStore) -> None:
    folder_gone(copy)
    check_refused(try_to_start(copy), "store_missing")
    assert not copy.data.exists()
    copy.data.mkdir(parents=True)


def test_nothing_is_lost_by_a_refused_start(copy: RunningStore) -> None:
    right = copy.key_file.read_bytes()
    other_key_file(copy)
    check_refused(try_to_start(copy), "wrong_key_file")
    copy.key_file.write_bytes(right)
    copy.start()
    assert copy.get("kept.key").json["value"] == "kept"
    copy.verified_export()


def test_one_store_has_one_server(copy: RunningStore) -> None:
    copy.start()
    second = RunningStore(copy.folder)
    check_refused(try_to_start(second), "store_locked")
    assert copy.get("kept.key").status == 200
    copy.kill()
    second.start()  # the lock dies with its holder
    assert second.stop() == 0


def test_a_port_that_is_taken_is_refused_and_the_store_stays_whole(copy: RunningStore) -> None:
    with socket.create_server((copy.host, copy.port)):
        refused = run_doxstore(*copy.command()[1:])
    assert refused.returncode == EXIT_REFUSED
    assert refused.stderr.startswith("error[bad_setting]: ")
    assert str(copy.port) in refused.stderr
    copy.port = free_port()
    copy.start()
    assert copy.get("kept.key").status == 200
    copy.verified_export()
