"""Bad input over real HTTP: one clear error with a code, nothing stored, nothing lost, one entry.

What the HTTP server refuses below the application (control characters and spaces in the request
line) has neither code nor entry; that it is refused is tested all the same.
"""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.functional.raw_http import ask, code_of, nothing_changes, recorded, send_raw
from tests.functional.running import Answer, RunningStore

from dox_core_store.server.bootstrap import LocalStore
from dox_core_store.server.domain.access import Role
from dox_core_store.server.settings import Settings


def shown(given: object) -> str:
    """A test's name for what it sends."""
    return ascii(given)[:60]


KEY = "bad_input.kept"
VALUE = "stays as it is"
ENTRY = {"key_path": "bad_input.never", "environment": "production", "value": "never"}
FAR = "2999-01-01T00:00:00Z"

ON_THE_LINE = [
    "..",
    "../bad_input.kept",
    "bad_input..kept",
    ".bad_input",
    "bad_input.",
    "bad_input.kept.",
    "bad_input/kept",
    "bad_input.kept/",
    "bad_input\\kept",
    "bad_input%2Ekept",
    "bad_input%2ekept",
    "bad_input%2Fkept",
    "bad_input%00kept",
    "bad_input%09kept",
    "bad_input%20kept",
    "%62ad_input.kept",
    "bad_input.kept%",
    "bad_input+kept",
    "bad_input.*",
    "**",
    "bad_input:kept",
    "bad_input;kept",
    "~kept",
    "bad_input.kept\N{CYRILLIC SMALL LETTER A}",
    "b\N{CYRILLIC SMALL LETTER A}d_input.kept",
    "bad_input\N{ONE DOT LEADER}kept",
    "bad_input\N{FULLWIDTH FULL STOP}kept",
    "bad_input.\N{FULLWIDTH LATIN SMALL LETTER K}ept",
    "bad_input.kept\N{ZERO WIDTH SPACE}",
    "bad_input.k\N{LATIN SMALL LETTER E WITH ACUTE}pt",
    "a.b.c.d.e.f.g.h.i",
    "s" * 65,
    f"{'p' * 64}.{'p' * 64}.{'p' * 64}.{'p' * 62}",
    "x" * 8_000,
    "production",
    "Production",
    "bad_input.kept.Production",
    "bad_input.kept.STAGING",
    "bad_input.production.staging",
    "bad_input.staging.staging",
]
"""Malformed paths that can stand in a request line, as text."""

IN_A_BODY = [
    "",
    " ",
    "bad_input\tkept",
    "bad_input.kept\n",
    " bad_input.kept",
    "bad_input kept",
    "\0",
]
"""More of them, which only a body can hold."""

ACTS: list[tuple[str, str, str, Any]] = [
    ("GET", "", "GET", None),
    ("GET", "/versions", "LIST", None),
    ("GET", "/description", "LIST", None),
    ("PUT", "", "PUT", {"value": "never"}),
    ("POST", "/propose", "PROPOSE", {"value": "never"}),
    ("POST", "/promote", "PROMOTE", {}),
    ("POST", "/retire", "RETIRE", {}),
    ("POST", "/expire", "EXPIRE", {}),
    ("POST", "/describe", "DESCRIBE", {"owner": "never"}),
    ("POST", "/rollback", "ROLLBACK", {}),
    ("POST", "/revoke", "REVOKE", {}),
    ("POST", "/destroy", "DESTROY", {}),
    ("POST", "/extend", "EXTEND", {"expires_at": FAR}),
]
"""Every route with a key path: method, what follows the path, the ledger's action, a good body."""


@pytest.fixture(scope="module")
def store(shared_store: RunningStore) -> RunningStore:
    shared_store.put(KEY, "an older value")
    shared_store.put(KEY, VALUE)
    shared_store.put("bad_input.spelled", VALUE)
    shared_store.put("bad_input.Cased.deep", "kept too")
    shared_store.register("bad-input", "bad_input.granted")
    return shared_store


@pytest.fixture(scope="module")
def operators(store: RunningStore) -> Iterator[str]:
    """Tokens of several operators, over and over."""
    here = LocalStore(Settings(data=str(store.data), key_file=str(store.key_file)))
    names = [f"bad-input-{number}" for number in range(10)]
    for name in names:
        here.add_operator(name, list(Role))
    store.put("bad_input.after", "a write: the server now knows of them")
    return itertools.cycle([here.operator_token(name, "1h") for name in names])


