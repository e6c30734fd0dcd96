"""The real ``doxstore agent``, and the folder that it keeps."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.functional.running import (
    DOXSTORE,
    RunningStore,
    clean_environment,
    free_port,
    run_doxstore,
)

SECONDS = 20.0
"""How long anything may take on a busy machine; nothing waits that long where it works."""

VALUE = "canary-agent-9b1"
KEY = "agent_keys.first"
SECOND = "agent_keys.second"


class Agents:
    """A store, a service of it, and its agents."""

    def __init__(self, store: RunningStore, folder: Path) -> None:
        self.store = store
        self.folder = folder
        store.put(KEY, VALUE)
        store.put(SECOND, "second-value")
        self.token = store.issue("agent", "agent_keys.**")

    def environment(self, **more: str) -> dict[str, str]:
        return {"KEY_SERVICE_URL": self.store.url, "SERVICE_TOKEN": self.token, **more}

    def once(self, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        return run_doxstore(
            "agent", "--dir", self.folder, "--once", *arguments, **self.environment(**more)
        )

    @contextlib.contextmanager
    def running(self, *arguments: str | Path, **more: str) -> Iterator[subprocess.Popen[str]]:
        """An agent that is ready."""
        with subprocess.Popen(
            [DOXSTORE, "agent", "--dir", self.folder, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(**self.environment(**more)),
        ) as process:
            try:
                assert process.stdout is not None
                assert "ready" in (line := process.stdout.readline()), (line, process.poll())
                yield process
            finally:
                process.kill()

    def holds(self, name: str) -> str | None:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / name).read_text()
        return None

    def revoke(self, key: str, version: int = 1) -> None:
        body = {"version": version, "reason": "compromised"}
        answer = self.store.request("POST", f"/v1/keys/{key}/revoke", json=body)
        assert answer.status == 200, answer.body


@pytest.fixture
def agents(store: RunningStore, tmp_path: Path) -> Agents:
    return Agents(store, tmp_path / "keys")


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("agent")


@pytest.fixture
def shared(shared_store: RunningStore, tmp_path: Path, module_folder: Path) -> Agents:
    """For tests that leave the store's keys alone."""
    agents = Agents.__new__(Agents)
    agents.store, agents.folder = shared_store, tmp_path / "keys"
    token = module_folder / "token"
    if not token.exists():
        token.write_text(Agents(shared_store, agents.folder).token)
    agents.token = token.read_text()
    return agents


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    code = process.wait(SECONDS)
    assert process.stderr is not None
    return code, process.stderr.read()


# --- once ---------------------------------------------------------------------------------------


