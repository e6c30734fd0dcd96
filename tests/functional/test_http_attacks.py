"""HTTP as an attacker sends it: requests in requests, odd targets, torn bodies, bytes without end.

Behind a proxy that reads the bytes in another way, a request hidden in another one would be
somebody else's. So whatever could be read in two ways is refused, or the connection ends with it,
and what was hidden is never done. What is told below the application (400 and 431 without a body)
has neither code nor entry.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable

import pytest
from tests.functional.raw_http import ask, code_of, nothing_changes, recorded, send_raw
from tests.functional.running import RunningStore

KEY = "http_attacks.kept"
VICTIM = "http_attacks.victim"
VALUE = "value-behind-http"
BODY = '{"value": "never"}'
QUIET_SECONDS = 0.3
"""For how long a connection says nothing more before its answers are counted. Only what is asked
wrongly and answered late could be missed; that it was not done is looked up besides."""


class Wire:
    """Requests as text, with the operator's good token wherever ``auth`` stands."""

    def __init__(self, store: RunningStore) -> None:
        self.store = store
        self.auth = f"Host: store\r\nAuthorization: Bearer {store.admin_token}\r\n"
        self.hidden = (
            f"POST /v1/keys/{VICTIM}/revoke HTTP/1.1\r\n{self.auth}Content-Length: 2\r\n\r\n{{}}"
        )
        self.read = f"GET /v1/keys/{KEY} HTTP/1.1\r\n{self.auth}\r\n"

    def put(self, headers: str, body: str) -> str:
        return f"PUT /v1/keys/{KEY} HTTP/1.1\r\n{self.auth}{headers}\r\n{body}"

    def answers(self, request: str) -> tuple[list[tuple[int, str]], bool]:
        """Status and body of each answer on one connection, and whether it was then closed."""
        raw, closed = b"", False
        with socket.create_connection((self.store.host, self.store.port), 10) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(request.encode("latin-1"))
            while not closed:
                connection.settimeout(QUIET_SECONDS if raw else 10)
                try:
                    piece = connection.recv(65_536)
                except TimeoutError:
                    break
                raw, closed = raw + piece, piece == b""
        found = []
        while raw:
            head, _, raw = raw.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            size = int(length[1]) if length else 0
            found.append((int(head.split()[1]), raw[:size].decode()))
            raw = raw[size:]
        return found, closed


def chunked(body: str) -> str:
    return f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def wire(shared_store: RunningStore) -> Wire:
    shared_store.put(KEY, VALUE)
    shared_store.put(VICTIM, VALUE)
    return Wire(shared_store)


Form = Callable[[Wire], str]