@pytest.fixture(autouse=True)
def asking(store: RunningStore, operators: Iterator[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test asks as the next operator: more than a hundred refusals of one kind, to one
    operator, within one second would be folded, and each one's own entry is what is looked for."""
    monkeypatch.setattr(store, "admin_token", next(operators))


@pytest.fixture(scope="module")
def service_token(store: RunningStore) -> str:
    return store.issue("bad-input")


def keep(store: RunningStore) -> None:
    """The key that all tests here aim at still has its value, and no more versions than before."""
    answer = ask(store, "GET", f"/v1/keys/{KEY}")
    assert (answer.status, answer.json["value"], answer.json["version"]) == (200, VALUE, 2)


def refused(store: RunningStore, code: str, status: str, *answers: Answer) -> list[dict[str, Any]]:
    """Every answer is that refusal, and on record as such."""
    assert [code_of(answer) for answer in answers] == [code] * len(answers)
    entries = recorded(store, *answers)
    assert [(e["status"], e["reason"]) for e in entries] == [(status, code)] * len(answers)
    assert all(len(entry["key_path"]) <= 256 for entry in entries)
    return entries


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ON_THE_LINE, ids=shown)
def test_a_malformed_path_is_refused_on_every_route(store: RunningStore, path: str) -> None:
    with nothing_changes(store):
        answers = [
            ask(store, method, f"/v1/keys/{path}{rest}".encode(), body=body)
            for method, rest, _action, body in ACTS
        ]
        entries = refused(store, "malformed_path", "INVALID", *answers)
    by_door = ACTS[0][2]
    assert entries[0]["action"] == by_door
    keep(store)


@pytest.mark.parametrize("path", [*ON_THE_LINE, *IN_A_BODY], ids=shown)
def test_a_malformed_path_in_a_batch_is_that_paths_problem(store: RunningStore, path: str) -> None:
    answer = ask(store, "POST", "/v1/keys/batch-get", body={"key_paths": [path, KEY]})
    assert answer.status == 200
    bad, good = answer.json["keys"]
    assert (bad["asked"], bad["problem"]["code"], "key" in bad) == (path, "malformed_path", False)
    assert (good["asked"], good["key"]["value"]) == (KEY, VALUE)
    entries = by_request(store, answer)
    assert sorted(e["status"] for e in entries) == ["GRANTED", "INVALID"]
    assert all(len(entry["key_path"]) <= 256 for entry in entries)


@pytest.mark.parametrize("path", [*ON_THE_LINE, *IN_A_BODY], ids=shown)
def test_a_malformed_path_in_an_import_stages_nothing(store: RunningStore, path: str) -> None:
    import_id = ask(store, "POST", "/v1/imports").json["import_id"]
    with nothing_changes(store):
        answer = ask(
            store,
            "POST",
            f"/v1/imports/{import_id}/entries",
            body={"sequence": 0, "entries": [ENTRY, {**ENTRY, "key_path": path}]},
        )
        refused(store, "malformed_path", "INVALID", answer)
    assert ask(store, "POST", f"/v1/imports/{import_id}/abort", body={}).status == 200


@pytest.mark.parametrize("raw", [b"\t", b" ", b"\x00", b"\x7f", b"\r\n x"], ids=repr)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_what_no_request_line_may_hold_ends_below_us(
    store: RunningStore, method: str, raw: bytes
) -> None:
    with nothing_changes(store):
        answer = ask(store, method, b"/v1/keys/bad_input" + raw + b"kept", body={"value": "never"})
        assert (answer.status, answer.body) == (400, b"")
    keep(store)


@pytest.mark.parametrize(
    "target",
    [
        "//v1/keys/bad_input.spelled",
        "/v1//keys/bad_input.spelled",
        "/v1/keys//bad_input.spelled",
        "/v1/%6Beys/bad_input.spelled",
        "/./v1/keys/bad_input.spelled",
        "/v1/keys/bad_input.spelled//revoke",
        "/V1/keys/bad_input.spelled",
    ],
)
def test_an_address_has_one_spelling(store: RunningStore, target: str) -> None:
    with nothing_changes(store):
        for method, body in (("GET", None), ("PUT", {"value": "never"}), ("POST", {})):
            answer = ask(store, method, target, body=body)
            assert 400 <= answer.status < 500, (method, answer)
            assert code_of(answer) in {"malformed_path", "address_not_found", "method_not_allowed"}
            assert VALUE.encode() not in answer.body
    assert store.get("bad_input.spelled").json["version"] == 1


@pytest.mark.parametrize(
    "path",
    [
        "_store",
        "_store.checkpoint_key",
        "_store.signing_keys.x",
        "_STORE.x",
        "_Store",
        "_store._store",
    ],
)
def test_what_belongs_to_the_store_is_out_of_reach(
    store: RunningStore, service_token: str, path: str
) -> None:
    with nothing_changes(store):
        for method, rest, _action, body in ACTS[3:]:
            answer = ask(store, method, f"/v1/keys/{path}{rest}", body=body)
            refused(store, "reserved_path", "INVALID", answer)
        for token in (None, service_token):
            refused(
                store,
                "not_authorized",
                "DENIED",
                ask(store, "GET", f"/v1/keys/{path}", token=token),
            )
        for told in ("versions", "description"):
            answer = ask(store, "GET", f"/v1/keys/{path}/{told}")
            refused(store, "key_not_found", "NOT_FOUND", answer)
        for pattern in (path, f"{path}.**", f"{path}.*"):
            body = {"service_name": "bad-input", "pattern": pattern}
            refused(store, "reserved_path", "INVALID", ask(store, "POST", "/v1/grants", body=body))
        import_id = ask(store, "POST", "/v1/imports").json["import_id"]
        slice_ = {"sequence": 0, "entries": [ENTRY, {**ENTRY, "key_path": path}]}
        answer = ask(store, "POST", f"/v1/imports/{import_id}/entries", body=slice_)
        refused(store, "reserved_path", "INVALID", answer)
        assert ask(store, "POST", f"/v1/imports/{import_id}/abort", body={}).status == 200
    assert ask(store, "GET", f"/v1/keys?prefix={path}").json["items"] == []


# --- environments and spelling --------------------------------------------------------------------


def test_contradicting_environments_are_refused(store: RunningStore) -> None:
    with nothing_changes(store):
        for method, rest, _action, body in ACTS[3:]:
            both = {**body, "environment": "staging"}
            answer = ask(store, method, f"/v1/keys/{KEY}.production{rest}", body=both)
            refused(store, "environment_conflict", "INVALID", answer)
        for target in (
            f"/v1/keys/{KEY}.production/versions?environment=staging",
            f"/v1/keys/{KEY}.production/description?environment=staging",
            f"/v1/keys?prefix={KEY}.production&environment=staging",
        ):
            refused(store, "environment_conflict", "INVALID", ask(store, "GET", target))
        grant = {
            "service_name": "bad-input",
            "pattern": f"{KEY}.production",
            "environment": "staging",
        }
        answer = ask(store, "POST", "/v1/grants", body=grant)
        refused(store, "environment_conflict", "INVALID", answer)


@pytest.mark.parametrize("name", ["nope", "Production", "", "_store", "production ", "\0"])
def test_an_undeclared_environment_is_refused(store: RunningStore, name: str) -> None:
    with nothing_changes(store):
        for method, rest, _action, body in ACTS[3:]:
            answer = ask(store, method, f"/v1/keys/{KEY}{rest}", body={**body, "environment": name})
            refused(store, "unknown_environment", "INVALID", answer)
        for target, body in (
            ("/v1/grants", {"service_name": "bad-input", "pattern": KEY, "environment": name}),
            ("/v1/services", {"service_name": "bad-input", "environment": name}),
        ):
            refused(store, "unknown_environment", "INVALID", ask(store, "POST", target, body=body))
    keep(store)


@pytest.mark.parametrize(
    "name", ["", "Prod", "a.b", "_store", "-x", "e" * 33, "a b", "\N{CYRILLIC SMALL LETTER A}"]
)
def test_a_malformed_environment_cannot_be_declared(store: RunningStore, name: str) -> None:
    with nothing_changes(store):
        answer = ask(store, "POST", "/v1/environments", body={"name": name})
        refused(store, "invalid_field", "INVALID", answer)


def test_an_environment_that_a_stored_path_ends_in_cannot_be_declared(store: RunningStore) -> None:
    with nothing_changes(store):
        answer = ask(store, "POST", "/v1/environments", body={"name": "kept"})
        refused(store, "environment_in_use", "FAILED", answer)
        answer = ask(store, "POST", "/v1/environments", body={"name": "staging"})
        refused(store, "already_exists", "FAILED", answer)


@pytest.mark.parametrize(
    "path",
    [
        "bad_input.KEPT",
        "Bad_input.kept",
        "BAD_INPUT.other",
        "bad_input.cased.deep",
        "bad_input.Cased.Deep",
        "bad_input.CASED.other",
        "bad_input.cased",
        "bad_input.kept.staging",
    ],
)
def test_names_that_differ_only_in_case_collide(store: RunningStore, path: str) -> None:
    if path == "bad_input.kept.staging":  # the one that differs in nothing: no collision
        assert store.put(path, "another environment")["environment"] == "staging"
        return
    with nothing_changes(store):
        answer = ask(store, "PUT", f"/v1/keys/{path}", body={"value": "never"})
        refused(store, "case_collision", "FAILED", answer)
        import_id = ask(store, "POST", "/v1/imports").json["import_id"]
        slice_ = {"sequence": 0, "entries": [ENTRY, {**ENTRY, "key_path": path}]}
        answer = ask(store, "POST", f"/v1/imports/{import_id}/entries", body=slice_)
        refused(store, "case_collision", "FAILED", answer)
        assert ask(store, "POST", f"/v1/imports/{import_id}/abort", body={}).status == 200
    keep(store)


# --- values ---------------------------------------------------------------------------------------


def test_a_value_over_64_kib_leaves_the_old_one(store: RunningStore) -> None:
    too_long = ["x" * 65_537, "\N{GRINNING FACE}" * 16_385, "\0" * 65_537]
    with nothing_changes(store):
        answers = [
            ask(store, "PUT", f"/v1/keys/{KEY}", body={"value": value, "if_version": 2})
            for value in too_long
        ]
        refused(store, "value_too_large", "INVALID", *answers)
    keep(store)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "\n",
        "trailing newline\n",
        "\r\nlines\r\n\r\n",
        "\"quotes\" and 'apostrophes' and `ticks` and \\ and \\n and %s {} $X",
        "a\0b\0",
        "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}\N{COMBINING ACUTE ACCENT}e\u0301\u00e9",
        "\N{RIGHT-TO-LEFT OVERRIDE}evil\N{BYTE ORDER MARK}\x7f\x01\x1f\u2028\u2029\ufffd",
        '{"value": "nested"}',
        "</script><!-- %00 ' OR 1=1; --",
        "x" * 65_536,
        "\N{GRINNING FACE}" * 16_384,
        "\0" * 65_536,
    ],
    ids=shown,
)
def test_a_value_comes_back_byte_for_byte(
    store: RunningStore, service_token: str, value: str
) -> None:
    assert store.put("bad_input.granted", value)["key_path"] == "bad_input.granted"
    answer = ask(store, "GET", "/v1/keys/bad_input.granted", token=service_token)
    assert answer.json["value"].encode() == value.encode()
    body = {"key_paths": ["bad_input.granted"]}
    batch = ask(store, "POST", "/v1/keys/batch-get", token=service_token, body=body).json
    assert batch["keys"][0]["key"]["value"].encode() == value.encode()


