"""The error tree: drawn, coded and documented, with no other list beside `CODES`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dox_core_store import errors
from dox_core_store.errors import CODES, DoxStoreError

PACKAGE = Path(errors.__file__).parent
REPOSITORY = Path(__file__).parents[2]
BRANCH = re.compile(r"^ *[├└]── (\w+) +(\d{3}|--)  ", re.MULTILINE)


def test_the_drawn_tree_is_the_class_tree() -> None:
    drawn = [
        (name, None if status == "--" else int(status))
        for name, status in BRANCH.findall(errors.__doc__ or "")
    ]
    assert drawn == [(each.__name__, each.status) for each in DoxStoreError.__subclasses__()]


def test_the_tree_has_one_level_so_that_a_class_is_one_status() -> None:
    children = DoxStoreError.__subclasses__()
    assert [each for each in children if each.__subclasses__()] == []
    statuses = [each.status for each in children if each.status is not None]
    assert len(statuses) == len(set(statuses))


def test_every_class_has_a_code_and_every_code_is_well_formed() -> None:
    assert {code.error for code in CODES.values()} == set(DoxStoreError.__subclasses__())
    for name, code in CODES.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert not code.title.endswith(".")
        assert code.remedy.endswith(".")


def test_codes_of_one_class_stand_together() -> None:
    # The page groups by class in the order of the table; a straggler would open a second group.
    order = list(dict.fromkeys(code.error for code in CODES.values()))
    assert [code.error for code in CODES.values()] == sorted(
        (code.error for code in CODES.values()), key=order.index
    )


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_error_raised_has_a_known_code_of_its_own_class(path: Path) -> None:
    wrong = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
            continue
        kind = getattr(errors, node.func.id, None)
        first = node.args[0]
        if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
            continue
        known = CODES.get(first.value)
        is_error = isinstance(kind, type) and issubclass(kind, DoxStoreError)
        if (is_error and (known is None or known.error is not kind)) or (
            node.func.id == "error_for" and known is None
        ):
            wrong.append(f"line {node.lineno}: {node.func.id}({first.value!r})")
    assert wrong == []


def test_the_page_of_errors_says_what_the_table_says() -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "error_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_its_section(code: str) -> None:
    page = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    assert page.count(f"\n### {code}\n") == 1
