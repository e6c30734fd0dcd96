"""The real ``doxstore run``: real children, real signals, a real terminal, a real server."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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

VALUE = "canary-7d1e-value"
KEY = "run_keys.first"
SHM = Path("/dev/shm")  # noqa: S108 - it is what is looked at

PRINT_ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"

# Says each signal that it gets, and ends itself with 5 at SIGTERM.
LISTENS = """
import os, signal, sys, time
def heard(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        os._exit(5)
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), heard)
print("ready", os.getpid(), os.environ.get("FIRST", ""), flush=True)
while True:
    time.sleep(0.05)
"""


class Service:
    """A service with a token, and `run` as that service."""

    def __init__(self, store: RunningStore, name: str, *keys: str) -> None:
        self.store = store
        self.token = store.issue(name, *keys)

    def environment(self, **more: str) -> dict[str, str]:
        return {"KEY_SERVICE_URL": self.store.url, "SERVICE_TOKEN": self.token, **more}

    def run(self, *arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        return run_doxstore("run", *arguments, **self.environment(**more))

    @contextlib.contextmanager
    def running(self, *arguments: str | Path, **options: Any) -> Iterator[Running]:
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        process = subprocess.Popen(
            [DOXSTORE, "run", *arguments],
            stdin=options.pop("stdin", subprocess.DEVNULL),
            text=True,
            env=clean_environment(**self.environment()),
            **options,
        )
        with process:
            try:
                yield Running(process)
            finally:
                process.kill()


class Running:
    """A `run` that goes on, and what it says, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def ready(self) -> int:
        """Wait for a command that `LISTENS`; its process id."""
        said = self.line().split(" ")
        assert said[0] == "ready", (said, self.process.poll())
        return int(said[1])

    def ended(self) -> int:
        return self.process.wait(SECONDS)

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def is_alive(process_id: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return False


def folders_of(process_id: int) -> list[Path]:
    return list(SHM.glob(f"doxstore-run-{process_id}-*"))


@pytest.fixture(autouse=True)
def _hangup() -> Iterator[None]:
    """Who runs the tests may ignore it, as nohup does, and every child would too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def service(shared_store: RunningStore) -> Service:
    shared_store.put(KEY, VALUE)
    return Service(shared_store, "runner", KEY, "run_keys.**")


@pytest.fixture
def watched(store: RunningStore) -> Service:
    store.put(KEY, VALUE)
    store.put("run_keys.second", "second-one")
    return Service(store, "watcher", "run_keys.**")


def python(code: str, *arguments: str) -> list[str]:
    return ["--", sys.executable, "-c", code, *arguments]


# --- what the command gets ----------------------------------------------------------------------


def test_a_command_gets_its_keys_and_nothing_that_speaks_for_the_service(service: Service) -> None:
    done = service.run(
        "--env",
        f"FIRST={KEY}",
        *python(PRINT_ENVIRONMENT),
        ADMIN_TOKEN="a",
        SERVICE_KEY="b",
        SERVICE_IDENTITY_AUDIENCE="c",
        OTHER="kept",
    )
    assert (done.returncode, done.stderr) == (0, "")
    got = json.loads(done.stdout)
    assert got["FIRST"] == VALUE
    assert got["OTHER"] == "kept"
    assert not any(name.startswith(("SERVICE_", "ADMIN_TOKEN")) for name in got)
    assert service.token not in done.stdout


def test_a_map_gives_variables_and_files(service: Service, tmp_path: Path) -> None:
    service.store.put("run_keys.pem", "-----BEGIN-----\n")
    (tmp_path / "keys.yaml").write_text(
        f"env: {{FIRST: {KEY}.production}}\nfiles: {{tls/web.pem: run_keys.pem}}\n"
    )
    code = 'echo "$FIRST"; cd "$KEY_FILES_DIR"; stat -c %a . tls/web.pem; cat tls/web.pem'
    done = service.run("--map", tmp_path / "keys.yaml", "--", "sh", "-c", code)
    assert done.stdout == f"{VALUE}\n700\n600\n-----BEGIN-----\n"


def test_a_pure_environment_has_no_other_variables(service: Service) -> None:
    done = service.run(
        "--pure", "--env", f"FIRST={KEY}", "--", "/usr/bin/env", OTHER="x", LANG="C.UTF-8"
    )
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert {"FIRST", "PATH", "LANG"} <= names <= {"FIRST", "PATH", "HOME", "LANG", "TERM"}


def test_a_variable_that_is_set_is_replaced_only_where_that_was_asked_for(service: Service) -> None:
    refused = service.run("--env", f"FIRST={KEY}", "--", "env", FIRST="ours")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error[bad_map]: FIRST is set already")
    given = service.run("--override", "--env", f"FIRST={KEY}", "--", "env", FIRST="ours")
    assert f"FIRST={VALUE}\n" in given.stdout


def test_input_output_and_open_files_are_the_commands_own(service: Service) -> None:
    read, write = os.pipe()
    with service.running(
        "--env",
        f"FIRST={KEY}",
        "--",
        "bash",
        "-c",
        f"cat; echo err >&2; echo kept >&{write}; exit 3",
        stdin=subprocess.PIPE,
        pass_fds=[write],
    ) as running:
        out, err = running.process.communicate("in\n", timeout=SECONDS)
    os.close(write)
    assert (running.process.returncode, out, err) == (3, "in\n", "err\n")
    assert os.read(read, 10) == b"kept\n"
    os.close(read)


def test_no_value_and_no_token_is_in_a_command_line_or_in_our_environment(service: Service) -> None:
    with service.running("--env", f"FIRST={KEY}", *python(LISTENS, "SIGTERM")) as running:
        child = running.ready()
        for process_id in (running.process.pid, child):
            line = Path(f"/proc/{process_id}/cmdline").read_bytes().decode()
            assert VALUE not in line
            assert service.token not in line
        ours = Path(f"/proc/{child}/environ").read_bytes().decode()
        assert service.token not in ours
        assert f"FIRST={VALUE}" in ours.split("\0")
        assert VALUE not in Path(f"/proc/{running.process.pid}/environ").read_bytes().decode()


def test_the_command_cannot_look_into_our_environment(service: Service) -> None:
    # Not as root, who may look everywhere.
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
    done = subprocess.run(
        [
            *(other if os.geteuid() == 0 else ()),
            *(DOXSTORE, "run", "--files", "--env", f"FIRST={KEY}", "--"),
            *("sh", "-c", "cat /proc/$PPID/environ; env; cat $FIRST"),
        ],
        capture_output=True,
        text=True,
        env=clean_environment(**service.environment(HOME="/nonexistent")),
        timeout=SECONDS * 2,
        check=False,
        cwd="/",
    )
    assert "Permission denied" in done.stderr
    assert service.token not in done.stdout
    assert done.stdout.endswith(VALUE)


# --- how it ends --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 7, 75, 255])
def test_the_exit_code_is_the_commands_own(service: Service, code: int) -> None:
    assert service.run("--env", f"A={KEY}", "--", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("KILL", 137), ("HUP", 129)])
def test_a_command_that_a_signal_ended_says_so(service: Service, name: str, code: int) -> None:
    done = service.run("--env", f"A={KEY}", "--", "sh", "-c", f"kill -{name} $$")
    assert done.returncode == code


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--env", f"A={KEY}"], 2, "error[usage]"),
        (["--", "true"], 2, "error[usage]: Say which keys"),
        (["--env", "A", "--", "true"], 2, "error[bad_map]: --env number 1: takes NAME=key.path"),
        (["--env", f"PATH={KEY}", "--", "true"], 2, "error[unsafe_variable]"),
        (["--env", f"Ld_Preload={KEY}", "--", "true"], 2, "error[unsafe_variable]"),
        (["--map", "/none.yaml", "--", "true"], 2, "error[bad_map]: /none.yaml: cannot be read"),
        (["--env", f"A={KEY}", "--watch", "x", "--", "true"], 2, "error[usage]: --watch takes"),
        (
            ["--env", f"A={KEY}", "--on-revoke", "keep", "--", "true"],
            2,
            "error[usage]: --on-revoke",
        ),
        (["--env", f"A={KEY}", "--watch", "signal:KILL", "--", "true"], 2, "error[usage]: 'KILL'"),
        (["--env", f"A={KEY}", "--watch", "signal:HUP", "--", "true"], 2, "error[usage]: The vari"),
        (["--env", f"A={KEY}", "sh", "-c", "true"], 2, "error[usage]: No such option: -c. The com"),
        (
            ["--on-revoke", "x", "--", "true"],
            2,
            "error[usage]: Invalid value for '--on-revoke': 'x'",
        ),
        (["--env", "A=other.key", "--", "true"], 77, "error[not_authorized]"),
        (["--env", "A=run_keys.none", "--", "true"], 1, "error[key_not_found]: "),
        (["--env", f"A={KEY}", "--service", "other", "--", "true"], 78, "error[service_mismatch]"),
        (["--env", f"A={KEY}", "--", "/etc/passwd"], 126, "error[command_not_runnable]"),
        (["--env", f"A={KEY}", "--", "no-such"], 127, "error[command_not_found]"),
        (["--env", f"A={KEY}", "--", "no-such", "--json"], 127, "error[command_not_found]"),
    ],
)
def test_what_is_wrong_has_an_exit_code_and_one_error(
    service: Service, arguments: list[str], code: int, said: str
) -> None:
    done = service.run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(said)


def test_without_a_token_it_is_a_setting_that_is_missing(service: Service) -> None:
    done = service.run("--env", f"A={KEY}", "--", "true", SERVICE_TOKEN="")
    assert done.returncode == 78
    assert "SERVICE_TOKEN_FILE" in done.stderr


def test_the_token_may_be_in_a_file(service: Service, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{service.token}\n")
    file = str(tmp_path / "token")
    done = service.run("--env", f"A={KEY}", "--", "env", SERVICE_TOKEN="", SERVICE_TOKEN_FILE=file)
    assert f"A={VALUE}\n" in done.stdout
    assert "SERVICE_TOKEN" not in done.stdout


def test_a_store_that_cannot_be_asked_is_75(service: Service) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    done = service.run("--env", f"A={KEY}", "--", "true", KEY_SERVICE_URL=away)
    assert done.returncode == 75
    assert done.stderr.startswith("error[connection_failed]")


def test_a_value_with_a_nul_can_be_a_file_and_no_variable(service: Service) -> None:
    service.store.put("run_keys.nul", "canary\0nul")
    refused = service.run("--env", "A=run_keys.nul", "--", "true")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error[unsafe_variable]: The value for A has a NUL in it")
    assert "canary" not in refused.stderr
    done = service.run("--files", "--env", "A=run_keys.nul", "--", "sh", "-c", "od -c $A | head -1")
    assert r"\0" in done.stdout


# --- signals ------------------------------------------------------------------------------------


def test_sigterm_to_run_reaches_the_command_and_its_code_is_ours(service: Service) -> None:
    with service.running("--env", f"FIRST={KEY}", *python(LISTENS, "SIGTERM")) as running:
        child = running.ready()
        running.process.terminate()
        assert running.line() == "got SIGTERM"
        assert running.ended() == 5
        assert not is_alive(child)


def test_sigterm_ends_a_command_that_does_not_listen(service: Service) -> None:
    with service.running("--env", f"FIRST={KEY}", *python(LISTENS)) as running:
        child = running.ready()
        running.process.terminate()
        assert running.ended() == 143
        assert not is_alive(child)


def test_every_other_signal_goes_on_once(service: Service) -> None:
    names = ["SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT"]
    with service.running("--env", f"FIRST={KEY}", *python(LISTENS, *names, "SIGTERM")) as running:
        running.ready()
        for name in names:
            running.process.send_signal(getattr(signal, name))
            assert running.line() == f"got {name}"
        running.process.terminate()
        assert running.line() == "got SIGTERM"


def test_a_signal_before_the_start_ends_run_itself(service: Service, tmp_path: Path) -> None:
    # A store that takes the connection and says nothing.
    silent = tmp_path / "silent.py"
    silent.write_text(
        "import socket, sys\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "kept = s.accept(); print('asked', flush=True); s.accept()\n"
    )
    port = str(free_port())
    with subprocess.Popen(
        [sys.executable, silent, port], stdout=subprocess.PIPE, text=True
    ) as server:
        time.sleep(0.5)
        environment = clean_environment(
            KEY_SERVICE_URL=f"http://127.0.0.1:{port}", SERVICE_TOKEN=service.token
        )
        with subprocess.Popen(
            [DOXSTORE, "run", "--env", f"A={KEY}", "--", "true"], env=environment
        ) as run:
            assert server.stdout is not None
            assert server.stdout.readline() == "asked\n"
            run.terminate()
            assert run.wait(SECONDS) == 143
        server.kill()


class Terminal:
    """Programs on a terminal of their own; what they print, as it comes."""

    def __init__(self, *command: str | Path, **environment: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(  # noqa: S606 - no shell is the point
                command[0], [str(each) for each in command], clean_environment(**environment)
            )
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def until(self, wanted: str) -> re.Match[str]:
        deadline = time.monotonic() + SECONDS
        while True:
            found = re.search(wanted, self.text)
            if found:
                self.text = self.text[found.end() :]
                return found
            assert time.monotonic() < deadline, (wanted, self.text)
            try:
                self.text += os.read(self.fd, 4096).decode()
            except OSError:
                raise AssertionError((wanted, self.text)) from None

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.fd)
        os.waitpid(self.pid, 0)


def on_terminal(service: Service, script: str) -> Terminal:
    run = shlex.join([str(DOXSTORE), "run", "--env", f"FIRST={KEY}"])
    return Terminal(
        "/bin/bash", "--norc", "-mc", script.replace("RUN", run), **service.environment()
    )


COUNTS = """
import os, signal, sys, time
count = 0
def heard(number, frame):
    global count
    count += 1
signal.signal(signal.SIGINT, heard)
print("ready", os.getppid(), sys.stdin.isatty(), flush=True)
while count == 0:
    time.sleep(0.01)
time.sleep(0.5)
print("counted", count, flush=True)
"""


def test_ctrl_c_is_one_sigint_and_a_sent_one_another(service: Service) -> None:
    command = shlex.join([sys.executable, "-c", COUNTS])
    terminal = on_terminal(service, f"RUN -- {command}; RUN -- {command}; echo ended $?")
    try:
        assert terminal.until(r"ready (\d+) (\w+)")[2] == "True"
        terminal.type("\x03")
        assert terminal.until(r"counted (\d)")[1] == "1"
        run = int(terminal.until(r"ready (\d+)")[1])
        os.kill(run, signal.SIGINT)
        assert terminal.until(r"counted (\d)")[1] == "1"
        terminal.until("ended 0")
    finally:
        terminal.close()


def test_ctrl_z_stops_both_and_fg_lets_both_go_on(service: Service) -> None:
    command = shlex.join([sys.executable, "-c", LISTENS, "SIGTERM"])
    terminal = on_terminal(service, f"RUN -- {command}; echo stopped $?; fg; echo ended $?")
    try:
        child = int(terminal.until(r"ready (\d+)")[1])
        terminal.type("\x1a")
        terminal.until("stopped 148")
        os.kill(child, signal.SIGTERM)
        terminal.until("got SIGTERM")  # only once fg has let it go on
        terminal.until("ended 5")
    finally:
        terminal.close()


def test_the_kernel_ends_the_command_of_a_run_that_was_killed_and_the_next_cleans_up(
    service: Service,
) -> None:
    with service.running("--files", "--env", f"FIRST={KEY}", *python(LISTENS)) as running:
        child = running.ready()
        (folder,) = folders_of(running.process.pid)
        assert (folder / "FIRST").read_text() == VALUE
        running.process.kill()
        running.ended()
        until(lambda: not is_alive(child), "the command outlived run")
        assert folder.exists()
        assert service.run("--env", f"FIRST={KEY}", "--", "true").returncode == 0
        assert not folder.exists()


# --- files --------------------------------------------------------------------------------------


def test_files_are_in_memory_and_gone_at_the_end_however_that_comes(service: Service) -> None:
    code = 'stat -c "%a %A" "$FIRST"; stat -f -c %T "$FIRST"; cat "$FIRST"; echo; echo "$FIRST"'
    done = service.run("--files", "--env", f"FIRST={KEY}", "--", "sh", "-c", code)
    mode, kind, value, path = done.stdout.splitlines()
    assert (mode, kind, value) == ("600 -rw-------", "tmpfs", VALUE)
    assert not Path(path).parent.exists()
    with service.running("--files", "--env", f"FIRST={KEY}", *python(LISTENS)) as running:
        running.ready()
        assert folders_of(running.process.pid)
        running.process.terminate()
        assert running.ended() == 143
        assert not folders_of(running.process.pid)


def test_no_file_stays_where_the_command_could_not_be_started(
    service: Service, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    with service.running("--files", "--env", f"FIRST={KEY}", "--", program) as running:
        assert running.ended() == 126
        assert not folders_of(running.process.pid)
        assert running.errors().startswith("error[command_not_runnable]")


# --- masking ------------------------------------------------------------------------------------


def test_values_are_masked_in_both_outputs_across_pieces(service: Service) -> None:
    code = (
        "import base64, os, sys, time; v = os.environ['FIRST']\n"
        "for out in (sys.stdout, sys.stderr):\n"
        "    out.write('<' + v[:7]); out.flush(); time.sleep(0.4); out.write(v[7:] + '> ')\n"
        "    out.write(base64.b64encode(v.encode()).decode() + ' plain\\n')\n"
    )
    done = service.run("--mask", "--env", f"FIRST={KEY}", *python(code))
    assert (done.returncode, done.stdout, done.stderr) == (0, *["<***> *** plain\n"] * 2)


def test_a_prompt_is_not_held_back(service: Service) -> None:
    code = "printf 'name c'; read x; echo \"got $x\"; exit 4"
    with service.running(
        "--mask", "--env", f"FIRST={KEY}", "--", "sh", "-c", code, stdin=subprocess.PIPE
    ) as running:
        process = running.process
        assert process.stdout is not None
        assert process.stdin is not None
        shown = ""
        while shown != "name c":  # blocks for ever where the last byte is held back
            shown += process.stdout.read(1)
        process.stdin.write("you\n")
        process.stdin.flush()
        assert running.line() == "got you"
        assert running.ended() == 4


def test_a_masked_command_learns_that_nobody_reads_it(service: Service) -> None:
    with service.running("--mask", "--env", f"FIRST={KEY}", "--", "yes") as running:
        assert running.line() == "y"
        assert running.process.stdout is not None
        running.process.stdout.close()
        assert running.ended() == 128 + signal.SIGPIPE


# --- following changes --------------------------------------------------------------------------


def test_a_changed_key_restarts_the_command_with_the_new_value(watched: Service) -> None:
    arguments = ["--env", f"FIRST={KEY}", "--env", "SECOND=run_keys.second"]
    with watched.running("--watch", "restart", *arguments, *python(LISTENS, "SIGTERM")) as running:
        assert running.line().endswith(VALUE)
        watched.store.put(KEY, "new-value")
        watched.store.put("run_keys.second", "new-second")
        assert running.line() == "got SIGTERM"
        assert running.line().endswith("new-value")
        running.process.terminate()
        assert running.line() == "got SIGTERM"
        assert running.ended() == 5
        # The two changes were one restart.
        assert running.errors().count("started again") == 1


def test_a_command_that_does_not_end_in_time_is_killed_for_its_restart(watched: Service) -> None:
    stubborn = "trap '' TERM; echo ready $$ $FIRST; while :; do sleep 0.1; done"
    with watched.running(
        "--watch", "restart", "--grace", "0.5", "--env", f"FIRST={KEY}", "--", "sh", "-c", stubborn
    ) as running:
        first = running.ready()
        watched.store.put(KEY, "new-value")
        assert running.line().endswith("new-value")
        assert not is_alive(first)


def test_a_changed_key_replaces_the_file_and_signals(watched: Service) -> None:
    code = 'trap \'echo "hup $(cat "$FIRST")"\' HUP; echo ready $$; while :; do sleep 0.05; done'
    with watched.running(
        "--files", "--watch", "signal:HUP", "--env", f"FIRST={KEY}", "--", "sh", "-c", code
    ) as running:
        child = running.ready()
        watched.store.put(KEY, "new-value")
        assert running.line() == "hup new-value"
        assert is_alive(child)


def test_a_revoked_key_stops_the_command(watched: Service) -> None:
    with watched.running(
        "--watch", "restart", "--env", f"FIRST={KEY}", *python(LISTENS, "SIGTERM")
    ) as running:
        running.ready()
        revoke(watched.store, KEY)
        assert running.line() == "got SIGTERM"
        assert running.ended() == 1
        said = running.errors()
        assert said.startswith("error[version_revoked]: The command was stopped")
        assert VALUE not in said


def test_a_revoked_key_stops_nothing_where_that_was_asked_for(watched: Service) -> None:
    code = 'echo ready $$; while [ -e "$FIRST" ]; do sleep 0.05; done; echo removed; exec sleep 60'
    arguments = ["--files", "--watch", "signal:HUP", "--on-revoke", "keep"]
    with watched.running(*arguments, "--env", f"FIRST={KEY}", "--", "sh", "-c", code) as running:
        child = running.ready()
        revoke(watched.store, KEY)
        assert running.line() == "removed"
        assert is_alive(child)
        running.process.terminate()
        assert running.ended() == 143
        assert "(--on-revoke keep)" in running.errors()


def test_a_command_outlives_the_store(watched: Service) -> None:
    with watched.running(
        "--watch", "restart", "--env", f"FIRST={KEY}", *python(LISTENS, "SIGUSR1", "SIGTERM")
    ) as running:
        child = running.ready()
        watched.store.kill()
        time.sleep(3)
        running.process.send_signal(signal.SIGUSR1)
        assert running.line() == "got SIGUSR1"
        watched.store.start()
        watched.store.put(KEY, "new-value")
        assert running.line() == "got SIGTERM"
        assert running.line().endswith("new-value")
        assert not is_alive(child)


def test_a_command_that_ends_by_itself_ends_run_while_it_watches(watched: Service) -> None:
    done = watched.run("--watch", "restart", "--env", f"FIRST={KEY}", "--", "sh", "-c", "exit 9")
    assert done.returncode == 9


def revoke(store: RunningStore, key: str) -> None:
    body = {"version": 1, "reason": "compromised"}
    answer = store.request("POST", f"/v1/keys/{key}/revoke", json=body)
    assert answer.status == 200, answer.body
