"""`doxstore dev`, what it leaves in its folder, and the example platform that it loads."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.functional.running import (
    DOXSTORE,
    EXIT_REFUSED,
    clean_environment,
    free_port,
    run_doxstore,
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "pact_platform"
START_SECONDS = 60
JULES_KEY = "service_keys.jules_api.production"

# The product page's service; around it only the imports and the event loop that it omits.
PRODUCT_PAGE = '''
import asyncio, os
from dox_core_store import KeyClient

class JulesMCPService:
    def __init__(self):
        # Authenticate service with JWT
        self.key_client = KeyClient(
            service_name="jules-mcp",
            service_token=os.getenv("SERVICE_TOKEN")
        )

    async def get_jules_api_key(self):
        """Get Jules API key with automatic caching"""
        key = await self.key_client.get_key(
            key_path="service_keys.jules_api.production",
            cache_ttl=3600  # Cache for 1 hour
        )
        return key.value

async def usage():
    jules_service = JulesMCPService()
    jules_api_key = await jules_service.get_jules_api_key()
    print(jules_api_key)

asyncio.run(usage())
'''


class Dev:
    """``doxstore dev`` in ``folder``, as a developer runs it."""

    def __init__(self, folder: Path, *arguments: str, data: str = ".doxstore") -> None:
        self.folder = folder
        self.data = folder / data
        self.port = free_port()
        self.arguments = [*arguments, *(() if data == ".doxstore" else ("--data", data))]
        self.output = folder / f"{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dev_env(self) -> Path:
        return self.data / "dev.env"

    def begin(self, **environment: str) -> None:
        """Start, and return at once."""
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [DOXSTORE, "dev", "--port", str(self.port), *self.arguments],
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=clean_environment(**environment),
            )

    def start(self, **environment: str) -> str:
        """Start; returns what it said once it serves."""
        self.begin(**environment)
        self.wait_for(lambda: "Stop with" in self.said())
        return self.said()

    def wait_for(self, condition: Any) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            assert self._process is not None
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.01)

    def said(self) -> str:
        return self.output.read_text()

    def is_open(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def end(self, how: signal.Signals = signal.SIGINT) -> int:
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(30)

    def dispose(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)

    def shell(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """``script`` in bash, in the developer's folder, after ``. dev.env``."""
        source = f". {shlex.quote(str(self.dev_env.relative_to(self.folder)))}"
        return subprocess.run(
            ["bash", "-ceu", f"{source}\n{script}"],
            cwd=self.folder,
            env=clean_environment(**environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def done(self, script: str, **environment: str) -> str:
        """What ``script`` prints; it has to succeed."""
        ran = self.shell(script, **environment)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def read(self, key_path: str, token: str = "$SERVICE_TOKEN") -> dict[str, Any]:
        answer = self.done(
            f'curl -sS -H "Authorization: Bearer {token}" "$KEY_SERVICE_URL/v1/keys/{key_path}"'
        )
        return dict(json.loads(answer))


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One that runs, for tests that only look. Its folder has an odd name, and all that is printed
    and exported has to work with it."""
    running = Dev(tmp_path_factory.mktemp("dev"), data="it's $HOME here")
    running.start()
    yield running
    running.dispose()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Dev]:
    """One that does not run yet."""
    made = Dev(tmp_path)
    yield made
    made.dispose()


# --- what a developer does first ----------------------------------------------------------------


def test_the_product_pages_python_prints_the_key(dev: Dev) -> None:
    printed = dev.done(f"{sys.executable} -c {shlex.quote(PRODUCT_PAGE)}")
    assert printed == "AQ.Ab8-EXAMPLE-jules-production-not-a-key\n"


def test_the_product_pages_curl_returns_a_token_that_works(dev: Dev) -> None:
    answer = dev.done(
        'curl -X POST "$KEY_SERVICE_URL/tokens" -H "Authorization: Bearer $ADMIN_TOKEN"'
        """ -d '{"service_name": "dox-gtwy-main", "expires_in": "1y"}'"""
    )
    issued = json.loads(answer)
    assert issued["token_type"] == "Bearer"
    read = dev.read("database_connections.postgres_main", issued["token"])
    assert read["value"].startswith("postgresql://platform:EXAMPLE")
    assert dev.read("external_apis.google_services.maps_api", issued["token"])["version"] == 1


def test_a_start_says_nothing_before_what_to_do(dev: Dev) -> None:
    assert dev.said().startswith("dox-core-store, for development: ")


def test_the_fetch_that_it_prints_works(dev: Dev) -> None:
    command = re.search(r"^ +(curl .*)$", dev.said(), re.MULTILINE)
    assert command is not None
    assert json.loads(dev.done(command[1]))["key_path"] == "service_keys.jules_api"


def test_the_example_service_runs_as_it_is_printed_and_shows_no_value(dev: Dev) -> None:
    command = re.search(r"^ +(\S+ \S+service\.py)$", dev.said(), re.MULTILINE)
    assert command is not None
    denial = "Service jules-mcp not authorized for database_connections.postgres_main"
    assert dev.done(command[1]).splitlines() == [
        f"fetched {JULES_KEY} version 1 from the service (value hidden)",
        f"fetched {JULES_KEY} version 1 from the cache (value hidden)",
        f"refused, as it should be: {denial}",
    ]


def test_the_example_service_says_what_is_missing() -> None:
    ran = subprocess.run(
        [sys.executable, EXAMPLE / "service.py"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("bad_setting: ")
    assert "Traceback" not in ran.stderr


def test_jules_mcp_reads_its_key_and_nothing_else(dev: Dev) -> None:
    listed = json.loads(dev.done(f"{DOXSTORE} key list --json"))
    paths = [f"{key['key_path']}.{key['environment']}" for key in listed]
    assert len(paths) == 12
    allowed = [path for path in paths if "value" in dev.read(path)]
    assert allowed == [JULES_KEY]


def test_operators_commands_work_with_what_dev_env_exports(dev: Dev) -> None:
    assert "dev" in dev.done(f"{DOXSTORE} operator list --json")
    assert "jules-mcp" in dev.done(f"{DOXSTORE} service list --json")


# --- the folder ---------------------------------------------------------------------------------


def test_the_folder_is_private_and_invisible_to_git(dev: Dev) -> None:
    assert dev.data.stat().st_mode & 0o777 == 0o700
    assert (dev.data / ".gitignore").read_text() == "*\n"
    for name in ("dev.env", "root.key", "store.db"):
        assert (dev.data / name).stat().st_mode & 0o777 == 0o600


def test_dev_env_exports_what_it_should_and_nothing_is_left_beside_it(dev: Dev) -> None:
    names = re.findall(r"^export (\w+)=", dev.dev_env.read_text(), re.MULTILINE)
    assert names == ["ADMIN_TOKEN", "DOXSTORE_DATA", "KEY_SERVICE_URL", "SERVICE_TOKEN"]
    assert dev.done('printf %s "$DOXSTORE_DATA"') == str(dev.data)
    assert list(dev.data.glob(".dev.env*")) == []


def test_no_token_and_no_value_is_printed(dev: Dev) -> None:
    assert "eyJ" not in dev.said()
    assert "EXAMPLE" not in dev.said()


def test_it_listens_on_loopback_only(dev: Dev) -> None:
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    addresses = re.findall(rf"\d+: (\w+):{dev.port:04X} \w+:0000 0A", listening)
    assert addresses == ["0100007F"]


# --- starting again -----------------------------------------------------------------------------


def test_a_second_start_goes_on_with_what_the_first_stored(fresh: Dev) -> None:
    fresh.begin()
    fresh.wait_for(fresh.is_open)
    assert fresh.dev_env.exists()  # whoever can connect finds it
    fresh.wait_for(lambda: "12 keys and 2 services loaded" in fresh.said())
    fresh.done(
        f"printf changed | {DOXSTORE} key put {JULES_KEY} --stdin\n"
        f"{DOXSTORE} key revoke database_connections.redis_cache --reason test\n"
        f"{DOXSTORE} service limit jules-mcp 1000/min\n"
    )
    first = fresh.dev_env.read_text()
    earlier = fresh.done('printf %s "$SERVICE_TOKEN"')
    assert fresh.end(signal.SIGTERM) == 0
    # Whatever stands in the shell's environment: a development store has its own settings.
    assert "there from an earlier start" in fresh.start(
        DOXSTORE_KEY_FILE="/nowhere", DOXSTORE_PORT="1", DOXSTORE_UNKNOWN="1"
    )
    assert fresh.dev_env.read_text() != first
    assert fresh.read(JULES_KEY)["value"] == "changed"
    assert fresh.read(JULES_KEY, earlier)["value"] == "changed"
    services = json.loads(fresh.done(f"{DOXSTORE} service list --json"))
    assert {each["service_name"]: each["limit"] for each in services}["jules-mcp"] == "1000/min"
    keys = json.loads(fresh.done(f"{DOXSTORE} key list --json"))
    states = {key["key_path"]: key["state"] for key in keys}
    assert states["database_connections.redis_cache"] == "revoked"
    fresh.done(f"{DOXSTORE} service decommission jules-mcp --reason test --yes")
    assert fresh.end() == 0
    assert "dev.env has no SERVICE_TOKEN" in fresh.start()
    assert "SERVICE_TOKEN=" not in fresh.dev_env.read_text()


def test_a_first_start_that_was_killed_is_made_up_for(fresh: Dev) -> None:
    fresh.begin()
    fresh.wait_for((fresh.data / "store.db").exists)
    fresh.end(signal.SIGKILL)
    fresh.start()
    assert fresh.read(JULES_KEY)["version"] == 1
    assert len(json.loads(fresh.done(f"{DOXSTORE} grant list --json"))) == 5


# --- what it refuses ----------------------------------------------------------------------------


def refused(folder: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [DOXSTORE, "dev", *arguments],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == EXIT_REFUSED, done.stderr
    return done.stderr


def test_a_taken_port_is_one_clear_error_before_anything_is_made(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = refused(tmp_path, "--port", str(port))
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use" in told
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_served_already_keeps_its_dev_env(dev: Dev) -> None:
    before = dev.dev_env.read_text()
    told = refused(dev.folder, "--port", str(free_port()), "--data", dev.data)
    assert "error[store_locked]" in told
    assert dev.dev_env.read_text() == before


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    told = refused(tmp_path, "--port", str(free_port()), "--data", ".")
    assert "thesis.txt" in told
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_store_of_another_kind_gets_nothing_of_the_example(tmp_path: Path) -> None:
    data, key_file = tmp_path / "data", tmp_path / "root.key"
    made = run_doxstore(
        *("init", "--data", data, "--key-file", key_file, "--operator", "alice", "--json")
    )
    assert made.returncode == 0, made.stderr
    key_file.rename(data / "root.key")
    told = refused(tmp_path, "--port", str(free_port()), "--data", data)
    assert "was not made by `doxstore dev`" in told
    assert not (data / "dev.env").exists()


def test_a_folder_without_an_example_is_one_clear_error(tmp_path: Path) -> None:
    told = refused(tmp_path, "--example", tmp_path)
    assert "holds no example platform" in told
    assert list(tmp_path.iterdir()) == []


def test_a_broken_example_leaves_nothing_half_loaded(fresh: Dev, tmp_path: Path) -> None:
    example = tmp_path / "platform"
    example.mkdir()
    (example / "platform.yaml").write_text((EXAMPLE / "platform.yaml").read_text())
    (example / "keys.yaml").write_text("a: [1]\n")
    told = subprocess.run(
        [DOXSTORE, "dev", "--port", str(fresh.port), "--example", example],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 1
    assert "error[malformed_import]: Line 1, column 4" in told.stderr
    assert not fresh.dev_env.exists()
    assert "12 keys and 2 services loaded" in fresh.start()


@pytest.mark.parametrize("pattern", ["sk_live_", r"AKIA(?!IOSFODNN7EXAMPLE)", r"AIza[\w-]{35}"])
def test_no_example_value_has_the_shape_that_scanners_look_for(pattern: str) -> None:
    assert re.search(pattern, (EXAMPLE / "keys.yaml").read_text()) is None