# --- bodies ---------------------------------------------------------------------------------------

NOT_JSON = [
    b"{",
    b"value=x",
    b"{'value': 'x'}",
    b'{"value": "x",}',
    b'{"value": "x"} trailing',
    b'{"value": "x"}{"value": "y"}',
    b'{"value": NaN}',
    b'\xef\xbb\xbf{"value": "x"}',
    b'{"value": "\xff"}',
    b'{"value": "\xc0\x80"}',
    b'{"value": "\xed\xa0\x80"}',
    b'{"value": "\xf4\x90\x80\x80"}',
    b'{"value": "\xe2\x82"}',
    b'{"value": "\\ud800"}',
    b'{"value": "\\udc00\\ud800"}',
    b'{"value": "\\x41"}',
    b'{"value": "raw\nnewline"}',
    b'{"value": "raw\x00nul"}',
    '{"value": "x"}'.encode("utf-16"),
    '{"value": "x"}'.encode("utf-32"),
    b"\x00",
]
NOT_THE_FORM = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b'"x"',
    b"1",
    b'[{"value": "x"}]',
    b'{"Value": "x"}',
    b'{"value": null}',
    b'{"value": 1}',
    b'{"value": ["x"]}',
    b'{"value": {"value": "x"}}',
    b'{"value": "x", "vaule": "y"}',
    b'{"value": "x", "key_path": "bad_input.other"}',
    b'{"value": "x", "if_version": "2"}',
    b'{"value": "x", "if_version": 2.0}',
    b'{"value": "x", "if_version": true}',
    b'{"value": "x", "if_version": 1e400}',
    b'{"value": "x", "owner": 1}',
    b'{"value": "x", "environment": ["production"]}',
    b'{"value": "x", "expires_at": 4102444800}',
    b'{"value": "x", "expires_at": "tomorrow"}',
    b'{"value": "x", "expires_at": "2999-01-01"}',
    b'{"value": "x", "expires_at": "2999-01-01T00:00:00"}',
    b'{"value": "x", "expires_at": "2000-01-01T00:00:00Z"}',
    b'{"value": "x", "expires_at": "0001-01-01T00:00:00+23:59"}',
    b'{"value": "x", "expires_at": "9999-12-31T23:59:59-23:59"}',
    b'{"value": ' + b"[" * 200_000,
    b'{"reason": ' + b'{"a":' * 200_000,
]


