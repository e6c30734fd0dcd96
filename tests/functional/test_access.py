"""`doxstore access` and dry runs on the example platform: what is told is so, and what is proposed
works when it is pasted."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.functional.running import DOXSTORE
from tests.functional.test_dev_and_example import JULES_KEY, Dev

SECONDS = 30
POSTGRES = "database_connections.postgres_main"


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    running = Dev(tmp_path_factory.mktemp("platform"))
    running.start()
    yield running
    running.end()
    running.dispose()


def doxstore(dev: Dev, *words: str, stdin: str = "") -> str:
    """What a command prints; it has to succeed."""
    given = f"printf %s {shlex.quote(stdin)} | " if stdin else ""
    return dev.done(f"{given}{DOXSTORE} {shlex.join(words)}")


def explained(dev: Dev, service: str, key: str, environment: str = "") -> dict[str, Any]:
    query = f"?environment={environment}" if environment else ""
    address = f"$KEY_SERVICE_URL/v1/access/services/{service}/keys/{key}{query}"
    told = dev.done(f'curl -sS -H "Authorization: Bearer $ADMIN_TOKEN" "{address}"')
    return dict(json.loads(told))


def test_the_example_platform_explains_who_reads_what(dev: Dev) -> None:
    told = doxstore(dev, "access", "explain", "jules-mcp", JULES_KEY)
    assert re.match(
        r"yes  jules-mcp gets version \d of service_keys.jules_api in production\n", told
    )
    assert "decides" in told
    told = doxstore(dev, "access", "explain", "jules-mcp", POSTGRES)
    assert told.startswith(f"no  jules-mcp does not get {POSTGRES} in production: not_authorized\n")
    assert "refuses <-" in told
    assert f"doxstore grant add jules-mcp {POSTGRES} -e production" in told
    nearly = explained(dev, "jules-mcp", "service_keys.jules_api", "staging")
    assert [each["why"] for each in nearly["near_misses"]] == [
        "granted in production, asked in staging"
    ]
    readers = json.loads(doxstore(dev, "access", "who-can", JULES_KEY, "--json"))
    assert [each["service_name"] for each in readers["services"]] == ["jules-mcp"]
    assert [each["operator_name"] for each in readers["operators"]] == ["dev"]
    said = doxstore(dev, "access", "who-can", POSTGRES)
    assert "dox-gtwy-main" in said
    assert "jules-mcp" not in said


def test_who_follows_the_proposed_commands_ends_with_a_yes(dev: Dev) -> None:
    """From a service that does not exist and a key that does not, by nothing but what is said."""
    done: list[str] = []
    while not (told := explained(dev, "forecast", "weather.api_key", "staging"))["allowed"]:
        assert len(done) < 10, done
        command = next(each["command"] for each in told["remedies"] if each["command"] not in done)
        done.append(command)
        words = shlex.split(command)
        assert words[0] == "doxstore"
        value = ("--stdin",) if words[1:3] == ["key", "put"] else ()
        doxstore(dev, *words[1:], *value, stdin="made-up" if value else "")
    assert [command.split()[1:3] for command in done] == [
        ["service", "register"],
        ["token", "issue"],
        ["grant", "add"],
        ["key", "put"],
    ]
    (away,) = told["remedies"]
    doxstore(dev, *shlex.split(away["command"])[1:])
    assert explained(dev, "forecast", "weather.api_key", "staging")["code"] == ("not_authorized")


def test_each_end_of_a_key_is_explained_and_mended_as_proposed(dev: Dev) -> None:
    def code() -> str | None:
        told = explained(dev, "jules-mcp", JULES_KEY)
        read = dev.read(JULES_KEY)
        assert read.get("code") == told["code"]
        return told["code"]

    def mend(kind: str) -> None:
        commands = [each["command"] for each in explained(dev, "jules-mcp", JULES_KEY)["remedies"]]
        command = next(each for each in commands if each and f" {kind} " in each)
        doxstore(dev, *shlex.split(command)[1:])
        assert code() is None

    doxstore(dev, "key", "put", JULES_KEY, "--stdin", stdin="second")
    doxstore(dev, "key", "revoke", JULES_KEY, "--reason", "test")
    assert code() == "version_revoked"
    mend("key rollback")
    doxstore(dev, "key", "expire", JULES_KEY)
    assert code() == "key_expired"
    mend("key extend")
    doxstore(dev, "grant", "add", "jules-mcp", "service_keys.**", "--deny")
    assert code() == "not_authorized"
    mend("grant remove")
    doxstore(dev, "key", "limit", JULES_KEY, "1/h", "--burst", "1")
    assert code() is None
    assert code() == "rate_limited"
    mend("key limit")


def test_a_dry_run_shows_what_would_happen_and_does_nothing(dev: Dev) -> None:
    before = doxstore(dev, "grant", "list", "--json")
    said = doxstore(dev, "grant", "add", "jules-mcp", "external_apis.**", "--dry-run")
    assert said.startswith("dry run  4 gained, 0 lost; nothing was changed\n")
    denied = json.loads(
        doxstore(
            dev,
            *("grant", "add", "dox-gtwy-main", "database_connections.*"),
            *("--deny", "--dry-run", "--json"),
        )
    )
    assert (denied["gains"], denied["losses"]) == (0, 2)
    lost = doxstore(dev, "grant", "remove", "jules-mcp", JULES_KEY, "--dry-run")
    assert "loses  jules-mcp  service_keys.jules_api  production" in lost
    assert doxstore(dev, "grant", "list", "--json") == before
    entries = json.loads(doxstore(dev, "ledger", "search", "--action", "LIST", "--json"))
    assert [each["key_path"] for each in entries].count("_store.access") >= 3


def test_a_call_shows_with_the_grant_that_it_used(dev: Dev) -> None:
    unused = json.loads(doxstore(dev, "access", "unused", "--days", "1", "--json"))
    assert all(each["too_young"] for each in unused)
    dev.read(JULES_KEY)
    deadline = time.monotonic() + SECONDS
    while True:
        (reader,) = json.loads(doxstore(dev, "access", "who-can", JULES_KEY, "--json"))["services"]
        if reader["last_called_at"] is not None:
            break
        assert time.monotonic() < deadline, "the call does not show"
        time.sleep(0.5)
    assert reader["live_tokens"] == 1
    unused = json.loads(doxstore(dev, "access", "unused", "--days", "1", "--json"))
    assert {each["grant"]["service_name"] for each in unused} == {"dox-gtwy-main"}