REFUSED: dict[str, Form] = {
    "two lengths": lambda w: w.put(
        f"Content-Length: {len(BODY)}\r\nContent-Length: {len(BODY + w.hidden)}\r\n",
        BODY + w.hidden,
    ),
    "a list of lengths": lambda w: w.put(f"Content-Length: {len(BODY)}, {len(BODY)}\r\n", BODY),
    "a length with a sign": lambda w: w.put(f"Content-Length: +{len(BODY)}\r\n", BODY),
    "a negative length": lambda w: w.put("Content-Length: -1\r\n", BODY + w.hidden),
    "a hexadecimal length": lambda w: w.put(f"Content-Length: {len(BODY):#x}\r\n", BODY),
    "a length beyond all numbers": lambda w: w.put(f"Content-Length: {10**30}\r\n", BODY),
    "an unknown coding": lambda w: w.put(
        "Transfer-Encoding: xchunked\r\n", chunked(BODY) + w.hidden
    ),
    "an unknown coding beside a length": lambda w: w.put(
        f"Transfer-Encoding: xchunked\r\nContent-Length: {len(BODY)}\r\n", BODY + w.hidden
    ),
    "identity": lambda w: w.put("Transfer-Encoding: identity\r\n", BODY),
    "chunked and then identity": lambda w: w.put(
        "Transfer-Encoding: chunked, identity\r\n", chunked(BODY) + w.hidden
    ),
    "two codings": lambda w: w.put(
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunked(BODY) + w.hidden
    ),
    "a space before the colon": lambda w: w.put(
        f"Transfer-Encoding : chunked\r\nContent-Length: {len(BODY)}\r\n", BODY + w.hidden
    ),
    "a vertical tab": lambda w: w.put(
        f"Transfer-Encoding: \vchunked\r\nContent-Length: {len(BODY)}\r\n", BODY + w.hidden
    ),
    "a folded coding": lambda w: w.put(
        f"Transfer-Encoding:\r\n chunked\r\nContent-Length: {len(BODY)}\r\n", BODY + w.hidden
    ),
    "a folded header": lambda w: w.put("X-More: a\r\n b\r\nContent-Length: 0\r\n", ""),
    "a header that begins with a space": lambda w: w.read.replace("Host:", " Host:"),
    "a token before a space and a colon": lambda w: w.read.replace("ation:", "ation :"),
    "a header without a colon": lambda w: w.put("X-More\r\nContent-Length: 0\r\n", ""),
    "a bare CR in a header": lambda w: w.put("X-More: a\rX-B: b\r\nContent-Length: 0\r\n", ""),
    "a NUL in a header": lambda w: w.put("X-More: a\0b\r\nContent-Length: 0\r\n", ""),
    "an escape in a header": lambda w: w.put("X-More: a\x1b[2J\r\nContent-Length: 0\r\n", ""),
    "HTTP 0.9": lambda w: w.read.replace(" HTTP/1.1", ""),
    "a target without a slash": lambda w: w.read.replace(" /v1", " v1"),
    "a file as target": lambda w: w.read.replace(" /v1", " file:///v1"),
    "a bare LF in the target": lambda w: w.read.replace(f"{KEY} ", f"{KEY}\n "),
}
"""Ends below the application: 400, no body, and the connection with it."""

TORN: dict[str, str] = {
    "a size with a prefix": f"0x{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n",
    "a size beyond all numbers": f"ffffffffffffffff1\r\n{BODY}\r\n0\r\n\r\n",
    "a negative size": f"-1\r\n{BODY}\r\n0\r\n\r\n",
    "a size that ends with LF": f"{len(BODY):x}\n{BODY}\n0\n\n",
    "a line break in an extension": f'{len(BODY):x};ext="a\nb"\r\n{BODY}\r\n0\r\n\r\n',
    "a chunk longer than told": f"{len(BODY):x}\r\n{BODY}XX0\r\n\r\n",
}
"""Chunks that cannot be read: 400 with our code, and the connection ends."""


@pytest.mark.parametrize("how", REFUSED)
def test_what_can_be_read_in_two_ways_ends_the_connection(wire: Wire, how: str) -> None:
    with nothing_changes(wire.store):
        assert wire.answers(REFUSED[how](wire)) == ([(400, "")], True)


@pytest.mark.parametrize("how", TORN)
def test_a_torn_body_is_the_callers_fault_and_ends_the_connection(wire: Wire, how: str) -> None:
    with nothing_changes(wire.store):
        torn = wire.put("Transfer-Encoding: chunked\r\n", TORN[how] + wire.hidden)
        [(status, body)], closed = wire.answers(torn)
        assert (status, json.loads(body)["code"], closed) == (400, "malformed_json", True)


@pytest.mark.parametrize("first", ["Content-Length", "Transfer-Encoding"])
def test_a_request_with_both_lengths_is_the_last_one_of_its_connection(
    wire: Wire, first: str
) -> None:
    # RFC 9112, 6.3: the coding counts and the connection ends, so a proxy that went by the length
    # can be made to hand over no request of somebody else's.
    body = chunked('{"value": "by its chunks"}')
    both = [f"Content-Length: {len(body + wire.hidden)}", "Transfer-Encoding: chunked"]
    if first == "Transfer-Encoding":
        both = ["Transfer-Encoding: chunked", "Content-Length: 4"]
    request = wire.put("".join(f"{each}\r\n" for each in both), body + wire.hidden)
    answered, closed = wire.answers(request.replace(KEY, "http_attacks.both"))
    assert ([status for status, _ in answered], closed) in (([200], True), ([201], True))
    assert wire.store.get("http_attacks.both").json["value"] == "by its chunks"
    assert wire.store.get(VICTIM).status == 200


