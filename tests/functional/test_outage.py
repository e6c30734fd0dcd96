"""The store is away: what services are served meanwhile, for how long, and what ends it.

Real servers, and services as processes of their own that talk to them by `KeyClient`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from tests.functional.running import RunningStore, clean_environment
from tests.functional.wire_proxy import WireProxy

CANARY = "canary-of-an-outage"
NAME = "outage-service"
WAIT_SECONDS = 20
MARGIN_SECONDS = 0.5

PROGRAM = """
import asyncio, json, sys, time
from dox_core_store import DoxStoreError, KeyClient

async def answered(client, asked):
    began_at = time.monotonic()
    try:
        if "clear" in asked:
            await client.clear_cache(asked["clear"])
            return {}
        key = await client.get_key(asked["get"], asked["ttl"])
        said = {name: getattr(key, name) for name in ("value", "version", "source", "age_seconds")}
    except DoxStoreError as error:
        said = {"error": error.code}
    return {**said, "seconds": time.monotonic() - began_at}

async def main():
    async with KeyClient("outage-service") as client:
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            several = [answered(client, asked) for _ in range(asked.get("callers", 1))]
            print(json.dumps(await asyncio.gather(*several)), flush=True)

asyncio.run(main())
"""


class ServiceProcess:
    """A service that asks its client for what it is told to."""

    def __init__(self, url: str, log: Path, **environment: str) -> None:
        self._log = log
        with log.open("ab") as written:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                text=True,
                env=clean_environment(KEY_SERVICE_URL=url, **environment),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def get(self, path: str, *, ttl: float = 300) -> dict[str, Any]:
        (said,) = self.tell({"get": path, "ttl": ttl})
        return said

    def gets(self, path: str, callers: int) -> list[dict[str, Any]]:
        """The same, by so many at once."""
        return self.tell({"get": path, "ttl": 300, "callers": callers})

    def tell(self, what: dict[str, Any]) -> list[dict[str, Any]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the service ended:\n{self._log.read_text()}"
        said: list[dict[str, Any]] = json.loads(line)
        return said

    def end(self) -> None:
        """As a service ends that closes its client."""
        self._process.communicate(timeout=WAIT_SECONDS)
        assert self._process.returncode == 0, self._log.read_text()


class Site(NamedTuple):
    """A store with one key, and a folder for a service's outage files."""

    store: RunningStore
    folder: Path
    token: str
    log: Path

    def process(self, *, url: str = "", **environment: str) -> ServiceProcess:
        settings = {
            "SERVICE_TOKEN": self.token,
            "KEY_SERVICE_OUTAGE_DIR": str(self.folder),
            "KEY_SERVICE_TIMEOUT": "1000",
        }
        kept = {**settings, **environment}
        chosen = {name: text for name, text in kept.items() if text}
        return ServiceProcess(url or self.store.url, self.log, **chosen)

    def files(self) -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in self.folder.glob("*.sealed")}

    def fill(self, *paths: str) -> None:
        """Have a process read ``paths`` and end."""
        with self.process() as service:
            for path in paths or ("outage.one",):
                assert service.get(path)["source"] == "service"
            service.end()


@pytest.fixture
def site(store: RunningStore, tmp_path: Path) -> Site:
    return site_of(store, tmp_path)


def site_of(store: RunningStore, tmp_path: Path) -> Site:
    store.put("outage.one", CANARY)
    token = store.issue(NAME, "outage.**")
    return Site(store, tmp_path / "outage", token, tmp_path / "service.log")


def until(what: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.05)