def test_once_writes_the_files_and_ends(shared: Agents, tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(f"env: {{A: {KEY}}}\nfiles: {{sub/second: {SECOND}}}\n")
    done = shared.once("--file", f"first={KEY}", "--map", tmp_path / "keys.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "dir": str(shared.folder),
        "written": ["first", "sub/second"],
        "unchanged": [],
        "removed": [],
        "failed": {},
    }
    assert VALUE not in done.stdout + done.stderr
    assert (shared.holds("first"), shared.holds("sub/second")) == (VALUE, "second-value")
    modes = [each.stat().st_mode & 0o777 for each in (shared.folder, shared.folder / "first")]
    assert modes == [0o700, 0o600]
    held = sorted(each.name for each in shared.folder.iterdir())
    assert held == [".doxstore-agent.json", "first", "sub"]


def test_a_file_that_is_current_is_left_alone_and_one_that_left_the_map_goes(
    shared: Agents,
) -> None:
    both = ["--file", f"first={KEY}", "--file", f"second={SECOND}"]
    assert shared.once(*both).returncode == 0
    before = (shared.folder / "first").stat().st_ino
    (shared.folder / "theirs").write_text("kept")
    done = shared.once("--file", f"first={KEY}", "--json")
    assert json.loads(done.stdout)["unchanged"] == ["first"]
    assert json.loads(done.stdout)["removed"] == ["second"]
    assert (shared.folder / "first").stat().st_ino == before
    assert shared.holds("second") is None
    assert shared.holds("theirs") == "kept"


def test_with_json_what_exec_prints_is_not_on_stdout(shared: Agents) -> None:
    done = shared.once("--file", f"first={KEY}", "--json", "--exec", "echo said")
    assert done.returncode == 0
    assert "said\n" in done.stderr
    assert json.loads(done.stdout)["written"] == ["first"]


def test_once_leaves_the_files_and_so_refuses_clean(shared: Agents) -> None:
    done = shared.once("--file", f"first={KEY}", "--clean")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error[usage]: --clean removes")
    assert not shared.folder.exists()


def test_a_file_is_no_folder_to_keep(shared: Agents) -> None:
    shared.folder.touch()
    done = shared.once("--file", f"first={KEY}")
    assert done.returncode == 78
    assert done.stderr.startswith("error[bad_setting]: ")
    assert "a file is where a folder has to be" in done.stderr


def test_a_file_of_somebody_else_is_never_replaced(shared: Agents) -> None:
    shared.folder.mkdir()
    (shared.folder / "first").write_text("theirs")
    done = shared.once("--file", f"first={KEY}")
    assert done.returncode == 78
    assert "was not made by the agent" in done.stderr
    assert shared.holds("first") == "theirs"


def test_what_can_be_had_is_written_where_something_else_cannot(shared: Agents) -> None:
    done = shared.once("--file", f"first={KEY}", "--file", "none=agent_keys.none", "--json")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["written"] == ["first"]
    assert said["failed"]["none"]["code"] == "key_not_found"
    assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "key_not_found"
    assert shared.holds("first") == VALUE


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "error[bad_map]: No files"),
        (["--file", f"../first={KEY}"], 2, "error[bad_map]: --file number 1: '../first' is no"),
        (["--file", f"first={KEY}", "--mode", "0666"], 2, "error[usage]: --mode takes"),
        (["--file", f"first={KEY}", "--exec", "a 'b"], 2, "error[usage]: --exec takes"),
        (["--file", "first=other.key"], 77, "error[not_authorized]"),
    ],
)
def test_what_is_wrong_has_an_exit_code(
    shared: Agents, arguments: list[str], code: int, said: str
) -> None:
    done = shared.once(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_a_store_that_cannot_be_asked_is_75_and_files_stay_for_their_grace(
    shared: Agents,
) -> None:
    arguments = ["--file", f"first={KEY}"]
    assert shared.once(*arguments).returncode == 0
    away = f"http://127.0.0.1:{free_port()}"
    assert shared.once(*arguments, KEY_SERVICE_URL=away).returncode == 75
    assert shared.holds("first") == VALUE
    manifest = shared.folder / ".doxstore-agent.json"
    told = json.loads(manifest.read_text())
    told["files"]["first"]["confirmed_at"] -= 3700
    manifest.write_text(json.dumps(told))
    assert shared.once(*arguments, KEY_SERVICE_URL=away).returncode == 75
    assert shared.holds("first") is None


def test_a_command_is_run_where_files_changed_and_gets_no_token(
    shared: Agents, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    command = ["--exec", f"sh -c 'env >> {said}; echo end >> {said}'"]
    assert shared.once("--file", f"first={KEY}", *command).returncode == 0
    assert said.read_text().endswith("end\n")
    assert "SERVICE_TOKEN" not in said.read_text()
    assert VALUE not in said.read_text()
    said.unlink()
    assert shared.once("--file", f"first={KEY}", *command).returncode == 0
    assert not said.exists()
    failed = shared.once("--file", f"first={KEY}", "--file", f"b={KEY}", "--exec", "false")
    assert failed.returncode == 1


# --- kept current ---------------------------------------------------------------------------------


def test_a_changed_key_replaces_its_file_as_a_whole(agents: Agents, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with agents.running(
        "--file", f"first={KEY}", "--mode", "0640", "--exec", f"cp keys/first {said}"
    ) as process:
        assert agents.holds("first") == VALUE
        opened = (agents.folder / "first").open()
        agents.store.put(KEY, "new-value")
        until(lambda: agents.holds("first") == "new-value", "the file was not replaced")
        assert opened.read() == VALUE  # whoever had it open has the old one, whole
        opened.close()
        assert (agents.folder / "first").stat().st_mode & 0o777 == 0o640
        process.terminate()
        assert ended(process)[0] == 0
    assert agents.holds("first") == "new-value"


def test_a_revoked_key_takes_its_file_with_it_and_a_new_version_brings_it_back(
    agents: Agents,
) -> None:
    with agents.running("--file", f"first={KEY}", "--file", f"second={SECOND}") as process:
        agents.revoke(KEY)
        until(lambda: agents.holds("first") is None, "the file outlived its key")
        assert agents.holds("second") == "second-value"
        agents.store.put(KEY, "after-it")
        until(lambda: agents.holds("first") == "after-it", "the new version did not come")
        process.terminate()
        code, errors = ended(process)
        assert code == 0
        assert f"{KEY} cannot be had (version_revoked); its files are removed." in errors


def test_a_key_that_may_not_be_read_any_more_takes_its_file_with_it(agents: Agents) -> None:
    with agents.running("--file", f"first={KEY}"):
        (grant,) = agents.store.request("GET", "/v1/grants?service_name=agent").json["items"]
        removed = agents.store.request("DELETE", f"/v1/grants/{grant['grant_id']}?reason=over")
        assert removed.status in (200, 204), removed.body
        until(lambda: agents.holds("first") is None, "the file outlived the grant")


def test_a_token_that_is_refused_removes_nothing_at_once(agents: Agents) -> None:
    with agents.running("--file", f"first={KEY}") as process:
        body = {"reason": "over"}
        ended = agents.store.request("POST", "/v1/services/agent/decommission", json=body)
        assert ended.status == 200, ended.body
        assert process.stderr is not None
        until(lambda: "its files stay" in process.stderr.readline(), "nothing was said")
        assert agents.holds("first") == VALUE


def test_files_outlive_the_store_for_the_grace(agents: Agents) -> None:
    with agents.running("--file", f"first={KEY}"):
        agents.store.kill()
        time.sleep(4)
        assert agents.holds("first") == VALUE
        agents.store.start()
        agents.store.put(KEY, "new-value")
        until(lambda: agents.holds("first") == "new-value", "the agent does not follow any more")


def test_sighup_reads_the_map_again_and_a_wrong_one_changes_nothing(
    agents: Agents, tmp_path: Path
) -> None:
    map_file = tmp_path / "keys.yaml"
    map_file.write_text(f"files: {{first: {KEY}}}\n")
    with agents.running("--map", map_file) as process:
        map_file.write_text("files: {first: [\n")
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        until(lambda: "the map stays as it was" in process.stderr.readline(), "nothing was said")
        assert agents.holds("first") == VALUE
        map_file.write_text(f"files: {{second: {SECOND}}}\n")
        process.send_signal(signal.SIGHUP)
        until(lambda: agents.holds("second") == "second-value", "the map was not read")
        assert agents.holds("first") is None
        agents.store.put(SECOND, "followed")
        until(lambda: agents.holds("second") == "followed", "the new key is not followed")


def test_it_tells_the_service_manager_and_may_clean_up(agents: Agents, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SECONDS)
        with agents.running(
            "--file", f"sub/first={KEY}", "--clean", NOTIFY_SOCKET=str(tmp_path / "notify")
        ) as process:
            assert manager.recv(100) == b"READY=1"
            second = agents.once("--file", f"sub/first={KEY}")
            assert second.returncode == 78
            assert "Another agent" in second.stderr
            process.send_signal(signal.SIGINT)
            assert ended(process)[0] == 130
            assert manager.recv(100) == b"STOPPING=1"
    assert [each.name for each in agents.folder.iterdir()] == [".doxstore-agent.json"]


def test_a_killed_agent_leaves_files_that_the_next_one_keeps(agents: Agents) -> None:
    with agents.running("--file", f"first={KEY}") as process:
        process.kill()
        process.wait(SECONDS)
    agents.store.put(KEY, "new-value")
    with agents.running("--file", f"first={KEY}"):
        assert agents.holds("first") == "new-value"