@pytest.mark.parametrize("body", NOT_JSON, ids=shown)
def test_a_body_that_is_not_json_is_refused(store: RunningStore, body: bytes) -> None:
    with nothing_changes(store):
        answers = [
            ask(store, method, target, body=body)
            for method, target in (
                ("PUT", f"/v1/keys/{KEY}"),
                ("POST", "/v1/keys/batch-get"),
                ("POST", f"/v1/keys/{KEY}/revoke"),
                ("POST", "/tokens"),
                ("POST", "/v1/services"),
                ("POST", "/v1/grants"),
            )
        ]
        # JSON that breaks late may fail on its form first; either way it is one clear refusal.
        codes = {code_of(answer) for answer in answers}
        assert codes <= {"malformed_json", "invalid_field"}
        assert code_of(answers[0]) == "malformed_json"
        assert {entry["status"] for entry in recorded(store, *answers)} == {"INVALID"}
    keep(store)


@pytest.mark.parametrize("body", NOT_THE_FORM, ids=shown)
def test_a_body_of_another_form_is_refused(store: RunningStore, body: bytes) -> None:
    with nothing_changes(store):
        answer = ask(store, "PUT", f"/v1/keys/{KEY}", body=body)
        assert code_of(answer) in {"invalid_field", "malformed_json"}
        refused(store, code_of(answer), "INVALID", answer)
    keep(store)


def test_a_refusal_of_a_body_never_repeats_the_value(store: RunningStore) -> None:
    canary = "canary-3kf9s"
    for body in (
        b'{"value": "%s", "more": 1}',
        b'{"value": ["%s"]}',
        b'{"value": "%s", "expires_at": "%s"}',
        b'{"value": "%s", "if_version": "%s"}',
        b'{"value": "%s"',
    ):
        raw = body.replace(b"%s", canary.encode())
        answer = ask(store, "PUT", f"/v1/keys/{KEY}", body=raw)
        assert code_of(answer) in {"invalid_field", "malformed_json"}
        assert canary.encode() not in answer.body
        assert canary not in json.dumps(recorded(store, answer))


def test_a_member_given_twice_is_refused(store: RunningStore) -> None:
    # JSON (RFC 8259, 4) leaves it open, so two readers of one body could believe different values.
    with nothing_changes(store):
        answers = [
            ask(store, method, target, body=body)
            for method, target, body in (
                ("PUT", f"/v1/keys/{KEY}", b'{"value": "first", "value": "last"}'),
                ("PUT", f"/v1/keys/{KEY}", b'{"value": "x", "v\\u0061lue": "y"}'),
                ("POST", "/v1/keys/batch-get", b'{"key_paths": ["x"], "key_paths": ["y"]}'),
                ("POST", "/tokens", b'{"service_name": "a", "service_name": "bad-input"}'),
            )
        ]
        refused(store, "malformed_json", "INVALID", *answers)
    keep(store)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_json_is_json_whatever_it_calls_itself(store: RunningStore, content_type: str) -> None:
    headers = [("Content-Type", content_type)]
    body = {"service_name": "bad-input"}
    answer = ask(store, "POST", "/tokens", body=body, headers=headers)
    assert answer.status == 201


@pytest.mark.parametrize(
    "body",
    [
        {"key_paths": []},
        {"key_paths": [KEY] * 101},
        {"key_paths": KEY},
        {"key_paths": [1]},
        {"key_paths": [None]},
        {"key_paths": [[KEY]]},
        {"key_paths": [KEY], "more": 1},
        {},
        [KEY],
    ],
    ids=shown,
)
def test_a_batch_of_another_form_reveals_nothing(store: RunningStore, body: Any) -> None:
    answer = ask(store, "POST", "/v1/keys/batch-get", body=body)
    refused(store, "invalid_field", "INVALID", answer)
    assert VALUE.encode() not in answer.body


def test_a_body_over_the_size_limit_is_refused(store: RunningStore) -> None:
    with nothing_changes(store):
        large = b'{"value": "' + b"x" * (16 * 1024 * 1024) + b'"}'
        answer = ask(store, "PUT", f"/v1/keys/{KEY}", body=large)
        refused(store, "body_too_large", "INVALID", answer)
        long = json.dumps({"key_paths": ["x" * 70_000]}).encode()
        answer = ask(store, "POST", "/v1/keys/batch-get", body=long)
        refused(store, "body_too_large", "INVALID", answer)
    keep(store)


@pytest.mark.parametrize("target", [f"/v1/keys/{KEY}", "/v1/keys/batch-get"])
def test_a_body_that_ends_early_stores_nothing(store: RunningStore, target: str) -> None:
    method = "POST" if target.endswith("batch-get") else "PUT"
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: store\r\nContent-Length: 1000\r\n"
        f"Authorization: Bearer {store.admin_token}\r\n\r\n"
    )
    with nothing_changes(store):
        with socket.create_connection((store.host, store.port), 10) as connection:
            connection.sendall(head.encode() + b'{"value": "nev')
        assert ask(store, "GET", "/v1/health").status == 200
    keep(store)