def test_a_new_process_has_its_keys_while_the_store_is_away(site: Site) -> None:
    site.store.put("outage.two", "another")
    site.fill("outage.one.production", "outage.two")
    assert len(site.files()) == 2
    site.store.kill()
    with site.process() as service:
        for spelling in ("outage.one", "outage.one.production"):
            said = service.get(spelling)
            assert (said["value"], said["source"], said["version"]) == (CANARY, "outage", 1)
            assert 0 < said["age_seconds"] < WAIT_SECONDS
        assert service.get("outage.two", ttl=0)["source"] == "outage"
        assert service.get("outage.never_read") | {"seconds": 0} == {
            "error": "connection_failed",
            "seconds": 0,
        }
        site.store.start()
        until(lambda: service.get("outage.one")["source"] != "outage", "the store is back")
        assert service.get("outage.one", ttl=0)["source"] == "service"
        service.end()
    there = b"".join(name.encode() + content for name, content in site.files().items())
    for secret in (CANARY, "outage", "production", site.token):
        assert secret.encode() not in there
    assert CANARY not in site.log.read_text()
    assert "outage.one" not in site.log.read_text()


def test_without_a_folder_a_new_process_has_nothing_and_an_old_one_its_memory(site: Site) -> None:
    with site.process(KEY_SERVICE_OUTAGE_DIR="") as old:
        assert old.get("outage.one")["source"] == "service"
        site.store.kill()
        assert old.get("outage.one", ttl=0)["source"] == "outage"
        with site.process(KEY_SERVICE_OUTAGE_DIR="") as new:
            assert new.get("outage.one")["error"] == "connection_failed"
    assert not site.folder.exists()


def test_after_the_grace_there_is_no_value_of_any_age(
    idle_store: RunningStore, tmp_path: Path
) -> None:
    grace = 6
    idle_store.environment["DOXSTORE_OUTAGE_GRACE_SECONDS"] = str(grace)
    idle_store.start()
    site = site_of(idle_store, tmp_path)
    # Both run before the store goes: the new one's start must not use up the grace.
    with site.process() as new, site.process() as old:
        assert new.get("outage.never_read")["error"] == "key_not_found"
        assert old.get("outage.one")["source"] == "service"
        until(lambda: len(site.files()) == 1, "the file is written in the background")
        site.store.kill()
        ends_at = time.monotonic() + grace  # or sooner: it counts from when the value was true
        served = {"old": 0, "new": 0}
        while time.monotonic() < ends_at + MARGIN_SECONDS:
            for name, service in (("old", old), ("new", new)):
                began_at, said = time.monotonic(), service.get("outage.one", ttl=0)
                if "value" in said:
                    assert said["source"] == "outage"
                    assert said["age_seconds"] < grace + MARGIN_SECONDS
                    assert began_at < ends_at
                    served[name] += 1
            time.sleep(0.1)
        for service in (old, new):
            for ttl in (0, 300, 3600):
                assert service.get("outage.one", ttl=ttl)["error"] == "connection_failed"
    assert min(served.values()) > 0
    with site.process() as later:
        assert later.get("outage.one")["error"] == "connection_failed"
    assert site.files() == {}, "what is over is removed at the latest at a start"


def test_a_key_that_is_revoked_meanwhile_is_gone_the_moment_the_store_answers(site: Site) -> None:
    site.store.put("outage.two", "another")
    is_there = threading.Event()
    is_there.set()
    with WireProxy(lambda: site.store.port if is_there.is_set() else None) as wire:
        url = f"http://127.0.0.1:{wire.port}"
        with site.process(url=url) as old:
            assert old.get("outage.one.production")["source"] == "service"
            assert old.get("outage.two")["source"] == "service"
            until(lambda: len(site.files()) == 2, "both are kept")
            is_there.clear()
            wire.swallow()
            assert old.get("outage.one", ttl=0)["source"] == "outage"
            answer = site.store.request(
                "POST", "/v1/keys/outage.one/revoke", json={"version": 1, "reason": "leaked"}
            )
            assert answer.status == 200, answer.body
            with site.process(url=url) as new:
                assert new.get("outage.one")["source"] == "outage"  # nobody can know
                is_there.set()
                until(lambda: "error" in new.get("outage.one"), "the new process is told")
                assert new.get("outage.one")["error"] == "version_revoked"
                until(lambda: len(site.files()) == 1, "its file is gone")
                until(lambda: old.get("outage.one").get("error") is not None, "so is the old one")
                assert new.get("outage.two")["value"] == "another"
                site.store.kill()
                for service in (old, new):
                    assert "error" in service.get("outage.one")
                    assert service.get("outage.two", ttl=0)["value"] == "another"
    with site.process() as later:
        assert later.get("outage.one")["error"] == "connection_failed"
        assert later.get("outage.two")["source"] == "outage"


