"""Documents say what the code does: tables are compared, paths exist, code is labelled.

Links are checked in ``test_repository.py``; the Python of the specifications is run by
``tests/unit/server/test_vectors.py``.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dox_core_store.errors import CODES, ConfigurationError
from dox_core_store.server.adapters.telemetry import NodeMetrics
from dox_core_store.server.domain.access import PERMISSIONS, Permission, Role
from dox_core_store.server.domain.key import READABLE, TRANSITIONS, State
from dox_core_store.server.settings import Settings
from dox_core_store.server.web.door_metrics import DoorMetrics

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "src" / "dox_core_store"
DOCS = REPOSITORY / "docs"
DOCUMENTS = sorted([REPOSITORY / "README.md", *DOCS.rglob("*.md")])
LANGUAGES = {"bash", "console", "ini", "json", "python", "text", "toml", "yaml"}
CLIENT_CODES = {
    "bad_map",
    "command_not_found",
    "command_not_runnable",
    "insecure_url",
    "output_failed",
    "service_mismatch",
    "sign_in_failed",
    "unsafe_variable",
}
FAULTS = [
    "disk-full",
    "disk-slow",
    "files-replaced",
    "ledger-locked",
    "killed",
    "clock-jump",
    "clock-behind",
    "history-lost",
    "sink-away",
    "sink-behind",
    "ledger-full",
    "sealed",
    "wrong-key-file",
    "held-by-another-server",
    "newer-schema",
    "read-only",
]


def table(document: str, *columns: str) -> list[list[str]]:
    """The cells of the one table of ``document`` that begins with ``columns``."""
    lines = (DOCS / document).read_text(encoding="utf-8").splitlines()
    heads = [at for at, line in enumerate(lines) if cells(line)[: len(columns)] == list(columns)]
    assert len(heads) == 1, f"{document}: {len(heads)} tables begin with {columns}"
    rows = []
    for line in lines[heads[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def code(cell: str) -> str:
    """What stands in backticks, alone in its cell."""
    found = re.fullmatch(r"`([^`]+)`", cell)
    assert found, f"{cell} is not one name in backticks"
    return found[1]


def fences(text: str) -> Iterator[str]:
    """The labels of a document's code blocks, in order."""
    for place, label in enumerate(re.findall(r"^```(.*)$", text, re.MULTILINE)):
        if place % 2 == 0:
            yield label
        else:
            assert label == "", "a code block is closed by a labelled fence"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_code_block_says_its_language(document: Path) -> None:
    labels = list(fences(document.read_text(encoding="utf-8")))
    assert [label for label in labels if label not in LANGUAGES] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_of_python_is_python(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        compile(block, document.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_of_ours_that_is_named_exists(document: Path) -> None:
    text = re.sub(
        r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    named = re.findall(r"`((?:[a-z_.]+/)*[a-z_]+\.py|(?:[a-z_]+/)+)`", text)
    roots = (PACKAGE, REPOSITORY)
    bare = {path.name for path in PACKAGE.rglob("*.py")}  # "the files called `key.py`"
    missing = [
        name
        for name in named
        if not any((root / name).exists() for root in roots) and name not in bare
    ]
    assert missing == []


def test_every_setting_is_documented_with_its_default() -> None:
    documented = {code(name): code(value) for name, value, *_ in table("operations.md", "setting")}
    defaults = {name: getattr(Settings(), name) for name in Settings.__struct_fields__}
    assert documented == {name: json.dumps(value) for name, value in defaults.items()}


def test_every_metric_is_documented_with_its_kind() -> None:
    metrics = NodeMetrics(door=DoorMetrics(), waiting=lambda: 0, feed=lambda: 0, alarms=lambda: 0)
    exposed = dict(re.findall(r"^# TYPE (\w+) (\w+)$", metrics.render().decode(), re.MULTILINE))
    documented = {code(name): kind for name, kind, *_ in table("operations.md", "metric")}
    assert documented == exposed


def test_every_event_of_the_log_is_documented() -> None:
    events = set()
    for path in (PACKAGE / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value)
            is_log = owner in {"log", "self._log"} and node.func.attr != "bind"
            if is_log or (owner, node.func.attr) == ("self", "_notice"):
                assert isinstance(node.args[0], ast.Constant)
                events.add(node.args[0].value)
    assert {code(name) for name, *_ in table("operations.md", "event")} == events


def test_every_refusal_to_start_is_documented() -> None:
    documented = {code(name) for name, *_ in table("operations.md", "code", "when")}
    raised = {name for name, known in CODES.items() if known.error is ConfigurationError}
    assert documented == raised - CLIENT_CODES


def test_the_degraded_modes_can_be_read_by_tests() -> None:
    rows = table("operations.md", "id", "fault", "read", "write", "revoke")
    assert [code(row[0]) for row in rows] == FAULTS
    for row in rows:
        assert {*row[2:5]} <= {"yes", "no", "late"}
        assert len(row) == 8
        told = set(re.findall(r"`([a-z]+_[a-z_]+)`", row[5]))
        assert told <= CODES.keys()


def test_the_roles_are_those_of_the_code() -> None:
    heads = ["permission", *(str(role) for role in Role)]
    rows = table("roles.md", *heads)
    told: dict[Any, Any] = {
        role: {row[0] for row in rows if row[1 + place] == "yes"} for place, role in enumerate(Role)
    }
    assert {cell for row in rows for cell in row[1:]} == {"yes", "-"}
    assert [row[0] for row in rows] == list(Permission)
    assert told == PERMISSIONS


def test_every_permission_says_what_it_is_needed_for() -> None:
    rows = table("roles.md", "permission", "what it is needed for")
    assert [row[0] for row in rows] == list(Permission)


def test_who_reads_which_state_is_as_in_the_code() -> None:
    rows = table("roles.md", "state", "a service", "a maintainer")
    told = {
        row[0]: frozenset(
            name
            for name, cell in zip(("service", "maintainer"), row[1:], strict=True)
            if cell == "yes"
        )
        for row in rows
    }
    assert list(told) == list(State)
    assert told == READABLE


def test_the_transitions_are_those_of_the_code() -> None:
    rows = table("roles.md", "from", "what happens", "to")
    assert {(start, act): end for start, act, end in rows} == TRANSITIONS
    assert len(rows) == len(TRANSITIONS)
