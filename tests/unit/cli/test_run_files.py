from __future__ import annotations

import os
from pathlib import Path

import pytest

from dox_core_store.cli.agent_files import AgentFolder
from dox_core_store.cli.run_files import (
    PrivateFolder,
    file_system_of,
    is_in_memory,
    remove_leftovers,
)
from dox_core_store.errors import ConfigurationError

SHM = Path("/dev/shm")  # noqa: S108 - it is what is looked at
START = 1_700_000_000.0


def test_the_kernel_says_what_lies_in_memory() -> None:
    assert is_in_memory(SHM)
    assert file_system_of(Path("/proc")) == "proc"
    assert not is_in_memory(Path("/proc"))
    assert file_system_of(Path("/nowhere")) is None


def test_a_folder_is_ours_alone_and_gone_at_the_end() -> None:
    with PrivateFolder() as folder:
        folder.write("a/b", "one")
        folder.write("a/b", "two")
        assert (folder.path / "a" / "b").read_text() == "two"
        modes = [each.stat().st_mode & 0o777 for each in (folder.path, folder.path / "a" / "b")]
        assert modes == [0o700, 0o600]
        remove_leftovers()  # what is alive is nobody's leftover
        assert (folder.path / "a" / "b").exists()
    assert not folder.path.exists()


def test_what_a_dead_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left, other = SHM / f"doxstore-run-{os.getpid()}-1-left", SHM / "doxstore-run-x-other"
    for each in (left, other):
        each.mkdir()
        (each / "key").write_text("value")
    try:
        remove_leftovers()
        assert not left.exists()
        assert other.exists()
    finally:
        (other / "key").unlink()
        other.rmdir()


# --- the agent's folder --------------------------------------------------------------------------


def folder(path: Path, *, mode: int = 0o600, now: float = START) -> AgentFolder:
    return AgentFolder(path, mode=mode, wall=lambda: now)


def write(held: AgentFolder, name: str, value: str) -> bool:
    return held.write(name, value, key_path="a.b", version=1)


def test_a_file_has_its_mode_and_its_folders_let_those_in_who_may_read_it(tmp_path: Path) -> None:
    with folder(tmp_path / "keys", mode=0o640) as held:
        assert write(held, "tls/key", "value")
        assert not write(held, "tls/key", "value")
    made = [tmp_path / "keys", tmp_path / "keys" / "tls", tmp_path / "keys" / "tls" / "key"]
    assert [each.stat().st_mode & 0o777 for each in made] == [0o710, 0o710, 0o640]


def test_what_was_made_is_known_to_the_next_agent_and_no_value_with_it(tmp_path: Path) -> None:
    with folder(tmp_path) as held:
        write(held, "a", "canary-value")
        write(held, "b/c", "canary-value")
        held.save()
    assert "canary-value" not in (tmp_path / ".doxstore-agent.json").read_text()
    (tmp_path / "theirs").write_text("kept")
    with folder(tmp_path) as held:
        assert held.names == ["a", "b/c"]
        held.check(["a"])
        with pytest.raises(ConfigurationError, match="theirs was not made by the agent"):
            held.check(["theirs"])
        assert held.remove("b/c")
        assert not held.remove("theirs")
    assert not (tmp_path / "b").exists()
    assert (tmp_path / "theirs").exists()


def test_what_nobody_vouched_for_is_told(tmp_path: Path) -> None:
    with folder(tmp_path) as held:
        write(held, "a", "value")
        held.save()
    with folder(tmp_path, now=START + 3599) as held:
        assert held.outlived(3600) == []
    with folder(tmp_path, now=START + 3601) as held:
        assert held.outlived(3600) == ["a"]
        held.confirm("a")
        assert held.outlived(3600) == []
    with folder(tmp_path, now=START - 3600) as held:  # written by a clock that was ahead
        assert held.outlived(3600) == ["a"]


def test_a_folder_has_one_agent(tmp_path: Path) -> None:
    with folder(tmp_path), pytest.raises(ConfigurationError, match="Another agent"):
        folder(tmp_path).__enter__()


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match="may be written by others"):
        folder(tmp_path).__enter__()


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", ""])
def test_a_manifest_that_leads_elsewhere_is_not_believed(tmp_path: Path, name: str) -> None:
    entry = '{"key_path": "a.b", "version": 1, "confirmed_at": 1.0}'
    (tmp_path / ".doxstore-agent.json").write_text(f'{{"files": {{"{name}": {entry}}}}}')
    with pytest.raises(ConfigurationError, match="is damaged"):
        folder(tmp_path).__enter__()


def test_no_link_leads_a_file_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "out").symlink_to(tmp_path)
    with folder(tmp_path / "keys") as held, pytest.raises(ConfigurationError, match="is a link"):
        write(held, "out/a", "value")