def test_a_body_that_never_ends_is_given_up(store: RunningStore) -> None:
    # The one slow test here: the bound is 10 s. Both requests wait at the same time.
    heads = [
        f"{method} {target} HTTP/1.1\r\nHost: store\r\nContent-Length: 1000\r\n"
        f"Authorization: Bearer {store.admin_token}\r\n\r\n"
        for method, target in (("PUT", f"/v1/keys/{KEY}"), ("POST", "/v1/keys/batch-get"))
    ]
    with nothing_changes(store):
        started = time.monotonic()
        connections = [socket.create_connection((store.host, store.port), 20) for _head in heads]
        for connection, head in zip(connections, heads, strict=True):
            connection.sendall(head.encode() + b'{"value": "nev')
        for connection in connections:
            with connection:
                assert connection.recv(65_536).startswith(b"HTTP/1.1 503 ")
        assert 9 < time.monotonic() - started < 15
    assert ask(store, "GET", "/v1/environments").status == 200
    page = ask(store, "GET", "/v1/ledger?status=FAILED&limit=2").json["items"]
    assert [(e["reason"], e["status"]) for e in page] == [("timed_out", "FAILED")] * 2
    assert {e["action"] for e in page} == {"GET", "PUT"}
    keep(store)


# --- versions, numbers, parameters ----------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0, 1, 3, -1, 2**63, 10**30])
def test_a_wrong_if_version_is_told_the_actual_one(store: RunningStore, wrong: int) -> None:
    with nothing_changes(store):
        for rest, method, body in (
            ("", "PUT", {"value": "never"}),
            ("/promote", "POST", {}),
            ("/rollback", "POST", {}),
        ):
            answer = ask(store, method, f"/v1/keys/{KEY}{rest}", body={**body, "if_version": wrong})
            refused(store, "version_conflict", "FAILED", answer)
            assert answer.json["actual_version"] == 2
    keep(store)


@pytest.mark.parametrize("number", [0, -1, 3, 2**31, 2**63, 2**64, 10**30])
def test_a_version_that_is_not_there_is_not_found(store: RunningStore, number: int) -> None:
    with nothing_changes(store):
        for rest, field in (
            ("revoke", "version"),
            ("destroy", "version"),
            ("promote", "version"),
            ("retire", "version"),
            ("rollback", "to_version"),
        ):
            answer = ask(store, "POST", f"/v1/keys/{KEY}/{rest}", body={field: number})
            refused(store, "version_not_found", "NOT_FOUND", answer)
    keep(store)


def test_a_version_of_another_key_is_out_of_reach(store: RunningStore) -> None:
    """Neither by its id, nor by a number that this key does not have."""
    for at in range(1, 4):
        other = ask(store, "POST", "/v1/keys/bad_input.other/propose", body={"value": "other"})
        assert other.json["version"] == at
    with nothing_changes(store):
        for rest, field in (
            ("promote", "version"),
            ("rollback", "to_version"),
            ("retire", "version"),
            ("revoke", "version"),
            ("destroy", "version"),
        ):
            body = {field: other.json["version_id"]}
            answer = ask(store, "POST", f"/v1/keys/{KEY}/{rest}", body=body)
            refused(store, "invalid_field", "INVALID", answer)
            answer = ask(store, "POST", f"/v1/keys/{KEY}/{rest}", body={field: 3})
            refused(store, "version_not_found", "NOT_FOUND", answer)
        answer = ask(store, "POST", "/v1/keys/bad_input.other/promote", body={})
        refused(store, "illegal_transition", "FAILED", answer)
        assert "1, 2, 3" in answer.json["detail"]
    keep(store)


@pytest.mark.parametrize(
    "query",
    [
        "version=0",
        "version=-1",
        "version=x",
        "version=",
        "version",
        "version=1&version=2",
        "version=2&version=2",
        "version=1%30",
        "version=%32",
        "version=%C2%B2",
        "version=9999999999",
        "Version=1",
        "v=1",
        "version=1&more=1",
        "&",
    ],
)
def test_a_read_takes_one_version_and_nothing_else(store: RunningStore, query: str) -> None:
    answer = ask(store, "GET", f"/v1/keys/{KEY}?{query}")
    refused(store, "invalid_parameter", "INVALID", answer)


def parameters() -> list[str]:
    pages = ("/v1/keys", "/v1/services", "/v1/grants", "/v1/ledger")
    limits = ("0", "501", "-1", "", "x", "1.0", "1e2", "%C2%B2", "%D9%A1", "%201", "00000010099")
    bad = [f"{page}?limit={limit}" for page, limit in itertools.product(pages, limits)]
    bad += [
        f"{page}?{query}"
        for page in pages
        for query in ("more=1", "limit=1&limit=1", "limit", "=", "%ff=1", "limit=%ff", "&")
    ]
    bad += [
        f"/v1/keys?cursor={cursor}" for cursor in ("x", "!", "YSBiIGM", "%C2%B2", "a.b", "_w", "")
    ]
    bad += [
        f"/v1/ledger?cursor={cursor}"
        for cursor in ("x", "1", "1.", ".1", "1.x", "-1.0", "1.%C2%B2", "%C2%B2.1", "9" * 41 + ".0")
    ]
    bad += [
        f"/v1/ledger?{edge}={time}"
        for edge in ("since", "until")
        for time in ("", "x", "2025", "0001-01-01T00:00:00%2B05:00", "9999-12-31T23:59:59-05:00")
    ]
    bad += ["/v1/environments?limit=1", f"/v1/keys/{KEY}/versions?version=1"]
    return [*bad, f"/v1/ledger?{'x' * 3_000}=1"]


