"""The threat model names a test for each attack, and the tests that it names are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = REPOSITORY / "docs" / "threat-model.md"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NAMED = re.compile(r"`([^`:]+)::([^`]+)`")


def rows(*columns: str) -> list[list[str]]:
    """The cells of the one table that has exactly ``columns``."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    (head,) = [at for at, line in enumerate(lines) if cells(line) == list(columns)]
    found = []
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        found.append(cells(line))
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@cache
def defined_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, FUNCTIONS)}
    for kind in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        names |= {f"{kind.name}::{n.name}" for n in kind.body if isinstance(n, FUNCTIONS)}
    return frozenset(name for name in names if name.rpartition("::")[2].startswith("test_"))


ATTACKS = rows("attack", "test")


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row[0][:60])
def test_an_attack_has_tests_and_they_are_there(row: list[str]) -> None:
    attack, told = row
    assert attack
    named = NAMED.findall(told)
    assert named, "no test is named"
    assert NAMED.sub("", told).strip(", ") == "", "a test is named as `path::name`"
    for path, name in named:
        assert (REPOSITORY / path).is_file(), path
        assert name in defined_in(REPOSITORY / path), f"{path} has no {name}"


def test_each_attack_stands_once() -> None:
    names = [attack for attack, _ in ATTACKS]
    assert len(names) == len(set(names))


def test_each_adversary_is_told_what_is_proven() -> None:
    found = rows("adversary", "what the ledger proves against them")
    assert len(found) > 5
    for row in found:
        assert len(row) == 2
        assert all(row)