def test_what_is_the_body_of_one_request_is_never_the_next_one(wire: Wire) -> None:
    """Whether it was read by anyone or not: refused before it, or of a method that takes none."""
    length = f"Content-Length: {len(wire.hidden)}\r\n"
    bad = wire.put(length, wire.hidden).replace(wire.store.admin_token, "not-a-token", 1)
    got = wire.read.removesuffix("\r\n") + f"{length}\r\n{wire.hidden}"
    chunks = (
        wire.read.removesuffix("\r\n") + f"Transfer-Encoding: chunked\r\n\r\n{chunked(wire.hidden)}"
    )
    lost = wire.read.replace(KEY, "a..b").removesuffix("\r\n") + f"{length}\r\n{wire.hidden}"
    with nothing_changes(wire.store):
        for first, status in ((bad, 401), (got, 200), (chunks, 200), (lost, 400)):
            answered, _closed = wire.answers(first + wire.read)
            assert [told for told, _body in answered] == [status, 200], first
            assert json.loads(answered[1][1])["value"] == VALUE
    assert wire.store.get(VICTIM).status == 200


def test_a_bad_request_among_good_ones_is_answered_in_its_place(wire: Wire) -> None:
    bad = wire.read.replace(KEY, "http_attacks..kept")
    stranger = wire.read.replace(wire.store.admin_token, "not-a-token")
    answered, _closed = wire.answers(wire.read + bad + wire.read + stranger + wire.read)
    assert [status for status, _ in answered] == [200, 400, 200, 401, 200]
    told = [json.loads(body) for _, body in answered]
    assert [each.get("value") for each in told] == [VALUE, None, VALUE, None, VALUE]
    assert [each.get("code") for each in told[1::2]] == ["malformed_path", "token_invalid"]
    ids = [each["request_id"] for each in told[1::2]]
    assert len(set(ids)) == 2
    answered, closed = wire.answers(wire.read + "GARBAGE\r\n\r\n" + wire.read)
    assert ([status for status, _ in answered], closed) == ([200, 400], True)