@pytest.mark.parametrize("target", parameters(), ids=shown)
def test_a_parameter_that_cannot_be_used_is_refused(store: RunningStore, target: str) -> None:
    refused(store, "invalid_parameter", "INVALID", ask(store, "GET", target))


def test_a_ledger_cursor_beyond_the_end_is_no_fault_of_ours(store: RunningStore) -> None:
    answer = ask(store, "GET", f"/v1/ledger?limit=1&cursor={'9' * 30}.0")
    assert answer.status in (200, 400)


def test_parameters_of_writes_are_refused(store: RunningStore, service_token: str) -> None:
    with nothing_changes(store):
        for method, target, body in (
            ("PUT", f"/v1/keys/{KEY}?environment=staging", {"value": "never"}),
            ("POST", f"/v1/keys/{KEY}/revoke?version=1", {}),
            ("POST", "/tokens?service_name=bad-input", {"service_name": "bad-input"}),
            ("POST", "/v1/imports?x=1", {}),
        ):
            answer = ask(store, method, target, body=body)
            refused(store, "invalid_parameter", "INVALID", answer)
        answer = ask(store, "POST", "/v1/keys/batch-get?x=1", body={"key_paths": [KEY]})
        refused(store, "invalid_parameter", "INVALID", answer)


# --- services, grants, tokens, limits, imports ---------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        "UPPER",
        "-dash",
        "under_score",
        "dot.ted",
        "sp ace",
        "a" * 64,
        "b\N{CYRILLIC SMALL LETTER A}d",
        "bad-input\n",
        "operator:admin",
        "anonymous\0",
        "../x",
    ],
    ids=shown,
)
def test_a_malformed_service_name_is_refused(store: RunningStore, name: str) -> None:
    with nothing_changes(store):
        answers = [
            ask(store, "POST", target, body={"service_name": name})
            for target in ("/v1/services", "/tokens", "/v1/tokens")
        ]
        refused(store, "invalid_field", "INVALID", *answers)


def test_what_is_not_there_is_not_found(store: RunningStore) -> None:
    grant = {"service_name": "bad-input-absent", "pattern": "bad_input.x"}
    with nothing_changes(store):
        for code, method, target, body in (
            ("service_not_found", "POST", "/tokens", {"service_name": "bad-input-absent"}),
            ("service_not_found", "POST", "/v1/grants", grant),
            ("service_not_found", "POST", "/v1/grants", {**grant, "service_name": "x" * 100_000}),
            ("service_not_found", "PUT", "/v1/services/absent/limit", {"limit": "1/s"}),
            ("service_not_found", "POST", "/v1/services/absent/revoke-tokens", {}),
            ("service_not_found", "POST", "/v1/services/absent/decommission", {}),
            ("grant_not_found", "DELETE", "/v1/grants/absent", None),
            ("token_not_found", "POST", "/v1/tokens/absent/revoke", {}),
            ("import_not_found", "POST", "/v1/imports/absent/commit", {}),
            ("import_not_found", "POST", "/v1/imports/absent/abort", {}),
            (
                "import_not_found",
                "POST",
                "/v1/imports/absent/entries",
                {"sequence": 0, "entries": []},
            ),
            ("key_not_found", "GET", "/v1/keys/bad_input.absent", None),
            ("key_not_found", "GET", "/v1/keys/bad_input.absent/versions", None),
            ("version_not_found", "GET", f"/v1/keys/{KEY}?version=77", None),
            ("key_not_found", "POST", "/v1/keys/bad_input.absent/revoke", {}),
            ("key_not_found", "POST", "/v1/keys/bad_input.absent/destroy", {}),
            ("key_not_found", "POST", "/v1/keys/bad_input.absent/rollback", {}),
            ("key_not_found", "POST", "/v1/keys/bad_input.absent/extend", {"expires_at": FAR}),
        ):
            refused(store, code, "NOT_FOUND", ask(store, method, target, body=body))


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a*",
        "*a",
        "***",
        "a.**.b",
        "**.a",
        "a b",
        "a\tb",
        "a/b",
        "production",
        "a.Production",
        "a.production.staging",
        "b\N{CYRILLIC SMALL LETTER A}d.*",
        "s" * 65,
        "a.b.c.d.e.f.g.h.i",
        "a.b.c.d.e.f.g.h.**",
        "?",
        "[a]",
        "a|b",
    ],
    ids=shown,
)
def test_a_malformed_pattern_grants_nothing(store: RunningStore, pattern: str) -> None:
    with nothing_changes(store):
        body = {"service_name": "bad-input", "pattern": pattern}
        grant = ask(store, "POST", "/v1/grants", body=body)
        required = {"service_name": "bad-input", "required_keys": ["bad_input.x", pattern]}
        register = ask(store, "POST", "/v1/services", body=required)
        refused(store, "malformed_pattern", "INVALID", grant, register)


@pytest.mark.parametrize("effect", ["", "Allow", "permit", "allow "])
def test_a_grant_allows_or_denies(store: RunningStore, effect: str) -> None:
    body = {"service_name": "bad-input", "pattern": "bad_input.x", "effect": effect}
    with nothing_changes(store):
        refused(store, "invalid_field", "INVALID", ask(store, "POST", "/v1/grants", body=body))


@pytest.mark.parametrize(
    "lifetime",
    [
        "",
        "1",
        "d",
        "0d",
        "-1d",
        "+1d",
        "1.5d",
        "1 d",
        " 1d",
        "1d ",
        "1D",
        "1w",
        "1d1h",
        "401d",
        "2y",
        "999999999d",
        "9" * 400 + "d",
        "\N{ARABIC-INDIC DIGIT ONE}d",
        "1d\n",
    ],
    ids=shown,
)
def test_a_malformed_lifetime_issues_nothing(store: RunningStore, lifetime: str) -> None:
    with nothing_changes(store):
        body = {"service_name": "bad-input", "expires_in": lifetime}
        answer = ask(store, "POST", "/tokens", body=body)
        refused(store, "invalid_field", "INVALID", answer)
        assert b"token" not in answer.body.replace(b"A token lives", b"")


