"""What others send is written down: in the ledger, its export, the log, on an operator's terminal.

None of it may end a line and begin one of its own, steer a terminal, or turn the direction of text.
A line ends where any reader thinks it does: `str.splitlines` counts U+0085, U+2028 and U+2029.
"""

from __future__ import annotations

import json
import subprocess

import pytest
from tests.functional.raw_http import ask, code_of, send_raw
from tests.functional.running import RunningStore, run_doxstore

KEY = "forged.key"
FORGED = '{"event": "forged", "level": "critical"}'
ENTRY = '{"service_name": "forged", "status": "GRANTED"}'
IN_HEADERS = {
    "a tab": b"\t" + ENTRY.encode(),
    "next line, U+0085": "\u0085".encode() + ENTRY.encode(),
    "next line, a byte": b"\x85" + ENTRY.encode(),
    "line separator": "\u2028".encode() + ENTRY.encode(),
    "control sequence, U+009B": "\u009b2J\u009b31m".encode(),
    "control sequence, a byte": b"\x9b2J\x9b31m",
    "text from right to left": "\u202edetnarg\u202c".encode(),
    "not UTF-8": b"\xff\xfe\xc3\x28",
    "quotes": b'", "status": "GRANTED", "x": "',
}
"""What HTTP lets through in a header's value."""

BELOW = [b"\r\n", b"\n", b"\r", b"\x1b[2J", b"\0", b"\x7f", b"\b\b"]
"""What it does not, or what ends the header there."""

IN_BODIES = [
    f"\n{FORGED}\n",
    f"\r\n{ENTRY}",
    f"\u2028{ENTRY}\u2028",
    f"\u2029{ENTRY}",
    f"\u0085{ENTRY}",
    f"\v{ENTRY}\f",
    "\x1b[2J\x1b[31mred\x1b]0;title\a",
    "\u009b2J\u009b31mred",
    "\u202edetnarg\u202c \u2066x\u2069",
    "\ufeff\u200b\u200d",
    "\x7f\b\b\b",
    "[red]markup[/red]",
]


@pytest.fixture(scope="module")
def forged(shared_store: RunningStore) -> RunningStore:
    """Every place where a stranger, a service or another operator can leave a text."""
    store = shared_store
    store.put(KEY, "value", owner="".join(IN_BODIES)[:200], usage=IN_BODIES[2])
    token = store.issue("forger", KEY)
    for bad in (token, "not-a-token"):
        for sent in IN_HEADERS.values():
            answer = ask(
                store,
                "GET",
                f"/v1/keys/{KEY}",
                token=bad,
                headers=[("User-Agent", sent), ("X-Request-Id", sent)],
            )
            assert answer.status in {200, 401}
            assert answer.request_id.startswith("req_")
        ask(store, "GET", b"/v1/keys/forged.\xe2\x80\xa8" + b"\x9b2J", token=bad)
    paths = [f"forged.{text}" for text in IN_BODIES]
    answer = ask(store, "POST", "/v1/keys/batch-get", token=token, body={"key_paths": paths})
    assert answer.status == 200
    for text in IN_BODIES:
        reason = {"reason": text[:200]}
        answer = ask(store, "POST", "/v1/keys/forged.absent/revoke", body=reason)
        assert answer.status in {400, 404}
        store.put("forged.revoked", "value")
        answer = ask(store, "POST", "/v1/keys/forged.revoked/revoke", body=reason)
        assert answer.status == 200
    return store


def doxstore(store: RunningStore, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = run_doxstore(*arguments, KEY_SERVICE_URL=store.url, ADMIN_TOKEN=store.admin_token)
    assert done.returncode == 0, done.stderr
    return done


def check_is_plain(text: str) -> None:
    strange = {each for each in text if not each.isprintable() and each != "\n"}
    assert strange == set()


@pytest.mark.parametrize("ending", BELOW, ids=repr)
def test_a_header_ends_where_it_ends_or_is_refused(forged: RunningStore, ending: bytes) -> None:
    """A line feed ends a header (RFC 9112, 2.2): what follows is a header, and never an entry."""
    request = (
        f"GET /v1/keys/{KEY} HTTP/1.1\r\nHost: store\r\nConnection: close\r\nAuthorization: Bearer "
        f"{forged.admin_token}\r\nUser-Agent: agent-before"
    ).encode()
    answer = send_raw(forged, request + ending + b"X-Request-Id: after\r\n\r\n")
    if answer.status == 400:
        assert answer.body == b""
        return
    assert answer.status == 200
    page = ask(forged, "GET", f"/v1/ledger?request_id={answer.request_id}").json["items"]
    assert [(e["user_agent"], e["correlation_id"]) for e in page] == [("agent-before", "after")]


def test_no_line_of_the_export_is_anybody_elses(forged: RunningStore) -> None:
    raw = ask(forged, "GET", "/v1/ledger/export").body
    text = raw.decode()
    check_is_plain(text)
    lines = text.splitlines()
    assert len(lines) == raw.count(b"\n")
    entries = [json.loads(line) for line in lines]
    assert all(each["hash"] and each["stream"] for each in entries)
    assert not [each for each in entries if each["service_name"] == "forged"]
    sent = {each["user_agent"] for each in entries}
    assert {text.decode("latin-1").strip() for text in IN_HEADERS.values()} <= sent
    asked = {each["key_path"] for each in entries}
    assert {f"forged.{text}" for text in IN_BODIES} <= asked, "what was sent is all there"
    forged.verified_export()


def test_no_line_of_the_log_is_anybody_elses(forged: RunningStore) -> None:
    first, *lines = forged.log_text().splitlines()
    assert first.startswith("dox-core-store serves ")
    check_is_plain(forged.log_text())
    events = {json.loads(line)["event"] for line in lines}
    assert "forged" not in events


@pytest.mark.parametrize(
    "command",
    [
        ("ledger", "search", "--all"),
        ("ledger", "search", "--all", "--json"),
        ("ledger", "export"),
        ("key", "list"),
        ("key", "list", "--json"),
        ("key", "versions", "forged.revoked"),
    ],
    ids=" ".join,
)
def test_nothing_that_was_sent_steers_a_terminal(
    forged: RunningStore, command: tuple[str, ...]
) -> None:
    done = doxstore(forged, *command)
    check_is_plain(done.stdout)
    check_is_plain(done.stderr)


def test_a_table_has_one_line_for_each_entry(forged: RunningStore) -> None:
    table = doxstore(forged, "ledger", "search", "--all", "--service", "forger").stdout
    entries = doxstore(forged, "ledger", "search", "--all", "--service", "forger", "--json").stdout
    assert len(table.splitlines()) == 1 + len(json.loads(entries))
    assert r"\u2028{" in table
    assert r"\x1b[2J" in table
    assert "[red]markup[/red]" in table


def test_an_error_that_repeats_what_was_asked_is_escaped(forged: RunningStore) -> None:
    done = run_doxstore(
        *("key", "get", f"forged.{''.join(IN_BODIES)}"),
        KEY_SERVICE_URL=forged.url,
        ADMIN_TOKEN=forged.admin_token,
    )
    assert done.returncode != 0
    check_is_plain(done.stdout + done.stderr)
    for text in IN_BODIES:
        answer = ask(forged, "PUT", "/v1/keys/forged.new", body={"value": "x", text: 1})
        assert code_of(answer) == "invalid_field"
        assert answer.body.count(b"\n") == 0
