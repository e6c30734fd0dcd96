"""One value goes through everything the store does and is found nowhere but in its answers.

What is searched: everything the server prints, every file of its folder as raw bytes, the ledger as
searched and as exported, metrics, the API's description, headers, and the body of each answer that
is not the value's own. As it is, and in the forms in which a value likes to leak.

A path is not a value: whoever puts a secret into a path finds it in the ledger, as asked. So what
is sent in a path here is not searched for in the ledger, but everywhere else.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional.running import Answer, RunningStore, run_doxstore


class Canary:
    """A value like no other, and the forms in which to look for it."""

    def __init__(self) -> None:
        self.value = f"canary/{secrets.token_hex(6)}+Ünïcode\n\"{secrets.token_hex(6)}'"

    @property
    def forms(self) -> dict[str, bytes]:
        raw = self.value.encode()
        core = raw[8:]  # base64 shifts with what stands before: look for each of three places
        return {
            "plain": raw,
            "latin-1": self.value.encode("latin-1"),
            "utf-16": self.value.encode("utf-16-le"),
            "json": json.dumps(self.value)[1:-1].encode(),
            "json in utf-8": json.dumps(self.value, ensure_ascii=False)[1:-1].encode(),
            "repr": repr(self.value)[1:-1].encode(),
            "half of it": raw[:19],
            "the other half": raw[-14:],
            "reversed": raw[::-1],
            "hex": raw.hex().encode(),
            "HEX": raw.hex().upper().encode(),
            "url": urllib.parse.quote(self.value).encode(),
            **{f"base64 at {n}": base64.b64encode(core[n:])[:24] for n in range(3)},
            **{f"base64url at {n}": base64.urlsafe_b64encode(core[n:])[:24] for n in range(3)},
        }

    def check_absent(self, where: str, haystack: bytes) -> None:
        for form, needle in self.forms.items():
            assert needle not in haystack, f"{where} holds the value ({form})"


@pytest.fixture
def canary() -> Canary:
    return Canary()


def headers_of(answer: Answer) -> bytes:
    return "\n".join(f"{name}: {text}" for name, text in answer.headers.items()).encode()


def refusals(
    store: RunningStore, canary: Canary, service: str
) -> Iterator[tuple[str, Answer, int]]:
    """Everything that goes wrong with the value in hand: what, the answer, the status wanted."""
    value, key = canary.value, "/v1/keys/canary.key"
    quoted = urllib.parse.quote(value)
    part = base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")

    def put(body: bytes | dict[str, object]) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return store.request("PUT", key, body=raw)

    yield "a denial", store.get("canary.key", service), 403
    yield "a wrong if_version", put({"value": value, "if_version": 99}), 409
    yield "a value too large", put({"value": value + "x" * 65_536}), 413
    yield "an unknown field", put({"value": value, "extra": value}), 400
    yield "a value of the wrong type", put({"value": {"x": value}}), 400
    yield "a value for a number", put({"value": "x", "if_version": value}), 400
    yield "a value for a time", put({"value": "x", "expires_at": value}), 400
    proposal = {"value": value, "extra": value}
    yield "a wrong proposal", store.request("POST", f"{key}/propose", json=proposal), 400
    yield (
        "a value for a version",
        store.request("POST", f"{key}/promote", json={"version": value}),
        400,
    )
    yield "malformed JSON", put(b'{"value": ' + json.dumps(value).encode() + b", oh"), 400
    yield "no JSON at all", put(b'{"value": ' + value.encode() + b"}"), 400
    yield "invalid UTF-8", put(b'{"value": "' + value[:20].encode() + b'\xff"}'), 400
    yield (
        "a wrong batch",
        store.request("POST", "/v1/keys/batch-get", token=service, json={"paths": [value]}),
        400,
    )
    yield "a value for a token", store.get("canary.key", quoted), 401
    yield "a value inside a token", store.get("canary.key", f"{part}.{part}.{part}"), 401
    yield "a value for a parameter", store.request("GET", f"{key}?version={quoted}"), 400
    yield "no address", store.request("POST", f"/v1/nowhere/{quoted}"), 404


def misnomers(store: RunningStore, canary: Canary) -> Iterator[Answer]:
    """The value where a name belongs. Like a path, a name may be told back to who sent it, and
    must be nowhere else."""
    value, key = canary.value, "/v1/keys/canary.key"
    yield store.request("PUT", key, json={"value": "x", value: "x"})
    yield store.request("PUT", key, json={"value": "x", "environment": value})
    yield store.request("POST", f"{key}/revoke", json={value: value})
    yield store.request("POST", f"{key}/describe", json={"keep_versions": value})
    yield store.request("POST", "/tokens", json={"service_name": value})
    yield store.request("GET", f"/v1/keys?{urllib.parse.quote(value)}=1")


def import_value(store: RunningStore, canary: Canary, folder: Path) -> bytes:
    """`key import` of a file that holds the value, and one that is broken after it."""
    good, bad = folder / "good.yaml", folder / "bad.yaml"
    good.write_text(json.dumps({"canary": {"imported": {"production": canary.value}}}))
    bad.write_text(json.dumps({"canary": {"imported": canary.value}}) + "\n  : [broken")
    environment = {"KEY_SERVICE_URL": store.url, "ADMIN_TOKEN": store.admin_token}
    done = [
        run_doxstore("key", "import", file, *flags, **environment)
        for file, flags in ((good, ("--dry-run",)), (good, ()), (bad, ()))
    ]
    assert [each.returncode == 0 for each in done] == [True, True, False], done
    return "".join(each.stdout + each.stderr for each in done).encode()


def everything_written(store: RunningStore) -> Iterator[tuple[str, bytes]]:
    yield "the log", store.log.read_bytes()
    for path in sorted(store.data.iterdir()):
        yield f"the file {path.name}", path.read_bytes()


def everything_told(store: RunningStore) -> Iterator[tuple[str, bytes]]:
    for path in ("/v1/ledger?limit=500", "/v1/ledger/export", "/metrics", "/openapi.json",
                 "/v1/keys?limit=500", "/v1/keys/canary.key/versions",
                 "/v1/keys/canary.key/description", "/v1/services",
                 "/v1/health", "/v1/ready", "/.well-known/jwks.json", "/docs/errors"):  # fmt: skip
        answer = store.request("GET", path)
        assert answer.status == 200, path
        yield path, answer.body + headers_of(answer)


def test_the_value_is_found_nowhere_but_in_its_answers(
    store: RunningStore, canary: Canary, tmp_path: Path
) -> None:
    def check_told(what: str, answer: Answer, status: int) -> None:
        assert answer.status == status, f"{what}: {answer.body!r}"
        canary.check_absent(f"the answer to {what}", answer.body + b"\n" + headers_of(answer))

    reader, stranger = store.issue("reader", "canary.**"), store.issue("stranger")
    key = "/v1/keys/canary.key"
    check_told("a write", store.request("PUT", key, json={"value": canary.value}), 201)
    check_told("another", store.request("PUT", key, json={"value": canary.value + "2"}), 200)
    check_told("a rollback", store.request("POST", f"{key}/rollback", json={}), 200)
    for number in (None, 1):
        answer = store.get("canary.key", store.admin_token if number else reader, number)
        assert answer.json["value"] == canary.value, "kept byte for byte"
        canary.check_absent("the headers of a read", headers_of(answer))
    batch = {"key_paths": ["canary.key", "canary.none"]}
    answer = store.request("POST", "/v1/keys/batch-get", token=reader, json=batch)
    assert answer.json["keys"][0]["key"]["value"] == canary.value
    etag = {"If-None-Match": store.get("canary.key", reader).headers["etag"]}
    check_told("a revalidation", store.request("GET", key, token=reader, headers=etag), 304)
    for what, answer, status in refusals(store, canary, stranger):
        check_told(what, answer, status)
    assert {answer.status for answer in misnomers(store, canary)} == {400}
    canary.check_absent("what the import printed", import_value(store, canary, tmp_path))
    assert store.get("canary.imported", reader).json["value"] == canary.value
    proposed = {"value": canary.value + "3"}
    check_told("a proposal", store.request("POST", f"{key}/propose", json=proposed), 200)
    check_told("a promotion", store.request("POST", f"{key}/promote", json={}), 200)
    check_told("a destruction", store.request("POST", f"{key}/destroy", json={"version": 1}), 200)
    check_told("a revocation", store.request("POST", f"{key}/revoke", json={}), 200)
    check_told("a read of the revoked", store.get("canary.key", reader), 410)
    for where, told in everything_told(store):
        canary.check_absent(where, told)
    for where, written in everything_written(store):
        canary.check_absent(where, written)
    store.stop()
    for where, written in everything_written(store):
        canary.check_absent(f"{where}, after the end", written)
    assert "Traceback" not in store.log_text()


def test_the_value_is_not_in_the_command_line_or_environment_of_the_server(
    shared_store: RunningStore, canary: Canary
) -> None:
    shared_store.put("canary.in-process", canary.value)
    assert shared_store.get("canary.in-process").json["value"] == canary.value
    for name in ("cmdline", "environ"):
        content = Path(f"/proc/{shared_store.pid}/{name}").read_bytes()
        canary.check_absent(f"/proc/…/{name}", content)


def test_a_value_in_a_malformed_path_is_in_no_answer(
    shared_store: RunningStore, canary: Canary
) -> None:
    store = shared_store
    asked = urllib.parse.quote(canary.value)
    answer = store.get(f"canary.{asked}")
    assert answer.status == 400
    assert answer.json["code"] == "malformed_path"
    canary.check_absent("the log", store.log.read_bytes())
    canary.check_absent("/metrics", store.request("GET", "/metrics").body)


@pytest.mark.parametrize("form", Canary().forms)
def test_the_search_finds_every_form(canary: Canary, form: str) -> None:
    with pytest.raises(AssertionError, match="holds the value"):
        canary.check_absent("a haystack", b"hay" + canary.forms[form] + b"hay")


def test_the_search_finds_the_value_base64_encoded_anywhere(canary: Canary) -> None:
    for before in (b"", b"x", b"xy"):
        encoded = base64.b64encode(before + canary.value.encode() + os.urandom(5))
        with pytest.raises(AssertionError, match="base64"):
            canary.check_absent("a haystack", encoded)