TARGETS = {
    "*": {"address_not_found"},
    "store:80": {"address_not_found"},
    "http://store": {"address_not_found"},
    "http://store?version=1": {"address_not_found"},
    f"http://store//v1/keys/{KEY}": {"method_not_allowed", "address_not_found"},
    "http://store/v1/keys/http_attacks%2ekept": {"malformed_path"},
    "http://store/v1/keys/../keys/http_attacks.kept": {"malformed_path"},
    "/v1/keys/": {"malformed_path"},
    "/v1/keys/?": {"malformed_path"},
    "/v1/keys/.": {"malformed_path"},
    "/v1/keys/%2e%2e/ledger": {"malformed_path"},
    "/v1/keys/..%2fledger": {"malformed_path"},
    "/v1/keys/..;/ledger": {"malformed_path"},
    "/v1/keys/../ledger": {"malformed_path"},
    "/v1/keys/..\\ledger": {"malformed_path"},
    "/v1/keys/http_attacks%252ekept": {"malformed_path"},
    "/v1/keys/http_attacks%25252ekept": {"malformed_path"},
    "/v1/keys/http_attacks%c0%aekept": {"malformed_path"},
    "/v1/keys/http_attacks.kept%00": {"malformed_path"},
    "/v1/keys/http_attacks.kept%2500": {"malformed_path"},
    "/v1/keys/http_attacks.kept%0d%0aX-More:%20x": {"malformed_path"},
    "/v1/keys/http_attacks%u002ekept": {"malformed_path"},
    "/v1/keys/batch-get/": {"malformed_path"},
    "/v1/keys/batch%2dget": {"malformed_path"},
    f"/v1/keys/{KEY};v=1": {"malformed_path"},
    f"/v1/keys/{KEY}?version=1&version=2": {"invalid_parameter"},
    f"/v1/keys/{KEY}?%76ersion=1": {"invalid_parameter"},
    f"/v1/./keys/{KEY}": {"address_not_found"},
    f"/v1/x/../keys/{KEY}": {"address_not_found"},
    f"/v1\\keys\\{KEY}": {"address_not_found"},
    "/" + "x" * 10_000: {"address_not_found"},
    "/v1/keys/" + "x" * 10_000: {"malformed_path"},
    "/v1/keys/" + "x." * 14_000: {"malformed_path"},
}
"""Targets that lead to no value, however a proxy or a framework would tidy them up."""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: ascii(target)[:40])
def test_a_target_that_would_have_to_be_tidied_up_leads_nowhere(wire: Wire, target: str) -> None:
    with nothing_changes(wire.store):
        answer = ask(wire.store, "GET", target)
        assert code_of(answer) in TARGETS[target]
        assert VALUE.encode() not in answer.body
        if code_of(answer) in {"malformed_path", "invalid_parameter"}:
            (entry,) = recorded(wire.store, answer)
            assert (entry["status"], entry["reason"]) == ("INVALID", code_of(answer))
            assert len(entry["key_path"]) <= 256


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "OPTIONS", "FOO", "get", "QUERY"])
def test_another_method_gets_nothing_and_echoes_nothing(wire: Wire, method: str) -> None:
    with nothing_changes(wire.store):
        for target in (f"/v1/keys/{KEY}", "/v1/keys", "/v1/grants/x", "/v1/health"):
            answer = ask(wire.store, method, target, headers=[("X-Echo", "echo-3f9")])
            assert code_of(answer) == "method_not_allowed"
            assert b"echo-3f9" not in answer.body
            assert wire.store.admin_token.encode() not in answer.body


@pytest.mark.parametrize(
    "header",
    [
        ("X-HTTP-Method-Override", "PUT"),
        ("X-Original-URL", f"/v1/keys/{VICTIM}"),
        ("X-Rewrite-URL", f"/v1/keys/{VICTIM}"),
        ("X-Forwarded-Prefix", "/v1/keys"),
        ("Upgrade", "h2c"),
        ("Upgrade", "websocket"),
    ],
)
def test_no_header_changes_what_was_asked(wire: Wire, header: tuple[str, str]) -> None:
    more = [header, ("Connection", "Upgrade")] if header[0] == "Upgrade" else [header]
    with nothing_changes(wire.store):
        answer = ask(wire.store, "GET", f"/v1/keys/{KEY}", headers=more)
        assert (answer.status, answer.json["key_path"]) == (200, KEY)


def test_headers_without_end_are_cut_off(wire: Wire) -> None:
    many = [(f"X-{number}", "x") for number in range(1_000)]
    long = [("X-Long", "x" * 1_000_000)]
    for headers in (many, long):
        answer = ask(wire.store, "GET", f"/v1/keys/{KEY}", headers=headers)
        assert (answer.status, answer.body) == (431, b"")
    assert send_raw(wire.store, wire.read.replace(KEY, "x" * 1_000_000).encode()).status == 431
    assert wire.store.get(KEY).status == 200


def test_a_batch_of_ten_thousand_paths_is_refused_whole_and_costs_little(wire: Wire) -> None:
    token = wire.store.issue("http-attacks", KEY)
    short, long = ["a.b"] * 10_000, [KEY] * 10_000
    began = time.monotonic()
    for paths, code in ((short, "invalid_field"), (long, "body_too_large")):
        for _ in range(5):
            answer = ask(
                wire.store,
                "POST",
                "/v1/keys/batch-get",
                token=token,
                body=json.dumps({"key_paths": paths}, separators=(",", ":")).encode(),
            )
            assert code_of(answer) == code
            (entry,) = recorded(wire.store, answer)
            assert (entry["status"], entry["service_name"]) == ("INVALID", "http-attacks")
    assert time.monotonic() - began < 10, "ten thousand paths were looked at one by one"