# --- somebody else answers ----------------------------------------------------------------------


def problem(status: int, code: str, store_id: str) -> bytes:
    return json.dumps(
        {
            "type": f"https://keys.example/docs/errors#{code}",
            "title": "A problem",
            "status": status,
            "detail": "It is so.",
            "code": code,
            "store_id": store_id,
            "request_id": "req_other",
        }
    ).encode()


HTML, PROBLEM, JSON = "text/html", "application/problem+json", "application/json"
PAGE = b"<html><h1>It is so</h1></html>"
REFUSALS = {
    401: "token_invalid",
    403: "not_authorized",
    404: "key_not_found",
    410: "version_revoked",
}
ELSE = "store_" + "f" * 32
Make = Callable[[str], bytes]


def refusal(status: int, store_id: str | None = None) -> Make:
    """Makes a problem document of ``store_id``, or of the store that it is given."""
    return lambda ours: problem(status, REFUSALS[status], ours if store_id is None else store_id)


IMPOSTERS: dict[str, tuple[int, str, Make]] = {
    **{f"{status} html": (status, HTML, lambda _ours: PAGE) for status in (*REFUSALS, 200, 302)},
    **{
        f"{status} of another store": (status, PROBLEM, refusal(status, ELSE))
        for status in REFUSALS
    },
    **{f"{status} as JSON": (status, JSON, refusal(status)) for status in REFUSALS},
    "404 of no store": (404, PROBLEM, refusal(404, "")),
    "403 with 404 inside": (403, PROBLEM, refusal(404)),
    "410 with nothing": (410, PROBLEM, lambda _ours: b"{}"),
    "404 that breaks off": (404, PROBLEM, lambda ours: problem(404, "key_not_found", ours)[:-9]),
    "304": (304, "", lambda _ours: b""),
    "204": (204, "", lambda _ours: b""),
}


class Imposter:
    """Answers everything in a store's place."""

    def __init__(self, port: int) -> None:
        imposter = self
        self.answer: tuple[int, str, bytes] = (404, HTML, PAGE)
        self.asked = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                imposter.asked += 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, kind, body = imposter.answer
                self.send_response(status)
                if kind:
                    self.send_header("Content-Type", kind)
                if status not in (204, 304):
                    self.send_header("Content-Length", str(len(body)))
                if status == 302:
                    self.send_header("Location", "https://login.example/")
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Not on the tests' output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_who_answers_in_the_store_s_place_erases_nothing(site: Site) -> None:
    with site.process() as old:
        assert old.get("outage.one")["source"] == "service"
        until(lambda: len(site.files()) == 1, "it is kept")
        site.store.kill()
        before = site.files()
        with Imposter(site.store.port) as imposter, site.process() as new:
            for name, (status, kind, body) in IMPOSTERS.items():
                imposter.answer = (status, kind, body(site.store.store_id))
                asked = imposter.asked
                for service in (old, new):
                    said = service.get("outage.one", ttl=0)
                    assert (said.get("value"), said.get("source")) == (CANARY, "outage"), name
                    assert service.get("outage.never_read")["error"] in {
                        "not_the_store",
                        "connection_failed",
                    }
                until(lambda asked=asked: imposter.asked > asked, f"{name} was heard")
                assert site.files().keys() == before.keys(), name
        with site.process() as later:
            assert later.get("outage.one")["value"] == CANARY
        site.store.start()
        until(lambda: old.get("outage.one", ttl=0)["source"] == "service", "the store is back")


