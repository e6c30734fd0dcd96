"""`doxstore key import` against a real store: all or nothing, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.functional.running import DOXSTORE, RunningStore, clean_environment, run_doxstore

from dox_core_store import KeyClient

PRODUCT_PAGE = Path(__file__).with_name("product_page.yaml")


def run_import(
    store: RunningStore, *arguments: str | Path, url: str = "", stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return run_doxstore(
        *("key", "import", *arguments),
        stdin=stdin,
        KEY_SERVICE_URL=url or store.url,
        ADMIN_TOKEN=store.admin_token,
    )


def imported(store: RunningStore, *arguments: str | Path, stdin: str = "") -> dict[str, Any]:
    done = run_import(store, *arguments, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def stored(store: RunningStore, area: str) -> list[str]:
    """Every key under ``area`` that has a value, as its address without ``area``."""
    found, cursor = [], ""
    while cursor is not None:
        query = f"prefix={area}&limit=500" + (f"&cursor={cursor}" if cursor else "")
        page = store.request("GET", f"/v1/keys?{query}").json
        found += [f"{key['key_path']}.{key['environment']}" for key in page["items"]]
        cursor = page["next_cursor"]
    return [address.removeprefix(f"{area}.") for address in found]


def counts(result: dict[str, Any]) -> tuple[int, int, int]:
    return result["created"], result["replaced"], result["unchanged"]


def many_keys(area: str, count: int) -> str:
    return "".join(f"{area}.k{number}: value-{number}\n" for number in range(count))


@pytest.fixture
def store(shared_store: RunningStore) -> RunningStore:
    """One store for all tests here: each has an `area` of its own in it."""
    return shared_store


@pytest.fixture
def area() -> str:
    return f"area-{secrets.token_hex(6)}"


@contextmanager
def between(store: RunningStore, meddle: Callable[[str], bool]) -> Iterator[str]:
    """An address in front of the store. ``meddle`` is told each path once the store has answered;
    if it says so, the answer is lost."""

    class Forward(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = store.request(
                self.command,
                self.path,
                token=self.headers["Authorization"].removeprefix("Bearer "),
                body=body or None,
            )
            if meddle(self.path):
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name in ("content-type", "x-request-id"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = forward  # noqa: N815 - as http.server calls them

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_product_pages_block_makes_every_path_of_its_code_readable(
    idle_store: RunningStore,
) -> None:
    store = idle_store  # its own: the page's paths are everybody's
    store.start()
    done = run_import(store, PRODUCT_PAGE)
    assert done.returncode == 0, done.stderr
    assert "lifted: service_keys.external_apis becomes external_apis" in done.stdout
    assert "AQ." not in done.stdout + done.stderr
    token = store.issue(
        "new-service-name",
        "service_keys.jules_api.production",
        "database_connections.postgres_main",
        "external_apis.google_services.maps_api",
    )

    async def as_on_the_page() -> list[str]:
        key_client = KeyClient(service_name="new-service-name", service_token=token, url=store.url)
        jules_key = await key_client.get_key("service_keys.jules_api.production")
        db_url = await key_client.get_key("database_connections.postgres_main")
        google_key = await key_client.get_key("external_apis.google_services.maps_api")
        keys = await key_client.get_keys(
            ["service_keys.jules_api.production", "database_connections.postgres_main"]
        )
        assert [key.value for key in keys.values()] == [jules_key.value, db_url.value]
        return [jules_key.value, db_url.value, google_key.value]

    assert asyncio.run(as_on_the_page()) == [
        "AQ.Ab8RN6IjejxlqvM0...",
        "postgresql://...",
        "AIzaSy...",
    ]


def test_a_dry_run_counts_and_stores_nothing(
    store: RunningStore, area: str, tmp_path: Path
) -> None:
    store.put(f"{area}.a", "old")
    store.put(f"{area}.b", "same")
    file = tmp_path / "keys.yaml"
    file.write_text(f"{area}: {{a: new, b: same, c: first}}")
    before = store.get(f"{area}.a").json
    dry = imported(store, file, "--dry-run")
    assert (dry["status"], counts(dry)) == ("aborted", (1, 1, 1))
    assert stored(store, area) == ["a.production", "b.production"]
    assert store.get(f"{area}.a").json == before
    real = imported(store, file, "--reason", "move in")
    assert (real["status"], counts(real)) == ("committed", (1, 1, 1))
    assert store.get(f"{area}.a").json["value"] == "new"
    assert stored(store, area) == ["a.production", "b.production", "c.production"]
    assert counts(imported(store, file)) == (0, 0, 3)


def test_a_refusal_in_the_last_slice_leaves_nothing(
    store: RunningStore, area: str, tmp_path: Path
) -> None:
    store.put(f"{area}.Shop.a", "there")  # only the store knows that shop.b collides with it
    file = tmp_path / "keys.yaml"
    file.write_text(many_keys(area, 450) + f"{area}.shop.b: x\n")
    done = run_import(store, file, "--json")
    assert done.returncode == 1
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "case_collision"
    assert "Nothing was imported." in error["detail"]
    assert done.stdout == ""
    assert stored(store, area) == ["Shop.a.production"]
    file.write_text(many_keys(area, 450))  # and the aborted one is in nobody's way
    assert counts(imported(store, file)) == (450, 0, 0)
    assert len(stored(store, area)) == 451


def test_a_bad_line_at_the_end_sends_nothing(
    store: RunningStore, area: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(many_keys(area, 300) + "last: [CANARY]\n")
    done = run_import(store, file)
    assert done.returncode == 1
    assert "error[malformed_import]: Line 301, column 7" in done.stderr
    assert "CANARY" not in done.stdout + done.stderr
    assert stored(store, area) == []


def test_a_key_that_changes_meanwhile_is_not_overwritten(
    store: RunningStore, area: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(many_keys(area, 250))

    def change(path: str) -> bool:
        if path.endswith("/entries"):
            store.put(f"{area}.k0", "somebody else's")
        return False

    with between(store, change) as url:
        done = run_import(store, file, url=url)
    assert done.returncode == 1
    assert "error[version_conflict]" in done.stderr
    assert "Nothing was imported." in done.stderr
    assert stored(store, area) == ["k0.production"]
    assert store.get(f"{area}.k0").json["value"] == "somebody else's"


def test_ctrl_c_aborts_the_import(store: RunningStore, area: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(many_keys(area, 1_000))
    running: list[subprocess.Popen[str]] = []
    slices: list[str] = []

    def interrupt(path: str) -> bool:
        if path.endswith("/entries"):
            slices.append(path)
            if len(slices) == 2:
                running[0].send_signal(signal.SIGINT)
        return False

    with between(store, interrupt) as url:
        process = subprocess.Popen(
            [DOXSTORE, "key", "import", file],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(KEY_SERVICE_URL=url, ADMIN_TOKEN=store.admin_token),
        )
        running.append(process)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Nothing was imported." in told
    assert len(slices) < 5
    assert stored(store, area) == []
    file.write_text(many_keys(area, 10))
    assert counts(imported(store, file)) == (10, 0, 0)


@pytest.mark.parametrize("lost", ["/entries", "/commit"])
def test_a_lost_answer_is_asked_for_again(
    store: RunningStore, area: str, tmp_path: Path, lost: str
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(many_keys(area, 450))
    seen: list[str] = []

    def lose_the_first(path: str) -> bool:
        seen.append(path.rpartition("/")[2])
        return path.endswith(lost) and seen.count(lost.strip("/")) == 1

    with between(store, lose_the_first) as url:
        done = run_import(store, file, "--json", url=url)
    assert done.returncode == 0, done.stderr
    assert counts(json.loads(done.stdout)) == (450, 0, 0)
    assert len(stored(store, area)) == 450


def test_an_unknown_outcome_is_called_unknown(
    store: RunningStore, area: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(many_keys(area, 3))
    with between(store, lambda path: path.endswith(("/commit", "/abort"))) as url:
        done = run_import(store, file, url=url)
    assert done.returncode == 75
    assert "is not known" in done.stderr
    assert len(stored(store, area)) == 3  # it did, as the ledger tells


def test_values_arrive_exactly_and_appear_nowhere(
    store: RunningStore, area: str, tmp_path: Path
) -> None:
    canary = secrets.token_hex(8)
    values = {
        "plain": f"{canary} 0123: 'no' #",
        "lines": f"{canary}\r\n\ttab\n\n",
        "wide": f"{canary}-" + "\U0001f511" * 1000,
        "odd": f"{canary}\x00\x1b[31m\x85\u2028",
        "big": canary + "\x01" * (64 * 1024 - 16),  # six times as long in JSON
    }
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({area: values}))
    done = run_import(store, file)
    assert done.returncode == 0, done.stderr
    for name, value in values.items():
        assert store.get(f"{area}.{name}").json["value"] == value
    told = done.stdout + done.stderr + store.log_text() + json.dumps(store.export())
    assert canary not in told


def test_many_large_values_go_in_several_requests(
    store: RunningStore, area: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({f"{area}.k{number}": "\x01" * 65_536 for number in range(60)}))
    assert counts(imported(store, file)) == (60, 0, 0)  # 23 MiB on the wire, 16 a request at most


def test_a_file_comes_from_stdin_too(store: RunningStore, area: str) -> None:
    result = imported(
        store, "-", "--environment", "staging", "--map", f"a={area}.c", stdin="a: x\n"
    )
    assert result["keys"] == [{"key_path": f"{area}.c", "environment": "staging", "line": 1}]
    assert result["notes"] == [{"kind": "mapped", "text": f"a becomes {area}.c"}]
    assert stored(store, area) == ["c.staging"]


def test_a_declared_environment_of_the_store_counts(store: RunningStore, area: str) -> None:
    assert store.request("POST", "/v1/environments", json={"name": f"env-{area}"}).status == 201
    imported(store, "-", stdin=f"{area}.a: {{env-{area}: x, production: y}}\n")
    assert stored(store, area) == [f"a.env-{area}", "a.production"]


def test_a_file_that_cannot_be_read_is_one_clear_error(store: RunningStore) -> None:
    done = run_import(store, "nowhere.yaml")
    assert done.returncode == 1
    assert "error[malformed_import]: nowhere.yaml cannot be read: No such file" in done.stderr