@pytest.mark.parametrize(
    "body",
    [
        *(
            {"limit": limit}
            for limit in (
                "",
                "600",
                "0/min",
                "-1/min",
                "1.5/s",
                "600/day",
                "600/MIN",
                "9999999999/s",
                " 1/s",
                "1/s\n",
                "1/s/s",
            )
        ),
        *({"limit": "5/min", "burst": burst} for burst in (0, -1, 10**10, 10**30, "5", 1.5, True)),
        {"burst": 5},
        {"limit": 600},
    ],
    ids=shown,
)
def test_a_malformed_limit_changes_nothing(store: RunningStore, body: Any) -> None:
    with nothing_changes(store):
        answer = ask(store, "PUT", "/v1/services/bad-input/limit", body=body)
        refused(store, "invalid_field", "INVALID", answer)


@pytest.mark.parametrize(
    ("code", "slice_"),
    [
        ("invalid_field", {"sequence": 0}),
        ("invalid_field", {"sequence": "0", "entries": []}),
        ("invalid_field", {"sequence": -1, "entries": [ENTRY]}),
        ("invalid_field", {"sequence": 0, "entries": [{**ENTRY, "more": 1}]}),
        ("invalid_field", {"sequence": 0, "entries": [{"key_path": "x", "value": "y"}]}),
        ("invalid_field", {"sequence": 0, "entries": [{**ENTRY, "value": None}]}),
        (
            "invalid_field",
            {
                "sequence": 0,
                "entries": [
                    {**ENTRY, "key_path": f"bad_input.never.n{number}"} for number in range(201)
                ],
            },
        ),
        ("version_conflict", {"sequence": 1, "entries": [ENTRY]}),
        ("version_conflict", {"sequence": 10**30, "entries": [ENTRY]}),
        ("malformed_import", {"sequence": 0, "entries": [ENTRY, {**ENTRY, "value": "y"}]}),
        (
            "malformed_import",
            {
                "sequence": 0,
                "entries": [
                    ENTRY,
                    {**ENTRY, "key_path": "bad_input.never.production", "value": "y"},
                ],
            },
        ),
        (
            "environment_conflict",
            {"sequence": 0, "entries": [ENTRY, {**ENTRY, "key_path": "bad_input.never.staging"}]},
        ),
        (
            "unknown_environment",
            {"sequence": 0, "entries": [ENTRY, {**ENTRY, "environment": "nope"}]},
        ),
        (
            "value_too_large",
            {
                "sequence": 0,
                "entries": [ENTRY, {**ENTRY, "key_path": "bad_input.big", "value": "x" * 65_537}],
            },
        ),
        (
            "case_collision",
            {"sequence": 0, "entries": [ENTRY, {**ENTRY, "key_path": "bad_input.NEVER"}]},
        ),
    ],
    ids=shown,
)
def test_a_slice_that_cannot_be_imported_stages_nothing(
    store: RunningStore, code: str, slice_: Any
) -> None:
    import_id = ask(store, "POST", "/v1/imports").json["import_id"]
    with nothing_changes(store):
        answer = ask(store, "POST", f"/v1/imports/{import_id}/entries", body=slice_)
        status = "FAILED" if answer.status == 409 else "INVALID"
        refused(store, code, status, answer)
    assert ask(store, "POST", f"/v1/imports/{import_id}/abort", body={}).status == 200


# --- who asks -------------------------------------------------------------------------------------


BEARERS: dict[str, list[tuple[str, str]]] = {
    "none": [],
    "cookie": [("Cookie", "SERVICE=TOKEN; Authorization=Bearer TOKEN")],
    "proxy": [("Proxy-Authorization", "Bearer TOKEN")],
    "custom": [("X-Service-Token", "TOKEN")],
    "basic": [("Authorization", "Basic TOKEN")],
    "bare": [("Authorization", "TOKEN")],
    "empty": [("Authorization", "Bearer ")],
    "no token": [("Authorization", "Bearer")],
    "two spaces": [("Authorization", "Bearer  TOKEN")],
    "a tab": [("Authorization", "Bearer\tTOKEN")],
    "a quoted one": [("Authorization", 'Bearer "TOKEN"')],
    "a comma": [("Authorization", "Bearer TOKEN, Bearer TOKEN")],
    "twice": [("Authorization", "Bearer TOKEN"), ("Authorization", "Bearer TOKEN")],
    "twice, one of them empty": [("Authorization", "Bearer TOKEN"), ("authorization", "")],
    "another scheme first": [("Authorization", "Basic eDp5"), ("Authorization", "Bearer TOKEN")],
}
"""Headers that prove nothing, although TOKEN is a good one in its proper place."""


@pytest.mark.parametrize("how", BEARERS)
def test_only_one_bearer_token_in_its_place_counts(store: RunningStore, how: str) -> None:
    headers = [(name, text.replace("TOKEN", store.admin_token)) for name, text in BEARERS[how]]
    missing = not any(name == "Authorization" for name, _value in headers)
    source = f"127.0.2.{list(BEARERS).index(how) + 1}"  # a stranger each: refusals fold by address
    with nothing_changes(store):
        answers = [
            ask(store, method, target, token="", body=body, headers=headers, source=source)
            for method, target, body in (
                ("GET", f"/v1/keys/{KEY}", None),
                ("POST", "/v1/keys/batch-get", {"key_paths": [KEY]}),
                ("GET", "/v1/keys", None),
                ("PUT", f"/v1/keys/{KEY}", {"value": "never"}),
                ("POST", "/tokens", {"service_name": "bad-input"}),
                ("GET", "/v1/ledger", None),
            )
        ]
        code = "token_missing" if missing else "token_invalid"
        entries = refused(store, code, "DENIED", *answers)
    assert {entry["service_name"] for entry in entries} == {"anonymous"}
    challenge = "Bearer" if missing else 'Bearer error="invalid_token"'
    assert {answer.headers["www-authenticate"] for answer in answers} == {challenge}
    assert not any(VALUE.encode() in answer.body for answer in answers)