def test_each_imposter_is_heard_by_a_process_that_has_only_the_file(site: Site) -> None:
    site.fill()
    before = site.files()
    site.store.kill()
    with Imposter(site.store.port) as imposter:
        for status in REFUSALS:
            imposter.answer = (status, HTML, PAGE)
            with site.process() as new:
                said = new.get("outage.one")
                assert (said.get("value"), said.get("source")) == (CANARY, "outage"), status
                assert new.get("outage.never_read")["error"] == "not_the_store"
                new.end()
            assert site.files() == before


# --- the store itself says no -------------------------------------------------------------------


def test_a_refused_token_ends_serving_and_leaves_the_file(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(site.token)
    with site.process(SERVICE_TOKEN="", SERVICE_TOKEN_FILE=str(file)) as service:
        assert service.get("outage.one")["source"] == "service"
        until(lambda: len(site.files()) == 1, "it is kept")
        answer = site.store.request("POST", f"/v1/services/{NAME}/revoke-tokens", json={})
        assert answer.status == 200, answer.body
        until(lambda: service.get("outage.one", ttl=0).get("error") == "token_revoked", "it is 401")
        assert len(site.files()) == 1
        site.store.kill()
        for ttl in (0, 300):
            assert service.get("outage.one", ttl=ttl)["error"] == "connection_failed"
        assert len(site.files()) == 1
        site.store.start()
        file.write_text(site.store.issue(NAME))
        until(lambda: "value" in service.get("outage.one"), "the new token is taken")
        site.store.kill()
        assert service.get("outage.one", ttl=0)["source"] == "outage"


def test_a_grant_that_is_taken_away_ends_the_file(site: Site) -> None:
    site.fill("outage.one.production")
    assert len(site.files()) == 1
    found = site.store.request("GET", f"/v1/grants?service_name={NAME}").json["items"]
    for grant in found:
        gone = site.store.request("DELETE", f"/v1/grants/{grant['grant_id']}")
        assert gone.status == 204, gone.body
    with site.process() as service:
        assert service.get("outage.one")["error"] == "not_authorized"
        service.end()
    assert site.files() == {}


def test_clearing_the_cache_clears_the_folder(site: Site) -> None:
    site.store.put("outage.two", "another")
    site.fill("outage.one", "outage.two")
    assert len(site.files()) == 2
    with site.process() as service:
        service.tell({"clear": "outage.one"})
        assert len(site.files()) == 1
        service.tell({"clear": None})
        assert site.files() == {}


# --- a store that says nothing ------------------------------------------------------------------


@contextlib.contextmanager
def silence(port: int) -> Iterator[None]:
    """Takes connections, and never answers."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", port), backlog=64) as listener:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for each in taken:
        each.close()


def test_a_silent_store_costs_the_first_callers_the_timeout_and_the_next_ones_nothing(
    site: Site,
) -> None:
    site.fill()
    site.store.kill()
    with silence(site.store.port), site.process(KEY_SERVICE_TIMEOUT="1500") as service:
        first = service.gets("outage.one", callers=20)
        assert {said["source"] for said in first} == {"outage"}
        assert all(1.4 < said["seconds"] < 4 for said in first), "all wait for one and the same"
        next_ones = [service.get("outage.one", ttl=0) for _ in range(50)]
        next_ones += [service.get("outage.never_read") for _ in range(50)]
        assert {said.get("source", said.get("error")) for said in next_ones} == {
            "outage",
            "connection_failed",
        }
        assert max(said["seconds"] for said in next_ones) < 1, "nobody waits any more"
        assert sorted(said["seconds"] for said in next_ones)[50] < 0.05


def test_a_folder_that_others_can_read_is_refused_at_the_start(site: Site) -> None:
    site.folder.mkdir(0o700)
    site.folder.chmod(0o740)
    with site.process() as service, pytest.raises(AssertionError, match="chmod 700"):
        service.get("outage.one")
