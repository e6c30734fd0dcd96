"""The failure tables of ``docs/operations.md``: each row names tests that show it, and they exist.

The tables say for each fault who may still read, write and revoke. Which faults there are is said
here, so that a row cannot be lost without anybody noticing.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from dox_core_store.errors import CODES

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = REPOSITORY / "docs" / "operations.md"
TESTS = REPOSITORY / "tests"
COLUMNS = ["read", "write", "revoke", "clients see", "over when", "shown by"]
ANSWERS = {"yes", "no", "late"}
NO_CODES = {"drain_seconds", "if_version"}
AT_HAND = "at hand"
"""Values that the node has: only where they lie in a vault."""

ON_MANY_NODES = [
    "database-away",
    "database-hangs",
    "database-read-only",
    "database-failover",
    "database-older",
    "feed-cut",
    "commit-late",
    "mutation-held",
    "limits-away",
    "node-killed",
    "node-stopped",
    "node-ends",
    "node-clock",
    "node-disk-full",
    "key-fought-over",
    "node-lacks-ring",
]
OF_A_VAULT = [
    "vault-sealed",
    "vault-slow",
    "vault-busy",
    "aws-throttles",
    "vault-refuses",
    "vault-token-ended",
    "vault-changed",
    "vault-deleted",
    "vault-rebuilt",
    "vault-name-taken",
    "vault-unknown",
    "mover-killed",
    "writer-killed",
]
FILES = {
    "test_database_failover.py",
    "test_many_nodes_limits.py",
    "test_nodes.py",
    "test_postgres_faults.py",
    "test_aws_vault.py",
    "test_openbao_login.py",
    "test_openbao_vault.py",
    "test_vault_store.py",
}
"""Each of these is about faults, so something of each has to stand in the tables."""


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables() -> dict[str, list[list[str]]]:
    """The rows of each failure table, by the head of its second column."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    found: dict[str, list[list[str]]] = {}
    for at, line in enumerate(lines):
        head = cells(line)
        if len(head) == 2 + len(COLUMNS) and head[0] == "id" and head[2:] == COLUMNS:
            rows = found[head[1]] = []
            for row in lines[at + 2 :]:
                if not row.startswith("|"):
                    break
                rows.append(cells(row))
    return found


@cache
def defined_tests() -> dict[str, frozenset[str]]:
    """Every test function and method, with the files that have it."""
    found: dict[str, set[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(node.name, set()).add(path.name)
    return {name: frozenset(files) for name, files in found.items()}


def named(row: list[str]) -> list[str]:
    return re.findall(r"`(test_\w+)`", row[-1])


TABLES = tables()
ROWS = [row for rows in TABLES.values() for row in rows]


def test_the_faults_are_these() -> None:
    assert list(TABLES) == ["fault", "fault of a node or the database", "fault of a vault"]
    one, many, vault = ([row[0].strip("`") for row in rows] for rows in TABLES.values())
    assert (many, vault) == (ON_MANY_NODES, OF_A_VAULT)
    assert len({*one, *many, *vault}) == len(one) + len(many) + len(vault)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`"))
def test_a_row_says_what_happens_and_what_shows_it(row: list[str]) -> None:
    assert len(row) == 2 + len(COLUMNS)
    assert all(row)
    reads = ANSWERS | {AT_HAND} if row in TABLES["fault of a vault"] else ANSWERS
    assert row[2] in reads
    assert {*row[3:5]} <= ANSWERS
    told = set(re.findall(r"`([a-z]+_[a-z_]+)`", row[5]))
    assert told - NO_CODES <= CODES.keys()
    assert named(row), "no test is named"
    assert re.sub(r"`test_\w+`", "", row[-1]).strip(", ") == "", "tests are named, and nothing else"
    for name in named(row):
        assert name in defined_tests(), f"there is no {name}"


def test_each_file_of_faults_shows_something() -> None:
    shown = {file for row in ROWS for name in named(row) for file in defined_tests()[name]}
    assert shown >= FILES
