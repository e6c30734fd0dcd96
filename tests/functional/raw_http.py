"""HTTP byte by byte: what a well-behaved client library would repair or refuse to send.

`ask` sends its target exactly as given, on a connection of its own. `code_of` reads a refusal and
holds it against the promised form, `recorded` finds the ledger's entries for answers, and
`nothing_changes` holds the catalog still: every test of bad input is made of these four.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from tests.functional.running import Answer, RunningStore

from dox_core_store.errors import CODES

__all__ = ["ask", "catalog", "code_of", "nothing_changes", "recorded", "send_raw"]

_TIMEOUT_SECONDS = 30
_FOLLOWS = ("key_import", "key_read", "ledger_", "service_call", "sqlite_", "token_use")
"""Tables that grow by being asked, and the list of imports begun and ended."""


def ask(
    store: RunningStore,
    method: str,
    target: str | bytes,
    *,
    token: str | None = None,
    body: Any = None,
    headers: Iterable[tuple[str, str | bytes]] = (),
    source: str = "127.0.0.1",
) -> Answer:
    """One request. ``token``: None is the operator's, "" is none. ``body``: bytes as they are,
    anything else as JSON. ``source`` is the address that the server sees."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    host = f"{store.host}:{store.port}"
    lines: list[tuple[str, str | bytes]] = [("Host", host), ("Connection", "close")]
    if token != "":
        lines.append(("Authorization", f"Bearer {token or store.admin_token}"))
    if body is not None:
        lines.append(("Content-Length", str(len(raw))))
    head = method.encode() + b" " + _bytes(target) + b" HTTP/1.1\r\n"
    for name, value in (*lines, *headers):
        head += name.encode() + b": " + _bytes(value) + b"\r\n"
    return send_raw(store, head + b"\r\n" + raw, method, source)


def send_raw(
    store: RunningStore, request: bytes, method: str = "GET", source: str = "127.0.0.1"
) -> Answer:
    """Send ``request`` as it is and read one answer; a repeated header is joined with commas."""
    address = (store.host, store.port)
    with socket.create_connection(address, _TIMEOUT_SECONDS, (source, 0)) as connection:
        # A server that refuses early may close before it has read everything.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        body = response.read()
    headers: dict[str, str] = {}
    for name, value in response.getheaders():
        known = headers.get(name.lower())
        headers[name.lower()] = value if known is None else f"{known}, {value}"
    return Answer(response.status, headers, body)


def code_of(answer: Answer) -> str:
    """The code of a refusal, once it is certain that this is a whole problem document of ours."""
    assert answer.headers["content-type"] == "application/problem+json", answer
    assert answer.headers["cache-control"] == "no-store"
    problem = answer.json
    code: str = problem["code"]
    assert problem["status"] == answer.status == CODES[code].error.status
    assert problem["type"] == f"/docs/errors#{code}"
    assert problem["title"] == CODES[code].title
    assert 0 < len(problem["detail"]) <= 500
    assert problem["store_id"].startswith("store_")
    assert problem["request_id"] == answer.request_id
    return code


def recorded(store: RunningStore, *answers: Answer) -> list[dict[str, Any]]:
    """The ledger's entry for each answer, in the same order; each must have exactly one."""
    # Refusals do not wait for their commit. This read does, behind them in the same queue.
    assert ask(store, "GET", "/v1/environments").status == 200
    wanted = {answer.request_id for answer in answers}
    found: dict[str, list[dict[str, Any]]] = {}
    cursor = ""
    while len(found) < len(wanted):
        page = ask(store, "GET", f"/v1/ledger?limit=50{cursor}").json
        for entry in page["items"]:
            if entry["request_id"] in wanted:
                found.setdefault(entry["request_id"], []).append(entry)
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert wanted == found.keys(), f"not on the ledger: {wanted - found.keys()}"
    assert all(len(entries) == 1 for entries in found.values()), found
    return [found[answer.request_id][0] for answer in answers]


def catalog(store: RunningStore) -> dict[str, list[Any]]:
    """Every row that says what is stored and who may do what, read beside the server."""
    with contextlib.closing(sqlite3.connect(f"file:{store.data}/store.db?mode=ro", uri=True)) as db:
        names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: sorted(db.execute(f"SELECT * FROM {name}"), key=repr)  # noqa: S608
            for (name,) in names
            if not name.startswith(_FOLLOWS)
        }


@contextlib.contextmanager
def nothing_changes(store: RunningStore) -> Iterator[None]:
    """What is stored after the block is what was stored before it, row by row."""
    before = catalog(store)
    yield
    assert catalog(store) == before


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
