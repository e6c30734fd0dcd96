"""What is forbidden and what does not exist are alike in what they make the server do, not only in
what they are answered.

Times differ by chance and prove little; so the real server is watched instead, with every statement
that it gives to SQLite written down. Who may not read a path makes it look up nothing, and a token
that is not believed makes it look up nobody: there is nothing whose time could tell.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.functional.running import Answer, RunningStore

WATCHED = """
import os, runpy, sys
import sqlalchemy

out = os.open(os.environ["STATEMENTS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def watch(connection, _record):
    connection.set_trace_callback(
        lambda text: os.write(out, (" ".join(text.split()) + "\\n").encode())
    )

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""The installed ``doxstore``, every connection of which tells what it is asked."""

OF_KEYS = re.compile(r'^SELECT .*(?:FROM|JOIN) "?(?:key|version|tombstone)\b', re.IGNORECASE)
OF_PEOPLE = re.compile(
    r'^SELECT .*(?:FROM|JOIN) "?(?:service|operator|token|grant|signing_key)', re.IGNORECASE
)
OFTEN = 5


class Watched:
    """A store and what it looks up."""

    def __init__(self, store: RunningStore, statements: Path) -> None:
        self.store = store
        self._statements = statements

    def looked_up(self, pattern: re.Pattern[str], ask: Callable[[], Answer]) -> tuple[Answer, int]:
        """The answer, and how many statements that match were made until it was there."""
        before = self._statements.stat().st_size
        answer = ask()
        with self._statements.open("rb") as file:
            file.seek(before)
            lines = file.read().decode(errors="replace").splitlines()
        return answer, sum(pattern.match(line) is not None for line in lines)


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory, made_store: RunningStore
) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    program, statements = folder / "watched.py", folder / "statements"
    program.write_text(WATCHED)
    store = RunningStore(
        folder / "store",
        wrapper=[sys.executable, str(program)],
        environment={"STATEMENTS_FILE": str(statements)},
    )
    store.copy_of(made_store)
    store.start()
    for name in ("there", "revoked", "destroyed", "several"):
        store.put(f"hidden.{name}", "value")
    store.put("hidden.several", "value")
    for name, act in (("revoked", "revoke"), ("destroyed", "revoke"), ("destroyed", "destroy")):
        answer = store.request("POST", f"/v1/keys/hidden.{name}/{act}", json={})
        assert answer.status == 200
    store.put("granted.there", "value")
    yield Watched(store, statements)
    store.dispose()


def test_a_granted_path_is_looked_up_so_the_watch_sees_something(watched: Watched) -> None:
    store = watched.store
    token = store.issue("granted", "granted.**")
    for path, status in (("granted.there", 200), ("granted.absent", 404)):
        answer, count = watched.looked_up(OF_KEYS, lambda path=path: store.get(path, token))
        assert (answer.status, count) == (status, 1)


@pytest.mark.parametrize("version", [None, 1, 9])
@pytest.mark.parametrize("name", ["there", "revoked", "destroyed", "several", "absent"])
def test_a_path_without_a_grant_is_never_looked_up(
    watched: Watched, name: str, version: int | None
) -> None:
    store = watched.store
    token = store.issue("stranger", "granted.**")
    for path in (f"hidden.{name}", f"hidden.{name}.staging", f"_store.{name}"):
        for _ in range(OFTEN):
            answer, count = watched.looked_up(
                OF_KEYS, lambda path=path: store.get(path, token, version)
            )
            assert (answer.status, answer.json["code"], count) == (403, "not_authorized", 0)


def test_a_batch_looks_up_what_is_granted_and_nothing_else(watched: Watched) -> None:
    store = watched.store
    token = store.issue("batches", "granted.**")
    hidden = [f"hidden.{name}" for name in ("there", "revoked", "several", "absent")]
    for paths, expected in ((hidden, 0), ([*hidden, "granted.not-there"], 1)):
        answer, count = watched.looked_up(
            OF_KEYS,
            lambda paths=paths: store.request(
                "POST", "/v1/keys/batch-get", token=token, json={"key_paths": paths}
            ),
        )
        assert (answer.status, count) == (200, expected)


def test_a_token_that_is_not_believed_is_nobodys(watched: Watched) -> None:
    """Neither its service nor its id is looked up, so neither can be found out by trying."""
    store = watched.store
    token = store.issue("believed", "granted.**")
    head, claims, signature = token.split(".")
    forged = {
        "of a service that is there": f"{head}.{claims}.{signature[:-8]}AAAAAAAA",
        "without a signature": f"{head}.{claims}.",
        "of nobody": f"{head}.{claims[:-8]}AAAAAAAA.{signature}",
        "none": "x",
    }
    for how, bad in forged.items():
        for target in (
            "/v1/keys/granted.there",
            "/v1/keys/hidden.absent",
            "/v1/keys",
            "/v1/grants",
        ):
            answer, count = watched.looked_up(
                re.compile(f"{OF_KEYS.pattern}|{OF_PEOPLE.pattern}", re.IGNORECASE),
                lambda bad=bad, target=target: store.request("GET", target, token=bad),
            )
            assert (answer.json["code"], count) == ("token_invalid", 0), how
