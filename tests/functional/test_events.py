"""``GET /v1/events`` on real servers: who is told what, how soon, and what nobody misses."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tests.functional.cluster import Cluster, running_cluster, until
from tests.functional.following import EVENTS, Follower, Told
from tests.functional.postgres import Postgres
from tests.functional.raw_http import ask, code_of, recorded
from tests.functional.running import RunningStore
from tests.functional.test_bound_tokens import Held, bound

VALUE = "canary-of-events"
MOST_BEAT_SECONDS = 2.5
"""A beat comes each second; on a machine that does other things too, sometimes later."""


@pytest.fixture
def key() -> str:
    """A key that no other test knows."""
    return f"followed.{secrets.token_hex(8)}"


@pytest.fixture
def reader(shared_store: RunningStore, key: str) -> str:
    """A token of a service of its own, which may read ``key`` and what is below ``below.NAME``."""
    return reader_of(shared_store, key)


def reader_of(store: RunningStore, *patterns: str) -> str:
    name = f"follower-{secrets.token_hex(4)}"
    store.register(name, *patterns)
    return store.issue(name)


def act(store: RunningStore, key: str, what: str, **fields: object) -> None:
    answer = store.request("POST", f"/v1/keys/{key}/{what}", json=fields)
    assert answer.status in (200, 201), answer.body


def follow(store: RunningStore, token: str, last: str | None = None) -> Follower:
    """A stream that has begun: it says that nothing before it is known, and beats at once."""
    follower = Follower(store, token, last)
    assert follower.status == 200
    if last is None:
        first = follower.next()
        assert first is not None
        assert (first.kind, first.data) == ("reset", None)
        assert follower.beat().place == first.place
    return follower


def test_it_begins_with_reset_and_beats(shared_store: RunningStore, reader: str) -> None:
    with follow(shared_store, reader) as follower:
        headers = {name.lower(): text for name, text in follower.response.getheaders()}
        beats = [follower.beat() for _ in range(4)]
    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"
    assert headers["ratelimit"].startswith('"service";r=')
    apart = [after.at - before.at for before, after in pairwise(beats)]
    assert max(apart) < MOST_BEAT_SECONDS, apart
    assert sum(apart) / len(apart) < 1.5, apart
    (opened,) = [
        entry for entry in shared_store.export() if entry["request_id"] == headers["x-request-id"]
    ]
    assert (opened["action"], opened["status"]) == ("FOLLOW", "GRANTED")
    assert opened["key_path"] == "_store.events"
    assert opened["token_id"]


def test_each_kind_of_change_is_told_as_what_it_is(
    shared_store: RunningStore, reader: str, key: str
) -> None:
    store = shared_store
    ids: dict[int, str] = {}

    def put(number: int) -> None:
        ids[number] = store.put(key, f"{VALUE}-{number}")["version_id"]

    later = "2039-01-01T00:00:00Z"
    steps: list[tuple[Callable[[], object], str | None, int | None]] = [
        (lambda: put(1), "changed", 1),
        (lambda: put(2), "changed", 2),
        (lambda: act(store, key, "retire"), "changed", 2),
        (lambda: act(store, key, "rollback", to_version=1), "changed", 3),
        (lambda: act(store, key, "propose", value=f"{VALUE}-4"), None, None),
        (lambda: act(store, key, "promote"), "changed", 4),
        (lambda: act(store, key, "describe", owner="ada"), None, None),
        (lambda: store.request("PUT", f"/v1/keys/{key}/limit", json={"limit": "9/s"}), None, None),
        (lambda: act(store, key, "extend", expires_at=later), "changed", None),
        (lambda: act(store, key, "expire"), "revoked", 4),
        (lambda: act(store, key, "revoke", version=2), "revoked", 2),
        (lambda: act(store, key, "revoke"), "revoked", 4),
        (lambda: act(store, key, "destroy", version=4), "revoked", 4),
    ]
    with follow(store, reader) as follower:
        for step, kind, number in steps:
            began = time.monotonic()
            step()
            if number in (3, 4) and number not in ids:
                ids |= {
                    each["version"]: each["version_id"]
                    for each in store.request("GET", f"/v1/keys/{key}/versions").json["items"]
                }
            if kind is None:
                continue  # what comes next shows that nothing came of it
            told = follower.told()
            assert (told.kind, told.key_path) == (kind, key)
            assert told.data["environment"] == "production"
            assert told.data["version_id"] == (None if number is None else ids[number])
            assert told.at - began < 1
        raw = follower.raw
    assert VALUE.encode() not in raw
    assert set(ids) == {1, 2, 3, 4}


def test_an_import_is_told_as_reset_and_only_once_it_has_an_effect(
    shared_store: RunningStore, reader: str, key: str
) -> None:
    store = shared_store
    store.put(key, "before")

    def import_of(value: str, end: str) -> None:
        opened = store.request("POST", "/v1/imports").json["import_id"]
        entry = {"key_path": key, "environment": "production", "value": value}
        body = {"sequence": 0, "entries": [entry]}
        taken = store.request("POST", f"/v1/imports/{opened}/entries", json=body)
        assert taken.status == 200, taken.body
        assert store.request("POST", f"/v1/imports/{opened}/{end}", json={}).status == 200

    with follow(store, reader) as follower:
        import_of("aborted", "abort")
        store.put(key, "in between")
        assert follower.told().kind == "changed"
        import_of("imported", "commit")
        told = follower.told()
        assert (told.kind, told.data) == ("reset", None)
    assert store.get(key).json["value"] == "imported"


def test_only_keys_that_a_service_may_read_are_told_to_it(
    shared_store: RunningStore, key: str
) -> None:
    store = shared_store
    everything = reader_of(store, f"{key}.**")
    some = reader_of(store, f"{key}.*.open", f"{key}.one")
    store.register("nothing-to-follow")
    nothing = store.issue("nothing-to-follow")
    denied = f"follower-{secrets.token_hex(4)}"
    store.register(denied, f"{key}.**")
    for pattern in (f"{key}.secret", f"{key}.deep.**"):
        grant = {"service_name": denied, "pattern": pattern, "effect": "deny"}
        assert store.request("POST", "/v1/grants", json=grant).status == 201
    paths = [f"{key}.{each}" for each in ("one", "secret", "deep.open", "a.open", "deep.x.y")]
    followers = [follow(store, token) for token in (everything, some, store.issue(denied), nothing)]
    for path in paths:
        store.put(path, "value")
    store.put(f"{key}.one", "in staging", environment="staging")
    store.put(f"{key}.one", "last")
    assert [each.key_path for each in followers[0].until_key(f"{key}.one")] == paths[:1]
    assert [each.key_path for each in followers[0].until_key(f"{key}.one")] == [
        *paths[1:],
        f"{key}.one",
    ]
    seen = [followers[1].told().key_path for _ in range(4)]
    assert seen == [f"{key}.one", f"{key}.deep.open", f"{key}.a.open", f"{key}.one"]
    seen = [followers[2].told().key_path for _ in range(3)]
    assert seen == [f"{key}.one", f"{key}.a.open", f"{key}.one"]
    assert followers[3].beat()
    assert key.encode() not in followers[3].raw
    for follower in followers:
        assert b"staging" not in follower.raw
        follower.close()


def test_a_grant_is_told_as_access_and_holds_from_there(
    shared_store: RunningStore, key: str
) -> None:
    store = shared_store
    name = f"follower-{secrets.token_hex(4)}"
    store.register(name)
    with follow(store, store.issue(name)) as follower:
        store.put(key, "before")
        grant = {"service_name": name, "pattern": key}
        made = store.request("POST", "/v1/grants", json=grant)
        assert made.status == 201, made.body
        told = follower.told()
        assert (told.kind, told.data) == ("access", None)
        store.put(key, "granted")
        assert follower.told().key_path == key
        grant_id = made.json["grant_id"]
        assert store.request("DELETE", f"/v1/grants/{grant_id}").status in (200, 204)
        assert follower.told().kind == "access"
        store.put(key, "after")
        assert store.request("POST", "/v1/grants", json=grant).status == 201
        assert follower.told().kind == "access"
        assert follower.raw.count(key.encode()) == 1


def test_nothing_is_lost_or_told_twice_across_reconnects(
    shared_store: RunningStore, key: str
) -> None:
    store = shared_store
    token = reader_of(store, f"{key}.**")
    paths = [f"{key}.k{number}" for number in range(120)]
    follower = follow(store, token)
    written = threading.Event()

    def write() -> None:
        for path in paths:
            store.put(path, "value")
        written.set()

    writing = threading.Thread(target=write)
    writing.start()
    told: list[Told] = []
    rounds = 0
    while not told or told[-1].key_path != paths[-1]:
        for _ in range(7):
            told.append(follower.told())
            if told[-1].key_path == paths[-1]:
                break
        follower.close()
        rounds += 1
        follower = follow(store, token, follower.last)
    writing.join()
    assert written.is_set()
    assert follower.beat().seq >= told[-1].seq
    follower.close()
    assert rounds > 10
    assert [each.key_path for each in told] == paths
    assert sorted({each.seq for each in told}) == [each.seq for each in told]


def test_each_key_that_changed_meanwhile_is_told_once(shared_store: RunningStore, key: str) -> None:
    store = shared_store
    token = reader_of(store, f"{key}.**")
    with follow(store, token) as follower:
        last = follower.last
    for value in ("1", "2", "3"):
        store.put(f"{key}.a", value)
        store.put(f"{key}.b", value)
    act(store, f"{key}.b", "revoke", version=1)
    current = store.put(f"{key}.a", "4")["version_id"]
    with follow(store, token, last) as follower:
        told = [follower.told() for _ in range(3)]
        follower.beat()
    assert [(each.kind, each.key_path) for each in told] == [
        ("changed", f"{key}.b"),
        ("revoked", f"{key}.b"),
        ("changed", f"{key}.a"),
    ]
    assert told[2].data["version_id"] == current


NO_PLACES = ["x", "1", "1-", "-1", "2-1", "0-1", "01-1", "1-01", "1-1e3", "1-999999999"]


@pytest.mark.parametrize(
    "last", ["", *NO_PLACES, "1-" + "9" * 40, "1-1\t2", "1 - 1", "\xff", "a" * 5_000]
)
def test_what_names_no_place_here_begins_anew(
    shared_store: RunningStore, reader: str, last: str
) -> None:
    with contextlib.closing(socket.create_connection((shared_store.host, shared_store.port))) as s:
        head = f"GET {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {reader}\r\n"
        s.sendall(f"{head}Last-Event-ID: {last}\r\n\r\n".encode("latin-1"))
        s.settimeout(10)
        received = b""
        while b"event: beat" not in received:
            received += s.recv(65_536)
    assert b"HTTP/1.1 200" in received
    assert received.count(b"event: reset") == 1


def test_a_stream_ends_with_its_token(shared_store: RunningStore, key: str) -> None:
    store = shared_store
    name = f"follower-{secrets.token_hex(4)}"
    store.register(name, key)
    body = {"service_name": name}
    one, other, third = (store.request("POST", "/tokens", json=body).json for _ in range(3))
    streams = [follow(store, each["token"]) for each in (one, other, third)]
    began = time.monotonic()
    revoked = store.request("POST", f"/v1/tokens/{one['token_id']}/revoke", json={})
    assert revoked.status == 204, revoked.body
    assert streams[0].ends() - began < 1
    assert streams[1].next() is not None
    tokens = f"/v1/services/{name}/revoke-tokens"
    assert store.request("POST", tokens, json={}).status == 200
    assert streams[1].ends() - began < 5
    assert streams[2].ends() - began < 5
    store.put(key, "after")
    again = store.request("POST", "/tokens", json=body).json["token"]
    with follow(store, again) as follower:
        gone = store.request("POST", f"/v1/services/{name}/decommission", json={})
        assert gone.status == 200, gone.body
        follower.ends()
    assert all(key.encode() not in each.raw for each in streams)


def test_a_stream_ends_with_the_key_that_signed_its_token(store: RunningStore) -> None:
    token = store.issue("follower")
    with follow(store, token) as follower:
        body = {"compromised": True, "reason": "leaked"}
        rotated = store.request("POST", "/v1/signing-keys/rotate", json=body)
        assert rotated.status in (200, 201), rotated.body
        follower.ends()


def test_a_token_that_is_bound_to_a_key_follows_with_a_proof(
    shared_store: RunningStore, tmp_path: Path
) -> None:
    shared_store.register("holder", "held.key", "held.other")
    held: Held = bound(shared_store, tmp_path / "service.key")
    shared_store.put("held.key", "value")
    without = ask(shared_store, "GET", EVENTS, token=held.token)
    assert (without.status, code_of(without)) == (401, "proof_needed")
    unasked = held.send("GET", EVENTS, held.proof("GET", EVENTS, None))
    assert (unasked.status, code_of(unasked)) == (401, "nonce_needed")
    nonce = unasked.headers["dpop-nonce"]
    for_other = held.send("GET", EVENTS, held.proof("GET", "/v1/keys/held.key", nonce))
    assert (for_other.status, code_of(for_other)) == (401, "proof_invalid")
    entries = recorded(shared_store, without, unasked, for_other)
    assert {entry["service_name"] for entry in entries} == {"holder"}
    assert {(entry["action"], entry["status"]) for entry in entries} == {("FOLLOW", "DENIED")}
    proof = held.proof("GET", EVENTS, nonce)
    headers = [("Authorization", f"DPoP {held.token}"), ("DPoP", proof)]
    with Follower(shared_store, "", headers=headers) as follower:
        assert follower.status == 200
        assert follower.response.headers["dpop-nonce"]
        assert follower.told().kind == "reset"
        shared_store.put("held.key", "value-2")
        assert follower.told().key_path == "held.key"
    used = held.send("GET", EVENTS, proof)
    assert (used.status, code_of(used)) == (401, "proof_invalid")


def test_whoever_may_not_follow_is_refused_and_recorded(
    shared_store: RunningStore, reader: str
) -> None:
    store = shared_store
    cases = [
        (ask(store, "GET", EVENTS, token=""), "token_missing", "anonymous", "DENIED"),
        (ask(store, "GET", EVENTS, token="x"), "token_invalid", "anonymous", "DENIED"),
        (ask(store, "GET", EVENTS), "not_authorized", f"operator:{store.operator}", "DENIED"),
    ]
    refused = [answer for answer, _, _, _ in cases]
    for answer, code, _, _ in cases:
        assert code_of(answer) == code
    for entry, (_, code, name, status) in zip(recorded(store, *refused), cases, strict=True):
        assert (entry["action"], entry["key_path"]) == ("FOLLOW", "_store.events")
        assert (entry["service_name"], entry["status"]) == (name, status)
        assert entry["reason"] == code
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        answer = ask(store, method, EVENTS, token=reader, body=b"{}")
        assert (answer.status, code_of(answer)) == (405, "method_not_allowed")
        assert recorded(store, answer)[0]["status"] == "INVALID"
    assert ask(store, "HEAD", EVENTS, token=reader).status == 405
    for target, code in (
        (f"{EVENTS}?x=1", "invalid_parameter"),
        (f"{EVENTS}/", "malformed_path"),
        ("/v1/%65vents", "malformed_path"),
        ("/v1//events", "malformed_path"),
    ):
        answer = ask(store, "GET", target, token=reader)
        assert (answer.status, code_of(answer)) == (400, code), target
        assert recorded(store, answer)[0]["service_name"].startswith("follower-")
    twice = [("Authorization", f"Bearer {reader}"), ("Authorization", "Bearer x")]
    assert code_of(ask(store, "GET", EVENTS, token="", headers=twice)) == "token_invalid"


def test_an_opening_is_one_request_of_the_services_limit(
    shared_store: RunningStore, key: str
) -> None:
    store = shared_store
    name = f"follower-{secrets.token_hex(4)}"
    store.register(name, key)
    token = store.issue(name)
    body = {"limit": "2/h"}
    assert store.request("PUT", f"/v1/services/{name}/limit", json=body).status == 200
    with follow(store, token), follow(store, token):
        refused = ask(store, "GET", EVENTS, token=token)
    assert (refused.status, code_of(refused)) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["ratelimit"].startswith('"service";r=0;')
    assert recorded(store, refused)[0]["status"] == "LIMITED"


def test_what_a_follower_sends_after_its_request_changes_nothing(
    shared_store: RunningStore, reader: str, key: str
) -> None:
    body = b"x" * 100_000
    with contextlib.closing(socket.create_connection((shared_store.host, shared_store.port))) as s:
        head = f"GET {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {reader}\r\n"
        s.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        s.settimeout(10)
        received = b""
        while b"event: beat" not in received:
            received += s.recv(65_536)
        shared_store.put(key, "value")
        while b"event: changed" not in received:
            part = s.recv(65_536)
            assert part, received
            received += part


def test_an_end_waits_for_no_stream(store: RunningStore) -> None:
    token = store.issue("follower", "a.b")
    followers = [follow(store, token) for _ in range(50)]
    assert metric(store, "doxstore_event_streams") == 50
    began = time.monotonic()
    assert store.stop() == 0
    assert time.monotonic() - began < 2
    for follower in followers:
        follower.ends(5)
        follower.close()
    assert "Traceback" not in store.log_text()
    assert "internal_error" not in store.log_text()


def test_who_leaves_is_forgotten(store: RunningStore) -> None:
    token = store.issue("follower", "a.b")
    followers = [follow(store, token) for _ in range(5)]
    for follower in followers:
        follower.close()
    until(lambda: metric(store, "doxstore_event_streams") == 0, "nobody follows", 5)


def test_who_comes_back_after_a_crash_misses_nothing(store: RunningStore) -> None:
    token = store.issue("follower", "kept.**")
    follower = follow(store, token)
    store.put("kept.a", "value")
    assert follower.told().key_path == "kept.a"
    store.put("kept.b", "value")
    store.kill()
    with contextlib.suppress(ConnectionResetError):
        follower.ends()
    seen = b"kept.b" in follower.raw
    store.start()
    store.put("kept.c", "value")
    with follow(store, token, follower.last) as again:
        paths = [told.key_path for told in again.until_key("kept.c")]
    assert paths == (["kept.c"] if seen else ["kept.b", "kept.c"])


class SlowReader:
    """Opens a stream and takes nothing from it; its window is as small as can be."""

    def __init__(self, store: RunningStore, token: str) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        self.socket.connect((store.host, store.port))
        head = f"GET {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        self.socket.sendall(head.encode())


def test_a_slow_reader_is_cut_off_and_holds_up_nobody(
    store: RunningStore, capsys: pytest.CaptureFixture[str]
) -> None:
    long = ".".join(["segment" * 8] * 4)
    token = store.issue("follower", "slow.**")
    slow = SlowReader(store, token)
    with follow(store, token) as follower, contextlib.closing(slow.socket):
        until(lambda: metric(store, "doxstore_event_streams") == 2, "both follow", 5)
        slowest, count = 0.0, 0
        while metric(store, "doxstore_event_streams") == 2:
            for _ in range(100):
                count += 1
                path = f"slow.{long}.k{count}"
                began = time.monotonic()
                store.put(path, "value")
                told = follower.told()
                assert told.key_path == path
                slowest = max(slowest, told.at - began)
            assert count < 20_000, "it was never cut off"
        assert follower.beat()
        slow.socket.settimeout(10)
        while slow.socket.recv(65_536):  # what was on its way, and then the end
            pass
    with capsys.disabled():
        print(f"\ncut off after {count} events; the other one had each within {slowest:.3f} s")
    assert slowest < 1
    assert store.is_running
    assert "internal_error" not in store.log_text()


MANY = 1_000


class Listener(asyncio.Protocol):
    """One of many streams: counts beats, and knows when a change was told."""

    def __init__(self, token: str) -> None:
        self._head = f"GET {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        self.beats = 0
        self.changed_at = 0.0
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._head.encode())

    def data_received(self, data: bytes) -> None:
        self.beats += data.count(b"event: beat")
        if b"event: changed" in data:
            self.changed_at = time.monotonic()

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_lost = True


def test_a_rotation_is_told_to_a_thousand_streams_within_a_second(
    store: RunningStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put("many.key", "1")
    tokens = [store.issue(f"follower{number}", "many.*") for number in range(20)]

    async def listen() -> tuple[list[float], int, int]:
        loop = asyncio.get_running_loop()
        listeners = [Listener(tokens[number % len(tokens)]) for number in range(MANY)]
        before = memory(store)
        for start in range(0, MANY, 100):
            some = listeners[start : start + 100]
            async with asyncio.TaskGroup() as group:
                for each in some:
                    group.create_task(
                        loop.create_connection(lambda each=each: each, store.host, store.port)  # type: ignore[misc]
                    )
        async with asyncio.timeout(30):
            while not all(each.beats for each in listeners):  # noqa: ASYNC110 - a thousand of them
                await asyncio.sleep(0.01)
        took = []
        for value in ("2", "3", "4"):
            for each in listeners:
                each.changed_at = 0.0
            began = time.monotonic()
            await asyncio.to_thread(store.put, "many.key", value)
            async with asyncio.timeout(30):
                while not all(each.changed_at for each in listeners):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            took.append(max(each.changed_at for each in listeners) - began)
        after = memory(store)
        assert not any(each.is_lost for each in listeners)
        return took, before, after

    resource.setrlimit(
        resource.RLIMIT_NOFILE, (4_096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    took, before, after = asyncio.run(listen())
    with capsys.disabled():
        last = ", ".join(f"{each * 1000:.0f}" for each in took)
        print(f"\n{MANY} streams: the last was told after {last} ms; {before} -> {after} MiB")
    assert max(took) < 1
    assert after - before < 150


def metric(store: RunningStore, name: str) -> float:
    lines = store.request("GET", "/metrics", token="").body.decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def memory(store: RunningStore) -> int:
    lines = Path(f"/proc/{store.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) // 1024


# --- many nodes -----------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path, database: str) -> Iterator[Cluster]:
    with running_cluster(tmp_path, database, 2) as made:
        yield made


def test_what_one_node_does_the_other_one_tells(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    token = cluster[0].issue("follower", "shared.**")
    here, there = follow(cluster[0], token), follow(cluster[1], token)
    took = []
    for number in range(20):
        began = time.monotonic()
        cluster[0].put(f"shared.k{number}", VALUE)
        told = [here.told(), there.told()]
        took.append(told[1].at - began)
        assert {each.key_path for each in told} == {f"shared.k{number}"}
        assert told[0].place == told[1].place
    revoking = threading.Thread(target=act, args=(cluster[0], "shared.k1", "revoke"))
    began = time.monotonic()
    revoking.start()
    revoked = there.told()
    revoking.join()
    answered = time.monotonic() - began
    with capsys.disabled():
        print(
            f"\non the other node: {max(took) * 1000:.0f} ms at most; a revocation after"
            f" {(revoked.at - began) * 1000:.0f} ms, its caller after {answered * 1000:.0f} ms"
        )
    assert max(took) < 1
    assert (revoked.kind, revoked.key_path) == ("revoked", "shared.k1")
    # Whoever was told more by one node than the other one has applied goes on there all the same.
    assert here.told().kind == "revoked"
    here.close()
    cluster[0].put("shared.last", VALUE)
    with follow(cluster[1], token, here.last) as resumed:
        assert resumed.told().key_path == "shared.last"
    assert there.told().key_path == "shared.last"
    assert VALUE.encode() not in there.raw
    there.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Postgres]:
    """A database server for one test, which may stop it."""
    server = Postgres(tmp_path / "postgres")
    server.init()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def test_nothing_beats_while_the_database_is_away(tmp_path: Path, own: Postgres) -> None:
    with running_cluster(tmp_path, own.create_database(), 2) as cluster:
        stop_and_start(cluster, own)


def stop_and_start(cluster: Cluster, own: Postgres) -> None:
    token = cluster[0].issue("follower", "shared.**")
    with follow(cluster[0], token) as follower:
        follower.beat()
        own.stop()
        stopped = time.monotonic()
        last = stopped
        with contextlib.suppress(TimeoutError):
            while (told := follower.next(4)) is not None:
                assert told.kind == "beat"
                last = told.at
        assert last - stopped < 3.5
        refused = ask(cluster[0], "GET", EVENTS, token=token)
        assert (refused.status, code_of(refused)) == (503, "ledger_unavailable")
        own.start()
    until(lambda: cluster[0].request("GET", "/v1/ready", token="").status == 200, "it is ready")
    with follow(cluster[0], token, follower.last) as again:
        cluster[1].put("shared.after", VALUE)
        assert again.told().key_path == "shared.after"
        assert again.beat()