def test_the_scheme_is_told_by_word_not_by_case(store: RunningStore) -> None:
    headers = [("aUtHoRiZaTiOn", f"bEaReR {store.admin_token}")]
    assert ask(store, "GET", f"/v1/keys/{KEY}", token="", headers=headers).status == 200


def test_without_a_grant_no_answer_tells_whether_a_key_exists(
    store: RunningStore, service_token: str
) -> None:
    for name in (
        "bad_input.hid_one",
        "bad_input.hid_rev",
        "bad_input.hid_des",
        "bad_input.hid_exp",
    ):
        store.put(name, "hidden")
    for name, act in (("hid_rev", "revoke"), ("hid_des", "revoke"), ("hid_des", "destroy")):
        assert ask(store, "POST", f"/v1/keys/bad_input.{name}/{act}", body={}).status == 200
    proposed = ask(store, "POST", "/v1/keys/bad_input.hid_pen/propose", body={"value": "hidden"})
    assert proposed.status == 200
    names = ["one", "rev", "des", "exp", "pen", "not"]
    for suffix in ("", ".production", ".staging", "?version=1", ".production?version=9"):
        told = set()
        for name in names:
            path = f"bad_input.hid_{name}"
            answer = ask(store, "GET", f"/v1/keys/{path}{suffix}", token=service_token)
            entry = refused(store, "not_authorized", "DENIED", answer)[0]
            assert entry["service_name"] == "bad-input"
            assert entry["version"] is None
            shown = path + suffix.partition("?")[0]
            assert answer.json["detail"] == f"Service bad-input not authorized for {shown}"
            told.add(alike(answer, name))
        assert len(told) == 1, told
    paths = [f"bad_input.hid_{name}" for name in names]
    answer = ask(
        store, "POST", "/v1/keys/batch-get", token=service_token, body={"key_paths": paths}
    )
    problems = {
        json.dumps(item).replace(f"hid_{name}", "hid")
        for item, name in zip(answer.json["keys"], names, strict=True)
    }
    assert len(problems) == 1


def test_a_service_is_told_its_role_before_anything_else_on_operators_routes(
    store: RunningStore, service_token: str
) -> None:
    with nothing_changes(store):
        for path in (KEY, "bad_input.absent", "bad_input.granted"):
            for method, rest, _action, body in ACTS[1:]:
                answer = ask(
                    store, method, f"/v1/keys/{path}{rest}", token=service_token, body=body
                )
                refused(store, "role_required", "DENIED", answer)
        for method, target, body in (
            ("GET", "/v1/keys", None),
            ("GET", "/v1/services", None),
            ("GET", "/v1/grants", None),
            ("GET", "/v1/environments", None),
            ("GET", "/v1/ledger", None),
            ("GET", "/v1/ledger/export", None),
            ("POST", "/tokens", {"service_name": "bad-input"}),
            ("POST", "/v1/services", {"service_name": "bad-input-2"}),
            ("POST", "/v1/grants", {"service_name": "bad-input", "pattern": "**"}),
            ("DELETE", "/v1/grants/absent", None),
            ("POST", "/v1/tokens/absent/revoke", {}),
            ("PUT", "/v1/services/bad-input/limit", {"limit": "1000/s"}),
            ("POST", "/v1/services/bad-input/revoke-tokens", {}),
            ("POST", "/v1/services/bad-input/decommission", {}),
            ("POST", "/v1/environments", {"name": "qa"}),
            ("POST", "/v1/imports", {}),
        ):
            answer = ask(store, method, target, token=service_token, body=body)
            refused(store, "role_required", "DENIED", answer)


def test_half_a_request_line_is_no_request(store: RunningStore) -> None:
    for raw in (
        b"GET\r\n\r\n",
        b"GET /v1/keys/x HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
    ):
        answer = send_raw(store, raw)
        assert (answer.status, answer.body) == (400, b"") or answer.status == 505
    keep(store)


def alike(answer: Answer, name: str) -> str:
    """All that an answer tells, but for what is its request's own."""
    body = answer.body.decode().replace(answer.request_id, "").replace(f"hid_{name}", "hid")
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name not in {"date", "x-request-id", "ratelimit"}
    }
    return json.dumps([answer.status, headers, body], sort_keys=True)


def by_request(store: RunningStore, answer: Answer) -> list[dict[str, Any]]:
    """Every entry of one request, a batch having one for each path."""
    assert ask(store, "GET", "/v1/environments").status == 200
    target = f"/v1/ledger?request_id={answer.request_id}&limit=200"
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = ask(store, "GET", target + (f"&cursor={cursor}" if cursor else "")).json
        found += page["items"]
        cursor = page["next_cursor"]
    return found


def test_only_a_value_may_hold_a_nul(shared_store: RunningStore) -> None:
    """PostgreSQL takes none in a text; a value is sealed and kept as it is."""
    body = {"value": "with\0nul"}
    path = "bad.with_nul"
    assert shared_store.request("PUT", f"/v1/keys/{path}", json=body).status == 201
    assert shared_store.get(path).json["value"] == "with\0nul"
    for field in ("owner", "usage", "reason"):
        answer = shared_store.request("PUT", f"/v1/keys/{path}", json={**body, field: "a\0b"})
        assert (answer.status, answer.json["code"]) == (400, "invalid_field")
    answer = shared_store.request("GET", "/v1/ledger?request_id=a%00b")
    assert (answer.status, answer.json["code"]) == (400, "invalid_parameter")
